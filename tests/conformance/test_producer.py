"""`Producer` and `AsyncProducer` on every server: what was taken arrives once, what was refused was not taken."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import buried
from upsertq import (
    AsyncProducer,
    AsyncServer,
    InvalidRecord,
    Limits,
    Producer,
    QueueFull,
    Server,
    TooManyDead,
    UsageError,
    WaitTimeout,
)
from upsertq.contract.keys import QueueKeys
from upsertq.contract.wire import decode
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Backend
    from upsertq.contract.wire import Entry

KEYS = QueueKeys("q")
SHARDS = 2


def entries(backend: Backend, shards: int = SHARDS) -> list[Entry]:
    """Return all entries of the queue."""
    return [decode(fields) for k in range(shards) for _, fields in buried.pending(backend.sync, KEYS.shard(k))]


def ids(backend: Backend, shards: int = SHARDS) -> list[str]:
    """Return the ids in the queue, sorted."""
    return sorted(record_id for entry in entries(backend, shards) for record_id in entry.ids)


def settle(backend: Backend) -> list[str]:
    """Acknowledge everything, as a worker does; return the ids."""
    found: list[str] = []
    buried.settle(Server(backend.sync), backend.sync, found.append, shards=SHARDS)
    return found


@pytest.fixture
def make(backend: Backend) -> Callable[..., Producer]:
    """Make producers of the queue."""

    def producer(**options: Any) -> Producer:
        return Producer("q", url=Server(backend.sync), **{"shards": SHARDS, "timeout": 0, **options})

    return producer


def numbered(count: int, first: int = 0) -> tuple[list[str], Any]:
    """Return ids and their vectors."""
    return [f"id{i:05}" for i in range(first, first + count)], np.arange(1, 3 * count + 1.0).reshape(count, 3)


def test_put_and_flush(backend: Backend, make: Callable[..., Producer]) -> None:
    """A record is in the queue once `flush` returns, with all its parts; `flush` tells how many."""
    producer = make()
    producer.put("a", [1, 2], sparse_values=([3], [0.5]), metadata={"k": "v"}, namespace="n", run="r")
    assert (producer.buffered, ids(backend)) == (1, [])
    assert producer.flush() == 1
    assert (producer.buffered, producer.flush()) == (0, 0)
    (entry,) = entries(backend)
    assert (entry.ids, entry.namespace, entry.run, entry.dim) == (("a",), "n", "r", 2)
    assert (entry.sparse, entry.metadata) == (b'[{"indices":[3],"values":[0.5]}]', b'[{"k":"v"}]')
    assert entry.at > 1_600_000_000_000
    producer.close()


def _fail(_: object) -> None:
    raise ZeroDivisionError


def test_leaving_the_block_flushes(backend: Backend, make: Callable[..., Producer]) -> None:
    """The end of the `with` block makes everything durable, after an exception as well."""
    with pytest.raises(ZeroDivisionError), make() as producer:
        _fail(producer.put_many(*numbered(7)))
    assert len(ids(backend)) == 7


def test_put_many_in_bulk(backend: Backend, make: Callable[..., Producer]) -> None:
    """Thousands of records, more than a producer holds back, arrive exactly once."""
    with make() as producer:
        for first in range(0, 15_000, 1_500):
            assert producer.put_many(*numbered(1_500, first), namespace=["", "n", "m"] * 500) == 1_500
            assert producer.buffered < 8_000
    assert ids(backend) == numbered(15_000)[0]
    assert {entry.namespace for entry in entries(backend)} == {"", "n", "m"}


def test_put_many_takes_all_or_none(backend: Backend, make: Callable[..., Producer]) -> None:
    """One invalid record refuses the call, says which it is, and nothing of the call is taken."""
    producer = make()
    names, matrix = numbered(30)
    matrix[17, 1] = np.nan
    with pytest.raises(InvalidRecord) as raised:
        producer.put_many(names, matrix)
    assert (raised.value.index, raised.value.id, raised.value.field) == (17, "id00017", "values")
    assert producer.buffered == 0
    matrix[17, 1] = 1
    producer.put_many(names, matrix)
    assert producer.flush() == 30
    producer.close()


def test_a_refused_call_does_not_fix_the_dimension(backend: Backend, make: Callable[..., Producer]) -> None:
    """Records of different dimensions are refused together, before the first of them fixes the queue's."""
    producer = make()
    with pytest.raises(InvalidRecord, match="number 1 of this call") as raised:
        producer.put_many(["a", "b"], [[1.0], [1.0, 2.0]])
    assert raised.value.index == 1
    producer.put("c", [1.0, 2.0, 3.0])
    with pytest.raises(InvalidRecord, match="3") as raised:
        producer.put("d", [1.0])
    assert raised.value.index is None
    producer.close()
    assert ids(backend) == ["c"]


