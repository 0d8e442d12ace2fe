"""Turns one option of a fault spec, text or JSON value, into its typed value, or says what was expected."""

from collections.abc import Callable
from math import isfinite
from typing import Any

Convert = Callable[[object], Any]


def number(low: float = 0.0, high: float | None = None) -> Convert:
    """A finite number from `low` to `high`."""

    def convert(value: object) -> float:
        wanted = f"a number of at least {low:g}" if high is None else f"a number from {low:g} to {high:g}"
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise _expected(wanted, value)
        try:
            read = float(value)
        except ValueError:
            raise _expected(wanted, value) from None
        if not isfinite(read) or read < low or (high is not None and read > high):
            raise _expected(wanted, value)
        return read

    return convert


def whole_number(low: int, high: int | None = None) -> Convert:
    """A whole number from `low` to `high`."""

    def convert(value: object) -> int:
        read = whole(value)
        if read < low or (high is not None and read > high):
            wanted = f"of at least {low}" if high is None else f"from {low} to {high}"
            raise _expected(f"a whole number {wanted}", value)
        return read

    return convert


def whole(value: object) -> int:
    """A whole number.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _expected("a whole number", value)
    try:
        return int(value)
    except ValueError:
        raise _expected("a whole number", value) from None


def text(value: object) -> str:
    """A text.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str):
        raise _expected("a text", value)
    return value


def flag(value: object) -> bool:
    """True or false.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise _expected("true or false", value)


def choice(*names: str) -> Convert:
    """One of `names`."""

    def convert(value: object) -> str:
        if isinstance(value, str) and value in names:
            return value
        raise _expected(" or ".join(names), value)

    return convert


def seconds_or_auto(value: object) -> float | str:
    """Seconds, or the text `auto`.

    Raises:
        ValueError: it is neither.
    """
    if value == "auto":
        return "auto"
    seconds: float = number()(value)
    return seconds


def _expected(wanted: str, value: object) -> ValueError:
    return ValueError(f"expected {wanted}, got {value!r}")
