"""Owns one history: what is enqueued, what befalls the workers, and how it comes to its end."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from checker import Checker
from faults import Outage
from model_queue import ModelQueue
from model_service import IndexLink, ModelService
from queue_link import QueueLink
from scenario import MOST_WORKERS, NAMESPACES, Scenario
from upsertq.contract import wire
from upsertq.contract.errors import WorldError
from upsertq.contract.pauses import by_hand, scope_of
from upsertq_worker import worker as shell
from upsertq_worker.settings import Settings
from virtual_time import Process, TimeStandsStill, VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from checker import Key

RUNS: Final = ("", "monday", "tuesday")
WALL: Final = 1_750_000_000.0
"""Seconds since 1970 at the start of every history."""
MOST_HIRED: Final = 40
"""Workers that may die of what is left once the faults ceased: in 240 histories of deadly records eight did at most."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of one history."""

    seed: int
    violations: tuple[str, ...]
    history: tuple[str, ...]
    seen: dict[str, int]
    seconds: float
    """Of virtual time."""


@dataclass(slots=True)
class Worker:
    """One worker process of a history."""

    process: Process
    drain: shell.Worker
    task: asyncio.Task[object]

    @property
    def alive(self) -> bool:
        """Whether it runs, or would if it were not stopped."""
        return not self.process.dead and not self.task.done()


