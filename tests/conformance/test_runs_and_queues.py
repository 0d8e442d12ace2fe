"""What is listed of queues and runs on every server, and which runs a purge removes: their sums stay in the books."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest

import drained
from drained import no_patience, patience, shape_of
from interrupted import Beset, Halted, no_sleep, snapshot
from upsertq import Producer, QueueLost, Server
from upsertq.admin import purge, run_list
from upsertq.admin.queues import Listed, queues
from upsertq.contract import runs
from upsertq.contract.keys import QueueKeys, queue_of
from upsertq.contract.queue import find_queue
from upsertq.contract.wire import FORMAT

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from conftest import Backend
    from upsertq.contract.protocol import Conversation

KEYS: Final = QueueKeys("q")
SHARDS: Final = 2
DAY_MS: Final = 86_400_000
DAY: Final = 86_400.0
STEPS: Final = range(10)


def age(client: redis.Redis, run: str, days: float, *, settled: float | None = None) -> None:
    """Let a run have been sealed, and settled, so many days ago."""
    now = drained.now_ms()
    note = orjson.loads(client.hget(KEYS.runs, run) or b"")
    sealed = note["sealed"] and int(now - days * DAY_MS)
    note |= {"begun": int(now - days * DAY_MS) - 1_000, "sealed": sealed}
    client.hset(KEYS.runs, run, orjson.dumps(note))
    at = int(now - (days if settled is None else settled) * DAY_MS)
    for shard in range(SHARDS):
        if client.hexists(KEYS.shard(shard).run(run), "acked"):
            client.hset(KEYS.shard(shard).run(run), "settled_at", str(at))


def put(client: redis.Redis, run: str, count: int = 10, prefix: str = "") -> None:
    """Put records of a run into the queue."""
    drained.put(Server(client), "q", [f"{prefix}{run}-{number}" for number in range(count)], run=run, shards=SHARDS)


def filled(client: redis.Redis) -> None:
    """A queue with a run of each kind."""
    client.flushall()
    for run in ("old", "recent", "late", "lost"):
        put(client, run)
    drained.drain(client, "q")
    drained.bury(client, "q", "x", run="dead")
    with suppress(RuntimeError), Producer("q", url=Server(client)) as producer:
        producer.put("o", [1.0, 1.0], run="open")
        producer.flush()
        raise RuntimeError
    drained.drain(client, "q")
    put(client, "pending")
    for run, days in (("old", 40), ("recent", 20), ("dead", 40), ("open", 40), ("pending", 40), ("lost", 40)):
        age(client, run, days)
    age(client, "late", 40, settled=5)
    note = orjson.loads(client.hget(KEYS.runs, "lost") or b"")
    client.hset(KEYS.runs, "lost", orjson.dumps(note | {"records": 99}))
    client.hset(KEYS.runs, "unreadable", "{")


def removal(days: float = 30) -> Conversation[tuple[purge.Candidates, int]]:
    """What `runs --purge` does once it is agreed."""
    shape = yield from find_queue(KEYS, patience())
    chosen = yield from purge.candidates(KEYS, shape, days * DAY, patience)
    return chosen, (yield from purge.purge(KEYS, shape, chosen.notes, patience))


def known(client: redis.Redis) -> set[str]:
    """The runs that the queue knows."""
    names: Any = client.hkeys(KEYS.runs)
    return {name.decode() for name in names}


def hashes(client: redis.Redis, run: str) -> int:
    """In how many shards a run has books."""
    return sum(bool(client.exists(KEYS.shard(shard).run(run))) for shard in range(SHARDS))


def test_only_old_finished_runs_without_dead_letters_go(backend: Backend, server: Server) -> None:
    """Their books go and their sums stay; whatever is open, recent, pending, dead or damaged stays as it was."""
    client = backend.sync
    filled(client)
    before, runs_before = drained.receipt_of(server, "q"), known(client)
    others = {
        key: value for key, value in snapshot(client).items() if key != KEYS.runs.encode() and b"run:old" not in key
    }
    chosen, purged = server.hold(removal())
    assert purged == 1
    assert (set(chosen.notes), chosen.records, chosen.interrupted) == ({b"old"}, 10, 0)
    assert chosen.kept == {"dead": 1, "unfinished": 2, "damaged": 2}
    assert known(client) == runs_before - {"old"}
    assert hashes(client, "old") == 0
    assert {key: value for key, value in snapshot(client).items() if key != KEYS.runs.encode()} == others
    assert drained.receipt_of(server, "q") == before
    drained.assert_balanced(server, "q")
    assert server.hold(removal())[1] == 0


def test_the_books_balance_after_all_is_purged(backend: Backend, server: Server) -> None:
    """More runs than one call takes; the queue's own counters are what they were, and its work goes on."""
    client = backend.sync
    for number in range(3):
        put(client, f"r{number}")
    drained.drain(client, "q")
    shape = shape_of(server, "q")
    note = client.hget(KEYS.runs, "r0")
    for number in range(3, 230):
        client.hset(KEYS.runs, f"r{number}", note or b"")
        for shard in range(SHARDS):
            client.hset(KEYS.shard(shard).run(f"r{number}"), mapping={"enqueued": "5", "acked": "5"})
    before = drained.books_of(server, "q")
    assert before.acked == 30
    told: list[int] = []
    chosen = server.hold(purge.candidates(KEYS, shape, 0, patience))
    assert server.hold(purge.purge(KEYS, shape, chosen.notes, patience, told.append)) == 230
    assert told == [100, 200, 230]
    assert not client.exists(KEYS.runs)
    assert [key for key in snapshot(client) if b":run:" in key] == []
    assert drained.books_of(server, "q") == before
    drained.assert_balanced(server, "q")
    put(client, "r0", prefix="again-")
    drained.drain(client, "q")
    assert drained.books_of(server, "q", "r0").acked == 10, "a name that is used again begins with nothing"
    assert server.hold(runs.find_run(KEYS, shape, "r0", no_patience())).is_sealed(10)
    drained.assert_balanced(server, "q")


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step(client: redis.Redis, step: int) -> None:
    """The next purge completes it, whatever age it is given; no books are left that nothing names."""
    filled(client)
    before = drained.books_of(Server(client), "q")
    Halted(Server(client), removal(), step)
    drained.assert_balanced(Server(client), "q")
    assert drained.books_of(Server(client), "q") == before
    if "old" in known(client):
        noted = client.hget(KEYS.runs, "old") or b""
        age_given = 300 if b"purged" in noted else 30
        chosen, purged = Server(client).hold(removal(age_given))
        assert purged == 1
        assert chosen.interrupted == (age_given == 300)
    assert "old" not in known(client)
    assert hashes(client, "old") == 0
    drained.assert_balanced(Server(client), "q")


