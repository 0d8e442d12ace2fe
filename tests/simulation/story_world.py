"""Owns a world for scripted stories: a queue, a service that does as it is told, and workers, in virtual time.

It asks a worker nothing that a server or the service could not see, and everything in it is checked as in a history.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from checker import Checker, Filed
from faults import Faults
from model_queue import ModelQueue
from model_service import records_of
from queue_link import QueueLink
from upsertq.contract import wire
from upsertq.contract.keys import shard_of
from upsertq.contract.pauses import by_hand, scope_of
from upsertq_worker.delivery.response import Answer, TransportFailure, TransportKind
from upsertq_worker.settings import Settings
from upsertq_worker.worker import Worker
from virtual_time import Process, VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from checker import Key
    from model_service import Reply
    from upsertq_worker.delivery.encoder import Body

WALL: Final = 1_750_000_000.0
"""Seconds since 1970 at the start of every story."""
LEASE: Final = 10.0
QUARANTINE: Final = 5.0
SIZE: Final = 25
"""Records of an entry, unless a story says otherwise."""
_OK: Final = 200
_GATEWAY: Final = 500


@dataclass(frozen=True, slots=True)
class Post:
    """A request as the service sees it."""

    worker: str
    at: float
    """Seconds of virtual time."""
    records: tuple[tuple[Key, int], ...]
    """Key and version of each."""

    @property
    def namespace(self) -> str:
        """The one namespace of all its records."""
        return self.records[0][0][0]

    @property
    def keys(self) -> frozenset[Key]:
        """The keys of its records."""
        return frozenset(key for key, _ in self.records)


@dataclass(frozen=True, slots=True)
class Reaction:
    """What the service does with a request.

    Args:
        status: of the answer; 0 for none at all. With 200 the records are in the index after half of the time.
        seconds: until the answer, or until the worker's client gives up.
    """

    status: int = _OK
    seconds: float = 0.02


@dataclass(slots=True)
class Hired:
    """One worker process of a story."""

    process: Process
    worker: Worker
    task: asyncio.Task[object]


class World:
    """A queue, a service, and the workers that a story starts."""

    def __init__(self, shards: int = 1, *, latency: float = 0.0005) -> None:
        self.loop = VirtualLoop()
        self.checker = Checker(self.loop.time, traced=False)
        self.checker.shards = self.shards = shards
        self.queue = ModelQueue(self.loop, shards, LEASE, self.checker)
        self.react: Callable[[Post], Reaction] = lambda _post: Reaction()
        """What the service does with a request; a story puts its own in place."""
        self.deadly: set[Key] = set()
        """Keys that kill every worker that sends them."""
        self.kills: Callable[[Post], bool] = lambda post: bool(self.deadly & post.keys)
        """Whether a request kills its worker; a story may put its own in place."""
        self.posts: list[Post] = []
        """Every request that left a worker."""
        self.landed: Counter[str] = Counter()
        """Records that reached the index, by namespace."""
        self.index: dict[Key, int] = {}
        """The version of each record in the index."""
        self.hired: list[Hired] = []
        self.versions: Counter[Key] = Counter()
        """Versions of each record that were enqueued."""
        self._filled: Counter[str] = Counter()
        self._faults = Faults(
            rng=random.Random("upsertq story"), now=self.loop.time, lease=LEASE, quarantine=QUARANTINE,
            latency=latency, mishaps=0.0, sick={}, troubles=0.0, kinds={}, calm=True,
        )  # fmt: skip

    def tell(self, story: Coroutine[Any, Any, None]) -> None:
        """Let a story happen.

        Raises:
            AssertionError: what the story asserts, or a promise that was broken in it.
        """
        self.loop.set_exception_handler(lambda _loop, context: self.checker.violated(f"the loop reports {context}"))
        try:
            self.loop.run_until_complete(story)
            for one in self.hired:
                if one.task.done() and (error := one.task.exception()) is not None:
                    self.checker.violated(f"{one.process.name} ends with {error!r}")
        finally:
            self.loop.end_all([one.process for one in self.hired])
            self.loop.close()
        assert self.checker.violations == []

    # the queue

    def enqueue(self, namespace: str, *ids: str) -> None:
        """Enqueue the next version of each of these records: one entry in each shard concerned."""
        by_shard: dict[int, list[tuple[Key, int]]] = {}
        for record_id in ids:
            key = namespace, record_id
            self.versions[key] += 1
            by_shard.setdefault(shard_of(*key, self.shards), []).append((key, self.versions[key]))
        for shard, versioned in by_shard.items():
            records = [
                wire.Record(key[1], namespace, b"\0\0\x80?", b"", b'{"version":%d}' % version)
                for key, version in versioned
            ]
            entry = wire.pack(records, run="", at=int(self.loop.now * 1000))
            stream_id = self.queue.enqueue(shard, entry)
            self.checker.enqueued(shard, stream_id, Filed("", entry.size, tuple(versioned)))
        self.queue.stir()

    def fill(self, namespace: str, entries: int) -> None:
        """Enqueue records that are new to the namespace, so many times `SIZE` of them."""
        for _ in range(entries):
            first = self._filled[namespace]
            self._filled[namespace] += SIZE
            self.enqueue(namespace, *(f"{number}" for number in range(first, first + SIZE)))

    def pause(self, namespace: str) -> None:
        """Pause a namespace by hand."""
        self.queue.paused[scope_of(namespace)] = by_hand("", WALL + self.loop.now, "an operator")

    def replica(self) -> Callable[[], None]:
        """Have a replica that gets no more writes; returns what makes it the primary, while leases go on."""
        kept = [
            ({name: dict(one) for name, one in model.streams.items()}, model.books.copy())
            for model in self.queue.shards
        ]

        def take_over() -> None:
            for shard, (model, (streams, books)) in enumerate(zip(self.queue.shards, kept, strict=True)):
                model.streams, model.books = streams, books
                self.checker.undone((shard, stream_id) for stream in streams.values() for stream_id in stream)

        return take_over

    def left(self, namespace: str | None = None) -> int:
        """Entries in the queue, of all namespaces or of one."""
        return sum(
            len(stream)
            for model in self.queue.shards
            for name, stream in model.streams.items()
            if namespace in {None, name}
        )

    def dead(self) -> set[Key]:
        """Keys of the dead letters."""
        return {
            (entry.namespace, entry.ids[0]) for model in self.queue.shards for entry in model.letters.stream.values()
        }

    def marks(self) -> set[str]:
        """The marks of all shards, where there are any."""
        return {model.mark for model in self.queue.shards if model.mark}

    # the workers

    def start(self, name: str, **settings: Any) -> Hired:
        """Start a worker."""
        chosen = Settings(lease=LEASE, quarantine=QUARANTINE, **settings)
        self.checker.patience[name] = chosen.max_attempts
        process = Process(self.loop, name)
        worker = Worker(
            name,
            self.shards,
            QueueLink(self.loop, self.queue, self._faults, process),
            _Index(self, process),
            chosen,
            clock=self.loop.time,
            wall=lambda: WALL + self.loop.now,
            rng=random.Random(name),
        )
        hired = Hired(process, worker, process.start(worker.run()))
        self.hired.append(hired)
        return hired

    def kill(self, name: str) -> None:
        """Do as SIGKILL does to the worker of this name: no line of it runs any more."""
        (one,) = (one for one in self.hired if one.process.name == name)
        one.process.kill()

    async def killed_in_flight(self, *names: str, seconds: float) -> None:
        """Start workers of these names one after another, and kill each once it has posted, within `seconds`."""
        for name in names:
            self.start(name)
            await self.until(lambda name=name: bool(self.posts) and self.posts[-1].worker == name, seconds=seconds)  # type: ignore[misc]
            self.kill(name)

    async def deaths_until(self, condition: Callable[[], bool], *, seconds: float, **settings: Any) -> int:
        """Start a worker after each death until `condition` holds; returns the number of deaths.

        Raises:
            AssertionError: it did not hold within `seconds`.
        """
        start, deaths = self.loop.now, -1
        while not condition():
            deaths += 1
            one = self.start(f"w{len(self.hired) + 1}", **settings)
            while not one.process.dead and not condition():
                assert self.loop.now - start < seconds, f"{deaths} deaths, {self.left()} left, dead {self.dead()}"
                await asyncio.sleep(0.1)
        return max(0, deaths)

    async def until(self, condition: Callable[[], bool], *, seconds: float, step: float = 0.05) -> float:
        """Let time pass until `condition` holds; returns the seconds that it took.

        Raises:
            AssertionError: it did not hold within `seconds`.
        """
        start = self.loop.now
        while not condition():
            assert self.loop.now - start < seconds, f"not within {seconds:g} s; entries left: {self.left()}"
            await asyncio.sleep(step)
        return self.loop.now - start

    def apply(self, post: Post) -> None:
        """Have the records of a request in the index."""
        for key, version in post.records:
            self.index[key] = version
            self.landed[key[0]] += 1
            self.checker.applied(post.worker, key, version)


class _Index:
    """One worker's way to the service (an `Index`)."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    async def upsert(self, body: Body) -> Reply:
        """As `Index.upsert`."""
        if self._process.ended:
            raise asyncio.CancelledError
        world = self._world
        post = Post(self._process.name, world.loop.now, records_of(body))
        world.posts.append(post)
        shards = {shard_of(*key, world.shards) for key in post.keys}
        foreign = [shard for shard in sorted(shards) if world.queue.holder(shard) != post.worker]
        world.checker.posted(post.worker, post.records, foreign)
        if world.kills(post):
            world.checker.blamed(post.records, "crash_loop")
            world.loop.later(0.01, world.kill, post.worker)
        reaction = world.react(post)
        try:
            await asyncio.sleep(reaction.seconds / 2)
            if reaction.status == _OK:
                world.apply(post)
            await asyncio.sleep(reaction.seconds / 2)
        except asyncio.CancelledError:
            self._answered(post, "given up", lost=True)
            raise
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
    return Answer(status, {}, orjson.dumps({"code": 8, "message": "unavailable", "details": []}))