def test_one_dimension_for_all_producers(backend: Backend, make: Callable[..., Producer]) -> None:
    """A producer that opened the queue before another fixed its dimension is held to it too."""
    first, second = make(), make()
    for producer in (first, second):
        producer.put(f"sparse-{id(producer)}", sparse_values=([1], [1]))
    first.put("a", [1.0, 2.0])
    with pytest.raises(InvalidRecord, match="the queue holds records of 2"):
        second.put_many(["b"], [[1.0, 2.0, 3.0]])
    second.put("c", [3.0, 4.0])
    first.close()
    second.close()
    assert len(ids(backend)) == 4


def test_runs_have_their_own_books(backend: Backend, make: Callable[..., Producer]) -> None:
    """What is put through a run is counted there and in the queue."""
    with make() as producer:
        with producer.run("night") as run:
            run.put("a", [1.0, 2.0, 3.0])
            assert run.put_many(*numbered(9)) == 9
        producer.put("b", [1.0, 2.0, 3.0])
        producer.flush()
        assert (run.books().enqueued, producer.books("night").pending, producer.books().enqueued) == (10, 10, 11)
        assert producer.books("other").enqueued == 0
    assert backend.sync.hexists(KEYS.runs, "night")


@pytest.mark.parametrize("name", ["", "a b", "{x}", "-a", "x" * 101])
def test_a_bad_name_of_a_run_or_queue(make: Callable[..., Producer], backend: Backend, name: str) -> None:
    """Names are letters, digits and `_.-`."""
    with pytest.raises(UsageError, match="run name"):
        make().run(name)
    with pytest.raises(UsageError, match="queue name"):
        Producer(name, url=Server(backend.sync))


def test_wait_ends_when_nothing_is_pending(backend: Backend, make: Callable[..., Producer]) -> None:
    """`wait` flushes, then returns the books once every record is settled, meanwhile letting others put."""
    with make() as producer:
        run = producer.run("night")
        run.put_many(*numbered(40))
        with pytest.raises(WaitTimeout, match="40 of 40 records of run 'night' are pending after 0 s"):
            run.wait(timeout=0)
        found = []
        waiter = threading.Thread(target=lambda: found.append(run.wait(timeout=30)))
        waiter.start()
        producer.put("meanwhile", [1.0, 2.0, 3.0])
        settle(backend)
        waiter.join(30)
        assert [(kept.acked, kept.pending) for kept in found] == [(40, 0)]


