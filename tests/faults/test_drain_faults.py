"""A whole worker against a real server and the emulator, while either is killed, full, slow or strange."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from servers import available_kinds
from upsertq.admin.audit import audit
from upsertq.client.async_producer import AsyncProducer
from upsertq.contract.books import Books
from upsertq.contract.errors import QueueLost, WorldError
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Patience
from upsertq.contract.queue import open_queue
from upsertq.contract.server import AsyncServer
from upsertq_emulator.app import Emulator
from upsertq_worker.edge.http_index import HttpIndex, IndexAddress
from upsertq_worker.events import Event
from upsertq_worker.queue.redis_queue import RedisQueue
from upsertq_worker.settings import BatchLimits, Settings
from upsertq_worker.worker import Worker
from waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from servers import RealServer, ServerKind
    from upsertq_worker.context import Tally

SHARDS = 4
DEADLINE = 30.0
KEYS = QueueKeys("q")


def settings(**options: Any) -> Settings:
    """Settings that are quick."""
    quick: dict[str, Any] = {
        "batch": BatchLimits(linger=0.01, records=20),
        "lease": 3.0,
        "quarantine": 0.3,
        "grace": 5.0,
        "concurrency": 4,
        **options,
    }
    return Settings(**quick)


async def put(url: str, count: int, version: int = 0) -> None:
    """Enqueue `count` records."""
    async with AsyncProducer("q", url=url, shards=SHARDS, timeout=DEADLINE) as producer:
        matrix = np.full((count, 2), version + 1, np.float32)
        metadata = [{"version": version}] * count
        await producer.put_many([f"id{n}" for n in range(count)], matrix, metadata=metadata, run=f"r{version}")


def patience() -> Patience:
    """Patience for one question."""
    return Patience(DEADLINE, time.monotonic, random.Random(1))


class Running:
    """A running worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.task: asyncio.Task[Tally] = asyncio.create_task(worker.run())

    @property
    def shards(self) -> int:
        """How many shards it holds."""
        return len(self.worker.leases.epochs)

    async def end(self) -> Tally:
        """Its tally, once it ended by itself."""
        async with asyncio.timeout(DEADLINE):
            return await self.task

    async def stop(self) -> Tally:
        """Stop it in good order."""
        self.worker.stop()
        return await self.end()


@contextlib.asynccontextmanager
async def working(
    server: RealServer, emulator: Emulator, name: str = "w", request_timeout: float = 5.0, **options: Any
) -> AsyncIterator[Running]:
    """Run a worker; it is ended when the block is left."""
    connection = AsyncServer.at(server.url)
    set_to = settings(**options)
    async with HttpIndex(IndexAddress(emulator.url, "2025-10"), timeout=request_timeout, connections=8) as index:
        shape = await connection.hold(open_queue(KEYS, SHARDS, 1, patience()))
        queue = RedisQueue(connection, shape, name, set_to.lease)
        running = Running(Worker(name, SHARDS, queue, index, set_to))
        try:
            yield running
        finally:
            running.worker.stop()
            with contextlib.suppress(TimeoutError, asyncio.CancelledError, WorldError):
                await running.end()
            await connection.close()


async def books(server: RealServer) -> Books:
    """The books of the queue, which the audit finds in order."""
    connection = AsyncServer.at(server.url)
    try:
        shape = await connection.hold(open_queue(KEYS, SHARDS, 1, patience()))
        report = await connection.hold(audit(KEYS, shape, patience()))
        found = await RedisQueue(connection, shape, "reader", 1.0).books()
    finally:
        await connection.close()
    assert report.drifts == ()
    assert found.drift == 0
    return found


def all_landed(emulator: Emulator, count: int, version: int = 0) -> bool:
    """Whether the index holds that version of every record."""
    found = [emulator.plane.vector(f"id{n}") for n in range(count)]
    return all(vector is not None and vector.metadata == {"version": version} for vector in found)


async def test_it_drains_to_empty(redis_server: RealServer) -> None:
    """The plain case: everything once, in few requests."""
    await put(redis_server.url, 500)
    async with Emulator() as emulator, working(redis_server, emulator, until_empty=True) as worker:
        tally = await worker.end()
        assert all_landed(emulator, 500)
    assert tally.acked == 500
    assert await books(redis_server) == Books(enqueued=500, acked=500)