class History:
    """One history: many workers, one queue, one service, and whatever the seed lets happen."""

    def __init__(self, seed: int, climate: str, *, traced: bool) -> None:
        self.loop = VirtualLoop()
        self.rng = random.Random(f"upsertq history {seed}")
        self.scenario = Scenario(self.rng, climate)
        self.faults = self.scenario.faults(self.loop)
        self.checker = Checker(self.loop.time, traced=traced)
        self.queue = ModelQueue(self.loop, self.scenario.shards, self.scenario.lease, self.checker)
        self.checker.shards = self.scenario.shards
        self.policy = self.scenario.policy(self.loop)
        self.service = ModelService(self.loop, self.queue, self.faults, self.policy, self.checker)
        self.workers: list[Worker] = []
        self.service.kill = self._kill_by_name
        self._versions: dict[Key, int] = {}

    def live(self) -> None:
        """Live through all of it."""
        self.loop.set_exception_handler(lambda _loop, context: self.checker.violated(f"the loop reports {context}"))
        try:
            self.loop.run_until_complete(self._all())
        except TimeStandsStill as error:
            self.checker.violated(str(error))
        finally:
            self.loop.end_all([worker.process for worker in self.workers])
            self.loop.close()

    async def _all(self) -> None:
        scenario = self.scenario
        self._plan_outages()
        producing = self.loop.create_task(self._produce())
        replaying = self.loop.create_task(self._replay_now_and_then())
        pausing = self.loop.create_task(self._pause_now_and_then())
        staffing = self.loop.create_task(self._keep_staffed())
        for at in sorted(self.rng.uniform(0, scenario.duration) for _ in range(scenario.incidents)):
            await asyncio.sleep(max(0.0, at - self.loop.now))
            self._incident()
        await asyncio.sleep(max(0.0, scenario.duration - self.loop.now))
        staffing.cancel()
        await producing
        await replaying
        await pausing
        await self._end()

    # the producer

    async def _produce(self) -> None:
        """Enqueue: some ids over and over, most of them now and then."""
        rng, scenario = self.rng, self.scenario
        for at in sorted(rng.uniform(0, scenario.duration) for _ in range(scenario.entries)):
            await asyncio.sleep(max(0.0, at - self.loop.now))
            (shard, namespace), pool = rng.choice(list(scenario.pools.items()))
            hot = pool[: 1 + len(pool) // 10]
            count = rng.choice((1, 1, 2, 5, 25))
            ids = [rng.choice(hot if rng.random() < 0.5 else pool) for _ in range(count)]
            keys = [((namespace, record_id), self._next_version(namespace, record_id)) for record_id in ids]
            records = [
                wire.Record(record_id, namespace, b"\0\0\x80?", b"", orjson.dumps({"version": version}))
                for (_, record_id), version in keys
            ]
            for key, version in keys:
                if key[1] in hot and rng.random() < scenario.spoilt:
                    until = rng.choice((math.inf, self.loop.now + scenario.lease * rng.random()))
                    kind = self.policy.spoil((key, version), until)
                    self.checker.note("poison", f"{key} v{version}: {kind.value} until {until:.3f}")
            entry = wire.pack(records, run=rng.choice(RUNS), at=int(self.loop.now * 1000))
            self.queue.add(shard, entry, keys)

    def _next_version(self, namespace: str, record_id: str) -> int:
        key = namespace, record_id
        self._versions[key] = self._versions.get(key, 0) + 1
        return self._versions[key]

    async def _replay_now_and_then(self) -> None:
        """Replay some of the dead letters, in any order."""
        rng, scenario = self.rng, self.scenario
        for at in sorted(rng.uniform(0, scenario.duration) for _ in range(scenario.replays)):
            await asyncio.sleep(max(0.0, at - self.loop.now))
            self._replay(rng.choice((1, 3, 100)))

    def _replay(self, most: int) -> None:
        letters = self.queue.letters()
        for shard, dead_id in self.rng.sample(letters, min(most, len(letters))):
            self.queue.revive(shard, dead_id)

    async def _pause_now_and_then(self) -> None:
        """Pause a namespace by hand for some time, and another one meanwhile perhaps."""
        rng, scenario, paused = self.rng, self.scenario, self.queue.paused
        for at in sorted(rng.uniform(0, scenario.duration) for _ in range(scenario.by_hand)):
            await asyncio.sleep(max(0.0, at - self.loop.now))
            scope = scope_of(rng.choice(NAMESPACES))
            if paused.pop(scope, None) is None:
                paused[scope] = by_hand("", WALL + self.loop.now, "an operator")
            self.checker.note("by_hand", f"{scope}: {'paused' if scope in paused else 'resumed'}")
        paused.clear()

    # the workers

    def hire(self, settings: Settings) -> Worker:
        """Start a worker."""
        process, skew = Process(self.loop, f"w{len(self.workers) + 1}"), self.scenario.skew()
        self.checker.patience[process.name] = settings.max_attempts
        drain = shell.Worker(
            process.name,
            self.scenario.shards,
            QueueLink(self.loop, self.queue, self.faults, process),
            IndexLink(self.service, process, self.scenario.lease * self.rng.choice((0.2, 0.8, 3.0))),
            settings,
            clock=self.loop.time,
            wall=lambda: WALL + self.loop.now + skew,
            rng=random.Random(self.rng.random()),
        )
        worker = Worker(process, drain, process.start(drain.run()))
        worker.task.add_done_callback(lambda _task: self._check_end(worker))
        self.workers.append(worker)
        self.checker.note("start", f"{process.name}: {settings}")
        return worker

    async def _keep_staffed(self) -> None:
        """Start workers until enough are alive, as an operator's supervisor does."""
        while True:
            if sum(worker.alive for worker in self.workers) < self.scenario.workers:
                self.hire(self.scenario.settings())
            await asyncio.sleep(self.scenario.lease * self.rng.uniform(0.01, 0.3))

    def _check_end(self, worker: Worker) -> None:
        """A worker may end because it was told to, or because the service refused; nothing else may end it."""
        if worker.process.dead or worker.task.cancelled():
            return
        error = worker.task.exception()
        self.checker.note("end", f"{worker.process.name}: {error!r}")
        if error is not None and not isinstance(error, WorldError):
            self.checker.violated(f"{worker.process.name} ends with {error!r}")

    # what happens to them

    def _plan_outages(self) -> None:
        rng, scenario = self.rng, self.scenario
        if scenario.climate == "starved":
            return
        for _ in range(rng.choice((0, 0, 1, 3))):
            start = rng.uniform(0, scenario.duration)
            worker = rng.choice(("", f"w{rng.randrange(1, 5)}"))
            length = scenario.lease * rng.uniform(0.1, 1.5)
            self.faults.outages.append(Outage(rng.choice(("queue", "service", "lease")), start, start + length, worker))

    def _incident(self) -> None:
        """Something happens to one of the workers."""
        rng = self.rng
        alive = [worker for worker in self.workers if worker.alive and not worker.process.stopped]
        if not alive:
            return
        worker = rng.choice(alive)
        fuse = rng.choice((0, rng.randrange(100)))
        match rng.choice(self.scenario.befalls):
            case "kill":
                worker.process.fuse = fuse, lambda: self._kill(worker)
            case "pause":
                length = self.scenario.lease * rng.choice((0.3, 1.1, 1.5, 2.5)) * rng.uniform(0.8, 1.2)
                worker.process.fuse = fuse, lambda: self._pause(worker, length)
            case "staff":
                self.scenario.workers = wanted = rng.randrange(1, MOST_WORKERS + 1)
                for one in alive[wanted:]:
                    self._stop(one)
            case _:
                self._stop(worker)

    def _stop(self, worker: Worker) -> None:
        self.checker.note("stop", worker.process.name)
        worker.drain.stop()

    def _kill(self, worker: Worker) -> None:
        name = worker.process.name
        self.checker.note("kill", name)
        worker.process.kill()
        self.service.cut(name, dead=True)

    def _kill_by_name(self, name: str) -> None:
        for worker in self.workers:
            if worker.process.name == name and not worker.process.dead:
                self._kill(worker)

    def _pause(self, worker: Worker, seconds: float) -> None:
        self.checker.note("pause", f"{worker.process.name} for {seconds:.3f} s")
        worker.process.pause()
        self.service.cut(worker.process.name, dead=False)
        self.loop.later(seconds, self._resume, worker)

    def _resume(self, worker: Worker) -> None:
        if not worker.process.dead:
            self.checker.note("resume", worker.process.name)
            worker.process.resume()

    # the end

    async def _end(self) -> None:
        """Faults cease; every worker left is killed, stopped or kept; healthy workers drain all, dead letters last."""
        rng, scenario = self.rng, self.scenario
        self.faults.calm = self.policy.healed = True
        self.checker.note("calm", "")
        for worker in [worker for worker in self.workers if worker.alive]:
            worker.process.fuse = None
            self._resume(worker)
            match rng.choice(("kill", "stop", "keep")):
                case "kill":
                    self._kill(worker)
                case "stop":
                    worker.drain.stop()
                case _:
                    pass
        if not await self._drain():
            return
        self.policy.deaths_due = False
        letters = len(self.queue.letters())
        self._replay(letters)
        if letters and not await self._drain():
            return
        if scenario.climate == "pools":
            await self._balance()
        for worker in self.workers:
            if worker.alive:
                worker.drain.stop()
        # whatever still travels arrives
        await asyncio.sleep(2 * scenario.lease + scenario.quarantine)
        self.checker.finished(self._backlog(), self.queue.books(), self.queue.marks())

    async def _drain(self) -> bool:
        """Have a healthy worker drain the queue; returns whether it did so in time."""
        scenario = self.scenario
        settings = Settings(
            lease=scenario.lease, quarantine=scenario.quarantine, until_empty=True, grace=2 * scenario.lease
        )
        # a pause that is left over ends with a probe, a short wait for each namespace and the queue
        bound = 120 + 10 * scenario.lease + self._backlog() * (scenario.quarantine + 200 * self.faults.latency)
        if scenario.climate == "deadly":
            bound *= 10  # each lease of the dead must run out
        until, hired = self.loop.now + bound, len(self.workers)
        last = self.hire(settings)
        while not last.task.done() and self.loop.now < until and len(self.workers) <= hired + MOST_HIRED:
            await asyncio.wait([last.task], timeout=scenario.lease)
            if last.process.dead:
                last = self.hire(settings)
        if not last.task.done():
            told = f"{bound:.0f} s and {len(self.workers) - hired} workers"
            self.checker.violated(f"{self._backlog()} entries are left after {told} without faults")
        return last.task.done()

    async def _balance(self) -> None:
        """Have some workers join; soon all shards must be shared out among those alive, and then none may move."""
        scenario = self.scenario
        for _ in range(self.rng.randrange(MOST_WORKERS)):
            self.hire(scenario.settings())
        # a shard whose holders died is kept for three leases, and one that is not released is free after another one
        await asyncio.sleep(4 * scenario.lease + scenario.quarantine + 5.0)
        alive = [worker.process.name for worker in self.workers if worker.alive]
        held = {name: self.queue.held_by(name) for name in alive}
        self.checker.shared_out(held, scenario.shards)
        await asyncio.sleep(2 * scenario.lease)
        if any(self.queue.held_by(name) != shards for name, shards in held.items()):
            self.checker.violated(f"shards move although all was balanced: {held}")

    def _backlog(self) -> int:
        return sum(self.queue.backlog(shard) for shard in range(self.scenario.shards))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the workers' logs out of the way: a history is full of warnings that are meant to be."""
    log = logging.getLogger("upsertq.worker")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def live(seed: int, *, climate: str = "", traced: bool = False) -> Report:
    """Live through the history of `seed` (in another climate than its own, where one is given).

    The same seed gives the same history, in every process.
    """
    with _quiet():
        history = History(seed, climate, traced=traced)
        history.live()
    checker = history.checker
    return Report(seed, tuple(checker.violations), tuple(checker.history), dict(checker.seen), history.loop.now)
