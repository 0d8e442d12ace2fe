"""Owns the sending of suspects: one entry or one record at a time, each marked on the server before it leaves.

What goes next is decided in `upsertq_worker.recovery.suspects`; the sender sends what is handed out here.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from upsertq.contract.errors import QueueDamaged, ServerUnavailable
from upsertq.contract.pauses import scope_of, spoken
from upsertq_worker.absence import Absence
from upsertq_worker.context import Context, Signals, signalled
from upsertq_worker.delivery.batch import Batch
from upsertq_worker.events import Event
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import Held, Item, entry_of
from upsertq_worker.queue.lease import Leases
from upsertq_worker.queue.protocols import Queue
from upsertq_worker.recovery import suspects
from upsertq_worker.recovery.suspects import HANGING, Line, Mark, Suspect

STEADY_LEASES: Final = 3
"""Leases for which a holder must live until the deaths before it are forgotten."""
HANGS: Final = 3
"""Suspects of a lane in a row that hang, after which it is the lane that hangs: it keeps nothing waiting any more."""
_TROUBLES: Final = (ServerUnavailable, QueueDamaged)


@dataclass(eq=False, slots=True)
class _Case:
    """What is known of a shard of ours whose holders died, or of which records were given up."""

    mark: Mark
    deaths: int
    forget_at: float
    """When these are forgotten, where they are too few for care."""
    line: Line | None = None
    """Its suspects, once all that was inherited is read."""

    @property
    def careful(self) -> bool:
        """Whether it is drained with care."""
        return self.deaths >= suspects.DEATHS

    def is_over(self, now: float) -> bool:
        """Whether the deaths may be forgotten: all suspects went, or there was a while of steady work."""
        return self.line is not None and not self.line if self.careful else self.deaths > 0 and self.forget_at <= now


@dataclass(eq=False)
class Careful:
    """Hands out suspects one at a time."""

    _context: Context
    _signals: Signals
    _queue: Queue
    _hold: Hold
    _leases: Leases
    _caught_up: Callable[[int], bool]
    """Whether all that was inherited in a shard is read."""
    _admits: Callable[[str], bool]
    """Whether something of a namespace may be sent now."""
    _waits: Callable[[str], bool]
    """Whether a namespace is held back for longer than a moment, so that its suspects wait, too."""
    _lost: Callable[[frozenset[int]], None]
    """Told of shards that turn out not to be ours."""
    _cases: dict[int, _Case] = field(init=False, default_factory=dict)
    _handed: Batch | None = field(init=False, default=None)
    """What is to be sent next."""
    _out: Batch | None = field(init=False, default=None)
    _hung: Counter[str] = field(init=False, default_factory=Counter)
    """Suspects in a row that hung, by namespace."""
    _stirred: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    @property
    def active(self) -> bool:
        """Whether nothing may be sent but what is handed out here."""
        return any(case.careful for case in self._cases.values())

    def told(self) -> str:
        """One line for an operator; empty where nothing is drained with care."""
        lines = [case.line or () for case in self._cases.values() if case.careful]
        return (
            ""
            if not lines
            else (
                f"{len(lines)} shards are drained with care, one entry at a time, since workers died in a row; "
                f"{sum(map(len, lines))} entries to go"
            )
        )

    def gained(self, shards: list[int]) -> None:
        """These shards are ours, before anything of them is read."""
        forget_at = self._context.clock() + STEADY_LEASES * self._context.settings.lease
        for shard in shards:
            takeover = self._leases.takeovers[shard]
            mark = suspects.read(takeover.mark)
            mark = suspects.kept(mark) if takeover.quarantined_until is None else suspects.died(mark)
            self._cases[shard] = _Case(mark, takeover.deaths, forget_at)
        if deaths := [self._cases[shard].deaths for shard in shards if self._cases[shard].careful]:
            self._context.events.tell(Event.CARE_BEGUN, shards=len(deaths), deaths=max(deaths))
        self._stirred.set()

    def forget(self, shards: Iterable[int]) -> None:
        """These shards are not ours any more."""
        for shard in shards:
            self._cases.pop(shard, None)

    def admitted(self, held: Held) -> None:
        """This entry was read: give up what is known to kill."""
        context, now = self._context, self._context.clock()
        rows = {one.row for one in suspects.kept(self._cases[held.shard].mark) if one.stream_id == held.stream_id}
        for version in self._hold.take_apart(held, now) if rows else ():
            if version.row in rows:
                why = suspects.verdict(context.name, context.wall())
                self._hold.bury(version, why, now)
                where = spoken(scope_of(version.namespace))
                context.events.tell(Event.DEAD, id=version.id, lane=where, reason=why.reason, message=why.message)
                self._signals.settleable.set()

    def take(self) -> Batch | None:
        """What is to be sent alone now, if anything."""
        batch, self._handed = self._handed, None
        self._out = batch or self._out
        return batch

    def answered(self, batch: Batch) -> None:
        """Something came back for a batch, or it was given up: its worker did not die of it."""
        if batch is self._out:
            self._out = None
            self._hung.pop(batch.namespace, None)
            self._stirred.set()

    async def run(self) -> None:
        """Hand out suspects until the worker stops."""
        absence = Absence("mark what is sent alone", self._context, self._signals)
        while not self._signals.stopping.is_set():
            self._stirred.clear()
            try:
                await self._step(self._context.clock())
                absence.over()
            except _TROUBLES as error:
                await absence.wait(error)
            else:
                await signalled(self._stirred, 0.05 if self.active else 0.5)

    async def end(self) -> None:
        """The worker stops: what is not sent goes back, and nothing is alone in flight any more."""
        if self._handed is not None:
            self._put_back(self._handed.items)
            self._handed = None
        with suppress(*_TROUBLES):
            await self._write(self._without_alone())

    async def tidy(self) -> None:
        """All that was read is settled: take away the notes of what was given up."""
        with suppress(*_TROUBLES):  # the next holder does it
            await self._forget(self._context.clock())

    async def _step(self, now: float) -> None:
        """Do what can be done now."""
        if self._handed is not None:
            return
        if self._out is not None:
            if now < self._out.started + HANGING:
                return
            self._hung[self._out.namespace] += 1
            self._out = None
        for shard, case in self._cases.items():
            if case.careful and (found := self._next(shard, case, now)):
                await self._hand_out(shard, *found)
                return
        await self._forget(now)

    def _next(self, shard: int, case: _Case, now: float) -> tuple[list[Item], Suspect] | None:
        """Take the next suspect of a shard, once all that was inherited is read."""

        def left_out(namespace: str) -> bool:
            return self._waits(namespace) or self._hung[namespace] >= HANGS

        if case.line is None:
            if not self._caught_up(shard):
                return None
            settings = self._context.settings
            records = 2 * settings.concurrency * settings.batch.records // max(1, len(self._leases.epochs))
            inherited = [held for held in self._hold.inherited(shard) if not left_out(held.namespace)]
            case.line = Line(self._hold, shard, settings.batch, case.mark, suspects.in_turn(inherited, max(1, records)))
        return case.line.next(now, self._admits, left_out)

    async def _hand_out(self, shard: int, items: list[Item], one: Suspect) -> None:
        """Mark what goes alone, take the mark of what went before away, and hand it to the sender."""
        try:
            await self._write(self._without_alone() | {shard: (*suspects.kept(self._cases[shard].mark), one)})
        except _TROUBLES:
            self._put_back(items)
            raise
        live = [item for item in items if not entry_of(item).dropped]
        if not live or shard not in self._cases:
            self._put_back(items)
            return
        what = f"entry {one.stream_id}" if one.row is None else f"record {one.row} of entry {one.stream_id}"
        self._context.events.tell(Event.SUSPECT_SENT, shard=shard, what=what)
        self._handed = Batch(live[0].namespace, live)
        self._signals.sendable.set()

    async def _forget(self, now: float) -> None:
        """Forget deaths that are over, and what was given up once it is settled."""
        over = {shard: case for shard, case in self._cases.items() if case.is_over(now)}
        if over:
            await self._write({shard: suspects.kept(case.mark) for shard, case in over.items()}, deaths=0)
            careful = self.active
            for case in over.values():
                case.deaths = 0
            if careful and not self.active:
                self._hung.clear()
                self._context.events.tell(Event.CARE_OVER)
                self._signals.sendable.set()
        await self._write(
            {shard: () for shard, case in self._cases.items() if case.mark and self._is_settled(shard, case)}
        )

    def _is_settled(self, shard: int, case: _Case) -> bool:
        """Whether nothing is left of what the mark says."""
        left = (self._hold.find(shard, one.stream_id) for one in suspects.kept(case.mark))
        return not case.careful and self._caught_up(shard) and not any(left)

    def _without_alone(self) -> dict[int, Mark]:
        """The marks of the shards that have something alone in flight, without it."""
        return {shard: kept for shard, case in self._cases.items() if (kept := suspects.kept(case.mark)) != case.mark}

    async def _write(self, marks: dict[int, Mark], deaths: int | None = None) -> None:
        held = {shard: epoch for shard, epoch in self._leases.epochs.items() if shard in marks}
        if not held:
            return
        cases = {shard: self._cases[shard] for shard in held}
        foreign = await self._queue.mark(held, {shard: suspects.written(marks[shard]) for shard in held}, deaths)
        for shard, case in cases.items():
            case.mark = marks[shard]
        if foreign:
            self._lost(foreign)

    def _put_back(self, items: list[Item]) -> None:
        for item in items:
            self._hold.put_back(item, self._context.clock())
