"""Owns where reading stands in one shard: what was seen, what is read again, and which namespaces are parked.

Pure. Parked entries were read and put aside: they stay pending on the server, nothing of them is kept here but where
they begin, and they are read again, in order, once there is room for their namespace.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from upsertq_worker.seams import NEW

START: Final = "0-0"


@dataclass(slots=True)
class Parked:
    """The entries of one namespace that wait on the server.

    Args:
        first: stream id of the oldest.
        count: how many there are.
    """

    first: str
    count: int
    returning: bool = False
    """They are being read again."""


@dataclass(slots=True)
class Place:
    """Where reading stands in one shard.

    Args:
        settled_at: from this time on nothing of an earlier holder can still be on its way to the index.
    """

    settled_at: float = 0.0
    cursor: str = START
    """What is read next is behind this entry; `NEW`: what nobody has read."""
    seen: str = START
    """The last entry seen: new ones are behind it."""
    recovering: bool = True
    """What is read now was read by an earlier holder, or by one that lost its lease."""
    inherited: str = START
    """The last entry that was read so."""
    strays: int = 0
    """Times in a row that the stream was longer than what we hold, with nothing new to read."""
    parked: dict[str, Parked] = field(default_factory=dict)
    looked: bool = True
    """New entries were looked for since something was read again: neither may keep the other waiting."""

    @property
    def parked_count(self) -> int:
        """Entries that wait on the server."""
        return sum(parked.count for parked in self.parked.values())

    def may_travel(self, stream_id: str, now: float) -> bool:
        """Whether parts of this entry that an earlier holder sent may still take effect."""
        return now < self.settled_at and self.is_inherited(stream_id)

    def is_inherited(self, stream_id: str) -> bool:
        """Whether an earlier holder may have sent parts of this entry."""
        return self.recovering or not later(stream_id, self.inherited)

    def expects(self, namespace: str, stream_id: str) -> bool:
        """Whether this entry is to be taken in: what was seen before was already, unless it returns."""
        if later(stream_id, self.seen):
            return True
        parked = self.parked.get(namespace)
        return parked is not None and parked.returning and not later(parked.first, stream_id)

    def waits(self, namespace: str) -> bool:
        """Whether what comes of this namespace has to wait behind what is parked of it."""
        parked = self.parked.get(namespace)
        return parked is not None and not parked.returning

    def pass_by(self, stream_id: str) -> bool:
        """Go on behind this entry; returns whether it is seen for the first time."""
        if self.cursor != NEW:
            self.cursor = stream_id
        first = later(stream_id, self.seen)
        if first:
            self.seen = stream_id
        return first

    def park(self, namespace: str, stream_id: str, *, unseen: bool) -> None:
        """Leave this entry, which was just passed by, and those of its namespace behind it on the server."""
        parked = self.parked.get(namespace)
        if parked is None:
            self.parked[namespace] = Parked(stream_id, 1)
        elif parked.returning:
            parked.returning, parked.first = False, stream_id  # it was counted when it was parked first
        else:
            parked.count += unseen

    def take_up(self, namespace: str) -> None:
        """An entry of this namespace was taken in: it is parked no more, if it was."""
        parked = self.parked.get(namespace)
        if parked is None:
            return
        parked.count -= 1
        if parked.count <= 0:
            del self.parked[namespace]

    def shed(self, namespace: str, first: str, count: int) -> None:
        """Entries that had been taken in, from `first` on, were put aside again."""
        parked = self.parked.get(namespace)
        self.parked[namespace] = Parked(first, count + (parked.count if parked else 0))

    def go_back(self, namespaces: Iterable[str]) -> None:
        """Read these parked namespaces again."""
        ahead = [self.parked[namespace] for namespace in namespaces]
        if ahead:
            for parked in ahead:
                parked.returning = True
            self.looked = False
            self.cursor = before(min((parked.first for parked in ahead), key=place_of))

    def cut_short(self) -> None:
        """Read no further again where everything that was to be read again is taken in, or parked anew."""
        if not self.recovering and self.cursor != NEW and not any(one.returning for one in self.parked.values()):
            self.cursor = self.seen  # what a lost read took may still be behind it

    def pass_over(self) -> None:
        """Nothing is left of what was to be read again: from now on what is new."""
        if self.recovering:
            self.inherited = self.seen
        self.cursor, self.recovering = NEW, False
        self.parked = {name: parked for name, parked in self.parked.items() if not parked.returning}


def place_of(stream_id: str) -> tuple[int, int]:
    """A stream id as a pair that sorts."""
    milliseconds, _, number = stream_id.partition("-")
    return int(milliseconds), int(number)


def later(stream_id: str, other: str) -> bool:
    """Whether one stream id comes after another."""
    return place_of(stream_id) > place_of(other)


def before(stream_id: str) -> str:
    """The last id that precedes this one."""
    milliseconds, number = place_of(stream_id)
    return f"{milliseconds}-{number - 1}" if number else f"{milliseconds - 1}-{2**64 - 1}"
