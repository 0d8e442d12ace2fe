"""Owns the sending: which batch starts when, and in what time it is given up.

It decides by the hold, the batcher, the limiter and the pauses, and speaks to the index alone; what follows from an
answer is in `upsertq_worker.delivery.apply`.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from upsertq.contract.errors import WorldError
from upsertq_worker.context import Context, Signals, Tally, signalled
from upsertq_worker.delivery.apply import Applier
from upsertq_worker.delivery.batch import HANGING, Batch, Batcher
from upsertq_worker.delivery.encoder import Body, Unsendable
from upsertq_worker.delivery.outcome import judge
from upsertq_worker.delivery.response import Answer, TransportFailure
from upsertq_worker.flow.limiter import Limiter
from upsertq_worker.flow.outage import OutageWatch
from upsertq_worker.flow.pauses import Pauses
from upsertq_worker.flow.pausing import Pausing
from upsertq_worker.flow.retries import Retries
from upsertq_worker.flow.usage import Meter
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import entry_of

MAX_IDLE = 1.0


class Refused(WorldError):  # noqa: N818 - as its siblings in `upsertq.contract.errors`
    """The service refuses the queue; nothing was lost, the records wait."""


class Index(Protocol):
    """What a worker needs of an index."""

    async def upsert(self, body: Body) -> Answer | TransportFailure:
        """Post one request's body to `/vectors/upsert` and return what came back."""


class LeaseTime(Protocol):
    """What is needed of the leases here."""

    @property
    def valid_until(self) -> float:
        """Until then the leases held are ours for certain."""

    def safe(self, now: float) -> bool:
        """Whether the leases held are still ours for certain: nothing may be sent otherwise."""


class Suspects(Protocol):
    """What is needed of the sending with care here."""

    @property
    def active(self) -> bool:
        """Whether nothing may be sent but what is handed out there."""

    def take(self) -> Batch | None:
        """What is to be sent alone now, if anything."""

    def answered(self, batch: Batch) -> None:
        """Something came back for a batch, or it was given up."""


@dataclass(eq=False)
class Turns:
    """Whose turn it is: probes of what is paused first, then retries that are due, then what the batcher has."""

    _context: Context
    _hold: Hold
    _limiter: Limiter
    _pauses: Pauses
    _give_back: Callable[[Batch], None]
    """Lets the records of a batch wait again."""
    _flights: Mapping[asyncio.Task[None], Batch]
    retries: Retries[Batch] = field(init=False, default_factory=Retries)

    def __post_init__(self) -> None:
        self.batcher = Batcher(self._hold, self._context.settings.batch)
        self._limiter.waiting = lambda namespace: self.batcher.waiting(namespace) + self.retries.waits(namespace)

    def next(self, now: float) -> Batch | None:
        """The next batch."""
        return self._probe(now) or self.due_retry(now) or self.batcher.next(now, self.admits)

    def admits(self, namespace: str) -> bool:
        """Whether a first request of this namespace may start now."""
        if self._pauses.holds(namespace):
            return False
        if self.retries.waits(namespace) and self._limiter.failing(namespace):
            return False  # nothing of it passes now: what failed goes first, and is the probe
        return self._limiter.admits(namespace, self._context.clock(), retry=False)

    def due_retry(self, now: float) -> Batch | None:
        """A batch that failed before and is due again."""
        while (batch := self.retries.take(now, partial(self._may_retry, now))) is not None:
            if batch.live and not self._pauses.holds(batch.namespace):
                return batch
            self._give_back(batch)
        return None

    def carries(self, shard: int) -> bool:
        """Whether a request with records of this shard is in flight, or waits for its retry."""
        batches = (*self._flights.values(), *(batch for _, batch in self.retries))
        return any(entry_of(item).shard == shard for batch in batches for item in batch.items)

    def idle_until(self, next_quarantine: float | None) -> Iterator[float | None]:
        """When something falls due that no event announces."""
        yield from (next_quarantine, self.batcher.due(), *(due for due, _ in self.retries))
        yield from (self._pauses.next_probe(), *self._limiter.openings())

    def _probe(self, now: float) -> Batch | None:
        """One item to see whether a paused scope is taken again."""
        for scope in self._pauses.due(now):
            for lane in list(self._hold.ready.lanes.values()):
                if not lane.line or not self._pauses.probed_with(scope, lane.namespace):
                    continue
                entry = lane.entry()
                if entry is not None:  # of another one each time: what is wrong is often so with all records of one
                    self._hold.take_apart(entry, now)
                item = self._hold.ready.take(lane, now, 1)
                if item is None:
                    continue
                self._pauses.probed(scope)
                return Batch(lane.namespace, [item], probe=scope)
        return None

    def _may_retry(self, now: float, batch: Batch) -> bool:
        """Whether it may leave the line: to be sent, or because it is not to be sent any more."""
        if not batch.live or self._pauses.holds(batch.namespace):
            return True
        return self._limiter.admits(batch.namespace, now, retry=batch.delay is not None)


