"""Owns cutting JSON other than lines into the text of its records: arrays, pretty print, an object around an array.

It holds one record at a time, never the document, and parses nothing but the members around an array.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

import orjson

from upsertq.contract.errors import SourceError, shown
from upsertq.sources.nested import TOKEN, too_deep
from upsertq.sources.text import BLOCK, MAX_LINE, Bytes

BOM: Final = b"\xef\xbb\xbf"
_BLANK: Final = re.compile(rb"[ \t\r\n]*+")
_WORD: Final = re.compile(rb"[^,\]}: \t\r\n]*+")
_QUOTE: Final = ord('"')


def parsed(text: bytes) -> Any:
    """The value of JSON text, also with Python's NaN and Infinity; `ValueError` where it is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            return json.loads(text)
        except RecursionError:
            raise ValueError("nested too deeply") from None


def begins(content: Bytes) -> bool:
    """Whether the content is a document, by its first line and the character after it; the rest is not read.

    A first line that is a whole JSON value makes it JSON lines, as does one that is just broken.
    """
    head = _content(content.ahead(lambda read: b"\n" in _content(read)))
    if head[:1] not in (b"[", b"{"):
        return False
    line, newline, _ = head.partition(b"\n")
    if not newline:
        return len(line) > MAX_LINE or (head[:1] == b"[" and not _is_json(line))
    if _is_json(line):
        return False
    if line[:1] == b"[":
        return True
    last = line.rstrip()[-1:]
    following = content.ahead(lambda read: bool(_second(read)))
    return last in (b"{", b"[", b",", b":") and (last == b"[" or _second(following) not in (b"{", b""))


def _content(read: bytes) -> bytes:
    return read.removeprefix(BOM).lstrip()


def _second(read: bytes) -> bytes:
    """The first character of the second line that is not blank."""
    return _content(read).partition(b"\n")[2].lstrip()[:1]


def _is_json(line: bytes) -> bool:
    if too_deep(line):
        return True
    try:
        parsed(line)
    except ValueError:
        return False
    return True


class Document:
    """The items of a document: those of its arrays, its objects, and those of the one array in an object.

    `around` is what stands beside the array that is being read, such as its namespace. `again` opens the same content
    once more; `None` for a stream, in which an object above `MAX_LINE` cannot be read.
    """

    def __init__(
        self, content: Bytes, shown_name: str, again: Callable[[], AbstractContextManager[Bytes]] | None
    ) -> None:
        self.around: dict[str, Any] = {}
        self._cut = _Cutter(content, shown_name)
        self._name = shown_name
        self._again = again

    def items(self) -> Iterator[tuple[int, bytes]]:
        """The text of each item with the line on which it begins.

        Raises `SourceError` where the document is cut off, is none, or has an item longer than `MAX_LINE`.
        """
        cut, alone = self._cut, True
        while first := cut.peek():
            if first == b"[":
                yield from cut.elements()
            elif first == b"{" and alone and not cut.fits():
                yield from self._within()
            else:
                yield cut.line, cut.value()
            alone = False

    def _within(self) -> Iterator[tuple[int, bytes]]:
        """The items of the array in an object that is too large to be held; it is read twice, for what follows them."""
        if self._again is None:
            raise SourceError(
                f"{self._name} holds one JSON object of more than {MAX_LINE:,} bytes, which only a file may: "
                "save it as a file, or send JSON lines"
            )
        around: dict[str, Any] = {}
        with self._again() as content:
            arrays = sum(1 for _ in _arrays(_Cutter(content, self._name), around))
        if arrays != 1:
            raise SourceError(
                f"{self._name} is one JSON object with {arrays} arrays of objects; give one, or JSON lines"
            )
        self.around = around
        for items in _arrays(self._cut, {}):
            yield from items
        self.around = {}


def _arrays(cut: "_Cutter", around: dict[str, Any]) -> Iterator[Iterator[tuple[int, bytes]]]:
    """The items of each array of objects in the object that comes next; its other members are put into `around`."""
    cut.take(b"{")
    first = True
    while cut.peek() != b"}":
        if not first:
            cut.take(b",")
        first = False
        name = cut.name()
        cut.take(b":")
        if cut.peek() == b"[" and cut.holds_objects():
            items = cut.elements()
            yield items
            for _ in items:
                pass
        else:
            around[name] = cut.parsed()
    cut.take(b"}")


