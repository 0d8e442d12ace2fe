"""What a worker may rely on of its queue: the same on every server, and with a server that is out of memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import pytest
import redis

from servers import available_kinds
from upsertq.client.async_producer import AsyncProducer
from upsertq.contract.books import Books
from upsertq.contract.errors import QueueFull, QueueLost, ServerUnavailable
from upsertq.contract.pauses import QUEUE, Paused, by_hand, note, scope_of
from upsertq.contract.server import AsyncServer
from upsertq_worker.queue.protocols import START, Settled, ShardsDamaged
from waiting import wait_until_async
from worker_bench import KEYS, OURS, SHARDS, Bench, read_all, settle_all, settlement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from conftest import Backend
    from servers import RealServer, ServerKind

NO_ANSWER: Final = "fakeredis raises an error of its own where XREAD meets another type"


@pytest.fixture
async def bench(backend: Backend) -> Bench:
    """Provide an empty queue on every backend."""
    return await Bench.on(AsyncServer(backend.make_async()), backend.sync)


# leases


async def test_a_free_lease_is_taken_prolonged_and_respected(bench: Bench) -> None:
    """The first worker gets epoch 1 of every shard and keeps it; another one is told which worker has it."""
    first, second = bench.worker("first"), bench.worker("second")
    grants = await first.lease({0: 0, 1: 0}, take=True)
    assert [(one.shard, one.epoch, one.clean, one.deaths) for one in grants] == [(0, 1, True, 0), (1, 1, True, 0)]
    bench.sync.pexpire(KEYS.shard(0).lease, 5_000)
    grants = await first.lease(OURS, take=True)
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
    """A worker that says nothing loses its shard after the lease's life, and that counts as a death."""
    await bench.worker("dead", lease=0.05).lease({0: 0}, take=True)
    heir = bench.worker("heir")

    async def taken() -> bool:
        (grant,) = await heir.lease({0: 0}, take=True)
        return (grant.epoch, grant.clean, grant.deaths) == (2, False, 1)

    assert await wait_until_async(taken, 30, "the lease is free")


async def test_an_epoch_grows_with_every_holder_and_returns_only_to_its_own(bench: Bench) -> None:
    """What lost a lease unnoticed gets the same epoch again if no other came between, else none before it asks anew."""
    first, second = bench.worker("first"), bench.worker("second")
    told = []
    asked = (first, 0), (first, 1), (second, 0), (first, 1), (first, 0), (second, 2), (second, 0)
    for worker, believed in asked:
        (grant,) = await worker.lease({0: believed}, take=True)
        told.append((grant.epoch, grant.deaths))
        bench.expire(0)
    assert told == [(1, 0), (1, 0), (2, 1), (0, 0), (3, 2), (0, 0), (4, 3)]


async def test_a_takeover_knows_what_stood_there(bench: Bench) -> None:
    """The clock is the last sequence given, whatever was settled since."""
    await bench.put(["a", "b", "c", "d"])
    worker = bench.worker()
    grants = {grant.shard: grant for grant in await worker.lease({0: 0, 1: 0}, take=True)}
    read = await read_all(worker)
    assert {one.shard: one.stream_id for one in read} == {shard: grant.clock for shard, grant in grants.items()}
    assert await settle_all(worker, OURS, [settlement(one) for one in read]) == frozenset()
    bench.expire(0, 1)
    assert [grant.clock for grant in await worker.lease({0: 0, 1: 0}, take=True)] == [grants[0].clock, grants[1].clock]


async def test_a_lease_is_given_up_now_or_later(bench: Bench) -> None:
    """At once, or kept for the quarantine; clean either way; never another worker's."""
    worker, other = bench.worker("me:with:colons"), bench.worker("other")
    await worker.lease({0: 0, 1: 0}, take=True)
    await other.release(OURS, {})
    assert [grant.holder for grant in await other.lease({0: 0, 1: 0}, take=True)] == ["me:with:colons"] * 2
    await worker.release(OURS, {1: 2.0})
    free, kept = await other.lease({0: 0, 1: 0}, take=True)
    assert (free.epoch, free.clean, kept.epoch) == (2, True, 0)
    assert 0 < int(bench.sync.pttl(KEYS.shard(1).lease)) <= 2_000
    bench.expire(1)
    (kept,) = await other.lease({1: 0}, take=True)
    assert (kept.epoch, kept.clean, kept.deaths) == (2, True, 0)


