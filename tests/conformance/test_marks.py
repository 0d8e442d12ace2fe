"""Marks of suspects on the server: only what is pending is marked, by the holder, and the mark goes with its entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis
from upsertq_worker.suspicion import Mark, Stage

from servers import available_kinds
from upsertq.client.async_producer import AsyncProducer
from upsertq.contract.keys import QueueKeys
from upsertq.contract.queue import QueueShape
from upsertq.contract.server import AsyncServer
from upsertq.contract.wire import decode
from upsertq_worker.ordering.model import Settlement
from upsertq_worker.queue.protocols import NEW
from upsertq_worker.queue.redis_queue import RedisQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Backend
    from servers import RealServer, ServerKind
    from upsertq_worker.queue.protocols import Delivery

SHARDS = 2
KEYS = QueueKeys("q")
OURS = {0: 1, 1: 1}
"""Both shards under their first epoch."""


class Bench:
    """A queue on one server, and workers who use it."""

    def __init__(self, server: AsyncServer, sync: redis.Redis) -> None:
        self.server = server
        self.sync = sync

    def worker(self, name: str = "me") -> RedisQueue:
        """The queue as a worker sees it."""
        return RedisQueue(self.server, QueueShape("q", SHARDS, None), name, 30.0)

    async def holder(self, name: str = "me") -> RedisQueue:
        """A worker that holds both shards, whoever held them before."""
        for shard in range(SHARDS):
            self.sync.delete(KEYS.shard(shard).lease)
        worker = self.worker(name)
        await worker.lease({0: 0, 1: 0}, take=True)
        return worker

    async def put(self, count: int) -> None:
        """Enqueue entries, each of one record."""
        for number in range(count):
            producer = AsyncProducer("q", url=self.server, shards=SHARDS, timeout=0)
            await producer.put_many([f"id{number}"], np.ones((1, 2), np.float32))
            await producer.flush()

    def noted(self) -> dict[tuple[int, str], str]:
        """Every mark as it stands on the server."""
        found: dict[tuple[int, str], str] = {}
        for shard in range(SHARDS):
            told: Any = self.sync.hgetall(KEYS.shard(shard).suspects)
            found |= {(shard, name.decode()): mark.decode() for name, mark in told.items()}
        return found


@pytest.fixture
async def bench(backend: Backend) -> Bench:
    """Provide an empty queue on every backend."""
    return Bench(AsyncServer(backend.make_async()), backend.sync)


async def read_all(worker: RedisQueue) -> list[Delivery]:
    """One read of what is new in both shards."""
    return await worker.read(dict.fromkeys(range(SHARDS), NEW), 100, 0.01)


def place(delivery: Delivery) -> tuple[int, str]:
    """Where an entry stands."""
    return delivery.shard, delivery.stream_id


def acked(delivery: Delivery) -> Settlement:
    """The settling of an entry, all acknowledged."""
    assert delivery.fields is not None
    entry = decode(delivery.fields)
    n = len(entry.ids)
    return Settlement(delivery.shard, delivery.stream_id, "", n, entry.size, n, 0, delivery.stream_id)


async def test_marks_are_written_changed_and_taken_away(bench: Bench) -> None:
    """By the holder of the lease, with its name behind them, in all shards at once; other entries stay as they are."""
    await bench.put(12)
    worker = await bench.holder("me:with by spaces")
    read = await read_all(worker)
    assert {one.shard for one in read} == {0, 1}
    first, second, *others = read
    assert await worker.marks([0, 1]) == {0: {}, 1: {}}
    company = str(Mark(Stage.COMPANY))
    await worker.mark(OURS, {place(one): company for one in read})
    assert bench.noted() == {place(one): "company by me:with by spaces" for one in read}
    alone = Mark(Stage.ALONE, 3, (1, 2))
    await worker.mark(OURS, {place(first): str(alone), place(second): ""})
    found = await worker.marks([0, 1])
    assert Mark.parse(found[first.shard][first.stream_id]) == alone
    assert second.stream_id not in found[second.shard]
    assert {Mark.parse(found[one.shard][one.stream_id]).stage for one in others} == {Stage.COMPANY}
    assert await worker.marks([1]) == {1: found[1]}


async def test_the_same_call_again_changes_nothing(bench: Bench) -> None:
    """A call whose answer was lost may be repeated; taking away what is not there is no fault."""
    await bench.put(2)
    worker = await bench.holder()
    (first, second) = await read_all(worker)
    for _ in range(2):
        await worker.mark(OURS, {place(first): "alone", place(second): ""})
        assert bench.noted() == {place(first): "alone by me"}
    await worker.mark(OURS, {})
    assert bench.noted() == {place(first): "alone by me"}


async def test_only_what_is_pending_is_marked(bench: Bench) -> None:
    """What nobody read yet, what is settled and what never was is not marked: no mark outlives its entry."""
    await bench.put(3)
    worker = await bench.holder()
    (one,) = await worker.read({0: NEW}, 1, 0.01)
    unread = []
    for shard in range(SHARDS):
        told: Any = bench.sync.xrange(KEYS.shard(shard).stream)
        unread += [(shard, stream_id.decode()) for stream_id, _ in told if (shard, stream_id.decode()) != place(one)]
    assert len(unread) == 2
    never = {(0, "1-1"): "company", (1, "999999999999999-0"): "company"}
    await worker.mark(OURS, {place(one): "company", **dict.fromkeys(unread, "company"), **never})
    assert bench.noted() == {place(one): "company by me"}
    await worker.settle(OURS, [acked(one)])
    await worker.mark(OURS, {place(one): "alone"})
    assert bench.noted() == {}


async def test_settling_takes_the_mark_along(bench: Bench) -> None:
    """The marks of what is settled go in the same step, and no other ones."""
    await bench.put(6)
    worker = await bench.holder()
    read = await read_all(worker)
    await worker.mark(OURS, {place(one): "company" for one in read})
    await worker.settle(OURS, [acked(one) for one in read[:2]])
    assert bench.noted() == {place(one): "company by me" for one in read[2:]}
    await worker.settle(OURS, [acked(one) for one in read])
    assert not any(bench.sync.exists(KEYS.shard(shard).suspects) for shard in range(SHARDS))


async def test_a_fenced_settling_leaves_the_mark(bench: Bench) -> None:
    """Who lost the lease settles nothing, and takes no mark of the next holder away."""
    await bench.put(1)
    old = await bench.holder("old")
    (one,) = await read_all(old)
    new = await bench.holder("new")
    await new.mark({one.shard: 2}, {place(one): "alone"})
    assert await old.settle(OURS, [acked(one)]) == {one.shard}
    assert bench.noted() == {place(one): "alone by new"}


async def test_a_former_holder_changes_its_own_marks_alone(bench: Bench) -> None:
    """It lives, so they are no evidence: it may take them back or say what held before, but mark nothing new."""
    await bench.put(8)
    old = await bench.holder("old")
    read = await read_all(old)
    mine, theirs, unmarked, changed = (place(one) for one in read[:4])
    await old.mark(OURS, {mine: "company", theirs: "company", changed: "alone at 2"})
    new = await bench.holder("new")
    await new.mark({0: 2, 1: 2}, {theirs: "alone"})
    assert bench.noted() == {mine: "company by old", theirs: "alone by new", changed: "alone at 2 by old"}
    await old.mark(OURS, {mine: "", theirs: "", unmarked: "company", changed: "alone"})
    assert bench.noted() == {theirs: "alone by new", changed: "alone by old"}
    # it may not even know an epoch any more
    await old.mark({}, {theirs: "company", unmarked: "company", changed: ""})
    assert bench.noted() == {theirs: "alone by new"}


async def test_a_name_that_ends_like_another_is_another(bench: Bench) -> None:
    """The end of a name is not enough, and a name that looks like a mark harms nobody."""
    await bench.put(1)
    first = await bench.holder("one by two")
    (one,) = await read_all(first)
    await first.mark(OURS, {place(one): "company"})
    await bench.holder("three")
    await bench.worker("wo").mark({}, {place(one): ""})
    await bench.worker("by two").mark({}, {place(one): ""})
    assert bench.noted() == {place(one): "company by one by two"}
    await first.mark({}, {place(one): ""})
    assert bench.noted() == {}


async def test_with_another_epoch_it_is_another_holder(bench: Bench) -> None:
    """The same name under an epoch that is over marks nothing new."""
    await bench.put(2)
    worker = await bench.holder("me")
    (first, second) = await read_all(worker)
    await worker.mark(OURS, {place(first): "company"})
    await bench.holder("other")
    await bench.holder("me")
    await worker.mark(OURS, {place(first): "alone", place(second): "alone"})
    assert bench.noted() == {place(first): "alone by me"}
    await worker.mark({0: 3, 1: 3}, {place(second): "alone"})
    assert bench.noted() == {place(first): "alone by me", place(second): "alone by me"}


@pytest.mark.parametrize("kind", available_kinds(), ids=lambda kind: kind.id)
async def test_a_full_server_takes_marks(kind: ServerKind, make_server: Callable[..., RealServer]) -> None:
    """Out of memory, a new holder still marks what it works on, and the marks go when it is settled."""
    server = make_server(kind)
    with server.client() as sync:
        connection = AsyncServer.at(server.url)
        bench = Bench(connection, sync)
        await bench.put(6)
        worker = await bench.holder()
        read = await read_all(worker)
        sync.config_set("maxmemory", 1)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            sync.set("x", "y")
        await worker.mark(OURS, {place(one): "company" for one in read})
        await worker.mark(OURS, {place(read[0]): "again at 0 dead 3", place(read[1]): ""})
        assert len(bench.noted()) == 5
        assert bench.noted()[place(read[0])] == "again at 0 dead 3 by me"
        assert await worker.settle(OURS, [acked(one) for one in read]) == frozenset()
        assert bench.noted() == {}
        await connection.close()