async def test_the_last_records_of_a_drain_wait_for_no_company(redis_server: RealServer) -> None:
    """What fills no batch goes out once all is read, however long records may linger."""
    await put(redis_server.url, 250)
    options: dict[str, Any] = {"batch": BatchLimits(linger=2 * DEADLINE), "until_empty": True}
    async with Emulator() as emulator, working(redis_server, emulator, **options) as worker:
        tally = await worker.end()
        assert all_landed(emulator, 250)
    assert tally.requests <= 4


@pytest.mark.parametrize("kind", available_kinds(), ids=lambda kind: kind.id)
async def test_a_killed_server_comes_back_and_nothing_is_lost(
    kind: ServerKind, make_server: Callable[..., RealServer]
) -> None:
    """Killed twice in mid-drain and restarted on its append-only file: the worker carries on by itself."""
    server = make_server(kind, appendonly="always")
    await put(server.url, 1500)
    async with (
        Emulator(faults="latency=constant:0.01", journal=True) as emulator,
        working(server, emulator, until_empty=True, read_ahead=200_000) as worker,
    ):
        for part in (200, 700):
            await wait_until_async(lambda part=part: emulator.plane.count() >= part, DEADLINE, f"{part} have landed")  # type: ignore[misc]
            await asyncio.to_thread(server.kill)
            await wait_until_async(lambda: worker.worker.sender.in_flight == 0, DEADLINE, "the worker is out of work")
            await asyncio.to_thread(server.start)
        await worker.end()
        assert all_landed(emulator, 1500)
        assert emulator.counters.overlaps == 0
    assert await books(server) == Books(enqueued=1500, acked=1500)


async def test_two_share_the_queue_and_one_takes_over_when_the_other_stops(redis_server: RealServer) -> None:
    """At once, not only when the lease runs out; nothing is sent twice."""
    async with Emulator() as emulator, working(redis_server, emulator, "first", lease=120.0) as first:
        await wait_until_async(lambda: first.shards == SHARDS, DEADLINE, "the first holds every shard")
        async with working(redis_server, emulator, "second", lease=1.0, until_empty=False) as second:
            await wait_until_async(lambda: (first.shards, second.shards) == (2, 2), DEADLINE, "they share")
            await put(redis_server.url, 100)
            await wait_until_async(lambda: emulator.plane.count() == 100, DEADLINE, "they work")
            tally = await first.stop()
            assert 0 < tally.acked < 100
            await wait_until_async(lambda: second.shards == SHARDS, DEADLINE, "the second took over")
            await put(redis_server.url, 100, version=1)
            await wait_until_async(lambda: all_landed(emulator, 100, 1), DEADLINE, "the second works")
            assert (await second.stop()).acked + tally.acked == 200
            assert emulator.counters.records == 200
    assert await books(redis_server) == Books(enqueued=200, acked=200)


async def test_another_worker_takes_over_what_a_dead_one_had_read(redis_server: RealServer) -> None:
    """A worker that vanishes with requests in flight: after its lease and the quarantine all is sent by the other."""
    await put(redis_server.url, 300)
    async with Emulator(faults="stall", journal=True) as emulator:
        async with working(redis_server, emulator, "dead", grace=0.0, lease=1.0) as dead:
            await wait_until_async(lambda: emulator.counters.in_flight >= 4, DEADLINE, "requests are stalled")
            await vanish(dead)
            emulator.set_faults(None)
            async with working(redis_server, emulator, "heir", until_empty=True) as heir:
                tally = await heir.end()
        assert tally.acked == 300
        assert all_landed(emulator, 300)
    assert await books(redis_server) == Books(enqueued=300, acked=300)


