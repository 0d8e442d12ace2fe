"""Owns what a queue ought to hold after each of its transitions: every version of every record, in one place each.

Pure and plain: it is told what happened and what names the server gave, and shares no code with the scripts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Key = tuple[str, str]
Order = tuple[int, int, int]


class State(Enum):
    """The one place where a version is; its value is the counter of the books that counts it."""

    PENDING = "pending"
    DEAD = "dead"
    ACKED = "acked"
    SUPERSEDED = "superseded"
    DISCARDED = "discarded"


def order_of(seq: str) -> Order:
    """A sequence or a stream id as something to compare."""
    milliseconds, number, row = (*map(int, seq.split("-")), 0)[:3]
    return milliseconds, number, row


class Fate(Enum):
    """What a worker says became of a record; its value is the counter that counts it."""

    ACKED = "acked"
    SUPERSEDED = "superseded"
    DEAD = "dead"


@dataclass(eq=False)
class Version:
    """One record as it was enqueued once; `content` is a number that tells it from all others."""

    shard: int
    key: Key
    run: str
    content: int
    seq: str
    spot: str
    """Its stream id, or that of its letter."""
    state: State = State.PENDING
    reason: str = ""
    depth: int = 0

    @property
    def order(self) -> Order:
        """Its place among all versions of its key."""
        return order_of(self.seq)

    @property
    def token(self) -> str:
        """The word of its key's mark that stands for it; empty where none does."""
        if self.state is State.DEAD:
            return f"D,{self.seq},{self.spot},{self.run}"
        return f"R,{self.seq}" if self.state is State.PENDING and self.depth else ""


@dataclass(frozen=True)
class Outcome:
    """What a worker says became of one entry: a fate a row, and the rows that died, in the order of death."""

    stream_id: str
    fates: Sequence[Fate]
    graves: Sequence[tuple[int, str]]
    """Row and reason."""


@dataclass
class Shard:
    """One shard: entries by stream id (oldest first) with their versions, and who may do what."""

    entries: dict[str, list[Version]] = field(default_factory=dict)
    last: Order = (0, 0, 0)
    """The clock: nothing that is enqueued may have an id up to it."""
    last_dead: Order = (0, 0, 0)
    lease: tuple[str, int] | None = None
    epoch: int = 0
    released: int = 0
    deaths: int = 0
    mark: str = ""
    versions: list[Version] = field(default_factory=list)

    # what the scripts ought to do

    def enqueue(self, stream_id: str, versions: list[Version]) -> None:
        """An entry came."""
        self._append(stream_id, versions)
        self.versions += versions

    def grant(self, name: str, epoch: int, *, take: bool) -> list[object]:
        """Lease to the worker; returns what it must be told."""
        if self.lease is not None:
            ours = self.lease == (name, epoch) and epoch != self.released
            return [epoch if ours else 0, self.lease[0], 1, 0, "", ""]
        unnoticed = bool(epoch) and epoch == self.epoch != self.released
        if not take or (epoch and not unnoticed):
            return [0, "", 1, 0, "", ""]
        if unnoticed:
            self.lease = (name, epoch)
            return [epoch, name, 1, 0, "", ""]
        clean = self.epoch in {0, self.released}
        self.deaths = 0 if clean else self.deaths + 1
        self.epoch += 1
        self.lease = (name, self.epoch)
        return [self.epoch, name, int(clean), self.deaths, self.mark, "-".join(map(str, self.last[:2]))]

    def settle(self, outcomes: Iterable[Outcome]) -> list[Version]:
        """Settle those that are pending; returns the versions that are dead by that, in the order of their letters."""
        died: list[Version] = []
        for outcome in outcomes:
            versions = self.entries.pop(outcome.stream_id, [])
            if not versions:
                continue
            for row, reason in outcome.graves:
                versions[row].state, versions[row].reason, versions[row].spot = State.DEAD, reason, ""
                died.append(versions[row])
            for version, fate in zip(versions, outcome.fates, strict=True):
                if fate is not Fate.DEAD:
                    version.state, version.spot = State(fate.value), ""
                    self._outdate(version)
        return [version for version in died if version.state is State.DEAD]

    def buried(self, died: Sequence[Version], dead_ids: Sequence[str]) -> None:
        """The letters of the versions that died got these names."""
        assert len(died) == len(dead_ids), (died, dead_ids)
        for version, dead_id in zip(died, dead_ids, strict=True):
            version.spot, self.last_dead = dead_id, order_of(dead_id)

    def letter(self, dead_id: str) -> Version | None:
        """The version whose letter has this name, if it is there."""
        return next((one for one in self.versions if one.state is State.DEAD and one.spot == dead_id), None)

    def replayed(self, moved: Sequence[Version], stream_ids: Sequence[str]) -> None:
        """These letters are entries again, with these names."""
        assert len(moved) == len(stream_ids), (moved, stream_ids)
        for version, stream_id in zip(moved, stream_ids, strict=True):
            version.state, version.spot, version.reason = State.PENDING, stream_id, ""
            version.depth += 1
            self._append(stream_id, [version])

    # what follows from it

    def lanes(self) -> set[str]:
        """The namespaces that have entries."""
        return {version.key[0] for versions in self.entries.values() for version in versions}

    def of(self, *states: State) -> Iterator[Version]:
        """Versions in these states."""
        return (version for version in self.versions if version.state in states)

    def books(self, run: str) -> Counter[str]:
        """The counters, all but the bytes, of the shard or of a run."""
        counted = [version for version in self.versions if run in {"", version.run}]
        return Counter(version.state.value for version in counted) + Counter(enqueued=len(counted))

    def reasons(self, run: str) -> Counter[str]:
        """Dead letters by reason, of the shard or of a run."""
        return Counter(one.reason for one in self.of(State.DEAD) if run in {"", one.run})

    def newest_acked(self, key: Key) -> Order:
        """The newest version of the key that the index has for certain."""
        return max((one.order for one in self.of(State.ACKED) if one.key == key), default=(0, 0, 0))

    def stale(self, version: Version) -> bool:
        """Whether to send this version would put it over a newer one."""
        return self.newest_acked(version.key) > version.order

    def marks(self) -> dict[str, set[str]]:
        """The words about letters and replaying versions in the mark of each key that has any."""
        found: dict[str, set[str]] = {}
        for version in self.versions:
            if version.token:
                found.setdefault("\0".join(version.key), set()).add(version.token)
        return found

    def _append(self, stream_id: str, versions: list[Version]) -> None:
        assert order_of(stream_id) > self.last, "an entry stands before older ones"
        self.last = order_of(stream_id)
        self.entries[stream_id] = versions

    def _outdate(self, landed: Version) -> None:
        for other in self.of(State.DEAD):
            if other.key == landed.key and other.order < landed.order:
                other.state, other.spot = State.SUPERSEDED, ""
