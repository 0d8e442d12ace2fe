"""Owns the giving back of shards: nothing new of them is read or sent, and they are let go once nothing is under way.

An entry of which a part was sent is sent to its end, so that nothing need be sent twice. Whatever else was read is in
the streams still, for the next holder.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from upsertq_worker.context import Context
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.ready import begun_lanes
from upsertq_worker.queue.lease import Leases


@dataclass(eq=False)
class Handover:
    """The shards that one worker gives back."""

    _context: Context
    _leases: Leases
    _hold: Hold
    _under_way: Callable[[int], bool]
    """Whether a request with records of a shard, or a settlement in it, may still be under way."""
    _waits: Callable[[str], bool]
    """Whether a namespace is held back for longer than a moment."""
    _forget: Callable[[Sequence[int]], None]
    """Told of shards that are ours no more: their requests are given up, and what was read of them is forgotten."""
    parting: dict[int, tuple[int, float]] = field(init=False, default_factory=dict)
    """By shard that is let go and whose release is not confirmed: our epoch, and until when its lease must be kept."""

    def follow(self, drain: Collection[int]) -> bool:
        """Give these shards back, and no others; returns whether that is a change."""
        draining, now = self._leases.draining, self._context.clock()
        ended, begun = draining.keys() - set(drain), set(drain) - draining.keys()
        for shard in ended:
            del draining[shard]
            self._hold.ready.reopen(shard, self._hold.entries.of(shard), now)
        for shard in begun:
            draining[shard] = now + self._context.settings.handover
            self._hold.ready.close(shard, self._hold.entries.of(shard), now)
        return bool(ended or begun)

    def let_go(self) -> list[int]:
        """Let go of those of which nothing is under way any more, or whose time is over; returns them."""
        leases, now, gone = self._leases, self._context.clock(), []
        for shard, until in list(leases.draining.items()):
            late = self._under_way(shard)
            begun = begun_lanes(self._hold.entries.of(shard))
            if (late or not all(map(self._waits, begun))) and now < until:
                continue
            quarantine = self._context.settings.quarantine if late else 0.0
            keep = max(now + quarantine, leases.quarantine_end(shard), self._hold.keys.quarantine_end(shard, now))
            self.parting[shard] = leases.epochs[shard], keep
            leases.fenced(shard)
            self._forget([shard])
            gone.append(shard)
        return gone

    def owed(self) -> tuple[dict[int, int], dict[int, float]]:
        """What is to be released: the epoch by shard, and for how many seconds its lease must be kept."""
        now = self._context.clock()
        held = {shard: epoch for shard, (epoch, _) in self.parting.items()}
        return held, {shard: max(0.0, keep - now) for shard, (_, keep) in self.parting.items()}
