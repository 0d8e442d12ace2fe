"""Owns when a worker is done by itself: its time is over, nothing is left, or a pause has lasted too long."""

from collections.abc import Callable
from dataclasses import dataclass

from upsertq.contract.errors import QueueDamaged, ServerUnavailable, WorldError
from upsertq.contract.pauses import spoken
from upsertq_worker.absence import Absence
from upsertq_worker.context import Context, Signals, signalled
from upsertq_worker.delivery.sender import Refused
from upsertq_worker.flow.pauses import Pauses
from upsertq_worker.queue.lease import Leases
from upsertq_worker.queue.protocols import Queue
from upsertq_worker.queue.reader import Reader
from upsertq_worker.queue.settler import Settler
from upsertq_worker.recovery.missing import Missing

LOOK_SECONDS = 0.2


@dataclass(eq=False)
class Finish:
    """Stops one worker."""

    _context: Context
    _signals: Signals
    _queue: Queue
    _leases: Leases
    _reader: Reader
    _settler: Settler
    _pauses: Pauses
    _idle: Callable[[], bool]
    """Whether nothing that was read is left to do."""
    _landed_at: Callable[[], float]
    """When a batch landed last."""

    def __post_init__(self) -> None:
        cursors, alarms = self._reader.cursors, self._signals.alarms
        self._missing = Missing(self._context, self._queue, self._leases, cursors, self._idle, alarms)

    async def run(self) -> None:
        """Stop when the time is over, or when nothing is left and that is what was asked for."""
        clock, settings, signals = self._context.clock, self._context.settings, self._signals
        until = None if settings.stop_after is None else clock() + settings.stop_after
        absence = Absence("read the books", self._context, signals)
        while not signals.stopping.is_set():
            signals.calm.clear()
            if until is not None and clock() >= until:
                signals.stop()
                break
            try:
                await self._look()
                absence.over()
            except ServerUnavailable as error:
                await absence.wait(error)
            wait = LOOK_SECONDS if until is None else min(LOOK_SECONDS, max(0.0, until - clock()))
            await signalled(signals.calm if settings.until_empty else signals.stopping, wait)

    async def _look(self) -> None:
        until_empty, idle = self._context.settings.until_empty, self._idle()
        if idle:
            await self._missing.look()
        if until_empty and (idle or self._settler.rests()):
            await self._stop_if_empty()
        elif until_empty:
            self._stop_if_stuck()

    def _stop_if_stuck(self) -> None:
        """Stop where a pause has kept everything waiting for too long."""
        paused = self._pauses.paused
        if not paused:
            return
        context = self._context
        scope, first = min(paused.items(), key=lambda one: one[1].since)
        stuck = min(context.wall() - first.since, context.clock() - self._landed_at())
        if stuck >= context.settings.pause_timeout:
            why = f"{spoken(scope)}: {first.message}"
            self._signals.fail(Refused(f"paused for {stuck:.0f} s: {why}; the records wait in the queue"))

    async def _stop_if_empty(self) -> None:
        damaged: QueueDamaged | None = None
        try:
            books = await self._queue.books()
        except QueueDamaged as error:
            damaged = error  # what is pending is not known: the streams must tell
        else:
            if books.pending == 0:
                self._signals.stop()
                return
        halted = {name: alarm for name, alarm in self._signals.alarms.items() if name.startswith("shard ")}
        leases = self._leases
        ours = 0 < leases.target <= len(leases.epochs) + len(leases.faults)
        if (halted or damaged) and (self._idle() or self._settler.rests()) and ours and self._reader.exhausted:
            where, alarm = next(iter(halted.items()), ("the queue", str(damaged)))
            self._signals.fail(WorldError(f"{where} stopped: {alarm}"))
        elif self._pauses.paused:
            self._stop_if_stuck()