# reading


async def test_lanes_are_listed_and_rung(bench: Bench) -> None:
    """What stood there is listed; what enters later rings, once while its stream is there."""
    await bench.put(["a"], namespace="first")
    (shard,) = (one for one in range(SHARDS) if bench.shard_books(one))
    worker = await bench.holder()
    lanes = await worker.lanes([0, 1])
    assert (lanes[shard].namespaces, lanes[1 - shard].namespaces) == (["first"], [])
    bells = {one: lanes[one].place for one in range(SHARDS)}
    for _ in range(2):
        await bench.put([f"{number}" for number in range(20)], namespace="other")
    await bench.put(["a"], namespace="first")
    read = await worker.read({(shard, "first"): START}, bells, 10, 0.01)
    assert {(ring.shard, ring.namespace) for ring in read.rings} == {(0, "other"), (1, "other")}
    assert len(read.rings) == 2
    assert len(read.deliveries) == 2
    again = await worker.read({}, {ring.shard: ring.place for ring in read.rings}, 10, 0.01)
    assert (again.rings, again.deliveries) == ([], [])


async def test_reading_has_no_side_effect(bench: Bench) -> None:
    """Page by page from a cursor, in the order of the stream; another worker reads the same from the start."""
    worker = await bench.holder()
    for number in range(5):
        await bench.put([f"a{number}"] * 3)
    before = bench.everything()
    read = await read_all(worker)
    for stream in {(one.shard, one.namespace) for one in read}:
        expected = [one.stream_id for one in read if one.shard == stream[0]]
        cursor, found = START, []
        while page := (await bench.worker("heir").read({stream: cursor}, {}, 2, 0.01)).deliveries:
            assert len(page) <= 2
            found += [one.stream_id for one in page]
            cursor = page[-1].stream_id
        assert found == expected
    assert bench.everything() == before


async def test_a_read_waits_for_what_comes(bench: Bench) -> None:
    """A bell that rings ends the wait."""
    worker = await bench.holder()
    begun = time.monotonic()
    assert (await worker.read({}, {0: START, 1: START}, 10, 0.05)).rings == []
    assert time.monotonic() - begun >= 0.04
    await bench.put(["a"])
    assert len((await worker.read({}, {0: START, 1: START}, 10, 10.0)).rings) == 1


async def test_a_foreign_entry_in_a_bell_ends_one_wait_only(bench: Bench) -> None:
    """It names no lane, and its place is passed: else each read would find it again at once, and none would wait."""
    worker = await bench.holder()
    bench.sync.xadd(KEYS.shard(0).bell, {"other": "field"})
    (ring,) = (await worker.read({}, {0: START}, 10, 0.01)).rings
    assert ring.namespace is None
    assert (await worker.read({}, {0: ring.place}, 10, 0.01)).rings == []


async def test_a_stream_that_is_none_is_named(bench: Bench, backend: Backend) -> None:
    """It is told which one it is, and the others can be read without it."""
    if backend.server is None:
        pytest.skip(NO_ANSWER)
    await bench.put(["a"], namespace="good")
    (shard,) = (one for one in range(SHARDS) if bench.shard_books(one))
    bench.sync.set(KEYS.shard(shard).stream("bad"), "mine")
    worker = await bench.holder()
    good, bad = (shard, "good"), (shard, "bad")
    read = await worker.read({good: START, bad: START}, {shard: START}, 10, 0.01)
    assert not read.deliveries
    assert list(read.faults) == [bad]
    assert "is no stream" in read.faults[bad]
    assert len((await worker.read({good: START}, {shard: START}, 10, 0.01)).deliveries) == 1


@pytest.mark.parametrize("key", ["bell", "lanes"])
async def test_a_damaged_shard_is_named(bench: Bench, backend: Backend, key: str) -> None:
    """Its bell or its lanes are of a foreign type: the shard is named, and what to do."""
    worker = await bench.holder()
    bench.sync.delete(getattr(KEYS.shard(1), key))
    bench.sync.set(getattr(KEYS.shard(1), key), "mine")
    with pytest.raises(ShardsDamaged, match="RENAME it") as raised:
        await worker.lanes([0, 1])
    assert list(raised.value.faults) == [1]
    if key == "bell" and backend.server is not None:
        with pytest.raises(ShardsDamaged, match="RENAME it") as raised:
            await worker.read({}, {0: START, 1: START}, 10, 0.01)
        assert list(raised.value.faults) == [1]