@pytest.mark.parametrize("step", STEPS)
def test_an_answer_that_is_lost(client: redis.Redis, step: int) -> None:
    """Each step may be carried out twice."""
    filled(client)
    assert Beset(client, step).hold(removal(), no_sleep)[0].notes
    assert "old" not in known(client)
    assert hashes(client, "old") == 0


@pytest.mark.parametrize("step", STEPS)
def test_a_run_that_is_added_to_at_any_step(client: redis.Redis, step: int) -> None:
    """It is not lost: what was added is in its books, and it can be completed and waited for."""
    filled(client)
    beset = Beset(client, step, lambda: put(client, "old", 4, prefix="new-"))
    beset.hold(removal(), no_sleep)
    if step >= beset.steps:  # it came to its end before
        assert hashes(client, "old") == 0
        return
    server, shape = Server(client), shape_of(Server(client), "q")
    state = server.hold(runs.find_run(KEYS, shape, "old", no_patience()))
    found = drained.books_of(server, "q", "old")
    assert found.pending == 4
    assert 4 <= found.enqueued <= 14
    assert state.is_sealed(found.enqueued)
    assert state.records == found.enqueued, "a note of more than there is tells of a loss"
    drained.assert_balanced(server, "q")
    drained.drain(client, "q")
    assert drained.books_of(server, "q", "old").pending == 0


def test_a_lost_queue_is_not_purged(backend: Backend, server: Server) -> None:
    """Another queue by its name keeps its runs."""
    filled(backend.sync)
    shape = shape_of(server, "q")
    chosen = server.hold(purge.candidates(KEYS, shape, 30 * DAY, patience))
    filled(backend.sync)
    before = snapshot(backend.sync)
    with pytest.raises(QueueLost):
        server.hold(purge.purge(KEYS, shape, chosen.notes, patience))
    assert snapshot(backend.sync) == before


def listed(server: Server, limit: int = 100) -> tuple[dict[str, run_list.Listed], int]:
    """The runs by name."""
    found, count = server.hold(run_list.runs(KEYS, shape_of(server, "q"), limit, patience))
    return {one.run: one for one in found}, count


