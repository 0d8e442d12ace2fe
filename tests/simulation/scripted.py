"""Owns a world for scripted stories: one shard, one worker at a time, a service that does as it is told, virtual time.

It asks a worker nothing that a server or the service could not see, and everything in it is checked as in a history.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from checker import Checker
from model_queue import ModelQueue
from model_service import records_of
from queue_link import QueueLink
from upsertq import wire
from upsertq.pauses import QUEUE, by_hand, scope_of
from upsertq_worker.delivery.response import Answer, TransportFailure, TransportKind
from upsertq_worker.context import Settings
from upsertq_worker.worker import Drain
from upsertq_worker.queue.protocols import NEW
from virtual_time import Process, VirtualLoop
from weather import Weather

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from checker import Key
    from model_service import Reply

WALL: Final = 1_750_000_000.0
"""Seconds since 1970 at the start of every story."""
LEASE: Final = 10.0
QUARANTINE: Final = 5.0
SIZE: Final = 25
"""Records of an entry, unless a story says otherwise."""
_OK: Final = 200
_PAGE: Final = 203
_REFUSED: Final = 400
_GATEWAY: Final = 500
_BLAMES: Final = {_REFUSED: "systemic", _PAGE: "short_ack"}


@dataclass(frozen=True, slots=True)
class Post:
    """A request as the service sees it."""

    worker: str
    records: tuple[tuple[Key, int], ...]
    """Key and version of each."""

    @property
    def namespace(self) -> str:
        """The one namespace of all its records."""
        return self.records[0][0][0]

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of its records."""
        return tuple(record_id for (_, record_id), _ in self.records)


@dataclass(frozen=True, slots=True)
class Reaction:
    """What the service does with a request.

    Args:
        status: of the answer; 0 for none at all, 203 for a proxy's page. With 200 the records are in the index after
            half of the time.
        seconds: until the answer, or until the worker's client gives up.
    """

    status: int = _OK
    seconds: float = 0.02


@dataclass(slots=True)
class Worker:
    """One worker process of a story."""

    process: Process
    drain: Drain
    task: asyncio.Task[object]


