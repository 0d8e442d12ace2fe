"""What a worker may rely on of its queue: the same on every server, and with a server that is out of memory."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis

from servers import available_kinds
from upsertq.admin.audit import audit
from upsertq.client.async_producer import AsyncProducer
from upsertq.contract.books import Books
from upsertq.contract.dead_letter import Reason, Verdict
from upsertq.contract.errors import QueueFull, ServerUnavailable
from upsertq.contract.keys import CONSUMER, GROUP, QueueKeys
from upsertq.contract.protocol import Patience
from upsertq.contract.queue import QueueShape
from upsertq.contract.server import AsyncServer
from upsertq.contract.wire import decode, one_record
from upsertq_worker.ordering.model import Grave, Settlement
from upsertq_worker.queue.protocols import NEW
from upsertq_worker.queue.redis_queue import RedisQueue
from waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Backend
    from servers import RealServer, ServerKind
    from upsertq_worker.queue.protocols import Delivery

SHARDS = 2
LEASE = 30.0
KEYS = QueueKeys("q")


class Bench:
    """A queue on one server, and workers who use it."""

    def __init__(self, server: AsyncServer, sync: redis.Redis) -> None:
        self.server = server
        self.sync = sync

    def worker(self, name: str = "me", lease: float = LEASE) -> RedisQueue:
        """The queue as a worker sees it."""
        return RedisQueue(self.server, QueueShape("q", SHARDS, None), name, lease)

    async def put(self, ids: list[str], run: str = "") -> None:
        """Enqueue a record for each id, one entry a call and shard."""
        producer = AsyncProducer("q", url=self.server, shards=SHARDS, timeout=0)
        await producer.put_many(ids, np.ones((len(ids), 2), np.float32), run=run)
        await producer.flush()

    def expire(self, shard: int) -> None:
        """Let a lease run out."""
        self.sync.delete(KEYS.shard(shard).lease)

    def shard_books(self, shard: int, run: str = "") -> dict[str, int]:
        """The counters of a shard, or of a run in it, without the zeros."""
        keys = KEYS.shard(shard)
        told: Any = self.sync.hgetall(keys.run(run) if run else keys.books)
        return {name.decode(): int(value) for name, value in told.items() if int(value) and name != b"epoch"}

    async def drifts(self) -> tuple[Any, ...]:
        """What the audit finds wrong."""
        shape = QueueShape("q", SHARDS, None)
        return (await self.server.hold(audit(KEYS, shape, Patience(0, time.monotonic, random.Random(1))))).drifts


@pytest.fixture
async def bench(backend: Backend) -> Bench:
    """Provide an empty queue on every backend."""
    return Bench(AsyncServer(backend.make_async()), backend.sync)


def settlement(delivery: Delivery, run: str = "", *, superseded: int = 0, dead: int = 0) -> Settlement:
    """The settling of a whole entry, acknowledged but for what is said."""
    assert delivery.fields is not None
    entry = decode(delivery.fields)
    n = len(entry.ids)
    acked = n - superseded - dead
    graves = tuple(
        Grave(row, one_record(entry, row, f"{delivery.stream_id}-{row}"), Verdict(Reason.REFUSED))
        for row in range(dead)
    )
    return Settlement(
        delivery.shard, delivery.stream_id, run, n, entry.size, acked, superseded, delivery.stream_id, graves
    )


async def read_all(worker: RedisQueue, cursor: str = NEW) -> list[Delivery]:
    """One read of both shards."""
    return await worker.read(dict.fromkeys(range(SHARDS), cursor), 100, 0.01)


async def test_a_free_lease_is_taken_prolonged_and_respected(bench: Bench) -> None:
    """The first worker gets epoch 1 of every shard and keeps it; another one is told who has it."""
    first, second = bench.worker("first"), bench.worker("second")
    grants = await first.lease({0: 0, 1: 0}, take=True)
    assert [(grant.shard, grant.epoch) for grant in grants] == [(0, 1), (1, 1)]
    bench.sync.pexpire(KEYS.shard(0).lease, 5_000)
    grants = await first.lease({0: 1, 1: 1}, take=True)
    assert [grant.epoch for grant in grants] == [1, 1]
    assert int(bench.sync.pttl(KEYS.shard(0).lease)) > 20_000
    grants = await second.lease({0: 0, 1: 0}, take=True)
    assert [(grant.epoch, grant.holder) for grant in grants] == [(0, "first"), (0, "first")]


async def test_prolonging_takes_nothing(bench: Bench) -> None:
    """Without `take` a lease that is gone stays gone."""
    worker = bench.worker()
    await worker.lease({0: 0}, take=True)
    bench.expire(0)
    (grant, other) = await worker.lease({0: 1, 1: 0}, take=False)
    assert (grant.epoch, grant.holder, other.epoch) == (0, "", 0)
    assert bench.sync.exists(KEYS.shard(0).lease) == 0


async def test_a_lease_expires_by_itself(bench: Bench) -> None:
    """A worker that says nothing loses its shard after the lease's life."""
    await bench.worker("dead", lease=0.05).lease({0: 0}, take=True)
    heir = bench.worker("heir")

    async def taken() -> int:
        return (await heir.lease({0: 0}, take=True))[0].epoch

    assert await wait_until_async(taken, 5, "the lease is free") == 2


