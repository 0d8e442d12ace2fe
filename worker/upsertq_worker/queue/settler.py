"""Owns the carrying out of settlements: one call at a time, in order, repeated until the server confirms it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from upsertq.contract.errors import ServerUnavailable
from upsertq_worker.absence import Absence
from upsertq_worker.context import Context, Signals, Tally, signalled
from upsertq_worker.damage import Damage
from upsertq_worker.events import Event
from upsertq_worker.flow.usage import Meter, Metered
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.queue.lease import Leases
from upsertq_worker.queue.protocols import Queue, Settled


@dataclass(eq=False)
class Settler:
    """Settles what the hold gives out. While one call travels the next ones gather, and go together."""

    _context: Context
    _signals: Signals
    _queue: Queue
    _hold: Hold
    _leases: Leases
    _meter: Meter
    _tally: Tally
    """Where confirmed records are counted."""
    _settled: Callable[[Settled], None]
    """Told what came of each call."""
    _taken: list[Metered] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._absence = Absence("settle", self._context, self._signals)
        self._damage = Damage(self._context, self._signals)
        """Shards in which what is given out waits: nothing of it need be sent again once they are mended."""

    @property
    def unsettled(self) -> int:
        """Entries given out for settling whose settling is not confirmed."""
        return len(self._taken) + len(self._hold.settlements)

    def owes(self, shard: int) -> bool:
        """Whether a settlement in this shard is not confirmed."""
        return any(one.settlement.shard == shard for one in self._taken) or any(
            one.shard == shard for one in self._hold.settlements
        )

    def rests(self) -> bool:
        """Whether something of our shards is damaged, and all that is left to do here is in such shards."""
        held, alarms = self._leases.epochs, self._signals.alarms
        sound = [shard for shard in held if f"shard {shard}" not in alarms]
        return len(sound) < len(held) and not any(self._hold.entries.of(one) or self.owes(one) for one in sound)

    async def run(self) -> None:
        """Settle until the worker stops; what is left then is for `flush`."""
        signals = self._signals
        while not signals.stopping.is_set():
            signals.settleable.clear()
            if not await self.settle():
                await signalled(signals.settleable, 0.5)

    async def flush(self, seconds: float) -> None:
        """Settle all that is left, for at most `seconds`."""
        clock, signals = self._context.clock, self._signals
        until = clock() + seconds
        while self.unsettled and clock() < until:
            signals.settleable.clear()
            if not await self.settle():
                await signalled(signals.settleable, min(0.5, until - clock()))

    def forget(self, shards: Sequence[int]) -> None:
        """These shards were lost, or gained anew: what was given out under the old lease is void."""
        self._taken = [one for one in self._taken if one.settlement.shard not in shards]
        self._damage.forget(shards)

    async def settle(self) -> bool:
        """Carry out what there is; returns whether there was anything that may be settled now.

        The lease must outlive the quarantine: of a version that is settled, a copy whose answer was lost may travel so
        long; the next holder of the shard, which finds nothing of it in the stream, must not send a newer one before.
        """
        context, held = self._context, dict(self._leases.epochs)
        now = context.clock()
        fresh = [one for one in self._hold.settlements if one.shard in held]
        self._hold.settlements.clear()
        self._taken = [one for one in self._taken if one.settlement.shard in held]
        self._taken += self._meter.metered(fresh, int(context.wall() * 1000))
        taken = [one for one in self._taken if not self._damage.waits(one.settlement.shard)]
        if not taken or not self._leases.safe(now + context.settings.quarantine):
            return False
        try:
            came_of_it = await self._queue.settle(held, taken)
        except ServerUnavailable as error:
            await self._absence.wait(error)
            return True
        self._absence.over()
        self._damage.found(came_of_it.faults)
        self._damage.sound({one.settlement.shard for one in taken} - came_of_it.faults.keys())
        tried = set(map(id, taken))
        # what was lost meanwhile is gone from the list, and what is left of it was carried out
        carried_out = [
            one
            for one in self._taken
            if id(one) in tried and one.settlement.shard not in came_of_it.foreign | came_of_it.faults.keys()
        ]
        self._taken = [one for one in self._taken if id(one) not in tried or one.settlement.shard in came_of_it.faults]
        self._hold.settled((one.settlement for one in carried_out), context.clock())
        for one in carried_out:
            self._tally.acked += one.settlement.acked
            self._tally.superseded += one.settlement.superseded
            self._tally.dead += len(one.settlement.dead)
        context.events.tell(Event.SETTLED, entries=len(carried_out))
        self._settled(replace(came_of_it, foreign=self._leases.denied(came_of_it.foreign, held)))
        return True
