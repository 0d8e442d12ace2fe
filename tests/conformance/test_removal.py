"""A queue is deleted on every server: all of it and nothing else, and never by halves."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import pytest

import drained
from drained import no_patience, patience, shape_of
from interrupted import Beset, Halted, no_sleep, snapshot
from upsertq import NotFound, Producer, QueueInUse, QueueLost, QueueMismatch, Server, UpsertqError
from upsertq.admin.removal import Stake, delete, stake
from upsertq.contract import queue
from upsertq.contract.keys import QueueKeys

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from conftest import Backend
    from upsertq.contract.protocol import Conversation

KEYS: Final = QueueKeys("a")
SHARDS: Final = 4
IDS: Final = [f"id-{number}" for number in range(30)]
STEPS: Final = range(22)
"""Round trips of a removal of which the server knows no script yet."""
LOOKED: Final = 4
"""Round trips after which a removal has seen which queue it is."""
NEIGHBOURS: Final = ("ab", "a.b", "A", "b", "a-", "a_0")
FOREIGN: Final = (
    "upsertq:{a:b}:meta",
    "upsertq:{a*}:meta",
    "upsertq:{a:0x}:books",
    "upsertq:{a:01}:books",
    "upsertq:{a:-1}:books",
    "upsertq:{a:1024}:books",
    "upsertq:{a:}:books",
    "upsertq:{a:0:1}:books",
    "upsertq:{a}",
    "upsertq:{a}:",
    "upsertq:{a",
    "upsertq:a:meta",
    "xupsertq:{a}:meta",
    "upsertq:{a?}:meta",
    "upsertq:{[a]}:meta",
)
"""Keys that look like some of the queue, and are none of upsertq's."""


def filled(client: redis.Redis, name: str = "a") -> None:
    """A drained queue with a run."""
    drained.put(Server(client), name, IDS, run="r", shards=SHARDS)
    drained.drain(client, name)


def deletion(force: bool = False) -> Conversation[Any]:  # noqa: FBT001, FBT002
    """What `delete-queue` does once it is agreed."""
    found = yield from stake(KEYS, patience)
    if found.reasons and not force:
        raise QueueInUse("; ".join(found.reasons))
    return (yield from delete(KEYS, found, patience, force=force))


def ours(client: redis.Redis) -> list[bytes]:
    """Every key of the queue."""
    names: Any = client.keys("*")
    return sorted(name for name in names if KEYS.shard_in(name.decode("utf-8", "surrogateescape")) is not None)


def test_all_of_it_and_nothing_else(backend: Backend, server: Server) -> None:
    """Names that are prefixes or patterns of each other, and keys that look alike, stay as they are."""
    client = backend.sync
    for name in NEIGHBOURS:
        filled(client, name)
    for key in FOREIGN:
        client.set(key, "x")
    others = snapshot(client)
    filled(client)
    keys = KEYS.shard(1)
    client.hset(keys.ledger("t"), "n", "1")
    client.hset(KEYS.paused, "queue", "{}")
    client.hset(KEYS.workers, "w", "{}")
    client.hset(KEYS.pace, "n", "1")
    client.set(KEYS.shard(1023).run("left-behind"), "x")
    client.set(b"upsertq:{a:2}:stream:\xff\xfe}:meta", "x")
    client.set(b"upsertq:{a:0}:stream:with\nlines\r\0", "x")
    removed = server.hold(deletion())
    assert snapshot(client) == others
    assert removed > SHARDS
    with pytest.raises(NotFound):
        server.hold(deletion())
    drained.put(server, "a", IDS, shards=8)
    assert shape_of(server, "a").shards == 8


def test_many_keys(backend: Backend, server: Server) -> None:
    """They go step by step, and all that is done is told."""
    filled(backend.sync)
    pipeline = backend.sync.pipeline(transaction=False)
    for number in range(2_500):
        pipeline.set(KEYS.shard(number % SHARDS).run(f"r{number}"), "x")
    pipeline.execute()
    told: list[int] = []
    found = server.hold(stake(KEYS, patience))
    removed = server.hold(delete(KEYS, found, patience, told.append, force=False))
    assert removed == told[-1] > 2_500
    assert told == sorted(told)
    assert len(told) > 3
    assert backend.sync.dbsize() == 0


