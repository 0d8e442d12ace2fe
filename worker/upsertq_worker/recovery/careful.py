"""Owns the sending of suspects: one entry or one record at a time, each marked on the server before it leaves.

What is suspected of what is decided in `upsertq_worker.recovery.suspects`; the sender sends what is handed out here.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from upsertq.contract.errors import QueueDamaged, ServerUnavailable
from upsertq.contract.pauses import scope_of, spoken
from upsertq_worker.absence import Absence
from upsertq_worker.context import Context, Signals, signalled
from upsertq_worker.delivery.batch import Batch
from upsertq_worker.events import Event
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import Fate, Held, Item, Version, entry_of
from upsertq_worker.ordering.ready import is_delayed
from upsertq_worker.queue.lease import Leases
from upsertq_worker.queue.protocols import Queue
from upsertq_worker.recovery.suspects import DEATHS, HANGING, Alone, Mark, in_turn, read_mark, verdict

STEADY_LEASES = 3
"""Leases for which a holder must live until the deaths before it are forgotten."""
HANGS = 3
"""Suspects of a lane in a row that hang, after which it is the lane that hangs: it keeps nothing waiting any more."""


@dataclass(eq=False, slots=True)
class _Care:
    """A shard that is drained with care: its suspects, in turn."""

    accused: Alone | None
    """What was alone at the latest death."""
    line: deque[Held] | None = None
    """The entries still to be sent alone; `None` until all that was inherited is read."""
    rows: set[int] = field(default_factory=set)
    """Rows of the accused entry that were sent alone."""
    lined: set[str] = field(default_factory=set)
    """Stream ids of all entries that ever stood in line."""

    def line_up(self, entries: Iterable[Held]) -> None:
        """Let these entries be sent alone, too, where they were not in line yet."""
        for held in entries:
            if self.line is not None and held.stream_id not in self.lined:
                self.lined.add(held.stream_id)
                self.line.append(held)


class Careful:
    """Hands out suspects one at a time.

    Args:
        context: of the worker.
        signals: of the worker.
        queue: where marks are written.
        hold: what was read.
        leases: whose takeovers tell of deaths.
        caught_up: whether all that was inherited in a shard is read.
        admits: whether something of a namespace may be sent now.
        waits: whether a namespace is held back for longer than a moment, so that its suspects wait, too.
        lost: told of shards that turn out not to be ours.
    """

    def __init__(
        self,
        context: Context,
        signals: Signals,
        queue: Queue,
        hold: Hold,
        leases: Leases,
        caught_up: Callable[[int], bool],
        admits: Callable[[str], bool],
        waits: Callable[[str], bool],
        lost: Callable[[frozenset[int]], None],
    ) -> None:
        self._context = context
        self._signals = signals
        self._queue = queue
        self._hold = hold
        self._leases = leases
        self._caught_up = caught_up
        self._admits = admits
        self._waits = waits
        self._lost = lost
        self._absence = Absence("mark what is sent alone", context, signals)
        self._marks: dict[int, Mark] = {}
        """What is noted of shards of ours, where it is anything."""
        self._deaths: dict[int, float] = {}
        """Shards with deaths that are not yet forgotten, and when they are."""
        self._cares: dict[int, _Care] = {}
        self._handed: Batch | None = None
        """What is to be sent next."""
        self._out: Batch | None = None
        self._hung: Counter[str] = Counter()
        """Suspects in a row that hung, by namespace."""
        self._stirred = signals.suspicious

    @property
    def active(self) -> bool:
        """Whether nothing may be sent but what is handed out here."""
        return bool(self._cares)

    def told(self) -> str:
        """One line for an operator; empty where nothing is drained with care."""
        if not self._cares:
            return ""
        left = sum(len(care.line or ()) for care in self._cares.values())
        return (
            f"{len(self._cares)} shards are drained with care, one entry at a time, since workers died in a row; "
            f"{left} entries to go"
        )

    def gained(self, shards: list[int]) -> None:
        """These shards are ours, before anything of them is read."""
        begun = []
        for shard in shards:
            self.forget([shard])
            takeover = self._leases.takeovers[shard]
            clean = takeover.quarantined_until is None
            mark = replace(read_mark(takeover.mark), alone=None) if clean else read_mark(takeover.mark).died()
            if mark.text():
                self._marks[shard] = mark
            if takeover.deaths:
                self._deaths[shard] = self._context.clock() + STEADY_LEASES * self._context.settings.lease
            if takeover.deaths >= DEATHS:
                self._cares[shard] = _Care(mark.alone)
                begun.append(shard)
        if begun:
            deaths = max(self._leases.takeovers[shard].deaths for shard in begun)
            self._context.events.tell(Event.CARE_BEGUN, shards=len(begun), deaths=deaths)
        self._stirred.set()

    def forget(self, shards: Iterable[int]) -> None:
        """These shards are not ours any more."""
        for shard in shards:
            self._marks.pop(shard, None)
            self._deaths.pop(shard, None)
            self._cares.pop(shard, None)

    def admitted(self, held: Held) -> None:
        """This entry was read: give up what is known to kill."""
        mark = self._marks.get(held.shard)
        if mark is None:
            return
        context, now = self._context, self._context.clock()
        for row in [row for stream_id, row in mark.given_up if stream_id == held.stream_id]:
            if row < len(held.entry.ids):
                why = verdict(context.name, context.wall())
                version = self._hold.take_apart(held, now)[row]
                self._hold.end_waiting(version, Fate.DEAD, now, why)
                where = spoken(scope_of(version.namespace))
                context.events.tell(Event.DEAD, id=version.id, lane=where, reason=why.reason, message=why.message)
        self._signals.settleable.set()

    def take(self) -> Batch | None:
        """What is to be sent alone now, if anything."""
        batch, self._handed = self._handed, None
        if batch is not None:
            self._out = batch
        return batch

    def answered(self, batch: Batch) -> None:
        """Something came back for a batch, or it was given up: its worker did not die of it."""
        if batch is self._out:
            self._out = None
            self._hung.pop(batch.namespace, None)
            self._stirred.set()

    async def run(self) -> None:
        """Hand out suspects until the worker stops."""
        while not self._signals.stopping.is_set():
            self._stirred.clear()
            try:
                again = await self._step()
                self._absence.over()
            except (ServerUnavailable, QueueDamaged) as error:
                await self._absence.wait(error)
            else:
                if not again:
                    await signalled(self._stirred, 0.05 if self._cares else 0.5)

    async def end(self) -> None:
        """The worker stops: what is not sent goes back."""
        if self._handed is not None:
            self._put_back(self._handed.items)
            self._handed = None

    async def tidy(self) -> None:
        """All that was read is settled: take away the notes of what was given up."""
        try:
            await self._tidy(self._context.clock())
        except (ServerUnavailable, QueueDamaged):
            return  # the next holder does it

    async def _step(self) -> bool:
        """Do what can be done now; returns whether there may be more."""
        now = self._context.clock()
        if self._handed is not None:
            return False
        if self._out is not None:
            if now < self._out.started + HANGING:
                return False
            self._hung[self._out.namespace] += 1
            self._out = None
        if not self._cares:
            self._hung.clear()
            return await self._tidy(now)
        over = []
        for shard, care in self._cares.items():
            if care.line is None and not self._line_up(shard, care):
                continue
            found = self._choose(shard, care, now)
            if found is not None:
                await self._hand_out(shard, *found)
                return False
            if care.accused is None and not care.line:
                over.append(shard)
        await self._end_care(over)
        return False

    def _line_up(self, shard: int, care: _Care) -> bool:
        """Find the suspects of a shard once all that was inherited is read; returns whether it is."""
        if not self._caught_up(shard):
            return False
        settings = self._context.settings
        records = 2 * settings.concurrency * settings.batch.records // max(1, len(self._leases.epochs))
        sendable = [held for held in self._hold.entries.inherited(shard) if not self._left_out(held.namespace)]
        care.line = deque()
        care.line_up(in_turn(sendable, max(1, records)))
        return True

    def _left_out(self, namespace: str) -> bool:
        return self._waits(namespace) or self._hung[namespace] >= HANGS

    def _choose(self, shard: int, care: _Care, now: float) -> tuple[list[Item], Alone] | None:
        """Take the next suspect; `None` while there is none that may be sent."""
        if care.accused is not None:
            found = self._next_single(shard, care, care.accused, now)
            if found is not None or care.accused is not None:
                return found
        line = care.line or deque()
        for _ in range(len(line)):
            held = line.popleft()
            if self._hold.entries.find(shard, held.stream_id) is not held or self._left_out(held.namespace):
                continue
            if not self._admits(held.namespace):
                line.appendleft(held)
                return None
            care.line_up(_newer(held))
            items = self._take(held, now)
            if items or any(is_delayed(version, now) for version in held.versions or ()):
                line.append(held)  # what was not taken may follow: a quarantine ends, a request takes no more
            if items:
                return items, Alone(held.stream_id, 0 if len(held.entry.ids) == 1 else None)
        return None

    def _next_single(self, shard: int, care: _Care, accused: Alone, now: float) -> tuple[list[Item], Alone] | None:
        """Take the next record of the entry that was alone at the latest death; once all were sent it is done with."""
        held = self._hold.entries.find(shard, accused.stream_id)
        if held is not None and not self._left_out(held.namespace):
            if not self._admits(held.namespace):
                return None
            delayed = False
            for version, alone in self._single(held, accused, now):
                if version.row not in care.rows and self._hold.ready.take_version(version, now):
                    care.rows.add(version.row)
                    return [version], alone
                delayed = delayed or is_delayed(version, now)
            if delayed:
                return None
            care.line_up(_newer(held))
        care.accused = None
        return None

    def _single(self, held: Held, accused: Alone, now: float) -> Iterator[tuple[Version, Alone]]:
        """The records of an entry that was alone at a death, each by itself, the accused one first."""
        versions = self._hold.take_apart(held, now)
        first = [] if accused.row is None else [accused.row]
        for row in dict.fromkeys([*first, *range(len(versions))]):
            if row < len(versions):
                yield versions[row], Alone(held.stream_id, row, accused.deaths if row == accused.row else 0)

    def _take(self, held: Held, now: float) -> list[Item]:
        """Take what may be sent of an entry, as much as one request carries."""
        limits = self._context.settings.batch
        if held.versions is None and len(held.entry.ids) <= limits.records and held.estimate <= limits.bytes:
            return self._hold.ready.take_entry(held, now)
        taken: list[Item] = []
        size = 0
        for version in self._hold.take_apart(held, now):
            size += held.estimate // len(held.entry.ids)
            if len(taken) == limits.records or (taken and size > limits.bytes):
                break
            if self._hold.ready.take_version(version, now):
                taken.append(version)
        return taken

    async def _hand_out(self, shard: int, items: list[Item], alone: Alone) -> None:
        """Mark what goes alone, take the mark of what went before away, and hand it to the sender."""
        marks = {other: replace(mark, alone=None) for other, mark in self._marks.items() if mark.alone is not None}
        marks[shard] = replace(self._marks.get(shard, Mark()), alone=alone)
        try:
            await self._write(marks)
        except (ServerUnavailable, QueueDamaged):
            self._put_back(items)
            raise
        live = [item for item in items if not entry_of(item).dropped]
        if not live or shard not in self._cares:
            self._put_back(items)
            return
        what = f"entry {alone.stream_id}" if alone.row is None else f"record {alone.row} of entry {alone.stream_id}"
        self._context.events.tell(Event.SUSPECT_SENT, shard=shard, what=what)
        self._handed = Batch(live[0].namespace, live)
        self._signals.sendable.set()

    async def _end_care(self, shards: list[int]) -> None:
        """All suspects of these shards were sent and killed nothing: forget the deaths."""
        if not shards:
            return
        marks = {shard: replace(self._marks.get(shard, Mark()), alone=None) for shard in shards}
        await self._write(marks, deaths=0)
        for shard in shards:
            self._cares.pop(shard, None)
            self._deaths.pop(shard, None)
        if not self._cares:
            self._context.events.tell(Event.CARE_OVER)
            self._signals.sendable.set()

    async def _tidy(self, now: float) -> bool:
        """Forget deaths after a while of steady work, and what was noted of entries that are settled."""
        steady = [shard for shard, when in self._deaths.items() if when <= now]
        gone = [
            shard
            for shard, mark in self._marks.items()
            if self._caught_up(shard) and not any(self._hold.entries.find(shard, one) for one, _ in mark.given_up)
        ]
        if steady:
            await self._write({shard: self._marks.get(shard, Mark()) for shard in steady}, deaths=0)
            for shard in steady:
                self._deaths.pop(shard, None)
        if gone:
            await self._write({shard: Mark() for shard in gone})
        return False

    async def _write(self, marks: dict[int, Mark], deaths: int | None = None) -> None:
        held = {shard: epoch for shard, epoch in self._leases.epochs.items() if shard in marks}
        foreign = await self._queue.mark(held, {shard: marks[shard].text() for shard in held}, deaths)
        for shard in held:
            if marks[shard].text():
                self._marks[shard] = marks[shard]
            else:
                self._marks.pop(shard, None)
        if foreign:
            self._lost(foreign)

    def _put_back(self, items: list[Item]) -> None:
        now = self._context.clock()
        for item in items:
            self._hold.put_back(item, now)


def _newer(held: Held) -> Iterator[Held]:
    """The entries that have the newest version of an id of this one: that version is sent in place of this one's."""
    for version in held.versions or ():
        waiting = version.chain.waiting
        if waiting and waiting[-1].held is not held:
            yield waiting[-1].held