async def test_an_epoch_grows_with_every_holder_and_returns_only_to_its_own(bench: Bench) -> None:
    """Who lost a lease unnoticed gets the same epoch again if nobody came between, else a new one."""
    first, second = bench.worker("first"), bench.worker("second")
    assert (await first.lease({0: 0}, take=True))[0].epoch == 1
    bench.expire(0)
    assert (await first.lease({0: 1}, take=True))[0].epoch == 1
    bench.expire(0)
    assert (await second.lease({0: 0}, take=True))[0].epoch == 2
    bench.expire(0)
    assert (await first.lease({0: 1}, take=True))[0].epoch == 3
    bench.expire(0)
    assert (await second.lease({0: 2}, take=True))[0].epoch == 4


async def test_a_lease_is_given_up_now_or_later(bench: Bench) -> None:
    """At once, or kept for the quarantine; never somebody else's."""
    worker, other = bench.worker("me:with:colons"), bench.worker("other")
    await worker.lease({0: 0, 1: 0}, take=True)
    await other.release({0: 1, 1: 1}, {})
    assert [grant.holder for grant in await other.lease({0: 0, 1: 0}, take=True)] == ["me:with:colons"] * 2
    await worker.release({0: 1, 1: 1}, {1: 2.0})
    free, kept = await other.lease({0: 0, 1: 0}, take=True)
    assert (free.epoch, kept.epoch) == (2, 0)
    assert 0 < int(bench.sync.pttl(KEYS.shard(1).lease)) <= 2_000


async def test_the_group_is_made_with_the_lease_and_misses_nothing(bench: Bench) -> None:
    """Entries enqueued before any worker came are read; a second holder's lease keeps the group's place."""
    await bench.put(["a", "b", "c", "d"])
    worker = bench.worker()
    await worker.lease({0: 0, 1: 0}, take=True)
    found = await read_all(worker)
    assert sorted(i for one in found if one.fields is not None for i in decode(one.fields).ids) == ["a", "b", "c", "d"]
    bench.expire(0)
    await bench.worker("other").lease({0: 0}, take=True)
    assert await bench.worker("other").read({0: NEW}, 10, 0.01) == []


async def test_a_group_that_is_gone_is_made_again(bench: Bench, backend: Backend) -> None:
    """A stream that was deleted under a worker is no reason to die: the next round of leases makes it anew."""
    if backend.server is None:
        pytest.skip("fakeredis words this error as no server does")
    worker = bench.worker()
    await worker.lease({0: 0, 1: 0}, take=True)
    bench.sync.delete(KEYS.shard(0).stream)
    with pytest.raises(ServerUnavailable, match="group"):
        await worker.read({0: NEW}, 10, 0.01)
    assert (await worker.lease({0: 1, 1: 1}, take=True))[0].epoch == 1
    assert await worker.read({0: NEW}, 10, 0.01) == []