def test_threads_share_a_producer(backend: Backend, make: Callable[..., Producer]) -> None:
    """Records put by several threads arrive once each, and each thread's versions of an id in its order."""
    with make() as producer:

        def put(number: int) -> None:
            for i in range(150):
                producer.put(f"t{number}-{i}", [1.0, float(i)])
                producer.put(f"t{number}", [2.0, float(i)])
                if i % 40 == 0:
                    producer.flush()

        threads = [threading.Thread(target=put, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    found = ids(backend)
    assert len(found) == 4 * 300
    assert {f"t{n}-{i}" for n in range(4) for i in range(150)} <= set(found)
    for number in range(4):
        versions = [
            float(np.frombuffer(entry.values, "<f4").reshape(-1, 2)[at, 1])
            for entry in entries(backend)
            for at, record_id in enumerate(entry.ids)
            if record_id == f"t{number}"
        ]
        assert versions == [float(i) for i in range(150)]


def test_a_full_queue_raises_at_once_without_a_timeout(backend: Backend, make: Callable[..., Producer]) -> None:
    """With timeout 0 `QueueFull` comes at once; what was taken stays, the refused call was not taken."""
    producer = make(limits=Limits(records=100))
    taken: list[str] = []

    def fill() -> None:
        for i in range(len(taken), 80_000):
            producer.put(f"id{i:05}", [1.0, 2.0, 3.0])
            taken.append(f"id{i:05}")

    for _ in range(2):  # the first time a part still found room on the server
        with pytest.raises(QueueFull):
            fill()
    before = producer.buffered
    assert before + producer.books().pending == len(taken)
    with pytest.raises(QueueFull):
        producer.put_many(*numbered(5, 90_000))
    with pytest.raises(QueueFull):
        producer.flush()
    assert producer.buffered == before
    arrived: list[str] = []
    while producer.buffered:
        arrived += settle(backend)
        with contextlib.suppress(QueueFull):
            producer.flush()
    assert sorted(arrived + ids(backend)) == taken
    producer.close()


def test_too_many_dead_letters_raise_at_once_whatever_the_timeout(
    backend: Backend, make: Callable[..., Producer]
) -> None:
    """What was taken stays, the refused call was not taken, and all goes on once the letters are gone."""
    producer = make(max_dead=2, timeout=3_600)
    producer.put_many(*numbered(30))
    backend.sync.hset(KEYS.shard(1).books, "dead", 2)
    with pytest.raises(TooManyDead, match="upsertq dead list --queue q"):
        producer.flush()
    producer.put_many(*numbered(5_000, 30))
    with pytest.raises(TooManyDead):
        producer.put_many(*numbered(5, 90_000))
    assert (producer.buffered, ids(backend)) == (5_030, [])
    backend.sync.hset(KEYS.shard(1).books, "dead", 1)
    assert producer.flush() == 5_030
    assert ids(backend) == numbered(5_030)[0]
    producer.close()


async def test_an_async_producer_refuses_too(backend: Backend) -> None:
    """The asynchronous producer has the same limit."""
    producer = AsyncProducer("q", url=AsyncServer(backend.make_async()), shards=SHARDS, max_dead=1)
    await producer.put_many(*numbered(3))
    backend.sync.hset(KEYS.shard(0).books, "dead", 1)
    with pytest.raises(TooManyDead):
        await producer.flush()
    backend.sync.hset(KEYS.shard(0).books, "dead", 0)
    await producer.close()
    assert len(ids(backend)) == 3


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_allows_no_record_is_a_usage_error(limit: int) -> None:
    """A limit below 1 would refuse for ever, so it is refused itself."""
    with pytest.raises(UsageError, match="choose 1 or more"):
        Producer("q", max_dead=limit)


def test_a_full_queue_is_waited_for(backend: Backend, make: Callable[..., Producer]) -> None:
    """With a timeout a call waits until a worker makes room, and all arrives."""
    producer = make(limits=Limits(records=100), timeout=60)
    producer.put_many(*numbered(300))
    flushed: list[int] = []
    flusher = threading.Thread(target=lambda: flushed.append(producer.flush()))
    flusher.start()
    arrived: list[str] = []

    def drained() -> bool:
        arrived.extend(settle(backend))
        return not flusher.is_alive()

    wait_until(drained, 60, "the flush ends")
    assert sorted(arrived + ids(backend)) == numbered(300)[0]
    assert flushed == [300]
    producer.close()


def test_many_namespaces_do_not_fill_the_memory(
    backend: Backend, make: Callable[..., Producer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries that are not full are sent too once many are open, for few ever are with very many namespaces."""
    monkeypatch.setattr("upsertq.client.producer_core.OPEN_RECORDS", 400)
    monkeypatch.setattr("upsertq.client.producer_core.SEND_RECORDS", 200)
    with make() as producer:
        most = 0
        for i in range(1_200):
            producer.put(f"id{i}", [1.0], namespace=f"n{i}")
            most = max(most, producer.buffered)
        assert most <= 400
    assert len(ids(backend)) == 1_200


async def test_async_producer(backend: Backend) -> None:
    """The asynchronous producer takes, flushes, counts and waits as the blocking one does."""
    server = AsyncServer(backend.make_async())
    async with AsyncProducer("q", url=server, shards=SHARDS, timeout=0) as producer:
        async with producer.run("night") as run:
            await run.put("a", [1.0, 2.0, 3.0], metadata={"k": 1})
            assert await run.put_many(*numbered(99)) == 99
        assert producer.buffered == 0
        with pytest.raises(InvalidRecord):
            await producer.put_many(["x", "é"], [[1.0, 2.0, 3.0]] * 2)
        await producer.put("b", [1.0, 2.0, 3.0])
        assert await producer.flush() == 1
        assert (await run.books()).pending == 100
        with pytest.raises(WaitTimeout):
            await run.wait(timeout=0)
        waiting = asyncio.create_task(producer.wait(timeout=30))
        settle(backend)
        settled = await waiting
        assert (settled.acked, settled.pending) == (101, 0)


async def test_tasks_share_an_async_producer(backend: Backend) -> None:
    """Records put by many tasks at once arrive once each."""
    async with AsyncProducer("q", url=AsyncServer(backend.make_async()), shards=SHARDS) as producer:
        await asyncio.gather(*(producer.put_many(*numbered(50, first)) for first in range(0, 3_000, 50)))
    assert ids(backend) == numbered(3_000)[0]


async def test_a_cancelled_flush_loses_nothing(backend: Backend) -> None:
    """A flush that is cancelled half-way is taken up by the next one: nothing lost, nothing twice."""
    producer = AsyncProducer("q", url=AsyncServer(backend.make_async()), shards=SHARDS)
    await producer.put_many(*numbered(500))
    for turns in range(6):
        flushing = asyncio.create_task(producer.flush())
        for _ in range(turns):
            await asyncio.sleep(0)
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)
    await producer.flush()
    await producer.close()
    assert ids(backend) == numbered(500)[0]