class World:
    """A queue of one shard, a service, and the workers that a story hires."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.checker = Checker(self.loop.time, traced=False)
        self.queue = ModelQueue(self.loop, 1, LEASE, self.checker)
        self.react: Callable[[Post], Reaction] = lambda _post: Reaction()
        """What the service does with a request; a story puts its own in place."""
        self.requests = 0
        """Requests that left any worker."""
        self.landed: Counter[str] = Counter()
        """Records that reached the index, by namespace."""
        self.index: dict[Key, int] = {}
        """The version of each record in the index."""
        self.steps_back: list[tuple[Key, int, int]] = []
        """Key, version before and older version after, whenever a record in the index went back."""
        self._workers: list[Worker] = []
        self._versions: Counter[Key] = Counter()
        self._filled: Counter[str] = Counter()
        self._weather = Weather(
            rng=random.Random("upsertq story"), now=self.loop.time, lease=LEASE, quarantine=QUARANTINE,
            latency=0.0005, mishaps=0.0, sick={}, troubles=0.0, kinds={}, calm=True,
        )  # fmt: skip

    def tell(self, story: Coroutine[Any, Any, None]) -> None:
        """Let a story happen.

        Raises:
            AssertionError: what the story asserts, or a promise that was broken in it.
        """
        self.loop.set_exception_handler(lambda _loop, context: self.checker.violated(f"the loop reports {context}"))
        try:
            self.loop.run_until_complete(story)
            self._check_ends()
        finally:
            self.loop.bury([worker.process for worker in self._workers])
            self.loop.close()
        assert self.checker.violations == []

    # the queue

    def enqueue(self, namespace: str, *ids: str) -> None:
        """Enqueue one entry with the next version of each of these records."""
        keys = [(namespace, record_id) for record_id in ids]
        self._versions.update(keys)
        versioned = [(key, self._versions[key]) for key in keys]
        records = [
            wire.Record(record_id, namespace, b"\0\0\x80?", b"", orjson.dumps({"version": version}))
            for (_, record_id), version in versioned
        ]
        self.queue.add(0, wire.pack(records, run="", at=int(self.loop.now * 1000)), versioned)

    def fill(self, namespace: str, entries: int, *, same_ids: bool = False) -> None:
        """Enqueue so many entries of `SIZE` records, each record new to the namespace unless `same_ids`."""
        for _ in range(entries):
            first = 0 if same_ids else self._filled[namespace]
            self._filled[namespace] += SIZE
            self.enqueue(namespace, *(f"{number}" for number in range(first, first + SIZE)))

    def orphan(self, mark: str = "") -> None:
        """Let all that is enqueued have been read by an earlier holder, who is gone; `mark` is held against it."""
        self.queue.read({0: NEW}, len(self.queue.shards[0].stream))
        if mark:
            self.queue.shards[0].suspects.update(dict.fromkeys(self.queue.shards[0].pending, f"{mark} by w0"))

    def pause(self, *namespaces: str) -> None:
        """Pause these namespaces by hand; the whole queue where none is named."""
        for scope in map(scope_of, namespaces) if namespaces else [QUEUE]:
            self.queue.paused[scope] = by_hand("", WALL + self.loop.now, "somebody")

    def resume(self) -> None:
        """End every pause, by hand."""
        self.queue.paused.clear()

    def left(self, namespace: str | None = None) -> int:
        """Entries in the queue, of all namespaces or of one."""
        stream = self.queue.shards[0].stream
        return sum(namespace in {None, entry.namespace} for _, entry in stream.values())

    def marks(self) -> int:
        """Entries that are marked."""
        return len(self.queue.shards[0].suspects)

    # the workers

    def hire(self, name: str, *, read_ahead: int = 96_000_000, until_empty: bool = False) -> Worker:
        """Start a worker."""
        settings = Settings(lease=LEASE, quarantine=QUARANTINE, read_ahead=read_ahead, until_empty=until_empty)
        self.checker.patience[name] = settings.max_attempts
        process = Process(self.loop, name)
        drain = Drain(
            name,
            1,
            QueueLink(self.loop, self.queue, self._weather, process),
            _Index(self, process),
            settings,
            clock=self.loop.time,
            wall=lambda: WALL + self.loop.now,
            rng=random.Random(name),
        )
        worker = Worker(process, drain, process.start(drain.run()))
        self._workers.append(worker)
        return worker

    def kill(self, name: str) -> None:
        """Do as SIGKILL does to the worker of this name: no line of it runs any more."""
        (worker,) = (one for one in self._workers if one.process.name == name)
        worker.process.kill()
        if self.queue.shards[0].holder == name:
            self.checker.died_over(0, list(self.queue.shards[0].pending))

    async def until(self, condition: Callable[[], bool], *, seconds: float, step: float = 0.1) -> float:
        """Let time pass until `condition` holds; returns the seconds that it took.

        Raises:
            AssertionError: it did not hold within `seconds`.
        """
        start = self.loop.now
        while not condition():
            assert self.loop.now - start < seconds, f"not within {seconds:.0f} s; left: {self._told()}"
            await asyncio.sleep(step)
        return self.loop.now - start

    def apply(self, post: Post) -> None:
        """Have the records of a request in the index."""
        for key, version in post.records:
            before = self.index.get(key, 0)
            if version < before:
                self.steps_back.append((key, before, version))
            self.index[key] = version
            self.landed[key[0]] += 1
            self.checker.applied(post.worker, key, version)

    def _told(self) -> dict[str, int]:
        """Entries left, by namespace."""
        return dict(Counter(entry.namespace for _, entry in self.queue.shards[0].stream.values()))

    def _check_ends(self) -> None:
        """No worker may have ended because of an error."""
        for worker in self._workers:
            if worker.task.done() and (error := worker.task.exception()) is not None:
                self.checker.violated(f"{worker.process.name} ends with {error!r}")


class _Index:
    """One worker's way to the service (an `IndexSeam`)."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    async def upsert(self, body: bytes) -> Reply:
        """As `IndexSeam.upsert`."""
        if self._process.buried:
            raise asyncio.CancelledError
        world, post = self._world, Post(self._process.name, records_of(body))
        world.requests += 1
        world.checker.posted(post.worker, post.records, [] if world.queue.holder(0) == post.worker else [0])
        reaction = world.react(post)
        try:
            await asyncio.sleep(reaction.seconds / 2)
            if reaction.status == _OK:
                world.apply(post)
            await asyncio.sleep(reaction.seconds / 2)
        except asyncio.CancelledError:
            self._answered(post, "given up", lost=True)
            raise
        if why := _BLAMES.get(reaction.status):
            world.checker.blamed(post.records, why)
        self._answered(post, str(reaction.status), lost=not reaction.status or reaction.status >= _GATEWAY)
        return _reply(reaction.status, len(post.records))

    def _answered(self, post: Post, what: str, *, lost: bool) -> None:
        held_until = self._world.loop.now + QUARANTINE if lost else 0.0
        self._world.checker.answered(post.worker, post.records, what, held_until=held_until)


def _reply(status: int, records: int) -> Reply:
    if not status:
        return TransportFailure(TransportKind.TIMEOUT, "timed out")
    if status == _OK:
        return Answer(status, {"content-type": "application/json"}, orjson.dumps({"upsertedCount": records}))
    if status == _PAGE:
        return Answer(status, {"content-type": "text/html"}, b"<html><title>Welcome</title></html>")
    return Answer(status, {}, orjson.dumps({"code": 8, "message": "unavailable", "details": []}))
