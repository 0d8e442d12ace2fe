"""Owns which version of a key may be sent now, and the lines in which keys wait for their turn. Pure.

It knows nothing of entries and their settling: that is for `upsertq_worker.hold`, which alone changes what waits.
"""

from bisect import insort
from collections import deque

from upsertq_worker.versions import Chain, Held, Lane, Order, Version, estimate


class Lines:
    """The lanes of one hold."""

    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}
        self.stirred: list[Lane] = []
        """Lanes that got something to send since the owner last cleared this list."""
        self.barred: dict[str, dict[Held, None]] = {}
        """By namespace the entries, oldest first, with records that wait for nothing but `allow`."""

    def take(self, lane: Lane, now: float) -> Version | None:
        """Take the next version to send in this lane: the newest of the key that waits longest; it flies from here."""
        while lane.line:
            chain = lane.line.popleft()
            chain.queued = False
            lane.estimate -= chain.estimate
            if self._next(chain, now) is not None:
                return _take_off(chain)
        return None

    def ready(self, held: Held, now: float) -> list[Version]:
        """The barred versions of an entry that could be sent now: no newer one of their ids is here, or under way."""
        if held.dropped:
            return []
        return [one for one in held.versions if one.barred and sendable(one.chain, now) is one]

    def allow(self, version: Version, now: float) -> None:
        """Let a barred version be sent: next, for what came after it waits for it, or does not mind."""
        version.barred = False
        self.offer(version.chain, now, first=True)

    def bar_again(self, version: Version) -> None:
        """Let a version that was let go, and that waits behind a newer one, wait for `allow` again."""
        version.barred = True

    def unbar(self, held: Held) -> None:
        """Nothing of this entry waits for `allow` any more, or not now."""
        barred = self.barred.get(held.entry.namespace)
        if barred is not None:
            barred.pop(held, None)
            if not barred:
                del self.barred[held.entry.namespace]

    def take_barred(self, version: Version, now: float) -> bool:
        """Take this very version, which stays barred, out of its turn; returns whether it could be sent."""
        if version.held.dropped or sendable(version.chain, now) is not version:
            return False
        _take_off(version.chain)
        return True

    def offer(self, chain: Chain, now: float, *, first: bool = False) -> None:
        """Let a key stand in line, at its head with `first`, if something of it may be sent and it does not yet."""
        version = self._next(chain, now)
        if version is None or chain.queued:
            return
        chain.queued = True
        lane = self.lanes.get(version.namespace)
        if lane is None:
            lane = self.lanes[version.namespace] = Lane(version.namespace)
        if first:
            lane.line.appendleft(chain)
        else:
            lane.line.append(chain)
        chain.estimate = estimate(version)
        lane.estimate += chain.estimate
        if not lane.stirred:
            lane.stirred = True
            self.stirred.append(lane)

    def tidy(self, namespace: str) -> None:
        """Let the keys leave of which nothing waits any more."""
        lane = self.lanes.get(namespace)
        if lane is None:
            return
        for chain in lane.line:
            chain.queued = bool(chain.waiting)
        lane.line = deque(chain for chain in lane.line if chain.waiting)
        lane.estimate = sum(chain.estimate for chain in lane.line)

    def _next(self, chain: Chain, now: float) -> Version | None:
        """What may be sent of this key; where it is barred, that is noted."""
        version = sendable(chain, now)
        if version is not None and version.barred:
            self.barred.setdefault(version.namespace, {})[version.held] = None
            return None
        return version


def wait(chain: Chain, version: Version) -> None:
    """Let a version wait: they do so oldest first."""
    waiting = chain.waiting
    if waiting and version.order < waiting[-1].order:
        insort(waiting, version, key=_order)
    else:
        waiting.append(version)


def sendable(chain: Chain, now: float) -> Version | None:
    """The newest version of a key, unless one is in flight or another one may still take effect."""
    if chain.flying is not None or not chain.waiting:
        return None
    newest = chain.waiting[-1]
    if now < chain.quarantined_until and newest is not chain.suspect:
        return None
    return newest


def _take_off(chain: Chain) -> Version:
    chain.flying = version = chain.waiting.pop()
    return version


def _order(version: Version) -> Order:
    return version.order
