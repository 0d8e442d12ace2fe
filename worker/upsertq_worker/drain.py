"""Owns the life of one worker: starts its tasks, decides when it is done, and stops it in good order."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from upsertq.errors import QueueDamaged, ServerUnavailable, WorldError
from upsertq.pauses import spoken
from upsertq_worker.caution import Caution
from upsertq_worker.desk import Desk, Settings, Tally
from upsertq_worker.keeper import Keeper
from upsertq_worker.parking import Parking
from upsertq_worker.reader import Reader
from upsertq_worker.seams import IndexSeam, QueueSeam
from upsertq_worker.sender import Refused, Sender
from upsertq_worker.settler import Settler
from upsertq_worker.wait import Troubles, signalled

log = logging.getLogger("upsertq.worker")


class Drain:
    """One worker: it drains a queue into an index until it is told to stop.

    Args:
        name: the worker's name, unique in the fleet.
        shards: of the queue.
        queue: the queue.
        index: the index.
        settings: how to drain.
        clock: seconds from any origin; the event loop's unless given.
        wall: seconds since 1970.
        rng: for jitter.
    """

    def __init__(
        self,
        name: str,
        shards: int,
        queue: QueueSeam,
        index: IndexSeam,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self.desk = Desk(name, shards, settings, clock=clock, wall=wall, rng=rng or random.Random())
        self._queue = queue
        parking = Parking(self.desk)
        self._reader = Reader(self.desk, queue, parking)
        self._caution = Caution(self.desk, queue, parking.is_stuck)
        self._sender = Sender(self.desk, index)
        self._settler = Settler(self.desk, queue, self._begin_anew)
        self._keeper = Keeper(self.desk, queue, self._begin_anew)

    @property
    def tally(self) -> Tally:
        """What it did so far."""
        return self.desk.tally

    def stop(self) -> None:
        """Stop in good order: what is in flight may finish within the grace period."""
        self.desk.stop()

    async def run(self) -> Tally:
        """Drain until stopped, empty or out of time; returns what was done.

        Raises:
            WorldError: the service or the server refuses. The records stay in the queue.
        """
        desk = self.desk
        keeping, *working = [
            asyncio.create_task(self._guarded(work))
            for work in (
                self._keeper.run,
                self._reader.run,
                self._caution.run,
                self._sender.run,
                self._settler.run,
                self._watch,
            )
        ]
        try:
            await desk.stopping.wait()
        finally:
            desk.stop()
            started = desk.clock()
            finished = await self._sender.finish(desk.settings.grace)
            await asyncio.gather(*working)
            left = max(1.0, desk.settings.grace - (desk.clock() - started))
            await self._settler.flush(left)
            await self._caution.end()
            desk.done.set()
            desk.noteworthy.set()
            await keeping
            await self._keeper.end(finished)
        if desk.failure is not None:
            raise desk.failure
        return desk.tally

    async def _guarded(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - it ends the worker, and `run` raises it
            self.desk.fail(error)

    def _begin_anew(self, shards: Sequence[int]) -> None:
        self._reader.forget(shards)
        self._caution.forget(shards)
        self._settler.forget(shards)
        self._sender.revoke(frozenset(shards))

    async def _watch(self) -> None:
        """Stop when the time is over, or when nothing is left and that is what was asked for."""
        desk = self.desk
        settings = desk.settings
        until = None if settings.stop_after is None else desk.clock() + settings.stop_after
        troubles = Troubles("read the books", desk)
        while not desk.stopping.is_set():
            if until is not None and desk.clock() >= until:
                desk.stop()
            elif settings.until_empty and desk.idle:
                try:
                    await self._stop_if_empty()
                    troubles.over()
                except ServerUnavailable as error:
                    await troubles.wait(error)
            elif settings.until_empty:
                self._stop_if_stuck()
            wait = 0.2 if until is None else min(0.2, max(0.0, until - desk.clock()))
            await signalled(desk.stopping, wait)

    def _stop_if_stuck(self) -> None:
        """Stop where a pause has kept everything waiting for too long."""
        desk = self.desk
        paused = desk.lanes.paused
        if not paused:
            return
        scope, first = min(paused.items(), key=lambda one: one[1].since)
        stuck = min(desk.wall() - first.since, desk.clock() - desk.progress_at)
        if stuck >= desk.settings.pause_timeout:
            why = f"{spoken(scope)}: {first.message}"
            desk.fail(Refused(f"paused for {stuck:.0f} s: {why}; the records wait in the queue"))

    async def _stop_if_empty(self) -> None:
        desk = self.desk
        damaged: QueueDamaged | None = None
        try:
            books = await self._queue.books()
        except QueueDamaged as error:
            damaged = error  # nobody knows what is pending: the streams must tell
        else:
            if books.pending == 0:
                desk.stop()
                return
        halted = {name: alarm for name, alarm in desk.alarms.items() if name.startswith("shard ")}
        ours = len(desk.leases.epochs) + len(desk.leases.faults) == desk.shards
        if not (desk.idle and ours and (halted or damaged)):
            return
        held = [shard for shard in desk.leases.epochs if f"shard {shard}" not in halted]
        backlog = await self._queue.backlog(held) if held else {}
        if not any(backlog.values()):
            name, alarm = next(iter(halted.items()), ("the queue", str(damaged)))
            desk.fail(WorldError(f"{name} stopped: {alarm}"))