async def test_a_damaged_shard_cannot_be_held_and_the_others_can(bench: Bench) -> None:
    """A grant says why, until it is mended."""
    worker = bench.worker()
    bench.sync.hset(KEYS.shard(0).books, "epoch", "abc")
    grants = {grant.shard: grant for grant in await worker.lease({0: 0, 1: 0}, take=True)}
    assert (grants[0].epoch, grants[1].epoch) == (0, 1)
    assert "holds as epoch" in grants[0].fault
    bench.sync.hset(KEYS.shard(0).books, "epoch", "7")
    grants = {grant.shard: grant for grant in await worker.lease({0: 0, 1: 1}, take=True)}
    assert (grants[0].epoch, grants[0].fault) == (8, "")


# settling


async def test_settling_moves_records_into_the_books_once(bench: Bench) -> None:
    """The entry leaves its stream, shard and run count it, and the same call again changes nothing."""
    await bench.put(["a"] * 6, run="r")
    await bench.put(["a"] * 4)
    worker = await bench.holder()
    first, second = await read_all(worker)
    shard = first.shard
    keys = KEYS.shard(shard)
    assert bench.sync.xlen(keys.stream("")) == 2
    settlements = [settlement(first, superseded=2, dead=1), settlement(second)]
    for number in range(2):
        came_of_it = await worker.settle({shard: 1}, settlements)
        assert came_of_it == Settled(frozenset(), {(shard, ""): second.stream_id}), number
        # the dead record's id was acknowledged in a newer version beside it: it is superseded after all
        assert bench.shard_books(shard) == {"enqueued": 10, "acked": 7, "superseded": 3}
        assert bench.shard_books(shard, "r") == {"enqueued": 6, "acked": 3, "superseded": 3}
    assert not bench.sync.exists(keys.stream(""), keys.lanes)
    assert await worker.books() == Books(enqueued=10, acked=7, superseded=3)


async def test_settling_part_leaves_the_rest(bench: Bench) -> None:
    """The audit finds nothing wrong in between."""
    for number in range(4):
        await bench.put([f"k{number}", f"l{number}"], run="r", namespace=f"n{number % 2}")
    worker = await bench.holder()
    for delivery in await read_all(worker):
        assert await settle_all(worker, OURS, [settlement(delivery)]) == frozenset()
        assert await bench.drifts() == ()
    assert await worker.books() == Books(enqueued=8, acked=8)


async def test_a_fenced_worker_settles_nothing(bench: Bench) -> None:
    """With a lease that is gone, another's or of another epoch: told so for that shard, the other one is settled."""
    await bench.put([f"{number}" for number in range(20)])
    worker, other = await bench.holder(), bench.worker("other")
    read = await read_all(worker)
    assert {one.shard for one in read} == {0, 1}
    settlements = [settlement(one) for one in read]
    of_first = [one for one in settlements if one.settlement.shard == 0]
    bench.expire(0)
    before = bench.shard_books(0)
    assert await settle_all(worker, OURS, settlements) == {0}
    assert bench.shard_books(0) == before
    assert "pending" not in bench.shard_books(1)
    await other.lease({0: 0}, take=True)
    assert await settle_all(worker, {0: 1}, of_first) == {0}
    assert await settle_all(other, {0: 1}, of_first) == {0}
    assert bench.shard_books(0) == before
    assert await settle_all(other, {0: 2}, of_first) == frozenset()
    assert "pending" not in bench.shard_books(0)


