"""Owns what may be sent now, and the lines in which it waits for its turn. Pure.

It knows nothing of entries and their settling: that is for `upsertq_worker.ordering.hold`, which alone changes what
waits.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from upsertq_worker.ordering.model import Chain, Held, Item, Order, Version, estimate

LOOK_AHEAD: Final = 8
"""Items of a line that are looked at for one that fits into what is left of a batch."""


@dataclass(eq=False, slots=True)
class Lane:
    """The line of one namespace: whole entries, and keys of which a version may be sent."""

    namespace: str
    line: deque[Held | Chain] = field(default_factory=deque)
    entries: int = 0
    """Whole entries in the line."""
    records: int = 0
    """Records that the line stands for."""
    estimate: int = 0
    """About how many bytes of JSON the line will make."""
    stirred: bool = False
    """It got something to send since the batcher last looked."""
    full: bool = False
    """It stands among the batcher's full lanes."""
    due: float | None = None
    """When the batcher means to look at it again."""

    def oldest(self) -> float | None:
        """Since when the first in line waits, `None` where nothing does."""
        while self.line:
            first = self.line[0]
            if first.queued:
                return first.since
            self.line.popleft()  # it left the line out of its turn
        return None

    def entry(self) -> Held | None:
        """The first whole entry in line, if there is any."""
        return next((item for item in self.line if isinstance(item, Held) and item.queued), None)


class Ready:
    """The lanes of one hold of which something waits."""

    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}
        self.stirred: list[Lane] = []
        """Lanes that got something to send since the owner last cleared this list."""
        self.closed: set[int] = set()
        """Shards of which nothing may stand in line but the rest of what was begun."""

    def take(self, lane: Lane, now: float, room: int) -> Item | None:
        """Take the next item of at most `room` records: the first in line, or one close behind it that fits."""
        line, place = lane.line, 0
        while place < len(line) and place < LOOK_AHEAD:
            item = line[place]
            if not item.queued:
                del line[place]
            elif isinstance(item, Chain):
                del line[place]
                self._leave(item)
                version = _next(item, now)
                if version is not None:
                    return _take_off(version)
            elif len(item.entry.ids) <= room:
                del line[place]
                self._leave(item)
                item.in_flight = True
                return item
            else:
                place += 1
        return None

    def take_entry(self, held: Held, now: float) -> list[Item]:
        """Take what may be sent of this very entry, out of its turn."""
        if held.versions is None:
            if not held.queued:
                return []
            self._leave(held)
            held.in_flight = True
            return [held]
        return [version for version in held.versions if self.take_version(version, now)]

    def take_version(self, version: Version, now: float) -> bool:
        """Take this very version out of its turn; returns whether it could be sent."""
        if version.held.dropped or _next(version.chain, now) is not version:
            return False
        self.withdraw(version.chain)
        _take_off(version)
        return True

    def offer_entry(self, held: Held, *, first: bool = False) -> None:
        """Let a whole entry stand in line, at its head with `first`."""
        if held.shard in self.closed:
            return
        held.queued = True
        lane = self._lane(held.entry.namespace)
        if first:
            lane.line.appendleft(held)
        else:
            lane.line.append(held)
        lane.entries += 1
        lane.records += len(held.entry.ids)
        lane.estimate += held.estimate
        self._stir(lane)

    def offer(self, chain: Chain, now: float, *, first: bool = False) -> None:
        """Let a key stand in line, at its head with `first`, if something of it may be sent and it does not yet."""
        if chain.queued:
            return
        version = _next(chain, now)
        if version is None or (chain.shard in self.closed and not version.held.finishing):
            return
        chain.queued = True
        lane = self._lane(chain.key[0])
        if first:
            lane.line.appendleft(chain)
        else:
            lane.line.append(chain)
        chain.estimate = estimate(version)
        lane.records += 1
        lane.estimate += chain.estimate
        self._stir(lane)

    def withdraw(self, item: Held | Chain) -> None:
        """Let an entry or a key stand in line no more."""
        if item.queued:
            self._leave(item)

    def forget(self, lane: Lane) -> None:
        """Nothing of this lane waits any more: namespaces can be many."""
        if self.lanes.get(lane.namespace) is lane:
            del self.lanes[lane.namespace]

    def close(self, shard: int, entries: Sequence[Held], now: float) -> None:
        """Let nothing of a shard, whose entries these are, stand in line any more but the rest of what was begun."""
        self.closed.add(shard)
        for held in entries:
            flies = any(version.chain.flying is version for version in held.versions or ())
            held.finishing = flies or held.open < len(held.entry.ids)
            self.withdraw(held)
            for version in held.versions or ():
                self.withdraw(version.chain)
        finishing = [held for held in entries if held.finishing]
        # which grows: entries that share an id are settled in order, so all of them are finished
        for held in finishing:
            chains = [version.chain for version in held.versions or ()]
            for other in (version.held for chain in chains for version in chain.waiting):
                if not other.finishing:
                    other.finishing = True
                    finishing.append(other)
            for chain in chains:
                self.offer(chain, now)

    def reopen(self, shard: int, entries: Iterable[Held], now: float) -> None:
        """Undo `close`: what may be sent of these stands in line again."""
        self.closed.discard(shard)
        for held in entries:
            if held.versions is None and not (held.in_flight or held.queued):
                self.offer_entry(held)
            for version in held.versions or ():
                self.offer(version.chain, now)

    def _leave(self, item: Held | Chain) -> None:
        item.queued = False
        if isinstance(item, Chain):
            lane, records = self.lanes[item.key[0]], 1
        else:
            lane, records = self.lanes[item.entry.namespace], len(item.entry.ids)
            lane.entries -= 1
        lane.records -= records
        lane.estimate -= item.estimate

    def _lane(self, namespace: str) -> Lane:
        lane = self.lanes.get(namespace)
        if lane is None:
            lane = self.lanes[namespace] = Lane(namespace)
        return lane

    def _stir(self, lane: Lane) -> None:
        if not lane.stirred:
            lane.stirred = True
            self.stirred.append(lane)


def begun_lanes(entries: Iterable[Held]) -> set[str]:
    """The namespaces of entries of a closed shard of which something stands in line."""
    return {held.namespace for held in entries if any(version.chain.queued for version in held.versions or ())}


def wait(chain: Chain, version: Version) -> None:
    """Let a version wait: they do so oldest first."""
    waiting = chain.waiting
    if waiting and version.order < waiting[-1].order:
        insort(waiting, version, key=_order)
    else:
        waiting.append(version)


def is_delayed(version: Version, now: float) -> bool:
    """Whether this version is the next of its key, and may not be sent yet."""
    chain = version.chain
    return chain.flying is None and chain.waiting[-1:] == [version] and _next(chain, now) is None


def _next(chain: Chain, now: float) -> Version | None:
    """The newest version of a key, unless one is in flight, another one may still take effect, or it is barred."""
    if chain.flying is not None or not chain.waiting:
        return None
    newest = chain.waiting[-1]
    if newest.barred or (now < chain.quarantined_until and newest.order != chain.lost):
        return None
    return newest


def _take_off(version: Version) -> Version:
    version.chain.waiting.pop()
    version.chain.flying = version
    return version


def _order(version: Version) -> Order:
    return version.order
