"""Owns what of a message is our own words come back: it cuts them out, so that no record speaks for the service.

Pure. Words are compared without case, and whatever is no ASCII letter or digit parts them, so that an echo is known
raw, quoted, escaped for JSON, HTML, a URL or Python, and cut short at either end. The work is bounded for any texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

GAP: Final = "''"
"""What stands in the place of an echo: an empty quotation."""

_WORD: Final = re.compile(
    # escapes part words: their letters are none of the text's
    r"%(?:25)?[0-9a-f]{2}|&#?[0-9a-z]{2,8};|\\{1,8}(?:u[0-9a-f]{4}|x[0-9a-f]{2}|[abfnrtv0])|([0-9a-z]+)",
    re.IGNORECASE,
)
_TAG: Final = re.compile(r"<[^<>]{0,600}>")
_EDGES: Final = (32, 640)
"""Characters of a text's end in which its last word is looked for."""
_TEXT_MAX: Final = 4_096
"""Characters of a text of ours that are compared, from its start and its end: a message has no more."""
TEXTS_MAX: Final = 10_000
"""Different texts that are compared at most."""
WORK_MAX: Final = 40_000
"""Words compared, texts looked at and steps of search at most; beyond, all of the message counts as an echo."""
_STEP: Final = 8
"""Characters in which words are searched for as one step: escapes without an end have none."""
_NAMED: Final = frozenset({"namespace", "id", "ids", "field", "key", "value", "got", "for", "name", "named"})
"""After these a single word is a name, where we sent it as one."""
_LONG: Final = 4
"""Words in a row that show an echo by themselves, where only a part of what we sent comes back."""


@dataclass(slots=True)
class _Message:
    """A message as words, with the places of each, and which of them are an echo."""

    text: str
    words: list[str]
    spans: list[tuple[int, int]]
    at: dict[str, list[int]]
    work: int = 0

    @classmethod
    def of(cls, text: str) -> _Message:
        found = [one for one in _WORD.finditer(text) if one[1]]
        words = [one[1].lower() for one in found]
        at: dict[str, list[int]] = {}
        for place, word in enumerate(words):
            at.setdefault(word, []).append(place)
        return cls(text, words, [one.span(1) for one in found], at)


def without_echo(text: str, texts: Iterable[str]) -> str:
    """`text` with every echo of `texts` cut out; all of it where that is too much work: then nothing in it is sure.

    A text of several words is cut where it stands as a whole, or where its start or end does and the message shows that
    the rest was left out. A single word is cut where the message says that a name follows. A plain number says nothing.
    """
    message = _Message.of(text)
    cuts: list[tuple[int, int]] = []
    known: set[str] = set()
    for one in texts:
        message.work += 1
        if one not in known:
            known.add(one)
            cuts += _echoes(message, one)
            if "<" in one:  # what reads a page leaves its tags out, and so ours
                cuts += _echoes(message, _TAG.sub(" ", one[:_TEXT_MAX]))
        if message.work > WORK_MAX or len(known) > TEXTS_MAX:
            return ""
    return _cut(text, cuts)


def _echoes(message: _Message, text: str) -> Iterator[tuple[int, int]]:
    """Where in the message this text, or its start or end, stands: as spans of characters."""
    if _first_word(message, text) not in message.at and _last_word(message, text) not in message.at:
        return
    message.work += min(len(text), 2 * _TEXT_MAX) // _STEP
    words = _words(text[:_TEXT_MAX])
    message.work += len(words)
    whole = len(text) <= _TEXT_MAX
    if len(words) == 1 and whole:
        yield from _names(message, words[0])
    elif words:
        yield from _starts(message, words, whole=whole)
        yield from _ends(message, words if whole else _words(text[-_TEXT_MAX:]))


def _first_word(message: _Message, text: str) -> str:
    for one in _WORD.finditer(text[:_TEXT_MAX]):
        if one[1]:
            message.work += one.end() // _STEP
            return one[1].lower()
    message.work += min(len(text), _TEXT_MAX) // _STEP
    return ""


def _last_word(message: _Message, text: str) -> str:
    for edge in _EDGES:
        message.work += min(len(text), edge) // _STEP
        words = _words(text[-edge:])
        if len(words) > 1 or (words and len(text) <= edge):
            return words[-1]
    return ""


def _words(text: str) -> list[str]:
    return [one[1].lower() for one in _WORD.finditer(text) if one[1]]


def _names(message: _Message, word: str) -> Iterator[tuple[int, int]]:
    for place in message.at.get(word, ()):
        message.work += 1
        if place and message.words[place - 1] in _NAMED and not word.isdigit():
            yield message.spans[place]


def _starts(message: _Message, words: Sequence[str], *, whole: bool) -> Iterator[tuple[int, int]]:
    reached = 0
    for place in message.at.get(words[0], ()):
        if message.work > WORK_MAX:
            return
        message.work += 1
        if place < reached:
            continue
        length = _common(message, place, words)
        reached = place + length
        complete = whole and length == len(words)
        if not complete and _is_cut(message.words[reached : reached + 1], words[length : length + 1], str.startswith):
            end = message.spans[reached][1]
            if _is_end(message.text[end : end + 3]):
                yield message.spans[place][0], end
                continue
        end = message.spans[reached - 1][1]
        if length > 1 and (complete or length >= _LONG or _is_end(message.text[end : end + 3])):
            yield message.spans[place][0], end


def _ends(message: _Message, words: Sequence[str]) -> Iterator[tuple[int, int]]:
    reached = len(message.words)
    for place in reversed(message.at.get(words[-1], ()) if len(words) > 1 else ()):
        if message.work > WORK_MAX:
            return
        message.work += 1
        if place >= reached:
            continue
        length = _common_before(message, place, words)
        reached = place - length + 1
        if reached and _is_cut(message.words[reached - 1 : reached], words[-1 - length : -length], str.endswith):
            start = message.spans[reached - 1][0]
            if _is_end(message.text[max(0, start - 3) : start]):
                yield start, message.spans[place][1]
                continue
        start = message.spans[reached][0]
        if length > 1 and (length >= _LONG or _is_end(message.text[max(0, start - 3) : start])):
            yield start, message.spans[place][1]


def _is_cut(theirs: Sequence[str], ours: Sequence[str], part_of: Callable[[str, str], bool]) -> bool:
    """Whether their next word, if any, is what is left of ours where a text, or an escape in it, is cut short."""
    return bool(theirs and ours) and (part_of(ours[0], theirs[0]) or part_of(theirs[0], ours[0]))


def _common(message: _Message, place: int, words: Sequence[str]) -> int:
    length, most = 0, min(len(words), len(message.words) - place)
    while length < most and words[length] == message.words[place + length]:
        length += 1
    message.work += length + 1
    return length


def _common_before(message: _Message, place: int, words: Sequence[str]) -> int:
    length, most = 0, min(len(words), place + 1)
    while length < most and words[-1 - length] == message.words[place - length]:
        length += 1
    message.work += length + 1
    return length


def _is_end(around: str) -> bool:
    """Whether a text that is cut short ends, or begins, here: at an ellipsis, a quote or an end of the message."""
    return not around.strip() or "…" in around or ".." in around or around.strip()[0] in "'\"`"


def _cut(text: str, cuts: list[tuple[int, int]]) -> str:
    parts, reached = [], 0
    for start, end in sorted(cuts):
        if start >= reached:
            parts += [text[reached:start], GAP]
        reached = max(reached, end)
    return "".join((*parts, text[reached:]))