def pending(client: redis.Redis) -> None:
    """Something is pending."""
    drained.put(Server(client), "a", ["x"])


def dying(client: redis.Redis) -> None:
    """Something is dead."""
    drained.bury(client, "a", "x")


def leased(client: redis.Redis) -> None:
    """A worker has a shard."""
    client.set(KEYS.shard(2).lease, "4:worker-1", px=60_000)


def no_meta(client: redis.Redis) -> None:
    """The key by which it is known is lost."""
    client.delete(KEYS.meta)


def no_shard(client: redis.Redis) -> None:
    """A shard is lost."""
    client.delete(KEYS.shard(0).books)


def foreign_meta(client: redis.Redis) -> None:
    """Another program has written there."""
    client.delete(KEYS.meta)
    client.set(KEYS.meta, "x")


def foreign_books(client: redis.Redis) -> None:
    """And there."""
    client.delete(KEYS.shard(1).books)
    client.lpush(KEYS.shard(1).books, "x")


def older(client: redis.Redis) -> None:
    """It is of an older format."""
    client.hset(KEYS.meta, "format", "1")


def no_counter(client: redis.Redis) -> None:
    """A counter of it is none."""
    client.hset(KEYS.shard(1).books, "pending", "many")


def begun(client: redis.Redis) -> None:
    """Its note says that it is being deleted, and no more."""
    client.delete(KEYS.meta)
    client.hset(KEYS.meta, "state", "deleting")


USES: Final = [
    (pending, "^1 record is pending$"),
    (dying, "^1 dead letter is there$"),
    (leased, r"^1 lease is held \(worker-1\)$"),
    (no_meta, "what it holds is not known: the server lost queue 'a'"),
    (no_shard, "what it holds is not known: the server lost queue 'a': shard 0 is gone"),
    (foreign_meta, "what it holds is not known: .*:meta is of another type"),
    (foreign_books, "what it holds is not known: .*:books is no hash"),
    (older, "what it holds is not known: queue 'a' has format version 1"),
    (no_counter, "what it holds is not known: .*holds as pending what is no counter"),
]


@pytest.mark.parametrize(("use", "reason"), USES)
def test_what_is_in_use_or_not_known_is_refused_unless_forced(
    backend: Backend, server: Server, use: Callable[[redis.Redis], None], reason: str
) -> None:
    """The reason is named and nothing is changed; forced, all of it goes."""
    filled(backend.sync)
    use(backend.sync)
    before = snapshot(backend.sync)
    with pytest.raises(QueueInUse, match=reason):
        server.hold(deletion())
    assert snapshot(backend.sync) == before
    server.hold(deletion(force=True))
    assert backend.sync.dbsize() == 0


def test_a_removal_that_was_begun(backend: Backend, server: Server) -> None:
    """It needs no force, for it was agreed to; even where its note is all that is known."""
    filled(backend.sync)
    begun(backend.sync)
    server.hold(deletion())
    assert backend.sync.dbsize() == 0


