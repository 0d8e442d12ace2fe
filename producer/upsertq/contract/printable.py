"""Owns how text that others wrote is shown to people: every exit to a terminal, a log or an error uses `printable`.

It must never let a character through that moves a cursor, turns text around, hides, or ends a line.
"""

import re
from typing import Final

_NAMED: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
# letters and marks by category, yet shown as nothing: Unicode's Default_Ignorable_Code_Point and the blank Braille
_UNSEEN: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)
_BMP: Final = 0xFFFF


def printable(text: str) -> str:
    r"""`text` with controls, bidirectional overrides, separators, lone surrogates and what cannot be seen as escapes.

    The escapes are those of JSON (`\n`, `\u001b`, a pair for what is beyond U+FFFF): a JSON document without line
    breaks stays one, with the same value. A text that has been through this stays as it is.
    """
    if text.isprintable() and (text.isascii() or _UNSEEN.search(text) is None):
        return text
    return "".join(
        letter if letter.isprintable() and not _UNSEEN.match(letter) else _NAMED.get(letter) or _escape(letter)
        for letter in text
    )


def printable_lines(text: str) -> str:
    """The same of each line: line feeds stay, as a page has them. Fields of a page must be `printable` before."""
    return text if text.isascii() and text.isprintable() else "\n".join(map(printable, text.split("\n")))


def _escape(letter: str) -> str:
    code = ord(letter)
    if code <= _BMP:
        return f"\\u{code:04x}"
    high, low = divmod(code - _BMP - 1, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
