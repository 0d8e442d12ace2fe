"""Owns the sending of suspects: one entry or one record at a time, each marked on the server before it leaves.

What goes next is decided in `upsertq_worker.recovery.suspects`; the sender sends what is handed out here.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from upsertq.contract.dead_letter import Reason, Verdict
from upsertq.contract.errors import QueueDamaged, ServerUnavailable
from upsertq.contract.pauses import scope_of, spoken
from upsertq_worker.absence import Absence
from upsertq_worker.context import Context, Signals, signalled
from upsertq_worker.delivery.batch import HANGING, Batch
from upsertq_worker.events import Event
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import Fate, Held
from upsertq_worker.queue.lease import Leases
from upsertq_worker.queue.protocols import Queue
from upsertq_worker.recovery import suspects
from upsertq_worker.recovery.suspects import ALONE, Case, Suspect

STEADY_LEASES: Final = 3
"""Leases for which a holder must live until the deaths before it are forgotten."""
HANGS: Final = 3
"""Suspects of a lane in a row that hang, after which it is the lane that hangs: it keeps nothing waiting any more."""
_TROUBLES: Final = (ServerUnavailable, QueueDamaged)


@dataclass(eq=False)
class Careful:
    """Hands out suspects one at a time."""

    _context: Context
    _signals: Signals
    _queue: Queue
    _hold: Hold
    _leases: Leases
    _caught_up: Callable[[int], bool]
    """Whether all that was inherited in a shard is read, but for lanes that are not read now."""
    _read_out: Callable[[int], bool]
    """Whether everything in a shard is read, in every lane."""
    _admits: Callable[[str], bool]
    """Whether something of a namespace may be sent now."""
    _waits: Callable[[str], bool]
    """Whether a namespace is held back for longer than a moment, so that its suspects wait, too."""
    _lost: Callable[[frozenset[int]], None]
    """Told of shards that turn out not to be ours."""
    _cases: dict[int, Case] = field(init=False, default_factory=dict)
    """Of the shards that are ours."""
    _alone: tuple[Case, Suspect] | None = field(init=False, default=None)
    """What is marked: it goes next, or is out."""
    _out: Batch | None = field(init=False, default=None)
    _hung: Counter[str] = field(init=False, default_factory=Counter)
    """Suspects in a row that hung, by namespace."""

    @property
    def active(self) -> bool:
        """Whether nothing may be sent but what is handed out here."""
        return any(case.careful for case in self._cases.values())

    @property
    def pinned(self) -> set[int]:
        """The shards with deaths that are not forgotten: only their holder can judge them."""
        return {shard for shard, case in self._cases.items() if case.deaths}

    def told(self) -> str:
        """One line for an operator; empty where nothing is drained with care."""
        lines = [case.line or () for case in self._cases.values() if case.careful]
        told = f"{len(lines)} shards are drained with care, one entry at a time, since workers died in a row; "
        return told + f"{sum(map(len, lines))} entries to go" if lines else ""

    def gained(self, shards: list[int]) -> None:
        """These shards are ours, before anything of them is read: see how the holders before us ended."""
        forget_at = self._context.clock() + STEADY_LEASES * self._context.settings.lease
        for shard in shards:
            takeover = self._leases.takeovers[shard]
            blamed = suspects.read(takeover.mark, died=takeover.quarantined_until is not None and not takeover.own)
            self._cases[shard] = Case(self._hold, shard, takeover.mark, takeover.deaths, forget_at, blamed)
        if deaths := [self._cases[shard].deaths for shard in shards if self._cases[shard].careful]:
            self._context.events.tell(Event.CARE_BEGUN, shards=len(deaths), deaths=max(deaths))
        self._signals.suspicious.set()

    def forget(self, shards: Iterable[int]) -> None:
        """These shards are not ours any more."""
        for shard in shards:
            case = self._cases.pop(shard, None)
            if self._alone is not None and self._alone[0] is case:
                self._alone = self._out = None

    def admitted(self, held: Held) -> None:
        """This entry was read: give up what is known to kill."""
        case = self._cases[held.shard]
        if not case.blamed or not (rows := case.given_up(held.stream_id)):
            return
        context, now = self._context, self._context.clock()
        for version in self._hold.take_apart(held, now):
            if version.row in rows:
                told = f"{ALONE} workers died while this record alone was in flight"
                last_ms = int(context.wall() * 1000)
                why = Verdict(Reason.CRASH_LOOP, message=told, attempts=ALONE, last_ms=last_ms, worker=context.name)
                self._hold.end_waiting(version, Fate.DEAD, now, why)
                where = spoken(scope_of(version.namespace))
                context.events.tell(Event.DEAD, id=version.id, lane=where, reason=why.reason, message=why.message)
                self._signals.settleable.set()

    def take(self) -> Batch | None:
        """What is to be sent alone now, if anything."""
        if self._alone is None or self._out is not None:
            return None
        case, one = self._alone
        items = case.take(one, self._context.clock(), self._context.settings.batch)
        if not items:
            self._alone = None
            self._signals.suspicious.set()
            return None
        what = f"entry {one.stream_id}" if one.row is None else f"record {one.row} of entry {one.stream_id}"
        self._context.events.tell(Event.SUSPECT_SENT, shard=case.shard, what=what)
        self._out = Batch(items[0].namespace, items)
        return self._out

    def answered(self, batch: Batch) -> None:
        """Something came back for a batch, or it was given up: its worker did not die of it."""
        if self._alone is not None and batch is self._out:
            case, one = self._alone
            case.blamed.pop(one, None)
            self._hung.pop(batch.namespace, None)
            self._alone = self._out = None
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
        """The worker stops: nothing is alone in flight any more, and what is over is forgotten."""
        with suppress(*_TROUBLES):  # the next holder does it
            await self._tidy(self._context.clock())

    async def _step(self, now: float) -> None:
        """Do what can be done now."""
        out = self._out
        if out is not None and now >= out.started + HANGING:
            hung = self._hung[out.namespace] + 1
            self.answered(out)
            self._hung[out.namespace] = hung
        if self._alone is not None:
            return
        careful = [case for case in self._cases.values() if case.careful]
        for case in sorted(careful, key=lambda case: case.turn):
            one = self._next(case, now)
            if case.turn == 0 and case.line is None:
                return  # it is not read yet
            if one:
                await self._write(alone=(case, one))
                if self._cases.get(case.shard) is case:
                    self._alone = case, one
                    self._signals.sendable.set()
                return
        await self._tidy(now)
        if not self.active:
            self._hung.clear()
            if careful:
                self._context.events.tell(Event.CARE_OVER)
                self._signals.sendable.set()

    def _next(self, case: Case, now: float) -> Suspect | None:
        """The next suspect of a shard, once all that was inherited is read."""

        def left_out(namespace: str) -> bool:
            return self._waits(namespace) or self._hung[namespace] >= HANGS

        if case.line is None and self._caught_up(case.shard):
            settings, inherited = self._context.settings, self._hold.entries.inherited(case.shard)
            records = 2 * settings.concurrency * settings.batch.records // max(1, len(self._leases.epochs))
            case.line_up((held for held in inherited if not left_out(held.namespace)), max(1, records))
        return case.next(now, self._admits, left_out)

    async def _tidy(self, now: float) -> None:
        """Forget deaths that are over, what was alone, and what was given up once it is settled."""
        over = [case for case in self._cases.values() if case.is_over(now)]
        for case in self._cases.values():
            if case.blamed:
                case.prune(over=case in over or not case.careful, all_read=self._read_out(case.shard))
        await self._write(over)
        for case in over:
            case.deaths = 0
        await self._write()

    async def _write(self, over: Sequence[Case] = (), alone: tuple[Case, Suspect] | None = None) -> None:
        """Write the marks that are not so on the server; or those of cases that are over, with no death counted."""
        held, cases, marks = self._leases.epochs, dict(self._cases), dict[int, str]()
        for shard, case in cases.items():
            mark = suspects.written(case.blamed, alone[1] if alone and alone[0] is case else None)
            if shard in held and (case in over if over else mark != case.mark):
                marks[shard], case.mark = mark, None
        if not marks:
            return
        sent = {shard: held[shard] for shard in marks}
        foreign = await self._queue.mark(sent, marks, 0 if over else None)
        for shard, mark in marks.items():
            cases[shard].mark = mark
        if denied := self._leases.denied(foreign, sent):
            self._lost(denied)
