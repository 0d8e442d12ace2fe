"""Owns the options that choose dead letters, and makes a selector out of them."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, Final, TypeVar

import click

from upsertq.cli.options import Name, several
from upsertq.contract.dead_letter import Reason
from upsertq.contract.errors import UsageError, shown
from upsertq.contract.wire import default_namespace
from upsertq.dead.choice import Selector

F = TypeVar("F", bound=Callable[..., Any])

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_RELATIVE: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([smhdw])")


def moment(option: str, text: str | None, now_ms: int) -> int | None:
    """A point in time in milliseconds since 1970: ISO 8601 (UTC where it names no zone), or so long before now."""
    if text is None:
        return None
    try:
        relative = _RELATIVE.fullmatch(text.strip())
        if relative:
            return now_ms - int(timedelta(**{_UNITS[relative[2]]: float(relative[1])}) / timedelta(milliseconds=1))
        found = datetime.fromisoformat(text.strip())
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{option} {shown(text)} is no time: give ISO 8601, as 2025-01-31T14:00 (UTC unless it says), or how long "
            "ago, as 45s, 30m, 2h, 3d or 1w"
        ) from None


def _moment(_: click.Context, option: click.Parameter, text: str | None) -> int | None:
    return moment(option.opts[0], text, int(time.time() * 1000))


_options = several(
    click.option(
        "--reason",
        "reasons",
        multiple=True,
        type=click.Choice([reason.value for reason in Reason]),
        help="Why they are dead. This and the next four may be repeated; each given option must hold.",
    ),
    click.option("--status", "statuses", multiple=True, type=click.IntRange(0, 999), help="HTTP status; 0: no answer."),
    click.option("--run", "runs", multiple=True, type=Name("run"), help="Of this run."),
    click.option(
        "--namespace", "namespaces", multiple=True, metavar="NAME", help="Of this namespace; '' is the default."
    ),
    click.option("--id", "ids", multiple=True, metavar="ID", help="The record's id."),
    click.option(
        "--since",
        "since_ms",
        metavar="TIME",
        callback=_moment,
        help="Failed last at this time or later: ISO 8601 (UTC unless it says), or 45s, 2h, 3d.",
    ),
    click.option("--until", "until_ms", metavar="TIME", callback=_moment, help="Failed last before this time."),
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N: those that died first."),
)


@dataclass(frozen=True, slots=True)
class Selection:
    """What the caller chose; the times are in milliseconds since 1970."""

    reasons: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()
    runs: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    since_ms: int | None = None
    until_ms: int | None = None
    limit: int | None = None

    @property
    def everything(self) -> bool:
        """Whether nothing narrows the choice."""
        return self == Selection()

    @property
    def selector(self) -> Selector:
        """What takes just the letters chosen, but for the limit."""
        return Selector(
            reasons=frozenset(map(Reason, self.reasons)),
            statuses=frozenset(self.statuses),
            runs=frozenset(self.runs),
            namespaces=frozenset(map(default_namespace, self.namespaces)),
            ids=frozenset(self.ids),
            since_ms=self.since_ms,
            until_ms=self.until_ms,
        )


def selection(function: F) -> F:
    """The selectors, handed over as one `selection`."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        chosen = Selection(**{name: kwargs.pop(name) for name in Selection.__dataclass_fields__})
        return function(*args, selection=chosen, **kwargs)

    return _options(wrapped)  # type: ignore[return-value]