class _Cutter:
    """Cuts values out of a stream of JSON without parsing them; `line` is the one on which the next one begins."""

    def __init__(self, content: Bytes, shown_name: str) -> None:
        self.line = 1
        self._content = content
        self._name = shown_name
        self._held = b""
        self._at = 0
        while len(self._held) < len(BOM) and self._fill():
            pass
        self._held = self._held.removeprefix(BOM)

    def peek(self) -> bytes:
        """The next character that is no blank, which comes next; none at the end."""
        while True:
            blank = _BLANK.match(self._held, self._at)
            self._pass(blank.end() if blank else self._at)
            if self._at < len(self._held) or not self._fill():
                return self._held[self._at : self._at + 1]

    def take(self, character: bytes) -> None:
        """Pass over this character, which must come next."""
        if self.peek() != character:
            raise self._broken(f"'{character.decode()}' is missing")
        self._at += 1

    def name(self) -> str:
        """The next value, a member's name."""
        name = self.parsed() if self.peek() == b'"' else None
        if not isinstance(name, str):
            raise self._broken("a name is missing")
        return name

    def parsed(self) -> Any:
        """The next value itself, `None` where it is broken or too deep."""
        text = self.value()
        try:
            return None if too_deep(text) else parsed(text)
        except ValueError:
            return None

    def elements(self) -> Iterator[tuple[int, bytes]]:
        """The items of the array that comes next, each with its line."""
        self.take(b"[")
        first = True
        while self.peek() != b"]":
            if not first:
                self.take(b",")
                self.peek()
            first = False
            line = self.line
            yield line, self.value()
        self.take(b"]")

    def holds_objects(self) -> bool:
        """Whether the array that comes next begins with an object."""
        while not (rest := self._held[self._at + 1 :].lstrip()) and self._fill():
            pass
        return rest[:1] == b"{"

    def fits(self) -> bool:
        """Whether the value that comes next is at most `MAX_LINE` bytes long; it stays there."""
        return self._end() is not None

    def value(self) -> bytes:
        """The text of the next value."""
        end = self._end()
        if end is None:
            raise SourceError(
                f"{self._name} line {self.line} begins what is longer than {MAX_LINE:,} bytes; no record is"
            )
        text = self._held[self._at : end]
        self._pass(end)
        return text

    def _end(self) -> int | None:
        """Where the next value ends in what is held; `None` above `MAX_LINE`."""
        if self.peek() not in (b"{", b"[", b'"'):
            return self._end_of_word()
        at, depth = self._at, 0
        while True:
            for token in TOKEN.finditer(self._held, at):
                first = self._held[token.start()]
                if first == _QUOTE:
                    if not token[1]:
                        at = token.start()
                        break
                elif first in b"{[":
                    depth += 1
                else:
                    depth -= 1
                if depth <= 0:
                    return token.end() if token.end() - self._at <= MAX_LINE else None
            else:
                at = len(self._held)
            if len(self._held) - self._at > MAX_LINE:
                return None
            begun = self._at
            if not self._fill():
                raise self._broken("it ends in the middle")
            at -= begun - self._at

    def _end_of_word(self) -> int:
        while True:
            word = _WORD.match(self._held, self._at)
            end = word.end() if word else self._at
            if end < len(self._held) or end - self._at > BLOCK or not self._fill():
                break
        if not 0 < end - self._at <= BLOCK:
            raise self._broken("a value is missing")
        return end

    def _fill(self) -> bool:
        """Read on; what was passed over is let go."""
        block = self._content.read(max(BLOCK, len(self._held) - self._at))
        self._held = self._held[self._at :] + block
        self._at = 0
        return bool(block)

    def _pass(self, end: int) -> None:
        self.line += self._held.count(b"\n", self._at, end)
        self._at = end

    def _broken(self, why: str) -> SourceError:
        there = self._held[self._at : self._at + 20].decode("utf-8", "replace")
        found = f"before {shown(there)}" if there else "at the end"
        return SourceError(f"{self._name} line {self.line} is no JSON: {why} {found}")
