"""Owns the life of one worker: makes its tasks, decides when it is done, and stops it in good order."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from upsertq.contract.pauses import scope_of, spoken
from upsertq_worker.context import Context, Signals, Tally
from upsertq_worker.delivery.sender import Index, Sender
from upsertq_worker.events import Event, Events
from upsertq_worker.finish import Finish
from upsertq_worker.flow.limiter import Limiter
from upsertq_worker.flow.pauses import Pauses
from upsertq_worker.flow.pausing import Pausing
from upsertq_worker.flow.usage import Meter
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.pace.pacer import Pacer
from upsertq_worker.pool.handover import Handover
from upsertq_worker.pool.keeper import Keeper
from upsertq_worker.queue.lease import Leases
from upsertq_worker.queue.protocols import Queue, Settled
from upsertq_worker.queue.reader import Reader
from upsertq_worker.queue.settler import Settler
from upsertq_worker.recovery.careful import Careful
from upsertq_worker.settings import Settings

HELD_BACK_SECONDS = 1.0
"""A lane that is shut for longer keeps its suspects waiting, and no others."""


class Worker:
    """One worker: it drains a queue of so many `shards` into an index until it is told to stop.

    Whatever else it is given all its tasks know: see `Context`. The clocks are the system's unless given.
    """

    def __init__(
        self,
        name: str,
        shards: int,
        queue: Queue,
        index: Index,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        events: Events | None = None,
    ) -> None:
        self.context = context = Context(
            name, shards, settings, clock, wall, rng or random.Random(), events or Events()
        )
        self.signals = signals = Signals()
        self.tally = tally = Tally()
        self._started_at = wall()
        self.hold = hold = Hold(settings.quarantine)
        self.leases = leases = Leases(settings.lease, settings.quarantine)
        self.pauses = pauses = Pauses()
        self._pausing = Pausing(context, signals, queue, pauses)
        self._pacer = Pacer(context, signals, queue, lambda: 1 + len(self._keeper.others))
        self.limiter = limiter = Limiter(settings.concurrency, self._pacer.slots)
        meter = Meter()
        self._careful = careful = Careful(
            context,
            signals,
            queue,
            hold,
            leases,
            lambda shard: self._reader.cursors.caught_up(shard),  # noqa: PLW0108 - it is made later
            lambda shard: self._reader.cursors.read_out(shard),  # noqa: PLW0108 - so is this
            lambda namespace: self.sender.turns.admits(namespace),  # noqa: PLW0108 - and this
            self._waits,
            self._lost,
        )
        self.sender = sender = Sender(
            context, signals, index, hold, limiter, self._pausing, leases, careful, meter, tally, self._halt
        )
        self._reader = reader = Reader(
            context, signals, queue, hold, leases, pauses, careful.admitted, sender.turns.batcher.expect
        )
        self._settler = settler = Settler(context, signals, queue, hold, leases, meter, tally, self._settled)
        handover = Handover(
            context,
            leases,
            hold,
            lambda shard: sender.turns.carries(shard) or settler.owes(shard),
            self._waits,
            self._forget,
        )
        self._keeper = Keeper(
            context, signals, queue, leases, handover, lambda: careful.pinned, self.report, self._leases_changed
        )
        applier = sender.applier
        self._finish = Finish(
            context, signals, queue, leases, reader, settler, pauses, lambda: self.idle, lambda: applier.landed_at
        )

    def stop(self) -> None:
        """Stop in good order: what is in flight may finish within the grace period."""
        self.signals.stop()

    def probe_now(self) -> None:
        """Probe what the service has paused without waiting: the cause may be gone."""
        self.pauses.hurry(self.context.clock())
        self.signals.sendable.set()

    async def run(self) -> Tally:
        """Drain until stopped, empty or out of time; returns what was done.

        Raises:
            WorldError: the service or the server refuses, or lost the queue. What it still has stays in the queue.
        """
        context, signals = self.context, self.signals
        first = (partial(self._keeper.run, self._pausing.follow), self._reader.run, self._careful.run)
        others = (self.sender.run, self._pacer.run, self._settler.run, self._finish.run)
        keeping, reading, *working = [asyncio.create_task(self._guarded(work)) for work in (*first, *others)]
        try:
            await signals.stopping.wait()
        finally:
            signals.stop()
            started = context.clock()
            finished = await self.sender.finish(context.settings.grace)
            reading.cancel()  # it has no side effect, and may wait for entries that come much later
            await asyncio.gather(reading, *working, return_exceptions=True)  # they raise nothing, see `_guarded`
            # what ended the worker may fail these too: the first cause is the one to report
            await self._guarded(self._careful.end)
            left = max(1.0, context.settings.grace - (context.clock() - started))
            if signals.failure is None:
                await self._guarded(lambda: self._settler.flush(left))
                if self.idle:
                    await self._guarded(self._careful.end)
            signals.done.set()
            signals.noteworthy.set()
            await keeping
            await self._guarded(lambda: self._keeper.end(self.hold, sent_last=finished))
        if signals.failure is not None:
            raise signals.failure
        return self.tally

    def report(self) -> dict[str, Any]:
        """The heartbeat's content, dated by this machine's clock: what writes it moves that to the server's."""
        return {
            "name": self.context.name,
            "started_at": self._started_at,
            "at": self.context.wall(),
            "every": self._keeper.every,
            "shards": sorted(self.leases.epochs),
            "standby": not self.leases.epochs,
            "leaving": self.signals.stopping.is_set(),
            "in_flight": self.sender.in_flight,
            "posted": self.tally.acked,
            "alarms": self._all_alarms(),
            **self.tally.as_dict(),
        }

    @property
    def idle(self) -> bool:
        """Whether nothing that was read is left to do."""
        return not (self.hold.entries or self.sender.in_flight or self._settler.unsettled)

    async def _guarded(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - it ends the worker, and `run` raises it
            self.signals.fail(error)

    def _leases_changed(self, shards: Sequence[int]) -> None:
        """These shards were lost, or gained anew; a read that was under way may have left something of them."""
        if shards:
            self._forget(shards)
            self._careful.gained([shard for shard in shards if shard in self.leases.epochs])
        for event in (self.signals.readable, self.signals.sendable, self.signals.settleable):
            event.set()

    def _settled(self, came_of_it: Settled) -> None:
        if came_of_it.foreign:
            self._lost(came_of_it.foreign)
        self._reader.emptied(came_of_it.emptied or {})
        self.signals.readable.set()
        if self.idle:
            self.signals.calm.set()

    def _lost(self, shards: frozenset[int]) -> None:
        """The server says that these shards are not ours."""
        for shard in sorted(shards & self.leases.epochs.keys()):
            self.context.events.tell(Event.LEASE_LOST, shard=shard)
        for shard in shards:
            self.leases.fenced(shard)
        self._forget(sorted(shards))
        self.signals.readable.set()

    def _forget(self, shards: Sequence[int]) -> None:
        for shard in shards:
            self.hold.drop(shard, self.context.clock())
        self._reader.forget(shards)
        self._careful.forget(shards)
        self._settler.forget(shards)
        self.sender.revoke(frozenset(shards))

    def _halt(self, shard: int, namespace: str, fault: str) -> None:
        """Nothing more is sent of this lane in this shard while it is held: an entry of it cannot be sent."""
        lane = spoken(scope_of(namespace))
        self.signals.alarms[f"shard {shard}: {lane}"] = fault
        self.context.events.tell(Event.LANE_HALTED, shard=shard, lane=lane, error=fault)
        self._reader.halt(shard, namespace)
        self.hold.drop(shard, self.context.clock(), namespace)
        self.signals.readable.set()

    def _waits(self, namespace: str) -> bool:
        now = self.context.clock()
        return self.pauses.holds(namespace) or self.limiter.opens_at(namespace) > now + HELD_BACK_SECONDS

    def _all_alarms(self) -> dict[str, str]:
        """What needs an operator, pauses, an outage and care included, as it stands now."""
        alarms = self.signals.alarms | {scope: paused.message for scope, paused in self.pauses.paused.items()}
        if told := self.sender.outage.told(self.context.clock(), self.context.wall()):
            alarms["index"] = told
        if told := self._careful.told():
            alarms["recovery"] = told
        return alarms