@dataclass(eq=False)
class Sender:
    """Sends batches and applies what comes of them."""

    _context: Context
    _signals: Signals
    _index: Index
    _hold: Hold
    _limiter: Limiter
    _pausing: Pausing
    _leases: LeaseTime
    """Without which nothing is sent."""
    _suspects: Suspects
    """What goes alone."""
    _meter: Meter
    _tally: Tally
    _halt: Callable[[int, str, str], None]
    """Stops a namespace of a shard, because of a fault in an entry there."""
    _flights: dict[asyncio.Task[None], Batch] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        context, hold, limiter, pausing = self._context, self._hold, self._limiter, self._pausing
        self.outage = OutageWatch()
        self.turns = Turns(context, hold, limiter, pausing.pauses, self._give_back, self._flights)
        self.applier = Applier(context, hold, limiter, pausing, self.outage, self._meter, self.turns.retries.add)

    @property
    def in_flight(self) -> int:
        """Requests in flight."""
        return len(self._flights)

    async def run(self) -> None:
        """Send until the worker stops."""
        signals, clock = self._signals, self._context.clock
        while not signals.stopping.is_set():
            signals.sendable.clear()
            now = clock()
            next_quarantine = self._hold.wake(now)
            if not self._leases.safe(now):
                self._give_up()
            self._launch()
            self._say_next_probe()
            await signalled(signals.sendable, self._idle_time(now, next_quarantine))

    async def finish(self, seconds: float) -> bool:
        """Let what is in flight finish, for at most `seconds`, then give it up; returns whether all of it finished."""
        clock = self._context.clock
        until = clock() + seconds
        while self._flights and (ahead := min(until, self._leases.valid_until) - clock()) > 0:
            await asyncio.wait(self._flights, timeout=ahead)
        left = list(self._flights)
        self._give_up()
        await asyncio.gather(*left, return_exceptions=True)
        return not left and not self.turns.retries

    def revoke(self, shards: frozenset[int]) -> None:
        """Give up requests that carry records of these shards: another worker may be sending newer ones already."""
        for task, batch in self._flights.items():
            if any(entry_of(item).dropped and entry_of(item).shard in shards for item in batch.items):
                task.cancel()

    def _give_up(self) -> None:
        """Give up all requests. Once our leases may be over none may travel: the next holder waits one quarantine."""
        for task in self._flights:
            if not task.cancelling():
                task.cancel()

    def _launch(self) -> None:
        clock, most = self._context.clock, self._context.settings.concurrency
        while len(self._flights) < most:
            now = clock()
            if not self._leases.safe(now):
                return
            try:
                batch = self._with_care(now) if self._suspects.active else self.turns.next(now)
            except Unsendable as error:
                self._halt(error.shard, error.namespace, str(error))
                continue
            if batch is None:
                return
            self._fly(batch)

    def _with_care(self, now: float) -> Batch | None:
        """A retry, which has not killed before, or what goes alone once nothing else is in flight that may kill."""
        retry = self.turns.due_retry(now)
        if retry is not None:
            return retry
        if any(not batch.attempted_before and now < batch.started + HANGING for batch in self._flights.values()):
            return None
        return self._suspects.take()

    def _say_next_probe(self) -> None:
        """Keep what is told of an outage true."""
        if not self.outage.lasts:
            return
        if not self._flights and not self.turns.retries:
            self.outage.over(self._context.clock())  # nothing is left that could tell
            return
        dues = [max(due, self._limiter.opens_at(batch.namespace)) for due, batch in self.turns.retries]
        self.outage.probes_at(None if self._flights else min(dues))

    def _fly(self, batch: Batch) -> None:
        retry = batch.delay is not None
        batch.started = now = self._context.clock()
        batch.version = self._limiter.started(batch.namespace, now, retry=retry)
        task = asyncio.create_task(self._carry(batch))
        self._flights[task] = batch
        task.add_done_callback(partial(self._landed, retry=retry))

    def _landed(self, task: asyncio.Task[None], *, retry: bool) -> None:
        batch = self._flights.pop(task)
        signals = self._signals
        self._limiter.landed(batch.namespace, retry=retry)
        if task.cancelled():
            now = self._context.clock()
            for item in batch.live:
                self._hold.lost(item, now)
            self._give_back(batch)
        elif (error := task.exception()) is not None:
            signals.fail(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        self._suspects.answered(batch)
        if self._hold.settlements:
            signals.settleable.set()
        signals.sendable.set()

    def _give_back(self, batch: Batch) -> None:
        """Let the records of a batch that was given up wait again; a probe that was is made again."""
        self.applier.give_back(batch)
        if batch.probe:
            self._pausing.probe_refused(batch.probe)

    async def _carry(self, batch: Batch) -> None:
        context = self._context
        batch.items = batch.live
        if not batch.items or not self._leases.safe(context.clock()):
            # the process may have been stopped since the batch was launched: this is the last look before it leaves
            self._give_back(batch)
            return
        sent = batch.sent()
        try:
            body = batch.body()
        except Unsendable as error:
            self._halt(error.shard, error.namespace, str(error))
            self._give_back(batch)
            return
        batch.attempts += 1
        self._tally.requests += 1
        self._tally.retries += batch.attempts > 1
        self._tally.bytes += len(body)
        self._meter.posted(batch.items, len(body), again=batch.attempts > 1)
        reply = await self._index.upsert(body)
        self.applier.apply(batch, judge(reply, sent, context.wall()))

    def _idle_time(self, now: float, next_quarantine: float | None) -> float:
        """Seconds until something falls due that no event announces; what was due at `now` waits for an event."""
        times = (*self.turns.idle_until(next_quarantine), self._leases.valid_until)
        return min([MAX_IDLE, *(time - now for time in times if time is not None and time > now)])
