"""Owns how a number that stands in Redis is read: as one within bounds, or as none. It raises nothing.

Anything may stand there: another program's value, a slip of an operator's hand. `int` alone takes blanks, underscores
and foreign digits, and refuses 5,000 digits with an error of its own.
"""

from typing import Final

MOST: Final = 9_000_000_000_000_000
"""The greatest counter: below 2^53, so that Lua tells it from its neighbours, and 1,024 of them fit into 64 bits."""
LAST_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999: what is noted as later is no time."""


def whole(value: object, least: int = 0, most: int = MOST) -> int | None:
    """The number that `value` (bytes or text) spells as Redis itself spells numbers, `None` where it spells none.

    It lies from `least` to `most`: what does not is none either.
    """
    if isinstance(value, bytes) and value.isdigit() and len(value) <= 16 and value[:1] != b"0":  # noqa: PLR2004
        number = int(value)  # as nearly always; the rest tells apart what only looks like it
        return number if least <= number <= most else None
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    if not isinstance(text, str) or len(text) > 20:  # noqa: PLR2004 - no 64-bit number is longer
        return None
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or str(int(text)) != text:
        return None
    number = int(text)
    return number if least <= number <= most else None


def counter(value: bytes | None) -> int | None:
    """A counter of the books: 0 where there is none yet, `None` where what stands there is no counter."""
    return 0 if value is None else whole(value, -MOST)
