"""Owns the carrying out of settlements: one call at a time, in order, repeated until the server confirms it."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from upsertq.errors import ServerUnavailable
from upsertq_worker.desk import Desk
from upsertq_worker.seams import QueueSeam, ShardsDamaged
from upsertq_worker.wait import Troubles, signalled

if TYPE_CHECKING:
    from upsertq_worker.versions import Settlement

log = logging.getLogger("upsertq.worker")

AGAIN_SECONDS: Final = 2.0
"""After which a shard in which something is damaged is tried again."""


class Settler:
    """Settles what the hold gives out. While one call travels the next ones gather, and go together."""

    def __init__(self, desk: Desk, queue: QueueSeam, lost: Callable[[Sequence[int]], None]) -> None:
        self._desk = desk
        self._queue = queue
        self._lost = lost
        self._troubles = Troubles("settle", desk)
        self._taken: list[Settlement] = []
        self._again_at: dict[int, float] = {}
        """When to try again to settle those of a shard in which something is damaged."""

    async def run(self) -> None:
        """Settle until the worker stops; what is left then is for `flush`."""
        desk = self._desk
        while not desk.stopping.is_set():
            desk.settleable.clear()
            if not await self.settle():
                await signalled(desk.settleable, 0.5)

    async def flush(self, seconds: float) -> None:
        """Settle all that is left, for at most `seconds`."""
        desk = self._desk
        until = desk.clock() + seconds
        while (self._taken or desk.hold.settlements) and desk.clock() < until:
            desk.settleable.clear()
            if not await self.settle():
                await signalled(desk.settleable, min(0.5, until - desk.clock()))

    def forget(self, shards: Sequence[int]) -> None:
        """These shards were lost, or gained anew: what was given out under the old lease is void."""
        self._taken = [one for one in self._taken if one.shard not in shards]
        for shard in shards:
            self._again_at.pop(shard, None)

    async def settle(self) -> bool:
        """Carry out what there is; returns whether there was anything that may be settled now.

        The lease must outlive the quarantine: of a version that is settled, a copy whose answer was lost may travel so
        long, and the next holder of the shard, who finds nothing pending of it, must not send a newer one before.
        """
        desk = self._desk
        held = dict(desk.leases.epochs)
        fresh = [one for one in desk.hold.settlements if one.shard in held]
        desk.hold.settlements.clear()
        self._taken = [one for one in self._taken if one.shard in held]
        self._taken += desk.meter.stamped(fresh, int(desk.wall() * 1000))
        taken = [one for one in self._taken if self._again_at.get(one.shard, 0.0) <= desk.clock()]
        desk.settling = taken
        desk.unsettled = len(taken)
        if not taken or not desk.leases.safe(desk.clock() + desk.settings.quarantine):
            return False
        try:
            foreign = await self._queue.settle(held, taken)
        except ServerUnavailable as error:
            await self._troubles.wait(error)
            return True
        except ShardsDamaged as error:
            for shard, fault in error.faults.items():
                # kept, and tried again: nothing of it need be sent again when it is mended
                self._again_at[shard] = desk.clock() + AGAIN_SECONDS
                desk.halt(shard, fault)
            return True
        self._troubles.over()
        for shard in foreign:
            desk.lose(shard)
        if foreign:
            self._lost(tuple(foreign))
        if desk.settled_meanwhile is not None:
            desk.settled_meanwhile += taken
        for one in taken:
            if one.shard not in foreign:
                desk.tally.acked += one.acked
                desk.tally.superseded += one.superseded
                desk.tally.dead += one.dead
        settled = set(map(id, taken))
        self._taken = [one for one in self._taken if id(one) not in settled]
        desk.settling = self._taken
        desk.unsettled = 0
        self._go_on({one.shard for one in taken} & self._again_at.keys())
        desk.readable.set()
        desk.allowable.set()
        return True

    def _go_on(self, mended: set[int]) -> None:
        """Begin anew with shards in which something was damaged, and is not any more."""
        for shard in mended:
            log.info("shard %d is mended", shard)
            self._desk.alarms.pop(f"shard {shard}", None)
            self._desk.hold.drop(shard)
        if mended:
            self._lost(tuple(mended))