async def vanish(running: Running) -> None:
    """End a worker's tasks as SIGKILL would: without a word to anyone."""
    own = asyncio.current_task()
    queue: Any = running.worker._keeper._queue

    async def silent(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    queue.release = queue.leave = queue.settle = queue.lease = queue.read = queue.beat = silent
    gone = [task for task in asyncio.all_tasks() if task is not own and "Worker" in task.get_coro().__qualname__]  # type: ignore[union-attr]
    gone += list(running.worker.sender._flights)
    for _ in range(3):
        for task in gone:
            task.cancel()
        await asyncio.wait(gone, timeout=0.2)


async def test_stopping_gives_up_stalled_requests_within_the_grace(redis_server: RealServer) -> None:
    """The worker ends in time, its leases are kept for the quarantine, and a successor sends everything."""
    await put(redis_server.url, 200)
    async with Emulator(faults="stall") as emulator:
        async with working(
            redis_server, emulator, "first", request_timeout=600.0, grace=0.5, lease=60.0, quarantine=20.0
        ) as first:
            await wait_until_async(lambda: emulator.counters.in_flight == 4, DEADLINE, "requests are stalled")
            started = time.monotonic()
            tally = await first.stop()
            assert time.monotonic() - started > 0.4
            assert tally.acked == 0
            with redis_server.client() as client:
                lives: Any = [client.pttl(KEYS.shard(k).lease) for k in range(SHARDS)]
                for k in range(SHARDS):
                    client.pexpire(KEYS.shard(k).lease, 1)
            assert all(0 < life <= 20_000 for life in lives), lives
        assert (await books(redis_server)).pending == 200
        emulator.set_faults(None)
        async with working(redis_server, emulator, "second", until_empty=True) as second:
            await second.end()
        assert all_landed(emulator, 200)
    assert await books(redis_server) == Books(enqueued=200, acked=200)


async def test_stopping_lets_what_is_in_flight_finish(redis_server: RealServer) -> None:
    """Answers that come within the grace count, also when they take longer than a lease; the leases are given up."""
    await put(redis_server.url, 40)
    async with (
        Emulator(faults="latency=constant:2") as emulator,
        working(redis_server, emulator, "first", request_timeout=20.0, grace=15.0, lease=1.0) as first,
    ):
        await wait_until_async(lambda: emulator.counters.in_flight >= 2, DEADLINE, "requests are in flight")
        sent = emulator.counters.upserts
        tally = await first.stop()
        assert tally.acked == emulator.plane.count() > 0
        assert emulator.counters.upserts == sent
    with redis_server.client() as client:
        assert [client.exists(KEYS.shard(k).lease) for k in range(SHARDS)] == [0] * SHARDS
    assert (await books(redis_server)).acked == tally.acked


async def test_a_strange_entry_halts_its_lane_alone(redis_server: RealServer) -> None:
    """A newer version's entry is never misread: alarm, and the other lanes go on; what came before it is settled."""
    await put(redis_server.url, 200)
    strange = {"v": "99", "op": "upsert", "n": "1", "ns": "", "ids": '["x"]', "dim": "1", "values": b"\0\0\x80?"}
    stream = KEYS.shard(2).stream("")
    with redis_server.client() as client:
        client.xadd(stream, strange)
    await put(redis_server.url, 200, version=1)
    async with Emulator() as emulator, working(redis_server, emulator) as running:
        alarms = running.worker.signals.alarms
        await wait_until_async(lambda: alarms, DEADLINE, "the alarm is raised")
        (name,) = alarms
        assert name.startswith("shard 2")
        assert "99" in alarms[name]

        def others_empty() -> bool:
            with redis_server.client() as client:
                return [k for k in range(SHARDS) if client.exists(KEYS.shard(k).stream(""))] == [2]

        await wait_until_async(others_empty, DEADLINE, "the other shards are empty")
        await put(redis_server.url, 400, version=2)
        await wait_until_async(others_empty, DEADLINE, "the other shards go on")
        assert list(alarms) == [name]
    with redis_server.client() as client:
        first: Any = client.xrange(stream, count=1)
        assert first[0][1][b"v"] == b"99"


async def test_draining_to_empty_says_why_it_cannot(redis_server: RealServer) -> None:
    """With nothing left but a lane that stopped it ends with an error that names the shard."""
    await put(redis_server.url, 50)
    with redis_server.client() as client:
        client.xadd(KEYS.shard(1).stream(""), {"v": "99", "op": "upsert"})
        client.hincrby(KEYS.shard(1).books, "enqueued", 1)
        client.hincrby(KEYS.shard(1).books, "pending", 1)
    async with Emulator() as emulator, working(redis_server, emulator, until_empty=True) as worker:
        with pytest.raises(WorldError, match=r"shard 1.*99"):
            await worker.end()
        assert emulator.plane.count() == 50


@pytest.mark.parametrize("kind", available_kinds(), ids=lambda kind: kind.id)
async def test_a_full_server_drains_to_empty(kind: ServerKind, make_server: Callable[..., RealServer]) -> None:
    """Out of memory from before the worker's start to the end: everything lands, and the books balance."""
    server = make_server(kind)
    await put(server.url, 500)
    with server.client() as client:
        client.config_set("maxmemory", 1)
    started = time.monotonic()
    async with Emulator() as emulator, working(server, emulator, until_empty=True) as worker:
        tally = await worker.end()
        assert all_landed(emulator, 500)
    assert tally.acked == 500
    assert time.monotonic() - started < 5, "a heartbeat that cannot be written must not slow it down"
    assert await books(server) == Books(enqueued=500, acked=500)


async def test_a_server_that_lost_its_data_ends_a_worker_that_says_so(make_server: Callable[..., RealServer]) -> None:
    """Restarted without a file, it has no queue: what was pending is gone, and no worker takes that for the end."""
    server = make_server(appendonly="no")
    await put(server.url, 50)
    async with Emulator() as emulator, working(server, emulator) as worker:
        await wait_until_async(lambda: emulator.plane.count() == 50, DEADLINE, "the first ones landed")
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        with pytest.raises(QueueLost, match="'q'"):
            await worker.end()


async def test_answers_that_break_off_are_sent_again_in_order(redis_server: RealServer) -> None:
    """Resets, truncated answers and 503s in one tenth of the requests each; three versions of every id."""
    for version in range(3):
        await put(redis_server.url, 300, version)
    faults = "seed=3,reset=after;rate=0.1,truncate;rate=0.1,error=503:0.1"
    async with (
        Emulator(faults=faults, journal=True) as emulator,
        working(redis_server, emulator, until_empty=True, quarantine=0.2) as worker,
    ):
        tally = await worker.end()
        assert all_landed(emulator, 300, version=2)
        assert emulator.counters.overlaps == 0
        journal = emulator.plane.journal
        assert journal is not None
        for n in range(300):
            versions = [entry.version for entry in journal.versions("", f"id{n}")]
            assert versions == sorted(versions)
    assert tally.acked + tally.superseded == 900
    found = await books(redis_server)
    assert (found.enqueued, found.pending, found.dead) == (900, 0, 0)


def rid_of_pending(client: Any, shards: list[int]) -> bool:
    """Whether nothing is pending in these shards."""
    return not any(int(client.hget(KEYS.shard(shard).books, "pending") or 0) for shard in shards)


@pytest.mark.parametrize("key", ["lanes", "bell", "lease", "dead", "dead_ids"])
async def test_a_damaged_shard_stops_alone_until_it_is_mended(redis_server: RealServer, key: str) -> None:
    """A key of it is a list: the other shards land; when the key is put back the shard does, too."""
    count, name = 40, getattr(KEYS.shard(1), key)
    others = [shard for shard in range(SHARDS) if shard != 1]
    told: list[Event] = []
    async with Emulator() as emulator:
        await put(redis_server.url, count)
        with redis_server.client() as client:
            there = client.exists(name)
            if there:
                client.rename(name, "aside")
            client.rpush(name, "mine")
            async with working(redis_server, emulator) as running:
                running.worker.context.events.listen(
                    lambda event, fields: told.append(event) if fields.get("shard") == 1 else None
                )
                await wait_until_async(lambda: rid_of_pending(client, others), DEADLINE, "the others are drained")
                await wait_until_async(
                    lambda: "shard 1" in running.worker.report()["alarms"], DEADLINE, "there is an alarm"
                )
                assert Event.SHARD_DAMAGED in told
                client.delete(name)
                if there:
                    client.rename("aside", name)
                await wait_until_async(
                    lambda: "shard 1" not in running.worker.report()["alarms"], DEADLINE, "the alarm is over"
                )
                await wait_until_async(lambda: rid_of_pending(client, [1]), DEADLINE, "the shard is drained")
                assert told.count(Event.SHARD_DAMAGED) == told.count(Event.SHARD_MENDED)
        assert all_landed(emulator, count)
    assert (await books(redis_server)).acked == count
