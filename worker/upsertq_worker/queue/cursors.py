"""Owns where reading stands in each lane's stream and each bell of the shards held, and whose turn it is. Pure."""

from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final, Protocol

from upsertq_worker.queue.lease import Takeover, place_of
from upsertq_worker.queue.protocols import START, Ring

READ_STREAMS: Final = 256
"""Streams in one read at most of which there may be more: lanes can be many, and they take turns."""
WATCHED_STREAMS: Final = 1_024
"""Streams in one read at most that were read to their end."""
SEARCHED: Final = 4
"""How many times as many are looked at, at most, where some may not be read now."""


@dataclass(eq=False, slots=True)
class Cursor:
    """Where reading stands in one stream."""

    shard: int
    namespace: str
    place: str = START
    rung: tuple[int, int] = (0, 0)
    """The latest word that the namespace got a stream."""
    behind: bool = True
    """There may be more than was read."""
    gone: bool = False
    """The stream is gone, or not ours any more."""
    again_at: float = 0.0
    """Until then it is not read: its next entry was not understood, or it is no stream."""


@dataclass(eq=False, slots=True)
class Shard:
    """Where reading stands in one shard."""

    takeover: Takeover
    bell: str | None = None
    """The place in its bell; `None`: its lanes are to be listed."""
    lanes: dict[str, Cursor] = field(default_factory=dict)


class DamagedShards(Protocol):
    """What is needed here of the shards in which something is damaged."""

    def __contains__(self, shard: int) -> bool: ...

    def waits(self, shard: int) -> bool:
        """Whether this shard is to be left alone for now."""


@dataclass(eq=False)
class Cursors:
    """The cursors of the shards held."""

    _wanted: Callable[[str], bool]
    """Whether more of a namespace may be read now."""
    _damage: DamagedShards
    _draining: Container[int]
    """Shards of which nothing more is to be read."""
    shards: dict[int, Shard] = field(init=False, default_factory=dict)
    behind: deque[Cursor] = field(init=False, default_factory=deque)
    """Streams that may have more than was read, in turn."""
    _at_end: deque[Cursor] = field(init=False, default_factory=deque)
    """Streams that were read to their end, in turn."""
    looked_at: float = field(init=False, default=-inf)
    """When such streams had their turn last."""

    def readable(self) -> dict[int, Shard]:
        """The shards that are not to be left alone for now."""
        rests, waits = self._draining, self._damage.waits
        return {shard: known for shard, known in self.shards.items() if not (shard in rests or waits(shard))}

    def drop(self, shard: int) -> None:
        """The shard was lost, or gained anew."""
        known = self.shards.pop(shard, None)
        for cursor in known.lanes.values() if known else ():
            cursor.gone = True

    def find(self, shard: int, namespace: str) -> Cursor | None:
        """That of a lane, if it is read."""
        known = self.shards.get(shard)
        return known.lanes.get(namespace) if known else None

    def follow(self, shard: int, namespace: str, rung: tuple[int, int] = (0, 0)) -> bool:
        """Read this lane's stream, too; returns whether it was not read."""
        known = self.shards.get(shard)
        if known is None:
            return False
        cursor = known.lanes.get(namespace)
        if cursor is not None:
            cursor.rung = max(cursor.rung, rung)
            return False
        known.lanes[namespace] = cursor = Cursor(shard, namespace, rung=rung)
        self.behind.append(cursor)
        return True

    def again(self, shard: int, namespace: str) -> None:
        """Read this lane's stream from its first entry on: nothing of it is held here."""
        if cursor := self.find(shard, namespace):
            cursor.gone = True
            del self.shards[shard].lanes[namespace]
        self.follow(shard, namespace)

    def hear(self, rings: Sequence[Ring], bells: Mapping[int, str], count: int) -> None:
        """Follow the lanes that the bells named behind these places, `count` words a bell at most."""
        heard: dict[int, list[Ring]] = {}
        for ring in rings:
            heard.setdefault(ring.shard, []).append(ring)
        for shard, ones in heard.items():
            known = self.shards.get(shard)
            if known is None or known.bell != bells[shard]:
                continue  # it was lost and gained anew meanwhile
            for ring in ones:
                if ring.namespace is not None:
                    self.follow(shard, ring.namespace, place_of(ring.place))
            # a bell keeps the latest words only: where there may be more, the lanes are listed
            known.bell = ones[-1].place if len(ones) < count else None

    def emptied(self, shard: int, namespace: str, clock: str) -> Cursor | None:
        """A lane's stream is gone with its last entry, unless it is there again: a bell or an entry tells.

        Returns the cursor that is gone with it.
        """
        cursor = self.find(shard, namespace)
        if cursor is None or max(cursor.rung, place_of(cursor.place)) > place_of(clock):
            return None
        cursor.gone = True
        del self.shards[shard].lanes[namespace]
        return cursor

    def take_behind(self, now: float) -> list[Cursor]:
        """The streams whose turn it is of those that may have more."""
        return self._turns(self.behind, READ_STREAMS, now)

    def take_at_end(self, now: float) -> list[Cursor]:
        """The streams whose turn it is of those that were read to their end."""
        self.looked_at = now
        return self._turns(self._at_end, WATCHED_STREAMS, now)

    def line_up(self, cursors: Iterable[Cursor]) -> None:
        """They had their turn."""
        for cursor in cursors:
            if not cursor.gone:
                (self.behind if cursor.behind else self._at_end).append(cursor)

    def caught_up(self, shard: int) -> bool:
        """Whether all is read of what stood in the shard at its takeover, but for lanes that are not read now."""
        known = self.shards.get(shard)
        if known is not None and shard in self._damage:
            return True  # no more of it can be read now, and the other shards need not wait for it
        if known is None or known.bell is None:
            return False
        boundary = known.takeover.boundary
        return not any(
            cursor.behind
            and place_of(cursor.place) < boundary
            and not (cursor.gone or cursor.again_at)
            and self._wanted(cursor.namespace)
            for cursor in known.lanes.values()
        )

    def read_out(self, shard: int) -> bool:
        """Whether everything in the shard is read: no lane of it is held back, or has more than was read."""
        known = self.shards.get(shard)
        if known is None or known.bell is None or shard in self._draining:
            return False
        return not any(one.behind or one.again_at or not self._wanted(one.namespace) for one in known.lanes.values())

    def exhausted(self, shard: int) -> bool:
        """Whether all streams of the shard were read to their end, or to an entry that is not understood."""
        known = self.shards.get(shard)
        if known is None or shard in self._damage:
            return known is not None
        return known.bell is not None and all(one.again_at or not one.behind for one in known.lanes.values())

    def _turns(self, line: deque[Cursor], most: int, now: float) -> list[Cursor]:
        """Take up to `most` streams that may be read now out of a line; the others stay."""
        taken: list[Cursor] = []
        wanted: dict[str, bool] = {}
        readable = self.readable()
        for _ in range(min(len(line), SEARCHED * most)):
            cursor = line.popleft()
            if cursor.gone:
                continue
            if cursor.namespace not in wanted:
                wanted[cursor.namespace] = self._wanted(cursor.namespace)
            if wanted[cursor.namespace] and cursor.again_at <= now and cursor.shard in readable:
                taken.append(cursor)
                if len(taken) == most:
                    break
            else:
                line.append(cursor)
        return taken