async def test_own_pending_entries_come_first_and_in_order(bench: Bench) -> None:
    """A new holder finds what the old one had read, in the order of the stream and page by page, then what is new."""
    worker, heir = bench.worker("old"), bench.worker("heir")
    await worker.lease({0: 0, 1: 0}, take=True)
    for number in range(5):
        await bench.put([f"a{number}"] * 3)
    read = await read_all(worker)
    for shard in range(SHARDS):
        bench.expire(shard)
    await heir.lease({0: 0, 1: 0}, take=True)
    for shard in range(SHARDS):
        expected = [one.stream_id for one in read if one.shard == shard]
        cursor, found = "0-0", []
        while page := await heir.read({shard: cursor}, 2, 0.01):
            assert len(page) <= 2
            found += [one.stream_id for one in page]
            cursor = page[-1].stream_id
        assert found == expected
    assert await read_all(heir) == []


async def test_the_oldest_pending_entry_behind_a_place(bench: Bench) -> None:
    """It is named for each shard that has one."""
    worker = bench.worker()
    await worker.lease({0: 0, 1: 0}, take=True)
    assert await worker.oldest_pending({0: "0-0", 1: "0-0"}) == {}
    for number in range(3):
        await bench.put([f"x{number}"])
    read = await read_all(worker)
    for shard in {one.shard for one in read}:
        ids = [one.stream_id for one in read if one.shard == shard]
        assert await worker.oldest_pending({shard: "0-0"}) == {shard: ids[0]}
        assert await worker.oldest_pending({shard: ids[-1]}) == {}
        if len(ids) > 1:
            assert await worker.oldest_pending({shard: ids[0]}) == {shard: ids[1]}


async def test_settling_moves_records_into_the_books_once(bench: Bench) -> None:
    """The entry leaves the stream, shard and run count it, and the same call again changes nothing."""
    await bench.put(["a"] * 6, run="r")
    await bench.put(["a"] * 4)
    worker = bench.worker()
    await worker.lease({0: 0, 1: 0}, take=True)
    first, second = await read_all(worker)
    shard = first.shard
    settlements = [settlement(first, "r", superseded=2, dead=1), settlement(second)]
    assert (await worker.backlog([shard]))[shard] == 2
    for _ in range(2):
        assert await worker.settle({shard: 1}, settlements) == frozenset()
        # the dead record's id was acknowledged in a newer version beside it: it is superseded after all
        assert bench.shard_books(shard) == {"enqueued": 10, "acked": 7, "superseded": 3}
        assert bench.shard_books(shard, "r") == {"enqueued": 6, "acked": 3, "superseded": 3}
    assert (await worker.backlog([shard]))[shard] == 0
    assert await worker.books() == Books(enqueued=10, acked=7, superseded=3)
    pending: Any = bench.sync.xpending(KEYS.shard(shard).stream, GROUP)
    assert pending["pending"] == 0


async def test_settling_part_leaves_the_rest(bench: Bench) -> None:
    """The audit finds nothing wrong in between."""
    for number in range(4):
        await bench.put([f"k{number}", f"l{number}"], run="r")
    worker = bench.worker()
    await worker.lease({0: 0, 1: 0}, take=True)
    read = await read_all(worker)
    for delivery in read:
        await worker.settle({0: 1, 1: 1}, [settlement(delivery, "r")])
        assert await bench.drifts() == ()
    assert await worker.books() == Books(enqueued=8, acked=8)


async def test_a_fenced_worker_settles_nothing(bench: Bench) -> None:
    """With a lease that is gone, another's or of another epoch: told so for that shard, the other one is settled."""
    await bench.put([f"{number}" for number in range(20)])
    worker = bench.worker()
    await worker.lease({0: 0, 1: 0}, take=True)
    read = await read_all(worker)
    assert {one.shard for one in read} == {0, 1}
    settlements = [settlement(one) for one in read]
    bench.expire(0)
    before = bench.shard_books(0)
    assert await worker.settle({0: 1, 1: 1}, settlements) == {0}
    assert bench.shard_books(0) == before
    assert "pending" not in bench.shard_books(1)
    await bench.worker("other").lease({0: 0}, take=True)
    assert await worker.settle({0: 1}, [one for one in settlements if one.shard == 0]) == {0}
    assert await bench.worker("other").settle({0: 1}, [one for one in settlements if one.shard == 0]) == {0}
    assert bench.shard_books(0) == before
    assert await bench.worker("other").settle({0: 2}, [one for one in settlements if one.shard == 0]) == frozenset()
    assert "pending" not in bench.shard_books(0)


