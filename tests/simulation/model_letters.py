"""Owns one shard's dead letters as the scripts keep them: the letters, and the marks of their ids.

It keeps them in memory and decides nothing: it does what `settle.lua` and `replay.lua` do, step by step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from upsertq.contract.dead_letter import is_superseded, mark_field, place_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from upsertq.contract.wire import Entry


class Token(NamedTuple):
    """One word of a mark: `D` a letter, `R` a replayed one that is not settled, `A` the newest acknowledged since."""

    kind: Literal["D", "R", "A"]
    sequence: str
    dead_id: str = ""
    run: str = ""

    def __str__(self) -> str:
        """As the server keeps it."""
        return ",".join(self if self.kind == "D" else self[:2])


@dataclass(slots=True)
class Letters:
    """The dead letters of one shard."""

    stream: dict[str, Entry] = field(default_factory=dict)
    """By stream id, oldest first."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why each died, by stream id."""
    marks: dict[str, list[Token]] = field(default_factory=dict)
    """By namespace NUL id."""
    count: int = 0
    """Letters ever written."""

    def write(self, entry: Entry, reason: str) -> str:
        """Add a letter; returns its stream id."""
        self.count += 1
        dead_id = f"{self.count}-0"
        self.stream[dead_id], self.reasons[dead_id] = entry, reason
        return dead_id

    def update(
        self, name: str, sequence: str, *, replayed: bool, letter: str, run: str, outdated: Callable[[Entry, str], None]
    ) -> None:
        """`update_mark` of `settle.lua`: `letter` is the stream id of a new letter, `""` for what was acknowledged.

        `outdated` is told of each older letter that is superseded by it, and why that died.
        """
        mark = self.marks.get(name)
        if mark is None and not letter:
            return
        kept: list[Token] = []
        acked = ""
        for token in mark or ():
            if token.kind == "A":
                acked = max(acked, token.sequence, key=_place)
            elif token.kind == "R":
                if not (replayed and token.sequence == sequence):
                    kept.append(token)
            elif not letter and place_of(token.sequence) < place_of(sequence):
                self.supersede(token.dead_id, outdated)
            else:
                kept.append(token)
        replaying = any(token.kind == "R" for token in kept)
        if letter:
            kept.append(Token("D", sequence, letter, run))
        else:
            acked = max(acked, sequence, key=_place)
        if replaying and acked:
            kept.append(Token("A", acked))
        self.marks[name] = kept
        if not kept:
            del self.marks[name]

    def supersede(self, dead_id: str, outdated: Callable[[Entry, str], None]) -> None:
        """Take a letter away because a newer version was acknowledged."""
        entry = self.stream.pop(dead_id, None)
        if entry is not None:
            outdated(entry, self.reasons.pop(dead_id))

    def take(self, dead_id: str) -> tuple[Entry, str] | None:
        """`remark` of `replay.lua`: what goes to the shard's tail and why it died, `None` when it is gone."""
        entry = self.stream.pop(dead_id, None)
        if entry is None:
            return None
        name = mark_field(entry)
        left = [token for token in self.marks.get(name, ()) if token.dead_id != dead_id]
        self.marks[name] = [*left, Token("R", entry.seq)]
        return entry._replace(depth=entry.depth + 1), self.reasons.pop(dead_id)

    def superseded(self, entry: Entry) -> bool:
        """Whether a newer version of a replayed entry's record was acknowledged since."""
        return is_superseded(self.shown(mark_field(entry)).encode(), entry.seq)

    def shown(self, name: str) -> str:
        """A mark as the server keeps it."""
        return " ".join(map(str, self.marks.get(name, ())))


def _place(sequence: str) -> tuple[int, int, int]:
    return place_of(sequence) if sequence else (-1, 0, 0)
