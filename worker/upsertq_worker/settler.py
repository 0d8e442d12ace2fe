"""Owns the carrying out of settlements: one call at a time, in order, repeated until the server confirms it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from upsertq.errors import ServerUnavailable
from upsertq_worker.desk import Desk
from upsertq_worker.seams import QueueSeam
from upsertq_worker.wait import Troubles, signalled

if TYPE_CHECKING:
    from upsertq_worker.versions import Settlement


class Settler:
    """Settles what the hold gives out. While one call travels the next ones gather, and go together."""

    def __init__(self, desk: Desk, queue: QueueSeam, lost: Callable[[Sequence[int]], None]) -> None:
        self._desk = desk
        self._queue = queue
        self._lost = lost
        self._troubles = Troubles("settle", desk)
        self._taken: list[Settlement] = []

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

    async def settle(self) -> bool:
        """Carry out what there is; returns whether there was anything that may be settled now.

        The lease must outlive the quarantine: of a version that is settled, a copy whose answer was lost may travel so
        long, and the next holder of the shard, who finds nothing pending of it, must not send a newer one before.
        """
        desk = self._desk
        held = dict(desk.leases.epochs)
        fresh = [one for one in desk.hold.settlements if one.shard in held]
        desk.hold.settlements.clear()
        taken = self._taken = [one for one in self._taken if one.shard in held]
        taken += desk.meter.stamped(fresh, int(desk.wall() * 1000))
        desk.settling = taken
        desk.unsettled = len(taken)
        if not taken or not desk.leases.safe(desk.clock() + desk.settings.quarantine):
            return False
        try:
            foreign = await self._queue.settle(held, taken)
        except ServerUnavailable as error:
            await self._troubles.wait(error)
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
        self._taken = desk.settling = []
        desk.unsettled = 0
        desk.readable.set()
        desk.allowable.set()
        return True