async def test_nothing_is_settled_where_the_server_lost_settlements(bench: Bench) -> None:
    """What it has again may be older than what is settled now. A new holder, which reads all of it, may go on."""
    worker, heir = await bench.holder(), bench.worker("heir")
    for first in (0, 20):
        await bench.put([f"{number}" for number in range(first, first + 20)])
    one, two = (settlement(read) for read in await read_all(worker) if read.shard == 0)
    names = KEYS.shard(0).stream(""), KEYS.shard(0).books
    replica: list[Any] = [bench.sync.dump(name) for name in names]
    assert await settle_all(worker, OURS, [one]) == frozenset()
    for name, kept in zip(names, replica, strict=True):
        bench.sync.restore(name, 0, kept, replace=True)
    assert await settle_all(worker, OURS, [two]) == {0}
    assert bench.sync.xlen(KEYS.shard(0).stream("")) == len([one, two])
    # nor is the lease prolonged, whether it stands or has run out unnoticed: there may be no other settlement to tell
    assert [grant.epoch for grant in await worker.lease(OURS, take=True)] == [0, 1]
    bench.expire(0)
    assert [grant.epoch for grant in await worker.lease({0: 1}, take=True)] == [0]
    await heir.lease({0: 0}, take=True)
    assert await settle_all(heir, {0: 2}, [one, two]) == frozenset()
    assert await bench.drifts() == ()


async def test_a_damaged_shard_settles_nothing_and_the_others_all(bench: Bench) -> None:
    """What is damaged is told by shard; mended, the same settlements are carried out."""
    await bench.put([f"{number}" for number in range(20)])
    worker = await bench.holder()
    settlements = [settlement(one) for one in await read_all(worker)]
    right: Any = bench.sync.hget(KEYS.shard(0).books, "pending")
    bench.sync.hset(KEYS.shard(0).books, "pending", "many")
    came_of_it = await worker.settle(OURS, settlements)
    assert list(came_of_it.faults) == [0]
    assert "holds as pending what is no counter" in came_of_it.faults[0]
    assert bench.sync.xlen(KEYS.shard(0).stream("")) == 1
    assert "pending" not in bench.shard_books(1)
    bench.sync.hset(KEYS.shard(0).books, "pending", right)
    assert await settle_all(worker, OURS, settlements) == frozenset()
    assert await worker.books() == Books(enqueued=20, acked=20)


async def test_many_settlements_go_in_order_by_pages(bench: Bench) -> None:
    """More than one call's worth: all are settled, and with a foreign lease none."""
    producer = AsyncProducer("q", url=bench.server, shards=SHARDS, timeout=0)
    for number in range(450):
        await producer.put(f"id{number}", [1.0], namespace=f"n{number % 3}")
        await producer.flush()
    worker = await bench.holder()
    settlements = [settlement(one) for one in await read_all(worker)]
    assert len(settlements) == 450
    assert await settle_all(worker, {0: 9, 1: 9}, settlements) == {0, 1}
    came_of_it = await worker.settle(OURS, settlements)
    assert came_of_it.foreign == frozenset()
    assert set(came_of_it.emptied or {}) == {(shard, f"n{number}") for shard in range(SHARDS) for number in range(3)}
    assert await worker.books() == Books(enqueued=450, acked=450)


async def test_an_entry_that_is_gone_is_not_counted(bench: Bench) -> None:
    """It was deleted from its stream: settling it counts nothing, and the audit sees the drift."""
    await bench.put(["a"])
    await bench.put(["a"])
    worker = await bench.holder()
    first, second = await read_all(worker)
    bench.sync.xdel(KEYS.shard(first.shard).stream(""), first.stream_id)
    assert await settle_all(worker, OURS, [settlement(first, dead=1), settlement(second)]) == frozenset()
    left = bench.shard_books(first.shard)
    assert (left["enqueued"], left["acked"], left["pending"]) == (2, 1, 1)
    assert not bench.sync.exists(KEYS.shard(first.shard).dead)
    assert await bench.drifts() != ()


async def test_another_creation_of_the_queue_is_refused(bench: Bench) -> None:
    """Every call on a shard says that the queue is lost, and changes nothing."""
    await bench.put(["a"])
    worker = await bench.holder()
    read = await read_all(worker)
    bench.sync.hset(KEYS.shard(read[0].shard).books, "incarnation", "other")
    before = bench.everything()
    shard = read[0].shard
    for call in (
        worker.lease(OURS, take=True),
        worker.release(OURS, {}),
        worker.mark(OURS, {shard: "x"}),
        worker.settle(OURS, [settlement(read[0])]),
        worker.books(),
    ):
        with pytest.raises(QueueLost, match=f"shard {shard} is gone, or of another creation"):
            await call
    after = bench.everything()
    assert {key: value for key, value in after.items() if f":{shard}}}".encode() in key} == {
        key: value for key, value in before.items() if f":{shard}}}".encode() in key
    }


