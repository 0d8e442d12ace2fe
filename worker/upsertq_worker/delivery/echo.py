"""Owns what of a message is our own words come back: it cuts them out, so that no record speaks for the service.

Pure. Words are compared without case, and whatever is no ASCII letter or digit parts them, so that an echo is known
raw, quoted, escaped for JSON, HTML, a URL or Python, and cut short at either end. The work is bounded for any texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    _Span = tuple[int, int]

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
    """A message as words, with the places of each; it counts the work that they make."""

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

    def span(self, first: int, last: int, *, back: bool) -> _Span:
        """The characters from one word to another; with `back` words are counted from the end."""
        return (
            (self.spans[-1 - last][0], self.spans[-1 - first][1])
            if back
            else (self.spans[first][0], self.spans[last][1])
        )

    def is_end(self, place: int, *, back: bool) -> bool:
        """Whether a text that is cut short ends behind this word, or with `back` begins before it.

        So it does at an ellipsis, a quote or an end of the message.
        """
        start, end = self.spans[-1 - place if back else place]
        around = self.text[max(0, start - 3) : start] if back else self.text[end : end + 3]
        return not around.strip() or "…" in around or ".." in around or around.strip()[0] in "'\"`"


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


def _echoes(message: _Message, text: str) -> Iterator[_Span]:
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
        yield from _parts(message, words, whole=whole)
        last = words if whole else _words(text[-_TEXT_MAX:])
        yield from _parts(message, last[::-1], back=True)


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


def _names(message: _Message, word: str) -> Iterator[_Span]:
    for place in message.at.get(word, ()):
        message.work += 1
        if place and message.words[place - 1] in _NAMED and not word.isdigit():
            yield message.spans[place]


def _parts(message: _Message, words: Sequence[str], *, whole: bool = False, back: bool = False) -> Iterator[_Span]:
    """Where a text, or its start, stands; with `back` its end, which is its start read backwards, as `words` are."""
    theirs = message.words[::-1] if back else message.words
    places = message.at.get(words[0], [])
    reached = 0
    for place in (len(theirs) - 1 - one for one in reversed(places)) if back else places:
        if message.work > WORK_MAX:
            return
        message.work += 1
        if place < reached:
            continue
        length = _common(theirs, place, words)
        message.work += length + 1
        reached = place + length
        complete = whole and length == len(words)
        is_cut = not complete and _is_cut(theirs[reached : reached + 1], words[length : length + 1], back=back)
        if is_cut and message.is_end(reached, back=back):
            yield message.span(place, reached, back=back)
        elif length > 1 and (complete or length >= _LONG or message.is_end(reached - 1, back=back)):
            yield message.span(place, reached - 1, back=back)


def _common(theirs: Sequence[str], place: int, ours: Sequence[str]) -> int:
    """Words from this place on that are ours from the start."""
    length, most = 0, min(len(ours), len(theirs) - place)
    while length < most and ours[length] == theirs[place + length]:
        length += 1
    return length


def _is_cut(theirs: Sequence[str], ours: Sequence[str], *, back: bool) -> bool:
    """Whether their next word, if any, is what is left of ours where a text, or an escape in it, is cut short."""
    part_of = str.endswith if back else str.startswith
    return bool(theirs and ours) and (part_of(ours[0], theirs[0]) or part_of(theirs[0], ours[0]))


def _cut(text: str, cuts: list[tuple[int, int]]) -> str:
    parts, reached = [], 0
    for start, end in sorted(cuts):
        if start >= reached:
            parts += [text[reached:start], GAP]
        reached = max(reached, end)
    return "".join((*parts, text[reached:]))
