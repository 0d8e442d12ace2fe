"""Owns the sending of suspects: one entry or one record at a time, each marked on the server before it leaves.

What goes next is decided in `upsertq_worker.recovery.suspects`; the sender sends what is handed out here.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from upsertq.contract.errors import QueueDamaged, ServerUnavailable
from upsertq.contract.pauses import scope_of, spoken
from upsertq_worker.absence import Absence
from upsertq_worker.context import Context, Signals, signalled
from upsertq_worker.delivery.batch import HANGING, Batch
from upsertq_worker.events import Event
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import Fate, Held, Item, entry_of
from upsertq_worker.queue.lease import Leases
from upsertq_worker.queue.protocols import Queue
from upsertq_worker.recovery import suspects
from upsertq_worker.recovery.suspects import Line, Mark, Suspect

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

    @property
    def accused(self) -> bool:
        """Whether something of it was alone at the latest death, and still has to go first."""
        return self.mark != suspects.kept(self.mark) if self.line is None else self.line.accused

    def is_over(self, now: float) -> bool:
        """Whether the deaths may be forgotten: all suspects went, or there was a while of steady work."""
        return self.line is not None and not self.line if self.careful else self.deaths > 0 and self.forget_at <= now


@dataclass(eq=False)
class _Notes:
    """The cases of the shards that are ours, and the marks on the server."""

    _queue: Queue
    _hold: Hold
    _leases: Leases
    _caught_up: Callable[[int], bool]
    _lost: Callable[[frozenset[int]], None]
    cases: dict[int, _Case] = field(init=False, default_factory=dict)

    @property
    def careful(self) -> dict[int, _Case]:
        """The shards that are drained with care."""
        return {shard: case for shard, case in self.cases.items() if case.careful}

    @property
    def pinned(self) -> set[int]:
        """The shards with deaths that are not forgotten: only their holder can judge them."""
        return {shard for shard, case in self.cases.items() if case.deaths}

    def begin(self, shard: int, forget_at: float) -> None:
        """This shard is ours: see how the holder before us ended."""
        takeover = self._leases.takeovers[shard]
        mark = suspects.read(takeover.mark)
        if takeover.quarantined_until is None:
            mark = suspects.kept(mark)
        elif not takeover.own:
            mark = suspects.died(mark)
        self.cases[shard] = _Case(mark, takeover.deaths, forget_at)

    async def alone(self, shard: int | None, one: Suspect | None = None) -> None:
        """Note what goes alone now, if anything, and that whatever went alone before does not any more."""
        marks = {k: kept for k, case in self.cases.items() if (kept := suspects.kept(case.mark)) != case.mark}
        if shard is not None and one is not None:
            marks[shard] = (*suspects.kept(self.cases[shard].mark), one)
        await self._write(marks)

    async def forget(self, now: float) -> None:
        """Forget deaths that are over, and what was given up once it is settled."""
        over = {shard: case for shard, case in self.cases.items() if case.is_over(now)}
        await self._write({shard: suspects.kept(case.mark) for shard, case in over.items()}, deaths=0)
        for case in over.values():
            case.deaths = 0
        await self._write({shard: () for shard, case in self.cases.items() if case.mark and self._settled(shard, case)})

    def _settled(self, shard: int, case: _Case) -> bool:
        left = (self._hold.entries.find(shard, one.stream_id) for one in suspects.kept(case.mark))
        return not case.careful and self._caught_up(shard) and not any(left)

    async def _write(self, marks: dict[int, Mark], deaths: int | None = None) -> None:
        held = {shard: epoch for shard, epoch in self._leases.epochs.items() if shard in marks}
        if not held:
            return
        cases = {shard: self.cases[shard] for shard in held}
        foreign = await self._queue.mark(held, {shard: suspects.written(marks[shard]) for shard in held}, deaths)
        for shard, case in cases.items():
            case.mark = marks[shard]
        if foreign:
            self._lost(foreign)


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
    _handed: Batch | None = field(init=False, default=None)
    """What is to be sent next."""
    _out: Batch | None = field(init=False, default=None)
    _hung: Counter[str] = field(init=False, default_factory=Counter)
    """Suspects in a row that hung, by namespace."""

    def __post_init__(self) -> None:
        self.notes = _Notes(self._queue, self._hold, self._leases, self._caught_up, self._lost)

    @property
    def active(self) -> bool:
        """Whether nothing may be sent but what is handed out here."""
        return bool(self.notes.careful)

    def told(self) -> str:
        """One line for an operator; empty where nothing is drained with care."""
        lines = [case.line or () for case in self.notes.careful.values()]
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
        for shard in shards:
            self.notes.begin(shard, self._context.clock() + STEADY_LEASES * self._context.settings.lease)
        deaths = [case.deaths for shard, case in self.notes.careful.items() if shard in shards]
        if deaths:
            self._context.events.tell(Event.CARE_BEGUN, shards=len(deaths), deaths=max(deaths))
        self._signals.suspicious.set()

    def forget(self, shards: Iterable[int]) -> None:
        """These shards are not ours any more."""
        for shard in shards:
            self.notes.cases.pop(shard, None)

    def admitted(self, held: Held) -> None:
        """This entry was read: give up what is known to kill."""
        context, now = self._context, self._context.clock()
        mark = self.notes.cases[held.shard].mark
        rows = {one.row for one in suspects.kept(mark) if one.stream_id == held.stream_id} if mark else ()
        for version in self._hold.take_apart(held, now) if rows else ():
            if version.row in rows:
                why = suspects.verdict(context.name, context.wall())
                self._hold.end_waiting(version, Fate.DEAD, now, why)
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
            self._signals.suspicious.set()

    async def run(self) -> None:
        """Hand out suspects until the worker stops."""
        absence = Absence("mark what is sent alone", self._context, self._signals)
        while not self._signals.stopping.is_set():
            self._signals.suspicious.clear()
            try:
                await self._step(self._context.clock())
                absence.over()
            except _TROUBLES as error:
                await absence.wait(error)
            else:
                await signalled(self._signals.suspicious, 0.05 if self.active else 0.5)

    async def end(self) -> None:
        """The worker stops: what is not sent goes back, and nothing is alone in flight any more."""
        if self._handed is not None:
            _put_back(self._hold, self._handed.items, self._context.clock())
            self._handed = None
        with suppress(*_TROUBLES):
            await self.notes.alone(None)

    async def tidy(self) -> None:
        """All that was read is settled: take away the notes of what was given up."""
        with suppress(*_TROUBLES):  # the next holder does it
            await self.notes.forget(self._context.clock())

    async def _step(self, now: float) -> None:
        """Do what can be done now."""
        if self._handed is not None:
            return
        if self._out is not None:
            if now < self._out.started + HANGING:
                return
            self._hung[self._out.namespace] += 1
            self._out = None
        careful = self.notes.careful
        accused = {shard: case for shard, case in careful.items() if case.accused}
        for shard, case in (accused or careful).items():
            if found := self._next(shard, case, now):
                await self._hand_out(shard, *found)
                return
        if any(case.accused for case in accused.values()):
            return  # nothing goes before it: a mark of something else, in any shard, would forget its deaths
        await self.notes.forget(now)
        if not self.active:
            self._hung.clear()
            if careful and not any(case.careful for case in careful.values()):
                self._context.events.tell(Event.CARE_OVER)
                self._signals.sendable.set()

    def _next(self, shard: int, case: _Case, now: float) -> tuple[list[Item], Suspect] | None:
        """Take the next suspect of a shard, once all that was inherited is read."""

        def left_out(namespace: str) -> bool:
            return self._waits(namespace) or self._hung[namespace] >= HANGS

        if case.line is None:
            if not self._caught_up(shard):
                return None
            settings = self._context.settings
            records = 2 * settings.concurrency * settings.batch.records // max(1, len(self._leases.epochs))
            inherited = [held for held in self._hold.entries.inherited(shard) if not left_out(held.namespace)]
            case.line = Line(self._hold, shard, settings.batch, case.mark, suspects.in_turn(inherited, max(1, records)))
        return case.line.next(now, self._admits, left_out)

    async def _hand_out(self, shard: int, items: list[Item], one: Suspect) -> None:
        """Mark what goes alone and hand it to the sender."""
        try:
            await self.notes.alone(shard, one)
        except _TROUBLES:
            _put_back(self._hold, items, self._context.clock())
            raise
        live = [item for item in items if not entry_of(item).dropped]
        if not live or shard not in self.notes.cases:
            _put_back(self._hold, items, self._context.clock())
            return
        what = f"entry {one.stream_id}" if one.row is None else f"record {one.row} of entry {one.stream_id}"
        self._context.events.tell(Event.SUSPECT_SENT, shard=shard, what=what)
        self._handed = Batch(live[0].namespace, live)
        self._signals.sendable.set()


def _put_back(hold: Hold, items: list[Item], now: float) -> None:
    for item in items:
        hold.put_back(item, now)