def test_runs_are_listed_the_newest_first(backend: Backend, server: Server) -> None:
    """Each with how far it is; what is damaged is named, and hides nothing else."""
    client = backend.sync
    filled(client)
    client.delete(KEYS.shard(0).run("recent"))
    client.set(KEYS.shard(0).run("recent"), "x")
    client.hset(KEYS.shard(1).run("late"), "dead", "many")
    found, count = listed(server)
    assert count == 8
    assert {run: one.stage for run, one in found.items()} == {
        "old": "done", "dead": "done", "recent": "damaged", "late": "damaged", "unreadable": "damaged",
        "open": "open", "pending": "sealed", "lost": "done",
    }  # fmt: skip
    assert next(iter(found)) == "recent"
    assert list(found)[-1] == "unreadable"
    assert found["old"].books == drained.books_of(server, "q", "old")
    assert "run:recent is of another type" in found["recent"].problem
    assert "run:late holds as 'dead' what is no counter" in found["late"].problem
    assert found["unreadable"].problem == "its note cannot be read"
    assert found["pending"].as_dict()["pending"] == 10
    assert found["recent"].as_dict()["enqueued"] is None
    two, count = listed(server, 2)
    assert (len(two), count) == (2, 8)
    assert next(iter(two)) == "recent"


def test_very_many_runs(backend: Backend, server: Server) -> None:
    """They are read step by step."""
    put(backend.sync, "r")
    mapping: Any = {f"r{number}": orjson.dumps({"begun": number, "sealed": None}) for number in range(3_000)}
    backend.sync.hset(KEYS.runs, mapping=mapping)
    found, count = listed(server, 1_200)
    assert (len(found), count) == (1_200, 3_001)
    assert list(found)[:2] == ["r", "r2999"]


def test_queues_are_listed(backend: Backend, server: Server) -> None:
    """By name, each with what it holds; what is no queue of ours is not there."""
    client = backend.sync
    assert server.hold(queues(patience)) == []
    filled(client)
    drained.put(server, "b.c", ["x", "y"], shards=2)
    now = drained.now_ms() / 1000
    for name, at in (("w1", now), ("w2", now), ("gone", now - 600)):
        client.hset(KEYS.workers, name, orjson.dumps({"name": name, "at": at, "every": 2.5}))
    for key in (
        "upsertq:{a b}:meta",
        "upsertq:{q:0}:meta",
        "upsertq:{q}:meta:x",
        "xupsertq:{q}:meta",
        "upsertq:{q}meta",
    ):
        client.set(key, "x")
    told: list[tuple[int, int]] = []
    assert server.hold(queues(patience, lambda *seen: told.append(seen))) == [
        Listed("b.c", str(FORMAT), 2, 2, 0, 0),
        Listed("q", str(FORMAT), SHARDS, 10, 1, 2),
    ]
    assert told[-1][0] == told[-1][1] == client.dbsize()


DAMAGES: Final[list[tuple[Callable[[Any], object], str]]] = [
    (lambda c: c.hset(KEYS.meta, "format", "1"), "format version 1, this program knows 2: drain it with the version"),
    (lambda c: c.hset(KEYS.meta, "format", "\x1b[31m"), "choose another queue name"),
    (lambda c: c.hset(KEYS.meta, "shards", "many"), "is damaged: upsertq:{q}:meta holds as 'shards' what cannot be"),
    (lambda c: (c.delete(KEYS.meta), c.set(KEYS.meta, "x")), "upsertq:{q}:meta is of another type"),
    (lambda c: c.hset(KEYS.meta, "state", "deleting"), "`upsertq delete-queue q` goes on"),
    (lambda c: c.delete(KEYS.shard(1).books), "shard 1 is gone"),
    (lambda c: (c.delete(KEYS.shard(1).books), c.set(KEYS.shard(1).books, "x")), "books is of another type"),
    (lambda c: c.hset(KEYS.shard(1).books, "dead", "-"), "holds as 'dead' what is no counter"),
    (lambda c: (c.delete(KEYS.workers), c.set(KEYS.workers, "x")), "workers is of another type"),
]


@pytest.mark.parametrize(("damage", "problem"), DAMAGES)
def test_a_damaged_queue_is_named(
    backend: Backend, server: Server, damage: Callable[[Any], object], problem: str
) -> None:
    """It is listed with what is wrong, and hides no other."""
    filled(backend.sync)
    drained.put(server, "sound", ["x"])
    damage(backend.sync)
    found = {one.queue: one for one in server.hold(queues(patience))}
    assert found.keys() == {"q", "sound"}
    assert problem in found["q"].problem
    assert (found["q"].pending, found["q"].dead) == (None, None)
    assert "\x1b" not in found["q"].format
    assert found["sound"].problem == ""
    assert found["sound"].pending == 1


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("upsertq:{a}:meta", "a"),
        ("upsertq:{a.b-c_D}:meta", "a.b-c_D"),
        ("upsertq:{a:0}:meta", None),
        ("upsertq:{a*}:meta", None),
        ("upsertq:{}:meta", None),
        ("upsertq:{a}:meta\n", None),
        ("upsertq:{a}:books", None),
        ("upsertq:{" + "a" * 101 + "}:meta", None),
    ],
)
def test_the_queue_of_a_key(key: str, name: str | None) -> None:
    """Only what can be the name of a queue is one."""
    assert queue_of(key) == name