def test_what_is_told_before(backend: Backend, server: Server) -> None:
    """The numbers are those of the books."""
    filled(backend.sync)
    drained.bury(backend.sync, "a", "x", "y", run="s")
    drained.put(server, "a", ["z"])
    found, shape = server.hold(stake(KEYS, patience)), shape_of(server, "a")
    reasons = ("1 record is pending", "2 dead letters are there")
    assert found == Stake("a", shape.incarnation.encode(), shape, 33, 1, 2, 2, 0, reasons)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step(client: redis.Redis, step: int, force: bool) -> None:  # noqa: FBT001
    """It is there, or being deleted, or gone: a producer never adds to a half queue, and the command again ends it."""
    filled(client)
    producer = Producer("a", url=Server(client), timeout=0)
    producer.put("known", [1.0, 1.0])
    producer.flush()
    drained.drain(client, "a")
    Halted(Server(client), deletion(force), step)
    if client.hexists(KEYS.meta, "until"):
        client.hset(KEYS.meta, "until", "1")
    meta: Any = client.hget(KEYS.meta, "state")
    if meta == b"deleting":
        for opening in (queue.find_queue(KEYS, no_patience()), queue.open_queue(KEYS, None, 0, no_patience())):
            with pytest.raises(
                QueueMismatch, match="is being deleted, and not all of it is gone: `upsertq delete-queue a`"
            ):
                Server(client).hold(opening)
        producer.put("late", [1.0, 1.0])
        left = ours(client)
        with pytest.raises(QueueLost):
            producer.flush()
        assert force or ours(client) == left
    elif meta is None:
        assert ours(client) == []
    else:
        assert drained.books_of(Server(client), "a").acked == 31
        drained.assert_balanced(Server(client), "a")
    with suppress(NotFound):
        Server(client).hold(deletion())
    assert client.dbsize() == 0


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_an_answer_that_is_lost(client: redis.Redis, step: int, force: bool) -> None:  # noqa: FBT001
    """Each step may be carried out twice."""
    filled(client)
    Beset(client, step).hold(deletion(force), no_sleep)
    assert client.dbsize() == 0


@pytest.mark.parametrize("step", STEPS)
def test_a_record_that_comes_at_any_step(client: redis.Redis, step: int) -> None:
    """Without force it stops the removal if it is confirmed, and it is refused once nothing can stop it."""
    filled(client)
    producer = Producer("a", url=Server(client), timeout=0)
    producer.put("opens", [1.0, 1.0])
    producer.flush()
    drained.drain(client, "a")
    confirmed = []

    def add() -> None:
        producer.put("new", [1.0, 1.0])
        with suppress(QueueLost):
            producer.flush()
            confirmed.append("new")

    beset = Beset(client, step, add)
    stopped = False
    try:
        beset.hold(deletion(), no_sleep)
    except QueueInUse:
        stopped = True
    assert stopped == bool(confirmed)
    if confirmed:
        assert drained.books_of(Server(client), "a").pending == 1
        drained.assert_balanced(Server(client), "a")
    else:
        assert client.dbsize() == 0


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_removal_that_was_stopped_spares_another_queue_of_the_name(
    client: redis.Redis,
    step: int,
    force: bool,  # noqa: FBT001
) -> None:
    """What was made anew, after another command deleted the old queue, stays when the first command goes on."""
    filled(client)
    stopped = Halted(Server(client), deletion(force), step)
    with suppress(NotFound):
        Server(client).hold(deletion())
    filled(client)
    drained.put(Server(client), "a", ["new"])
    before = snapshot(client)
    ended = stopped.ended
    error = stopped.go_on()
    assert error is None or isinstance(error, UpsertqError)
    if step > LOOKED or ended:  # before, it has not looked at the old queue yet
        assert snapshot(client) == before
    elif client.dbsize():
        drained.assert_balanced(Server(client), "a")


def test_a_bounded_call(client: redis.Redis) -> None:
    """No call names more than a hundred keys to be removed, and no step looks at more than a thousand."""
    filled(client)
    pipeline = client.pipeline(transaction=False)
    for number in range(5_000):
        pipeline.set(KEYS.shard(number % SHARDS).run(f"r{number}"), "x")
    pipeline.execute()
    sent: list[Any] = []

    class Heard(Server):
        def _ask(self, commands: Any, node: str = "") -> list[Any]:
            sent.extend(commands)
            return super()._ask(commands, node)

    Heard(client).hold(deletion())
    assert max(int(command[2]) for command in sent if command[0] in {"EVALSHA", "EVAL"}) <= 101
    assert {command[-1] for command in sent if command[0] == "SCAN"} == {1_000}
    assert client.dbsize() == 0
