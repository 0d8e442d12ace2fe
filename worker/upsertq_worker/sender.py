"""Owns the sending: which batch starts when, and what follows from the judgement of its answer.

It decides by the hold, the batcher, the gates and the judge; it speaks to the index alone.
"""

import asyncio
import heapq
import logging
from collections import Counter

from upsertq.errors import WorldError
from upsertq_worker.answer import Sent
from upsertq_worker.backoff import Backoff
from upsertq_worker.batch import Batch
from upsertq_worker.desk import Desk
from upsertq_worker.hold import Fate
from upsertq_worker.judge import (
    Accepted,
    Busy,
    LaneRefused,
    Outcome,
    RecordRefused,
    ShortAck,
    TooLarge,
    describe,
    judge,
)
from upsertq_worker.pace import Gate
from upsertq_worker.seams import IndexSeam
from upsertq_worker.wait import signalled

log = logging.getLogger("upsertq.worker")

MAX_IDLE = 1.0


class Refused(WorldError):  # noqa: N818 - as its siblings in `upsertq.errors`
    """The service refuses; nothing was lost, the records wait in the queue. `lane` when no record is at fault."""

    def __init__(self, message: str, *, lane: bool) -> None:
        self.lane = lane
        super().__init__(message)


class Sender:
    """Sends batches and applies what comes of them."""

    def __init__(self, desk: Desk, index: IndexSeam) -> None:
        self._desk = desk
        self._index = index
        self._gates: dict[str, Gate] = {}
        self._flights: dict[asyncio.Task[None], Batch] = {}
        self._retries: list[tuple[float, int, Batch]] = []
        self._retrying: Counter[str] = Counter()
        self._ticket = 0
        self._busy_since: float | None = None

    async def run(self) -> None:
        """Send until the worker stops."""
        desk = self._desk
        while not desk.stopping.is_set():
            desk.sendable.clear()
            now = desk.clock()
            next_quarantine = desk.hold.wake(now)
            if not desk.leases.safe(now):
                self._give_up()
            self._launch()
            await signalled(desk.sendable, self._idle_time(now, next_quarantine))

    async def finish(self, seconds: float) -> bool:
        """Let what is in flight finish, for at most `seconds`, then give it up; returns whether all of it finished."""
        desk = self._desk
        until = desk.clock() + seconds
        while self._flights and (ahead := min(until, desk.leases.valid_until) - desk.clock()) > 0:
            await asyncio.wait(self._flights, timeout=ahead)
        left = list(self._flights)
        self._give_up()
        await asyncio.gather(*left, return_exceptions=True)
        return not left and not self._retries

    def revoke(self, shards: frozenset[int]) -> None:
        """Give up requests that carry records of these shards: another worker may be sending newer ones already."""
        for task, batch in self._flights.items():
            if any(version.held.dropped and version.held.shard in shards for version in batch.versions):
                task.cancel()

    def _give_up(self) -> None:
        """Give up all requests. Once our leases may be over none may travel: the next holder waits one quarantine."""
        for task in self._flights:
            if not task.cancelling():
                task.cancel()

    def _launch(self) -> None:
        desk = self._desk
        while len(self._flights) < desk.settings.concurrency:
            now = desk.clock()
            if not desk.leases.safe(now):
                return
            batch = self._due_retry(now) or desk.batcher.next(now, self._admits)
            if batch is None:
                return
            self._fly(batch)

    def _admits(self, namespace: str) -> bool:
        return not self._retrying[namespace] and self._gate(namespace).admits(self._desk.clock())

    def _due_retry(self, now: float) -> Batch | None:
        passed_over = []
        found = None
        while self._retries and self._retries[0][0] <= now and found is None:
            due, ticket, batch = heapq.heappop(self._retries)
            if not batch.live:
                self._retrying[batch.namespace] -= 1
            elif self._gate(batch.namespace).admits(now):
                self._retrying[batch.namespace] -= 1
                found = batch
            else:
                passed_over.append((due, ticket, batch))
        for item in passed_over:
            heapq.heappush(self._retries, item)
        return found

    def _gate(self, namespace: str) -> Gate:
        gate = self._gates.get(namespace)
        if gate is None:
            gate = self._gates[namespace] = Gate(self._desk.settings.concurrency, Backoff(0.2, 5.0))
        return gate

    def _fly(self, batch: Batch) -> None:
        self._gate(batch.namespace).in_flight += 1
        self._desk.in_flight += 1
        task = asyncio.create_task(self._carry(batch))
        self._flights[task] = batch
        task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        batch = self._flights.pop(task)
        desk, gate = self._desk, self._gate(batch.namespace)
        gate.in_flight -= 1
        desk.in_flight -= 1
        if task.cancelled():
            now = desk.clock()
            for version in batch.live:
                desk.hold.lost(version, now)
                desk.hold.put_back(version, now)
        elif (error := task.exception()) is not None:
            desk.fail(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        if desk.hold.settlements:
            desk.settleable.set()
        desk.sendable.set()

    def _put_back(self, batch: Batch) -> None:
        now = self._desk.clock()
        for version in batch.live:
            self._desk.hold.put_back(version, now)

    async def _carry(self, batch: Batch) -> None:
        desk = self._desk
        batch.versions = batch.live
        if not batch.versions or not desk.leases.safe(desk.clock()):
            # the process may have been stopped since the batch was launched: this is the last look before it leaves
            self._put_back(batch)
            return
        sent = Sent(tuple(version.id for version in batch.versions), batch.namespace)
        body = batch.body()
        batch.attempts += 1
        desk.tally.requests += 1
        desk.tally.retries += batch.attempts > 1
        desk.tally.bytes += len(body)
        started = desk.clock()
        reply = await self._index.upsert(body)
        self._apply(batch, judge(reply, sent, desk.wall()), started)

    def _apply(self, batch: Batch, outcome: Outcome, started: float) -> None:
        gate = self._gate(batch.namespace)
        match outcome:
            case Accepted():
                gate.succeeded()
                self._say_recovered()
                now = self._desk.clock()
                for version in batch.versions:
                    self._desk.hold.finish(version, Fate.ACKED, now)
            case Busy():
                self._again(batch, outcome, gate, started)
            case LaneRefused():
                raise Refused(describe(outcome), lane=True)
            case ShortAck() | RecordRefused() | TooLarge():
                raise Refused(
                    f"{describe(outcome)} ({len(batch.versions)} records, namespace "
                    f"'{batch.namespace}'); the records stay in the queue",
                    lane=False,
                )

    def _again(self, batch: Batch, outcome: Busy, gate: Gate, started: float) -> None:
        """Keep the batch, and with it the hold on its ids, for a retry."""
        desk = self._desk
        now = desk.clock()
        if outcome.answer_lost:
            for version in batch.live:
                desk.hold.lost(version, now)
        gate.pushed_back(started, now, outcome.retry_after, desk.rng)
        if self._busy_since is None:
            self._busy_since = now
            log.warning("%s; retrying", describe(outcome))
        desk.alarms["index"] = describe(outcome)
        batch.delay = gate.backoff.next(batch.delay, desk.rng)
        self._ticket += 1
        heapq.heappush(self._retries, (max(now + batch.delay, gate.opens_at), self._ticket, batch))
        self._retrying[batch.namespace] += 1

    def _say_recovered(self) -> None:
        if self._busy_since is not None:
            log.info("the index accepts again after %.1f s", self._desk.clock() - self._busy_since)
            self._busy_since = None
            self._desk.alarms.pop("index", None)

    def _idle_time(self, now: float, next_quarantine: float | None) -> float:
        """Seconds until something falls due that no event announces; what was due at `now` waits for an event."""
        times = [next_quarantine, self._desk.batcher.due(), *(due for due, _, _ in self._retries)]
        times += [self._desk.leases.valid_until, *(gate.opens_at for gate in self._gates.values())]
        ahead = [time - now for time in times if time is not None and time > now]
        return min(MAX_IDLE, *ahead) if ahead else MAX_IDLE
