"""Owns the sending: which batch starts when, and in what time it is given up.

It decides by the hold, the batcher, the gates and the lanes, and speaks to the index alone; what follows from an
answer is in `upsertq_worker.aftermath`.
"""

import asyncio
import heapq
from collections import Counter
from functools import partial

from upsertq.errors import WorldError
from upsertq.pauses import QUEUE, scope_of
from upsertq_worker.aftermath import Aftermath
from upsertq_worker.answer import Sent
from upsertq_worker.batch import Batch
from upsertq_worker.desk import Desk
from upsertq_worker.judge import judge
from upsertq_worker.seams import IndexSeam
from upsertq_worker.suspicion import GUILTY
from upsertq_worker.versions import Lane, Unsendable
from upsertq_worker.wait import signalled

MAX_IDLE = 1.0


class Refused(WorldError):  # noqa: N818 - as its siblings in `upsertq.errors`
    """The service refuses the queue; nothing was lost, the records wait."""


class Sender:
    """Sends batches and applies what comes of them."""

    def __init__(self, desk: Desk, index: IndexSeam) -> None:
        self._desk = desk
        self._index = index
        self._gates = desk.gates
        self._aftermath = Aftermath(desk, self._gates, self._retry)
        self._flights: dict[asyncio.Task[None], Batch] = {}
        self._retries: list[tuple[float, int, Batch]] = []
        self._retrying: Counter[str] = Counter()
        self._ticket = 0

    async def run(self) -> None:
        """Send until the worker stops."""
        desk = self._desk
        while not desk.stopping.is_set():
            desk.sendable.clear()
            now = desk.clock()
            next_quarantine = desk.hold.wake(now)
            if desk.impatient or not desk.leases.safe(now):
                desk.impatient = False
                self._give_up()
            self._launch()
            self._let_rest_what_hangs(now)
            self._say_next_probe()
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
            try:
                batch = self._alone(now) if desk.hushed else self._next(now)
            except Unsendable as error:
                desk.halt(error.shard, str(error))
                continue
            if batch is None:
                return
            self._fly(batch)

    def _next(self, now: float) -> Batch | None:
        return self._probe(now) or self._due_retry(now) or self._desk.batcher.next(now, self._admits)

    def _alone(self, now: float) -> Batch | None:
        """What goes alone, if its turn has come."""
        desk = self._desk
        if not desk.alone:
            return None
        namespace = desk.alone[0].namespace
        if desk.lanes.holds(namespace) or not self._gates.admits(namespace, now, retry=False):
            return None
        versions = [version for version in desk.alone if desk.hold.lines.take_barred(version, now)]
        if not versions:
            return None
        desk.alone, desk.alone_since = [], now
        for version in versions:
            version.encode()
        return Batch(namespace, versions)

    def _admits(self, namespace: str) -> bool:
        if self._desk.lanes.holds(namespace):
            return False
        if self._retrying[namespace] and self._gates.of(namespace).failures:
            return False  # nothing of it passes now: what failed goes first, and is the probe
        return self._gates.admits(namespace, self._desk.clock(), retry=False)

    def _probe(self, now: float) -> Batch | None:
        """One record to see whether a paused scope is taken again."""
        desk = self._desk
        for scope in desk.lanes.due(now):
            for lane in self._lanes_of(scope):
                version = desk.hold.lines.take(lane, now)
                if version is not None:
                    version.encode()
                    desk.lanes.probed(scope)
                    return Batch(lane.namespace, [version], probe=scope)
        return None

    def _lanes_of(self, scope: str) -> list[Lane]:
        lanes = self._desk.hold.lines.lanes
        if scope == QUEUE:
            by_hand = {name for name, paused in self._desk.lanes.paused.items() if paused.by_hand}
            return [lane for lane in lanes.values() if lane.line and scope_of(lane.namespace) not in by_hand]
        if QUEUE in self._desk.lanes.paused:
            return []
        return [lane for lane in lanes.values() if lane.line and scope_of(lane.namespace) == scope]

    def _retry(self, batch: Batch, due: float) -> None:
        self._ticket += 1
        heapq.heappush(self._retries, (due, self._ticket, batch))
        self._retrying[batch.namespace] += 1
        for version in batch.versions:
            version.resting = True

    def _let_rest_what_hangs(self, now: float) -> None:
        """What is long unanswered has not killed: what an earlier holder left does not wait for it any more."""
        for task, batch in self._flights.items():
            if batch.started + GUILTY <= now and not task.done():
                for version in batch.versions:
                    version.resting = True

    def _due_retry(self, now: float) -> Batch | None:
        passed_over = []
        found = None
        while self._retries and self._retries[0][0] <= now and found is None:
            due, ticket, batch = heapq.heappop(self._retries)
            self._retrying[batch.namespace] -= 1
            if not batch.live or self._desk.lanes.holds(batch.namespace):
                self._aftermath.give_back(batch)
            elif self._gates.admits(batch.namespace, now, retry=batch.delay is not None):
                found = batch
            else:
                passed_over.append((due, ticket, batch))
        for item in passed_over:
            heapq.heappush(self._retries, item)
            self._retrying[item[2].namespace] += 1
        self._retrying = +self._retrying  # without the namespaces that have none left
        return found

    def _say_next_probe(self) -> None:
        """Keep what is told of an outage true."""
        outage = self._desk.outage
        if outage is None:
            return
        if not self._flights and not self._retries:
            self._desk.outage = None  # nothing is left that could tell
            return
        dues = [max(due, self._gates.opens_at(batch.namespace)) for due, _, batch in self._retries]
        outage.next_probe = None if self._flights else min(dues)

    def _fly(self, batch: Batch) -> None:
        retry = batch.delay is not None
        batch.started = self._desk.clock()
        for version in batch.versions:
            version.resting = False
        self._gates.started(batch.namespace, retry=retry)
        self._desk.in_flight += 1
        task = asyncio.create_task(self._carry(batch))
        self._flights[task] = batch
        task.add_done_callback(partial(self._landed, retry=retry))

    def _landed(self, task: asyncio.Task[None], *, retry: bool) -> None:
        batch = self._flights.pop(task)
        desk = self._desk
        self._gates.landed(batch.namespace, retry=retry)
        desk.in_flight -= 1
        if task.cancelled():
            now = desk.clock()
            for version in batch.live:
                desk.hold.lost(version, now)
            self._give_back(batch)
        elif (error := task.exception()) is not None:
            desk.fail(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        if desk.hold.settlements:
            desk.settleable.set()
        desk.sendable.set()
        if desk.batcher.hurried or desk.hushed:
            desk.allowable.set()

    def _give_back(self, batch: Batch) -> None:
        """Let the records of a batch that was given up wait again; a probe that was is made again."""
        self._aftermath.give_back(batch)
        paused = self._desk.lanes.paused.get(batch.probe)
        if paused is not None:
            self._desk.lanes.pause(batch.probe, paused, self._desk.clock(), self._desk.rng)

    async def _carry(self, batch: Batch) -> None:
        desk = self._desk
        batch.versions = batch.live
        if not batch.versions or not desk.leases.safe(desk.clock()):
            # the process may have been stopped since the batch was launched: this is the last look before it leaves
            self._give_back(batch)
            return
        sent = Sent(tuple(version.id for version in batch.versions), batch.namespace)
        body = batch.body()
        batch.attempts += 1
        if batch.search is not None:
            batch.search.requests += 1
        desk.tally.requests += 1
        desk.tally.retries += batch.attempts > 1
        desk.tally.bytes += len(body)
        desk.meter.posted(batch.versions, len(body), again=batch.attempts > 1)
        reply = await self._index.upsert(body)
        self._aftermath.apply(batch, judge(reply, sent, desk.wall()))

    def _idle_time(self, now: float, next_quarantine: float | None) -> float:
        """Seconds until something falls due that no event announces; what was due at `now` waits for an event."""
        times = [next_quarantine, self._desk.batcher.due(), *(due for due, _, _ in self._retries)]
        times += [self._desk.leases.valid_until, self._desk.lanes.next_probe(), *self._gates.openings()]
        ahead = [time - now for time in times if time is not None and time > now]
        return min(MAX_IDLE, *ahead) if ahead else MAX_IDLE
