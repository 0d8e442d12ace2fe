"""A drained queue gets twice its shards on every server: in one step, with its books, runs and loads as they were."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest

import buried
import drained
from drained import no_patience, patience, shape_of
from interrupted import Beset, Halted, no_sleep, snapshot
from upsertq import (
    AsyncServer,
    Limits,
    NotFound,
    Producer,
    QueueInUse,
    QueueLost,
    QueueReopened,
    Server,
    ServerUnavailable,
    UsageError,
    WorldError,
)
from upsertq.admin.reshard import reshard
from upsertq.client.producer_core import Intake
from upsertq.client.resume import Attempt, read_ledger, remember
from upsertq.contract import closing, queue, runs
from upsertq.contract.circumstances import Circumstances
from upsertq.contract.keys import MAX_SHARDS, QueueKeys, shard_of
from upsertq.contract.record import make_record
from upsertq_worker.queue.redis_queue import RedisQueue

if TYPE_CHECKING:
    import redis

    from conftest import Backend
    from upsertq.contract.protocol import Conversation

KEYS: Final = QueueKeys("q")
SHARDS: Final = 4
LEDGER: Final = "t"
IDS: Final = [f"id-{number}" for number in range(30)]
STEPS: Final = range(13)
"""Round trips of a reshard of which the server knows no script yet."""


def doubled() -> Conversation[int]:
    """The reshard of the queue."""
    return reshard(KEYS, 2 * SHARDS, patience)


def filled(client: redis.Redis) -> Server:
    """A drained queue with two runs, anew."""
    client.flushall()
    server = Server(client)
    drained.put(server, "q", IDS, run="first", shards=SHARDS)
    drained.drain(client, "q")
    drained.put(server, "q", IDS[:10], run="second")
    drained.drain(client, "q")
    return server


def assert_whole(client: redis.Redis, shards: tuple[int, ...] = (SHARDS, 2 * SHARDS)) -> None:
    """It can be opened, has one of these shapes, its books, and is of use."""
    server = Server(client)
    shape = shape_of(server, "q")
    assert shape.shards in shards
    assert [drained.books_of(server, "q", run).acked for run in ("", "first", "second")] == [40, 30, 10]
    drained.assert_balanced(server, "q")
    drained.put(server, "q", IDS, run="third")
    for shard in range(2 * SHARDS):
        for _, fields in buried.pending(client, KEYS.shard(shard)):
            space = fields[b"ns"].decode()
            assert {shard_of(space, name, shape.shards) for name in orjson.loads(fields[b"ids"])} == {shard}
    drained.drain(client, "q")
    assert drained.books_of(server, "q", "third").acked == 30
    drained.assert_balanced(server, "q")


def expire(client: redis.Redis) -> None:
    """Let the time of a closing be over."""
    if client.hexists(KEYS.meta, "until"):
        client.hset(KEYS.meta, "until", "1")


def test_the_shards_are_doubled(backend: Backend) -> None:
    """Each record goes where it belongs by the new number; books, receipts and clocks are what they were."""
    client = backend.sync
    server = filled(client)
    receipts = [drained.receipt_of(server, "q", run) for run in ("", "first", "second")]
    clocks = [client.hget(KEYS.shard(shard).books, "clock") for shard in range(SHARDS)]
    before = shape_of(server, "q")
    assert server.hold(doubled()) == SHARDS
    after = shape_of(server, "q")
    assert after.shards == 2 * SHARDS
    assert after.incarnation != before.incarnation
    assert after.dimension == before.dimension
    assert [drained.receipt_of(server, "q", run) for run in ("", "first", "second")] == receipts
    assert [client.hget(KEYS.shard(shard).books, "clock") for shard in range(2 * SHARDS)] == clocks * 2
    assert not client.hexists(KEYS.meta, "following")
    assert server.hold(doubled()) == 2 * SHARDS, "a second time there is nothing to do"
    assert shape_of(server, "q") == after
    assert_whole(client, (2 * SHARDS,))
    assert server.hold(reshard(KEYS, 4 * SHARDS, patience)) == 2 * SHARDS
    drained.assert_balanced(server, "q")


def leased(client: redis.Redis) -> None:
    """A worker holds a shard."""
    client.set(KEYS.shard(1).lease, "3:worker-7", px=60_000)


def dying(client: redis.Redis) -> None:
    """A record is dead."""
    drained.bury(client, "q", "x")


def pending(client: redis.Redis) -> None:
    """Three records are pending."""
    drained.put(Server(client), "q", ["x", "y", "z"])


def stray(client: redis.Redis) -> None:
    """A stream is there that the books do not count."""
    client.sadd(KEYS.shard(2).lanes, "n")


def uncounted(client: redis.Redis) -> None:
    """Its books count what no stream holds."""
    client.hset(KEYS.shard(3).books, "pending", "2")


def taken(client: redis.Redis) -> None:
    """Keys of something else stand where a new shard would be."""
    client.hset(KEYS.shard(SHARDS + 1).books, mapping={"incarnation": "other", "enqueued": "4"})


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (pending, "3 records are pending: drain it (`upsertq work --queue q --until-empty`)"),
        (dying, "1 dead letter is there"),
        (leased, "1 lease is held (worker-7)"),
        (stray, "1 stream is there that the books do not count (see `upsertq audit`)"),
        (uncounted, "2 records are pending"),
        (taken, "the key 'upsertq:{q:5}:books' is there"),
    ],
)
def test_a_queue_in_use_is_refused(backend: Backend, use: Any, told: str) -> None:
    """The reason is named, and nothing is changed."""
    server = filled(backend.sync)
    use(backend.sync)
    before = snapshot(backend.sync)
    with pytest.raises(WorldError) as refused:
        server.hold(doubled())
    assert told in str(refused.value)
    assert snapshot(backend.sync) == before


@pytest.mark.parametrize(("wanted", "told"), [(2, "give --shards 8"), (12, "give --shards 8"), (7, "give --shards 8")])
def test_another_number_than_twice(backend: Backend, wanted: int, told: str) -> None:
    """It says which one is right."""
    server = filled(backend.sync)
    with pytest.raises(UsageError, match=told):
        server.hold(reshard(KEYS, wanted, patience))


def test_the_most_shards(server: Server) -> None:
    """There are no more than 1,024."""
    server.hold(queue.open_queue(KEYS, MAX_SHARDS, 0, no_patience()))
    with pytest.raises(UsageError, match="1024 are the most"):
        server.hold(reshard(KEYS, 2 * MAX_SHARDS, patience))


def test_no_queue(backend: Backend, server: Server) -> None:
    """Nothing is made by the way."""
    with pytest.raises(NotFound):
        server.hold(doubled())
    assert backend.sync.dbsize() == 0


def test_what_holds_the_old_shape_is_told(backend: Backend) -> None:
    """A producer, a run and a wait of before end with one line that says to open the queue again; then it goes on."""
    server = filled(backend.sync)
    old = shape_of(server, "q")
    producer = Producer("q", url=server, timeout=0)
    producer.put("early", [1.0, 1.0], run="r")
    producer.flush()
    drained.drain(backend.sync, "q")
    producer.put("late", [1.0, 1.0], run="r")
    server.hold(doubled())
    line = r"^queue 'q' was closed by `upsertq reshard`: open it again, .* nothing of it was lost$"
    with pytest.raises(QueueReopened, match=line):
        producer.flush()
    for act in (
        runs.register_run(KEYS, old, "r", 0, no_patience()),
        runs.find_run(KEYS, old, "r", no_patience()),
        queue.check_present(KEYS, old, "", no_patience()),
    ):
        with pytest.raises(QueueLost, match=line):
            server.hold(act)
    assert drained.books_of(server, "q").pending == 0
    with Producer("q", url=server, timeout=0) as another:
        another.put("late", [1.0, 1.0], run="r")
    assert drained.books_of(server, "q", "r").enqueued == 2


async def test_a_worker_that_holds_the_old_shape_is_told(backend: Backend) -> None:
    """It gets no lease, and no loss is told."""
    server = filled(backend.sync)
    worker = RedisQueue(AsyncServer(backend.make_async()), shape_of(server, "q"), "w", 10.0)
    server.hold(doubled())
    with pytest.raises(QueueReopened, match="nothing of it was lost"):
        await worker.lease(dict.fromkeys(range(SHARDS), 0), take=True)
    worker = RedisQueue(AsyncServer(backend.make_async()), shape_of(server, "q"), "w", 10.0)
    grants = await worker.lease(dict.fromkeys(range(2 * SHARDS), 0), take=True)
    assert [(grant.epoch > 0, grant.clean) for grant in grants] == [(True, True)] * 2 * SHARDS


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step(client: redis.Redis, step: int) -> None:
    """It is the old queue or the new one, as soon as the time of the closing is over; the command again ends it."""
    for again in (False, True):
        filled(client)
        Halted(Server(client), doubled(), step)
        if again:
            assert Server(client).hold(doubled()) in {SHARDS, 2 * SHARDS}
            assert_whole(client, (2 * SHARDS,))
        else:
            expire(client)
            assert_whole(client)


@pytest.mark.parametrize("step", STEPS)
def test_an_answer_that_is_lost(client: redis.Redis, step: int) -> None:
    """Each step may be carried out twice."""
    filled(client)
    Beset(client, step).hold(doubled(), no_sleep)
    assert_whole(client, (2 * SHARDS,))


@pytest.mark.parametrize("step", STEPS)
def test_a_record_that_comes_at_any_step(client: redis.Redis, step: int) -> None:
    """It is confirmed, and in its shard whatever shape the queue has then; or it is refused, and is not there."""
    filled(client)
    producer = Producer("q", url=Server(client), timeout=0)
    producer.put("opens", [1.0, 1.0])
    producer.flush()
    drained.drain(client, "q")
    confirmed = []

    def add() -> None:
        producer.put("new", [1.0, 1.0])
        with suppress(QueueReopened):
            producer.flush()
            confirmed.append("new")

    try:
        Beset(client, step, add).hold(doubled(), no_sleep)
    except QueueInUse:
        assert confirmed
    assert drained.books_of(Server(client), "q").pending == len(confirmed)
    drained.assert_balanced(Server(client), "q")
    own = KEYS.shard(shard_of("", "new", shape_of(Server(client), "q").shards))
    assert client.xlen(own.stream("")) == len(confirmed)
    drained.drain(client, "q")
    Server(client).hold(doubled())
    assert shape_of(Server(client), "q").shards == 2 * SHARDS


@pytest.mark.parametrize("step", STEPS)
def test_a_command_that_was_stopped_goes_on_later(client: redis.Redis, step: int) -> None:
    """What another command has done meanwhile stays done: what comes late does nothing."""
    for other in ("reshard", "taken back"):
        filled(client)
        stopped = Halted(Server(client), doubled(), step)
        if other == "reshard":
            Server(client).hold(doubled())
        else:
            expire(client)
            shape_of(Server(client), "q")
        shape = shape_of(Server(client), "q")
        error = stopped.go_on()
        assert isinstance(error, QueueInUse | QueueLost | None), error
        if other == "reshard":
            assert shape_of(Server(client), "q") == shape
        assert_whole(client)


def test_while_it_is_closing_nothing_opens_the_queue(backend: Backend) -> None:
    """It waits, and says for how long; when the time is over the queue is the old one, with another incarnation."""
    client = backend.sync
    server = filled(client)
    before = shape_of(server, "q")
    following = closing.next_incarnation(before.incarnation)
    server.hold(closing.close(KEYS, SHARDS, before.incarnation, following, no_patience()))
    for opening in (queue.find_queue(KEYS, no_patience()), queue.open_queue(KEYS, None, 0, no_patience())):
        with pytest.raises(ServerUnavailable, match=r"'q' is being resharded or deleted: try again in \d s"):
            server.hold(opening)
    expire(client)
    with pytest.raises(QueueInUse, match="stays as it is"):  # though nothing has taken it back yet
        server.hold(closing.complete(KEYS, before.incarnation, following, "ready", 2 * SHARDS, no_patience()))
    after = shape_of(server, "q")
    assert (after.shards, after.dimension) == (SHARDS, before.dimension)
    assert after.incarnation not in {before.incarnation, following}
    for late in (
        closing.prolong(KEYS, before.incarnation, following, no_patience()),
        closing.complete(KEYS, before.incarnation, following, "ready", 2 * SHARDS, no_patience()),
    ):
        with pytest.raises(QueueInUse, match="stays as it is"):
            server.hold(late)
    assert shape_of(server, "q") == after


@pytest.mark.parametrize("step", range(5))
def test_a_closing_that_is_half_taken_back(client: redis.Redis, step: int) -> None:
    """It cannot be completed any more, and whatever opens the queue next takes all of it back."""
    server = filled(client)
    before = shape_of(server, "q")
    following = closing.next_incarnation(before.incarnation)
    server.hold(closing.close(KEYS, SHARDS, before.incarnation, following, no_patience()))
    Halted(server, closing.take_back(KEYS, patience(), at_once=True), step)
    if client.hget(KEYS.meta, "state") == b"reopening":
        with pytest.raises(QueueInUse, match="stays as it is"):
            server.hold(closing.complete(KEYS, before.incarnation, following, "ready", 2 * SHARDS, no_patience()))
    expire(client)
    assert_whole(client, (SHARDS,))


def test_a_load_that_can_be_resumed_stays_so(backend: Backend) -> None:
    """What the ledger of a load says of a record is the same by the old shards and by the new ones."""
    client = backend.sync
    server = filled(client)
    names = [f"r{number}" for number in range(100)]
    remembered = Attempt(LEDGER, "first", drained.now_ms())
    server.hold(remember(KEYS, "f", remembered, no_patience()))
    world = Circumstances(time.monotonic, time.time)
    intake = Intake("q", shards=None, limits=Limits(), timeout=0, world=world, token=LEDGER, ledger_ms=900_000)
    records = [make_record(name, [1.0, 1.0]) for name in names[:50]]
    server.hold(intake.take(records, "first", range(50)))
    server.hold(intake.flush())
    drained.drain(client, "q")
    before = server.hold(read_ledger(KEYS, SHARDS, LEDGER, no_patience()))
    held = before.holds(names, "", 0)
    assert held[:50] == [True] * 50
    server.hold(doubled())
    after = server.hold(read_ledger(KEYS, 2 * SHARDS, LEDGER, no_patience()))
    assert after.holds(names, "", 0) == held
    assert all(client.pttl(KEYS.shard(shard).ledger(LEDGER)) > 0 for shard in range(2 * SHARDS))