async def test_a_pause_by_hand_of_this_very_moment_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator pauses what the service had paused, just when a worker notes that the service takes it again."""
    worker = bench.worker()
    hand = note(by_hand("until noon", 2.0, "ana"))
    await worker.note({QUEUE: Paused("quota", "the month's limit", 1.0, "me")})
    ask = worker._calls.ask

    async def crossed(*commands: Sequence[Any]) -> list[Any]:
        replies = await ask(*commands)
        if commands[0][0] == "HGETALL":
            bench.sync.hset(KEYS.paused, QUEUE, hand)
        return replies

    monkeypatch.setattr(worker._calls, "ask", crossed)
    await worker.note({QUEUE: None})
    assert bench.sync.hget(KEYS.paused, QUEUE) == hand


async def test_a_pause_that_ended_is_noted_no_more(bench: Bench) -> None:
    """The first word of why a scope is paused stays until then; one by hand stays in any case."""
    worker, scopes = bench.worker(), [QUEUE, scope_of("a"), scope_of("b")]
    bench.sync.hset(KEYS.paused, scope_of("b"), note(by_hand("", 1.0, "ana")))
    await worker.note({scope: Paused("quota", scope, 1.0, "me") for scope in scopes})
    await worker.note({scope: Paused("quota", "again", 2.0, "me") for scope in scopes})
    assert [(await worker.pauses())[scope].message for scope in scopes] == [*scopes[:2], "paused by hand"]
    await worker.note(dict.fromkeys([*scopes, scope_of("never paused")]))
    assert list(await worker.pauses()) == scopes[2:]


async def test_heartbeats_come_and_go(bench: Bench) -> None:
    """The latest one of each worker, dated by the server, until it leaves."""
    worker = bench.worker("w1")
    await worker.beat({"at": 1, "posted": 1})
    beats = await worker.beat({"at": 2, "posted": 2})
    assert [(one.name, one.gone, one.posted) for one in beats.workers] == [("w1", False, 2)]
    assert beats.workers[0].age < 30
    told: Any = bench.sync.hgetall(KEYS.workers)
    assert list(told) == [b"w1"]
    assert b'"posted":2' in told[b"w1"]
    assert b'"at":2,' not in told[b"w1"]
    await worker.leave()
    assert bench.sync.exists(KEYS.workers) == 0


@pytest.mark.parametrize("kind", available_kinds(), ids=lambda kind: kind.id)
async def test_a_full_server_can_be_drained(kind: ServerKind, make_server: Callable[..., RealServer]) -> None:
    """Out of memory, a new worker takes leases, reads and settles to the end; only its heartbeat has to wait."""
    server = make_server(kind)
    with server.client() as sync:
        connection = AsyncServer.at(server.url)
        bench = await Bench.on(connection, sync)
        for number in range(12):
            await bench.put([f"{number}-{i}" for i in range(25)], run="r", namespace=f"n{number % 3}")
        sync.config_set("maxmemory", 1)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            sync.set("x", "y")
        with pytest.raises((QueueFull, ServerUnavailable)):
            await bench.put(["more"])
        worker = bench.worker()
        for believed in ({0: 0, 1: 0}, OURS):
            assert [grant.epoch for grant in await worker.lease(believed, take=True)] == [1, 1]
        beats = await worker.beat({"at": 1})
        assert (list(beats.workers), "memory" in beats.unwritten) == ([], True)
        read = await read_all(worker)
        assert await worker.mark(OURS, {0: "x", 1: "y"}, 0) == frozenset()
        assert await settle_all(worker, OURS, [settlement(one, dead=1) for one in read]) == frozenset()
        assert await worker.books() == Books(enqueued=300, acked=300 - len(read), dead=len(read))
        assert await bench.drifts() == ()
        await worker.leave()
        await worker.release(OURS, {})
        await connection.close()


async def test_the_holders_of_shards_are_seen(bench: Bench) -> None:
    """The worker's name, whatever is in it; "" where a lease is free, or is none."""
    await bench.worker("me:with:colons").lease({0: 0}, take=True)
    other = bench.worker("other")
    assert await other.holders([0, 1]) == {0: "me:with:colons", 1: ""}
    bench.sync.rpush(KEYS.shard(1).lease, "mine")
    assert await other.holders([0, 1]) == {0: "me:with:colons", 1: ""}
