"""Looking at a queue for scrapes costs the server little, however many ask, however large the queue, away or not."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from upsertq.client.async_producer import AsyncProducer
from upsertq.contract.errors import NotFound, ServerUnavailable
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Patience
from upsertq.contract.queue import remove_queue
from upsertq.contract.server import AsyncServer
from upsertq_worker.edge import queue_reader
from upsertq_worker.edge.queue_reader import FRESH_SECONDS, SHARE, QueueReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import RealServer


class Clock:
    """Time that passes when told, and by `step` with each reading."""

    def __init__(self) -> None:
        self.now = 100.0
        self.step = 0.0

    def __call__(self) -> float:
        """The time."""
        self.now += self.step
        return self.now


async def put(url: str, count: int, namespaces: int = 1) -> None:
    """Enqueue records."""
    async with AsyncProducer("q", url=url, shards=4) as producer:
        for number in range(count):
            await producer.put(f"id{number}", [1.0, 2.0], namespace=f"n{number % namespaces}")


def looks(server: RealServer) -> int:
    """How often the server was asked for its time: once a look, and by nothing else here."""
    with server.client() as client:
        found: dict[str, Any] = client.info("commandstats")
    return int(found.get("cmdstat_time", {"calls": 0})["calls"])


async def test_all_who_ask_at_once_share_a_look(redis_server: RealServer) -> None:
    """A hundred scrapes are one look; another one follows when it is a second old."""
    await put(redis_server.url, 30)
    clock = Clock()
    async with QueueReader(redis_server.url, "q", sample=100, clock=clock) as reader:
        before = looks(redis_server)
        found = await asyncio.gather(*(reader.look() for _ in range(100)))
        assert {one.books.pending for one in found} == {30}
        clock.now += FRESH_SECONDS * 0.99
        await reader.look()
        assert looks(redis_server) == before + 1
        await put(redis_server.url, 10)
        clock.now += FRESH_SECONDS * 0.02
        before = looks(redis_server)
        assert (await reader.look()).books.pending == 40
        assert looks(redis_server) == before + 1


async def test_a_look_that_takes_long_is_used_for_long(redis_server: RealServer) -> None:
    """A server that is slow is not asked all the time."""
    await put(redis_server.url, 30)
    clock = Clock()
    async with QueueReader(redis_server.url, "q", sample=100, clock=clock) as reader:
        clock.step = 5.0  # each reading of the clock, of which a look has several
        await reader.look()
        clock.step = 0.0
        before = looks(redis_server)
        clock.now += 4.9
        await reader.look()
        assert looks(redis_server) == before
        clock.now += 1_000
        await reader.look()
        assert looks(redis_server) == before + 1


async def test_a_look_sees_a_part_of_many_streams(redis_server: RealServer) -> None:
    """Books are exact all the same; the backlog says that it is a sample."""
    await put(redis_server.url, 200, namespaces=100)
    async with QueueReader(redis_server.url, "q", sample=20) as reader:
        for _ in range(2):
            now = await reader.look()
            assert now.books.pending == 200
            assert now.backlog.sampled
            assert now.backlog.lanes <= 20
        assert reader._walk is None


async def test_all_streams_are_walked_over_beside_the_looks(redis_server: RealServer) -> None:
    """No look waits for it; the next ones have what it saw; another walk begins when that is old."""
    await put(redis_server.url, 200, namespaces=100)
    clock = Clock()
    async with QueueReader(redis_server.url, "q", sample=20, thorough=True, clock=clock) as reader:
        assert (await reader.look()).backlog.sampled
        first = reader._walk
        assert first is not None
        clock.step = 1.0
        await first
        clock.step = 0.0
        assert reader._walk_from - clock.now >= SHARE
        now = await reader.look()
        assert (now.backlog.lanes, now.backlog.sampled) == (100, False)
        await put(redis_server.url, 110, namespaces=110)
        clock.now = reader._walk_from - 0.01
        assert (await reader.look()).backlog.lanes == 100
        assert reader._walk is first
        clock.now += 2
        await reader.look()
        second = reader._walk
        assert second is not first
        assert second is not None
        await second
        clock.now += 2
        assert (await reader.look()).backlog.lanes == 110


async def test_few_streams_need_no_walk(redis_server: RealServer) -> None:
    """A look sees them all."""
    await put(redis_server.url, 20, namespaces=3)
    async with QueueReader(redis_server.url, "q", sample=100, thorough=True) as reader:
        assert (await reader.look()).backlog.lanes == 3
        assert reader._walk is None


async def test_a_queue_may_come_and_go_and_come_again(redis_server: RealServer) -> None:
    """None yet: NotFound; then its books; one of other shards that is made in its place is looked at as it is."""
    clock = Clock()
    async with QueueReader(redis_server.url, "q", sample=100, clock=clock) as reader:
        with pytest.raises(NotFound):
            await reader.look()
        await put(redis_server.url, 5)
        with pytest.raises(NotFound):  # what was found is used for a moment, this as well
            await reader.look()
        clock.now += 2
        assert (await reader.look()).shape.shards == 4
        server = AsyncServer.at(redis_server.url)
        await server.hold(remove_queue(QueueKeys("q"), Patience(5, time.monotonic, random.Random(1))))
        await server.close()
        async with AsyncProducer("q", url=redis_server.url, shards=8) as producer:
            await producer.put("a", [1.0])
        clock.now += 2
        now = await reader.look()
        assert (now.shape.shards, now.books.pending) == (8, 1)


async def test_a_server_that_is_away_is_not_asked_again_and_again(
    make_server: Callable[..., RealServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told at once that it is away; and when it is back, it is looked at again."""
    monkeypatch.setattr(queue_reader, "PATIENCE_SECONDS", 0.1)
    server = make_server(port=0, appendonly="always")
    await put(server.url, 5)
    clock = Clock()
    async with QueueReader(server.url, "q", sample=100, clock=clock) as reader:
        server.kill()
        clock.step = 0.02
        with pytest.raises(ServerUnavailable) as first:
            await reader.look()
        clock.step = 0.0
        with pytest.raises(ServerUnavailable) as second:
            await reader.look()
        assert second.value is first.value
        server.start()
        clock.now += 100
        assert (await reader.look()).books.pending == 5
