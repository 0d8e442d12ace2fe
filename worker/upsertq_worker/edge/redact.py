"""Owns how secrets are taken out of what others say: a service or a proxy may send back what it was sent. Pure.

A secret is known plain, in any case, with any of its characters escaped for a URL, JSON, HTML or Python, in base64
(also as a part of a longer text, like a login), and in hexadecimal; and a long start of it, where a text is cut short.
"""

import re
from base64 import b64encode
from collections.abc import Iterable
from typing import Final

MASK: Final = "[redacted]"
_SHORTEST: Final = 3
"""Characters of a secret at least: less would be found everywhere, and protects nothing."""
_WHOLE: Final = 8
"""Shorter ones are taken out where they stand as a word alone."""
_CORE: Final = 8
"""Characters of base64 or hexadecimal at least by which a secret is known."""


class Redactor:
    """Takes secrets out of texts; it knows those of the past as well, and shows none itself."""

    __slots__ = ("_pattern", "_secrets")

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: dict[str, None] = {}
        self._pattern: re.Pattern[str] | None = None
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Take these out, too, from now on."""
        self._secrets |= dict.fromkeys(one for one in secrets if len(one) >= _SHORTEST)
        forms = [form for one in sorted(self._secrets, key=len, reverse=True) for form in _forms(one)]
        self._pattern = re.compile("|".join(forms), re.IGNORECASE) if forms else None

    def text(self, text: str) -> str:
        """`text` without them."""
        return text if self._pattern is None else self._pattern.sub(MASK, text)

    def body(self, body: bytes) -> bytes:
        """`body` without them, whatever its encoding; as it was where none is in it."""
        if self._pattern is None:
            return body
        text = body.decode("latin-1")
        clean = self._pattern.sub(MASK, text)
        return body if clean is text else clean.encode("latin-1")


def _forms(secret: str) -> Iterable[str]:
    plain = _with_starts([_spellings(character) for character in secret])
    yield plain if len(secret) >= _WHOLE else rf"(?<![0-9A-Za-z]){plain}(?![0-9A-Za-z])"
    raw = secret.encode()
    cores = {_core(raw, shift) for shift in range(3)} | {raw.hex()}
    for core in sorted(cores, key=len, reverse=True):
        if len(core) >= _CORE:
            yield _with_starts([_IN_URLS.get(one, one) for one in core])


def _with_starts(characters: list[str]) -> str:
    """These in a row, or a start of them that is long enough to be worth hiding: texts are cut short anywhere."""
    least = max(_WHOLE, len(characters) // 3)
    rest = ""
    for character in reversed(characters[least:]):
        rest = f"(?:{character}{rest})?"
    return "".join(characters[:least]) + rest


_IN_URLS: Final = {"+": r"(?:[+-]|%2b)", "/": r"(?:[/_]|\\/|%2f)"}


def _spellings(character: str) -> str:
    code, raw = ord(character), character.encode()
    escapes = ["".join(rf"%(?:25){{0,3}}{byte:02x}" for byte in raw), rf"\\{{1,4}}u{code:04x}"]
    escapes += [rf"\\{{1,4}}x{code:02x}", rf"{_AND}#0{{0,6}}{code};", rf"{_AND}#x0{{0,6}}{code:x};"]
    escapes += _NAMED.get(character, ())
    # a body is looked at as bytes
    escapes += [re.escape(raw.decode("latin-1"))] if len(raw) > 1 else []
    return f"(?:{'|'.join((re.escape(character), *escapes))})"


_AND: Final = r"&(?:amp;){0,3}"
_NAMED: Final = {
    "&": (rf"{_AND}amp;",),
    "<": (rf"{_AND}lt;",),
    ">": (rf"{_AND}gt;",),
    '"': (rf"{_AND}quot;", r"\\{1,4}\""),
    "'": (rf"{_AND}apos;", r"\\{1,4}'"),
    "/": (r"\\{1,4}/",),
    "\\": (r"\\{2,4}",),
    " ": (r"\+",),
}
"""Escapes by name. Nothing repeats without end: a flood of escapes would take its square."""


def _core(raw: bytes, shift: int) -> str:
    """What is the same in the base64 of every text that holds `raw` at a place with this remainder of 3."""
    text = b64encode(b"\0" * shift + raw).decode().rstrip("=")
    first = -(-shift * 8 // 6)
    last = (shift + len(raw)) * 8 // 6
    return text[first:last]