async def test_many_settlements_go_in_order_by_pages(bench: Bench) -> None:
    """More than one call's worth: all are settled, and with a foreign lease none."""
    producer = AsyncProducer("q", url=bench.server, shards=SHARDS, timeout=0)
    for number in range(450):
        await producer.put(f"id{number}", [1.0])
        await producer.flush()
    worker = bench.worker()
    await worker.lease({0: 0, 1: 0}, take=True)
    settlements = [settlement(one) for one in await worker.read({0: NEW, 1: NEW}, 1000, 0.01)]
    assert len(settlements) == 450
    assert await worker.settle({0: 9, 1: 9}, settlements) == {0, 1}
    assert await worker.settle({0: 1, 1: 1}, settlements) == frozenset()
    assert await worker.books() == Books(enqueued=450, acked=450)


async def test_an_entry_that_is_gone_is_read_as_gone_and_can_be_settled(bench: Bench) -> None:
    """Somebody deleted it from the stream: its mark as pending goes, and the books keep the drift to be seen."""
    await bench.put(["a"])
    await bench.put(["a"])
    worker = bench.worker()
    await worker.lease({0: 0, 1: 0}, take=True)
    first, second = await read_all(worker)
    bench.sync.xdel(KEYS.shard(first.shard).stream, first.stream_id)
    again = await worker.read({first.shard: "0-0"}, 10, 0.01)
    assert [(one.stream_id, one.fields is None) for one in again] == [
        (first.stream_id, True),
        (second.stream_id, False),
    ]
    gone = Settlement(first.shard, first.stream_id, "", 0, 0, 0, 0)
    assert await worker.settle({first.shard: 1}, [gone, settlement(second)]) == frozenset()
    assert await worker.read({first.shard: "0-0"}, 10, 0.01) == []
    assert bench.shard_books(first.shard)["pending"] == 1
    assert await bench.drifts() != ()


async def test_heartbeats_come_and_go(bench: Bench) -> None:
    """The latest one of each worker, until it leaves."""
    worker = bench.worker("w1")
    await worker.beat({"at": 1})
    await worker.beat({"at": 2})
    assert bench.sync.hgetall(KEYS.workers) == {b"w1": b'{"at":2}'}
    await worker.leave()
    assert bench.sync.exists(KEYS.workers) == 0


@pytest.mark.parametrize("kind", available_kinds(), ids=lambda kind: kind.id)
async def test_a_full_server_can_be_drained(kind: ServerKind, make_server: Callable[..., RealServer]) -> None:
    """Out of memory, a new worker takes leases, reads and settles to the end; only its heartbeat has to wait."""
    server = make_server(kind)
    with server.client() as sync:
        connection = AsyncServer.at(server.url)
        bench = Bench(connection, sync)
        for number in range(12):
            await bench.put([f"{number}-{i}" for i in range(25)], run="r")
        sync.config_set("maxmemory", 1)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            sync.set("x", "y")
        with pytest.raises((QueueFull, ServerUnavailable)):
            await bench.put(["more"])
        worker = bench.worker()
        assert [grant.epoch for grant in await worker.lease({0: 0, 1: 0}, take=True)] == [1, 1]
        assert [grant.epoch for grant in await worker.lease({0: 1, 1: 1}, take=True)] == [1, 1]
        with pytest.raises(ServerUnavailable, match=r"OOM|memory"):
            await worker.beat({"at": 1})
        read = await read_all(worker)
        assert await read_all(worker, "0-0") == read
        assert await worker.settle({0: 1, 1: 1}, [settlement(one, "r") for one in read]) == frozenset()
        assert await worker.books() == Books(enqueued=300, acked=300)
        assert await bench.drifts() == ()
        await worker.leave()
        await worker.release({0: 1, 1: 1}, {})
        await connection.close()


async def test_a_former_holders_name_is_not_enough(bench: Bench) -> None:
    """All holders read as the one consumer of the group, so nothing is left behind in another's name."""
    await bench.put(["a"])
    worker = bench.worker("one")
    await worker.lease({0: 0, 1: 0}, take=True)
    (delivery,) = await read_all(worker)
    told: Any = bench.sync.xpending_range(KEYS.shard(delivery.shard).stream, GROUP, "-", "+", 10)
    assert [one["consumer"] for one in told] == [CONSUMER.encode()]
