"""Owns a worker's way to the modelled queue: every call takes time, and may go wrong in every way that a network knows.

It carries calls and replies, and never changes what they say.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from faults import Mishap
from upsertq.contract.errors import ServerUnavailable
from upsertq_worker.queue.protocols import Beats, Grant, Read, Settled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from faults import Faults
    from model_queue import ModelQueue
    from upsertq.contract.books import Books
    from upsertq.contract.pauses import Paused
    from upsertq.contract.wire import Entry
    from upsertq_worker.flow.usage import Metered
    from upsertq_worker.pace.lane import Ask, Given
    from upsertq_worker.queue.protocols import Counted, LaneList, Stream
    from virtual_time import Process, VirtualLoop

T = TypeVar("T")
SELDOM = 0.7
"""Share of the calls without an answer that were never carried out."""


class QueueLink:
    """One worker's way to the queue (a `Queue`): every call takes time, and may go wrong in every way."""

    def __init__(self, loop: VirtualLoop, queue: ModelQueue, faults: Faults, process: Process) -> None:
        self._loop = loop
        self._queue = queue
        self._faults = faults
        self._process = process
        self._settles: dict[tuple[int, int], int] = {}
        """By shard and epoch: how many entries were ever settled there, as it was told last."""

    @property
    def _name(self) -> str:
        return self._process.name

    async def lease(self, wanted: Mapping[int, int], *, take: bool) -> list[Grant]:
        """As `Queue.lease`."""
        queue, name = self._queue, self._name
        silent = self._faults.silent(wanted)
        unsent = {shard for shard in silent if self._faults.rng.random() < SELDOM}
        calls = {shard: epoch for shard, epoch in wanted.items() if shard not in unsent}
        told = await self._call(
            "lease",
            [
                _bind(queue.lease, shard, epoch, name, take=take, told=self._settles.get((shard, epoch), 0))
                for shard, epoch in calls.items()
            ],
        )
        if silent == wanted.keys() and silent:
            raise ServerUnavailable("cannot lease: simulated, no node answers")
        heard = [grant for shard, grant in zip(calls, told, strict=True) if shard not in silent]
        return heard + [Grant(shard, epoch, silent=True) for shard, epoch in wanted.items() if shard in silent]

    async def holders(self, shards: Sequence[int]) -> dict[int, str]:
        """As `Queue.holders`."""
        replies = await self._call("holders", [_bind(self._queue.holder, shard) for shard in shards])
        return dict(zip(shards, replies, strict=True))

    async def release(self, held: Mapping[int, int], keep: Mapping[int, float]) -> None:
        """As `Queue.release`."""
        queue, name = self._queue, self._name
        await self._call(
            "release", [_bind(queue.release, shard, epoch, name, keep.get(shard, 0.0)) for shard, epoch in held.items()]
        )

    async def lanes(self, shards: Sequence[int]) -> dict[int, LaneList]:
        """As `Queue.lanes`."""
        replies = await self._call("lanes", [_bind(self._queue.lanes, shard) for shard in shards])
        return dict(zip(shards, replies, strict=True))

    async def read(self, cursors: Mapping[Stream, str], bells: Mapping[int, str], count: int, wait: float) -> Read:
        """As `Queue.read`."""
        cursors, bells = dict(cursors), dict(bells)
        arrived: asyncio.Future[Read] = self._loop.create_future()

        def look() -> bool:
            if self._process.dead and self._faults.rng.random() < 0.5:
                return True
            if not arrived.done() and ((found := self._queue.read(cursors, bells, count)).deliveries or found.rings):
                arrived.set_result(found)
                ids = " ".join(f"{one.shard}:{one.stream_id}" for one in found.deliveries)
                self._queue.checker.note("read", f"{self._name} {cursors} x{count}: {ids} {found.rings}")
            return arrived.done()

        def arrive() -> asyncio.Future[Read]:
            if not look():
                if wait > 0:
                    self._queue.block(look)
                    self._loop.later(wait, _answer, arrived, Read())
                else:
                    arrived.set_result(Read())
            return arrived

        (found,) = await self._call("read", [arrive])
        read = await found
        await self._pass(self._faults.delay())
        return read

    async def mark(
        self, held: Mapping[int, int], marks: Mapping[int, str], deaths: int | None = None
    ) -> frozenset[int]:
        """As `Queue.mark`."""
        queue, name = self._queue, self._name
        steps = [_bind(queue.mark, shard, held.get(shard, 0), name, mark, deaths) for shard, mark in marks.items()]
        replies = await self._call("mark", steps)
        return frozenset(shard for shard, ours in zip(marks, replies, strict=True) if not ours)

    async def settle(self, held: Mapping[int, int], settlements: Sequence[Metered]) -> Settled:
        """As `Queue.settle`."""
        queue, name = self._queue, self._name
        by_shard: dict[int, list[Metered]] = {}
        for one in settlements:
            by_shard.setdefault(one.settlement.shard, []).append(one)
        told = {shard: self._settles.get((shard, held[shard]), 0) for shard in by_shard}

        def settle(shard: int, ones: list[Metered]) -> tuple[dict[Stream, str] | None, int]:
            emptied = queue.settle(shard, held[shard], name, ones, told[shard])
            return emptied, queue.shards[shard].books["settles"]

        replies = await self._call("settle", [_bind(settle, shard, ones) for shard, ones in by_shard.items()])
        emptied: dict[Stream, str] = {}
        foreign: set[int] = set()
        for shard, (streams, settles) in zip(by_shard, replies, strict=True):
            if streams is None:
                foreign.add(shard)
            else:
                emptied |= streams
                self._settles[shard, held[shard]] = settles
        return Settled(frozenset(foreign), emptied)

    async def books(self) -> Books:
        """As `Queue.books`."""
        return (await self._call("books", [self._queue.books]))[0]

    async def counted(self, shards: Sequence[int]) -> dict[int, Counted]:
        """As `Queue.counted`."""
        replies = await self._call("counted", [_bind(self._queue.counted, shard) for shard in shards])
        return dict(zip(shards, replies, strict=True))

    async def streams(self, shard: int) -> list[str]:
        """As `Queue.streams`."""
        return list((await self._call("streams", [_bind(self._queue.lanes, shard)]))[0].namespaces)

    async def superseded(self, replayed: Sequence[tuple[int, Entry]]) -> list[bool]:
        """As `Queue.superseded`."""
        return await self._call(
            "superseded", [_bind(self._queue.superseded, shard, entry) for shard, entry in replayed]
        )

    async def note(self, changes: Mapping[str, Paused | None]) -> None:
        """As `Queue.note`."""
        await self._call("note", [_bind(self._queue.note, changes)])

    async def pauses(self) -> dict[str, Paused]:
        """As `Queue.pauses`."""
        return (await self._call("pauses", [self._queue.noted]))[0]

    async def beat(self, report: Mapping[str, Any]) -> Beats:
        """As `Queue.beat`."""
        report = dict(report)
        return Beats((await self._call("beat", [lambda: self._queue.beat(self._name, report)]))[0])

    async def leave(self) -> None:
        """As `Queue.leave`."""
        await self._call("leave", [lambda: self._queue.leave(self._name)])

    async def pace(self, asks: Sequence[Ask]) -> list[Given]:
        """As `Queue.pace`."""
        return await self._call("pace", [_bind(self._queue.pace, ask) for ask in asks])

    async def _call(self, what: str, steps: Sequence[Callable[[], T]]) -> list[T]:
        """Carry `steps` out at the server, one after the other in one instant; or have something go wrong."""
        if self._process.ended:
            raise asyncio.CancelledError
        faults, loop = self._faults, self._loop
        answer: asyncio.Future[list[T]] = loop.create_future()
        way, mishap = faults.delay(), faults.mishap(self._name, what)

        def succeed() -> None:
            replies = [step() for step in steps]
            loop.later(faults.delay(), _answer, answer, replies)

        if mishap is None:
            loop.later(way, succeed)
        else:
            self._queue.checker.note("mishap", f"{self._name}: {what} {mishap.value}")
            fails_after = self._go_wrong(mishap, steps, way)
            loop.later(fails_after, _fail, answer, ServerUnavailable(f"cannot {what}: simulated, {mishap.value}"))
        return await answer

    def _go_wrong(self, mishap: Mishap, steps: Sequence[Callable[[], object]], way: float) -> float:
        """Have the server do what it still does; returns the seconds after which the caller gives up."""
        rng, loop = self._faults.rng, self._loop
        match mishap:
            case Mishap.UNSENT:
                return way
            case Mishap.LOST:
                loop.later(way, _do, steps)
            case Mishap.PARTLY:
                loop.later(way, _do, steps[: rng.randrange(len(steps) + 1)])
            case Mishap.LATE:
                loop.later(way + rng.random() * 2 * self._faults.lease, _do, steps)
                return way
        return way + self._faults.delay()

    async def _pass(self, seconds: float) -> None:
        """Let the reply travel: the world's time, not the worker's."""
        passed: asyncio.Future[None] = self._loop.create_future()
        self._loop.later(seconds, _answer, passed, None)
        await passed


def _bind(call: Callable[..., T], *arguments: Any, **named: Any) -> Callable[[], T]:
    return lambda: call(*arguments, **named)


def _answer(waiting: asyncio.Future[T], reply: T) -> None:
    if not waiting.done():
        waiting.set_result(reply)


def _fail(waiting: asyncio.Future[T], error: Exception) -> None:
    if not waiting.done():
        waiting.set_exception(error)


def _do(steps: Sequence[Callable[[], object]]) -> None:
    for step in steps:
        step()
