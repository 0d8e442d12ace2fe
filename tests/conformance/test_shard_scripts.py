"""The scripts of a shard on every server: what each promises in its header, and that a refusal changes nothing."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import declared_keys
from buried import alone, refused
from upsertq import Server
from upsertq.client.enqueue import ENQUEUE, Enqueuer, Limits
from upsertq.client.pack import Packer
from upsertq.contract import queue
from upsertq.contract.books import COUNTERS
from upsertq.contract.dead_letter import Reason, encode_letter, place
from upsertq.contract.errors import QueueFull, QueueLost, ServerRefused
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Failed, Patience, Script, run_scripts
from upsertq.contract.queue import CREATE, FOUND, QueueShape
from upsertq.contract.record import make_record
from upsertq.contract.runs import RUN
from upsertq.contract.wire import decode
from upsertq.dead.choice import HEADS, Selector
from upsertq.dead.finding import make_plan
from upsertq.dead.moves import DISCARD, REPLAY, Tally, replay
from worker_scripts import LEASE, MARK, RELEASE, SETTLE, DeadRow, Settling, ShardWorker, settle_call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from conftest import Backend
    from upsertq.contract.wire import Entry

KEYS = QueueKeys("q")
SHARD = KEYS.shard(0)
FAR = 4_000_000_000_000
"""A time in milliseconds that no server's clock shows: 2096."""


def no_patience() -> Patience:
    """A patience that is over at once."""
    return Patience(0, lambda: 0.0, random.Random(1))


class Bench:
    """A queue of one shard, with a producer and a worker."""

    def __init__(self, backend: Backend) -> None:
        self.client = backend.sync
        self.server = Server(backend.sync)
        self.shape = self.server.hold(queue.open_queue(KEYS, 1, 7, no_patience()))
        self.worker = ShardWorker(self.server, SHARD, self.shape.incarnation)
        self._next = 0

    def put(self, *names: str, namespace: str = "", run: str = "") -> str:
        """Enqueue one entry; returns its id."""
        packer = Packer(1)
        for name in names:
            self._next += 1
            record = make_record(name, [1.0, float(self._next)], namespace=namespace, metadata={"of": name})
            packer.add(record, run=run, ordinal=self._next, at=7)
        packer.close_all(7)
        self.server.hold(self.enqueuer().enqueue(packer, no_patience))
        assert not packer.records
        return self.entries(namespace)[-1][0]

    def enqueuer(self, shape: QueueShape | None = None) -> Enqueuer:
        """A producer with a ledger of its own."""
        return Enqueuer(KEYS, shape or self.shape, Limits(None, None), f"t{self._next}", 60_000)

    def entries(self, namespace: str = "") -> list[tuple[str, Entry]]:
        """The entries of a lane."""
        stored: Any = self.client.xrange(SHARD.stream(namespace))
        return [(stream_id.decode(), decode(fields)) for stream_id, fields in stored]

    def settling(self, stream_id: str, namespace: str = "", dead: Sequence[int] = (), *, ids: bool = True) -> Settling:
        """What becomes of an entry: acknowledged but for the rows that are dead."""
        entry = dict(self.entries(namespace))[stream_id]
        letters = []
        for row in dead:
            seq = entry.seq or f"{stream_id}-{row}"
            letters.append(DeadRow(row, seq, Reason.REFUSED, encode_letter(alone(entry, row, seq), refused())))
        return Settling(
            stream_id,
            namespace,
            entry.run,
            len(entry.ids),
            entry.size,
            len(entry.ids) - len(dead),
            sequence=entry.seq or stream_id,
            letters=letters,
            ids=entry.ids if ids else (),
        )

    def books(self, run: str = "") -> dict[str, int]:
        """The counters that are not zero."""
        told: Any = self.client.hgetall(SHARD.run(run) if run else SHARD.books)
        known = (*COUNTERS, "requests")
        return {name: int(told[name.encode()]) for name in known if int(told.get(name.encode(), 0))}

    def state(self) -> dict[bytes, Any]:
        """Every key of the server."""
        keys: Any = self.client.keys()
        return {key: self.client.dump(key) for key in keys}

    def replay(self) -> Tally:
        """Replay every letter."""
        plan = self.server.hold(make_plan(KEYS, 1, Selector(), None, no_patience))
        tally = Tally()
        self.server.hold(replay(KEYS, self.shape, plan.picks, tally, no_patience))
        return tally


@pytest.fixture
def bench(backend: Backend) -> Bench:
    """Provide an empty queue on every backend."""
    return Bench(backend)


# the shim


def test_an_undeclared_key_is_refused(bench: Bench) -> None:
    """The shim that every script runs behind here raises on a key, and on a command, that it was not told of."""
    for text, told in (
        ("return redis.call('GET', 'other')", "UNDECLARED GET other"),
        ("return redis.pcall('DEL', KEYS[1], 'other')", "UNDECLARED DEL other"),
        ("return redis.call('FLUSHALL')", "does not know FLUSHALL"),
    ):
        script = declared_keys.held(Script("x", text, ""))
        with pytest.raises(Exception, match=told):
            bench.client.eval(script.text, 1, "mine")


def test_every_script_is_behind_the_shim(bench: Bench) -> None:
    """No script of ours is run without it here."""
    scripts = (CREATE, FOUND, queue.DIMENSION, ENQUEUE, RUN, REPLAY, DISCARD, HEADS, LEASE, RELEASE, MARK, SETTLE)
    assert all(script.text.startswith(declared_keys.SHIM) for script in scripts)
    assert bench.shape.shards == 1


# creation and incarnation


def test_a_creation_that_was_interrupted_is_completed(bench: Bench) -> None:
    """Whatever finds a queue `creating` gives the shards that have none its incarnation, and says that it is ready."""
    bench.client.flushall()
    keys = QueueKeys("half")
    bench.server.hold(run_scripts(CREATE, [([keys.meta], ["abc", 2, 3, 5, ""])]))
    bench.server.hold(run_scripts(FOUND, [([keys.shard(1).books], ["abc", "1"])]))
    for way in (queue.find_queue(keys, no_patience()), queue.open_queue(keys, None, 9, no_patience())):
        assert bench.server.hold(way) == QueueShape("half", 3, None, "abc")
        assert bench.client.hget(keys.meta, "state") == b"ready"
        found = [bench.client.hgetall(keys.shard(k).books) for k in range(3)]
        assert found == [{b"incarnation": b"abc"}] * 3
    assert bench.client.hget(keys.meta, "created") == b"5"


@pytest.mark.parametrize("left", [{}, {"incarnation": "other"}, {"pending": "3"}])
def test_a_shard_that_is_not_the_queues_is_never_adopted(bench: Bench, left: dict[Any, Any]) -> None:
    """A ready queue with a shard that is gone, or of another creation, is lost; and so is one that is created."""
    bench.client.delete(SHARD.books)
    if left:
        bench.client.hset(SHARD.books, mapping=left)
    before = bench.state()
    for way in (queue.find_queue, lambda keys, patience: queue.open_queue(keys, None, 1, patience)):
        with pytest.raises(QueueLost, match="shard 0"):
            bench.server.hold(way(KEYS, no_patience()))
    assert bench.state() == before
    if left:
        bench.client.delete(KEYS.meta)
        with pytest.raises(QueueLost, match=r"the key .*:meta' is gone"):
            bench.server.hold(queue.open_queue(KEYS, 1, 1, no_patience()))
        assert bench.client.hgetall(SHARD.books) == {k.encode(): v.encode() for k, v in left.items()}


def test_readiness_is_said_of_no_queue_that_is_gone(bench: Bench) -> None:
    """The last step of a creation does not make a queue out of nothing, or out of another one."""
    bench.server.hold(run_scripts(CREATE, [([KEYS.meta], ["other", 2, 1, 5, "ready"])]))
    assert bench.client.hget(KEYS.meta, "incarnation") == bench.shape.incarnation.encode()
    bench.client.flushall()
    bench.server.hold(run_scripts(CREATE, [([KEYS.meta], ["other", 2, 1, 5, "ready"])]))
    assert bench.client.dbsize() == 0


@pytest.mark.parametrize("lost", ["flushed", "recreated"])
def test_another_incarnation_changes_nothing(bench: Bench, lost: str) -> None:
    """Every script that is called for a queue that is gone says so before it does anything."""
    one = bench.put("a", "b", run="r")
    bench.worker.lease()
    settling = bench.settling(one, dead=[0])
    bench.client.flushall()
    if lost == "recreated":
        bench.server.hold(queue.open_queue(KEYS, 1, 8, no_patience()))
    worker = ShardWorker(bench.server, SHARD, "gone", epoch=1)
    found = bench.client.hget(SHARD.books, "incarnation") or b""
    before = bench.state()
    assert worker.lease() == worker.release() == worker.note("x") == worker.settle([settling]) == [-1, found]
    for script, names in (
        (REPLAY, [SHARD.books, SHARD.lanes, SHARD.bell, SHARD.dead, SHARD.dead_ids, SHARD.stream("")]),
        (DISCARD, [SHARD.books, SHARD.dead, SHARD.dead_ids]),
    ):
        assert worker.call(script, names, [1, "1-1", 6, 0, "", ""]) == [-1, found]
    for script in (RUN, queue.DIMENSION):
        (reply,) = bench.server.hold(run_scripts(script, [([KEYS.meta, KEYS.runs], ["gone", "r", 1, "open"])]))
        assert reply[0] == -1
    packer = Packer(1)
    packer.add(make_record("c", [1.0, 1.0]), run="", ordinal=0, at=7)
    packer.close_all(7)
    with pytest.raises(QueueLost, match="at most 0 were pending"):
        bench.server.hold(bench.enqueuer(replace(bench.shape, incarnation="gone")).enqueue(packer, no_patience))
    assert packer.records == 1
    assert bench.state() == before


def test_a_producer_says_what_it_may_have_lost(bench: Bench) -> None:
    """Of its confirmed records it counts those that may have been pending when the server was last heard."""
    enqueuer, packer = bench.enqueuer(), Packer(1)

    def put(first: int) -> None:
        for ordinal in range(first, first + 30):
            packer.add(make_record(f"i{ordinal}", [1.0, 1.0]), run="", ordinal=ordinal, at=7)
        packer.close_all(7)
        bench.server.hold(enqueuer.enqueue(packer, no_patience))

    put(0)
    bench.worker.lease()
    bench.worker.settle([bench.settling(one) for one, _ in bench.entries()])
    put(30)
    bench.client.flushall()
    with pytest.raises(QueueLost, match=r"shard 0 is gone .*at most 30 were pending") as raised:
        put(60)
    assert (raised.value.queue, raised.value.pending, packer.records) == ("q", 30, 30)


# lanes, bell and clock


def test_a_lane_has_a_stream_while_it_has_entries(bench: Bench) -> None:
    """The first entry of a lane rings the bell with its sequence; settling the last one takes the stream away."""
    bench.worker.lease()
    first = bench.put("a", namespace="n")
    second = bench.put("b", namespace="n")
    other = bench.put("c", namespace="m")
    bell: Any = bench.client.xrange(SHARD.bell)
    assert [(i.decode(), f[b"ns"]) for i, f in bell] == [(first, b"n"), (other, b"m")]
    assert bench.client.smembers(SHARD.lanes) == {b"n", b"m"}
    reply = bench.worker.settle([bench.settling(first, "n"), bench.settling(other, "m")])
    assert reply == [1, 2, other.encode(), 2, b"m"]
    assert bench.client.smembers(SHARD.lanes) == {b"n"}
    assert not bench.client.exists(SHARD.stream("m"))
    assert bench.worker.settle([bench.settling(second, "n")]) == [1, 1, other.encode(), 3, b"n"]
    assert not bench.client.exists(SHARD.lanes)
    again = bench.put("a", namespace="n")
    assert place(again) > place(other)
    assert bench.client.xlen(SHARD.bell) == 3


def test_the_bell_keeps_the_last_hundred(bench: Bench) -> None:
    """However many lanes there are."""
    for number in range(130):
        bench.put("a", namespace=f"n{number}")
    bell: Any = bench.client.xrange(SHARD.bell)
    assert [fields[b"ns"].decode() for _, fields in bell] == [f"n{number}" for number in range(30, 130)]
    assert bench.client.scard(SHARD.lanes) == 130


def test_ids_increase_when_the_time_goes_back(bench: Bench) -> None:
    """With a clock ahead of the server's, in every lane, after streams were deleted, and of replayed entries."""
    bench.worker.lease()
    bench.client.hset(SHARD.books, "clock", f"{FAR}-7")
    seen = [bench.put("a", namespace="n"), bench.put("a", namespace="m")]
    bench.worker.settle([bench.settling(seen[0], "n", dead=[0]), bench.settling(seen[1], "m")])
    seen.append(bench.put("a", namespace="n"))
    assert bench.replay().done == 1
    seen.append(bench.entries("n")[-1][0])
    assert seen == [f"{FAR}-{n}" for n in (8, 9, 10, 11)]
    assert bench.client.hget(SHARD.books, "clock") == seen[-1].encode()


def test_a_stream_that_was_tampered_with_takes_nothing(bench: Bench) -> None:
    """Its id is beyond the clock: what came before is enqueued and counted, and nothing is half done."""
    bench.client.xadd(SHARD.stream("m"), {"x": "y"}, id=f"{FAR}-1")
    packer = Packer(1)
    for ordinal, namespace in enumerate(("n", "m", "n")):
        packer.add(make_record("a", [1.0, 1.0], namespace=namespace), run="r", ordinal=ordinal, at=7)
        packer.close_all(7)
    clock = iter(range(1_000))

    def patience() -> Patience:
        return Patience(100, lambda: float(next(clock)), random.Random(1))

    with pytest.raises(ServerRefused, match="cannot enqueue"):
        bench.server.hold(bench.enqueuer().enqueue(packer, patience), sleep=lambda _: None)
    assert packer.records == 2
    assert bench.books() == bench.books("r")
    assert (bench.books()["enqueued"], len(bench.entries("n"))) == (1, 1)


# leases and marks


def test_a_clean_takeover_and_an_unclean_one(bench: Bench) -> None:
    """A release makes the next takeover clean, a lease that ran out does not; these are counted in a row."""
    one = ShardWorker(bench.server, SHARD, bench.shape.incarnation, "one")
    two = ShardWorker(bench.server, SHARD, bench.shape.incarnation, "two")
    assert one.lease() == [1, b"one", 1, 0, b"", b"0-0"]
    assert one.lease() == [1, b"one", 1, 0, b"", b""]
    assert two.lease() == [0, b"one", 1, 0, b"", b""]
    assert two.epoch == 0
    assert one.note("alone 1-1") == 1
    entry = bench.put("a").encode()
    bench.client.delete(SHARD.lease)
    assert two.lease(take=False) == [0, b"", 1, 0, b"", b""]
    assert two.lease() == [2, b"two", 0, 1, b"alone 1-1", entry]
    assert bench.client.hget(SHARD.books, "boundary") == entry
    bench.client.delete(SHARD.lease)
    assert one.note("x") == 0
    assert one.lease() == [0, b"", 1, 0, b"", b""], "what prolongs takes nothing anew"
    assert one.lease()[:4] == [3, b"one", 0, 2]
    assert one.note("", deaths=0) == 1
    assert bench.client.hmget(SHARD.books, "mark", "deaths") == [None, b"0"]
    assert one.release() == 1
    assert one.release() == 0
    two.epoch = 0
    assert two.lease()[:4] == [4, b"two", 1, 0]
    assert bench.client.hget(SHARD.books, "deaths") is None


def test_a_lease_that_ran_out_unnoticed_is_no_death(bench: Bench) -> None:
    """It goes back to its holder with the same epoch when no other came between; after a release it does not."""
    worker = bench.worker
    worker.lease()
    bench.client.delete(SHARD.lease)
    assert worker.lease() == [1, b"me", 1, 0, b"", b""]
    assert worker.release(5_000) == 1
    kept = int(bench.client.pttl(SHARD.lease))
    assert 0 < kept <= 5_000
    assert worker.lease()[:2] == [0, b"me"]
    assert int(bench.client.pttl(SHARD.lease)) <= kept
    bench.client.delete(SHARD.lease)
    worker.epoch = 1
    assert worker.lease()[:2] == [0, b""], "a call that comes late takes nothing"
    assert worker.lease()[:4] == [2, b"me", 1, 0]


@pytest.mark.parametrize("field", ["epoch", "released", "deaths", "clock", "lease"])
@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "9007199254740991", "1" * 30, "\r\n+OK"])
def test_a_damaged_lease_is_named(bench: Bench, field: str, value: str) -> None:
    """Nothing is taken by what cannot be read."""
    if field == "lease":
        bench.client.set(SHARD.lease, value)
    else:
        bench.client.hset(SHARD.books, field, value)
    before = bench.state()
    reply = bench.worker.lease()
    assert isinstance(reply, Failed)
    assert reply.message.startswith("DAMAGED")
    assert bench.state() == before


# settling


@pytest.mark.parametrize("ids", [True, False])
def test_a_letter_of_another_run_is_superseded_in_its_books(bench: Bench, ids: bool) -> None:  # noqa: FBT001
    """The script names the run that it needs, having done nothing, and does all when it is called with it."""
    bench.worker.lease()
    dead = [bench.put("a", "b", run=f"r{n}") for n in range(3)]
    bench.worker.settle([bench.settling(one, dead=[0, 1]) for one in dead])
    assert bench.books("r1")["dead"] == 2
    bench.put("a", "c", run="r2")
    settling = bench.settling(bench.put("b", run="x"), ids=ids)
    before = bench.state()
    call = bench.worker.call(SETTLE, *settle_call(SHARD, bench.worker.mark, [settling]))
    assert (call[0], sorted(call[1:])) == (2, [b"r0", b"r1", b"r2"])
    assert bench.state() == before
    assert bench.worker.settle([settling])[:2] == [1, 1]
    for run in ("r0", "r1"):
        assert bench.books(run) == {"enqueued": 2, "dead": 1, "superseded": 1}
        assert bench.client.hget(SHARD.run(run), "reason:refused") == b"1"
    assert bench.books("x") == {"enqueued": 1, "acked": 1}
    assert bench.client.xlen(SHARD.dead) == 3


def test_settling_counts_what_was_removed(bench: Bench) -> None:
    """An entry that is gone, or named twice, is counted once, with its letters and figures."""
    bench.worker.lease()
    one, two = bench.put("a", "b", run="r"), bench.put("c", run="r")
    settlings = [
        replace(bench.settling(one, dead=[1]), figures=[("", "requests", 2), ("r", "requests", 1), ("", "lsn:", "9")]),
        replace(bench.settling(two), figures=[("", "requests", 1), ("", "lsn:", "10")]),
    ]
    bench.client.xdel(SHARD.stream(""), two)
    assert bench.worker.settle([*settlings, settlings[0]], now_ms=5)[:2] == [1, 1]
    assert bench.worker.settle(settlings, now_ms=6)[:2] == [1, 0]
    assert bench.books() == {"enqueued": 3, "acked": 1, "dead": 1, "pending": 1, "requests": 2, **_size(bench)}
    assert bench.client.hmget(SHARD.books, "lsn:", "settled_at", "reason:refused") == [b"9", b"5", b"1"]
    assert bench.client.hget(SHARD.run("r"), "requests") == b"1"
    assert bench.client.xlen(SHARD.dead) == 1


def _size(bench: Bench) -> dict[str, int]:
    told: Any = bench.client.hget(SHARD.books, "bytes")
    return {"bytes": int(told)}


def test_the_greatest_lsn_is_kept_as_text(bench: Bench) -> None:
    """Numbers that a double cannot tell apart, and no more lanes than a thousand."""
    bench.worker.lease()

    def settle(*figures: tuple[str, str, int | str]) -> None:
        one = bench.put("a")
        assert bench.worker.settle([replace(bench.settling(one), figures=figures)])[:2] == [1, 1]

    settle(("", "lsn:n", "9007199254740993"), ("", "lsn:m", "99"))
    settle(("", "lsn:n", "9007199254740992"), ("", "lsn:m", "100"))
    assert bench.client.hmget(SHARD.books, "lsn:n", "lsn:m") == [b"9007199254740993", b"100"]
    for first in range(0, 1_200, 300):
        settle(*(("", f"lsn:{number}", "1") for number in range(first, first + 300)))
    assert bench.client.hlen(SHARD.books) in range(1_000, 1_010)
    settle(("", "lsn:n", "9007199254740994"))
    assert bench.client.hget(SHARD.books, "lsn:n") == b"9007199254740994"


DAMAGE: list[tuple[str, str, str]] = [
    ("books", name, value)
    for name in ("pending", "bytes", "acked", "superseded", "dead", "settled_at", "reason:refused")
    for value in ("x", "", "1e3", "05", "9" * 16)
]
DAMAGE += [("run", name, "0x1") for name in ("pending", "bytes", "acked", "dead", "reason:refused")]
DAMAGE += [("books", "requests", "many"), ("books", "lsn:", "-1"), ("dead_ids", "\0a", "D,1-1-1-1,1-1,")]


@pytest.mark.parametrize(("key", "field", "value"), DAMAGE)
def test_damaged_counters_settle_nothing(bench: Bench, key: str, field: str, value: str) -> None:
    """The error names the field; every key is as before."""
    bench.worker.lease()
    one = bench.put("a", "b", run="r")
    figures: list[tuple[str, str, int | str]] = [("", "requests", 1), ("", "lsn:", "3")]
    settling = replace(bench.settling(one, dead=[1]), figures=figures)
    name = SHARD.run("r") if key == "run" else getattr(SHARD, key)
    bench.client.hset(name, field, value)
    before = bench.state()
    reply = bench.worker.settle([settling], now_ms=5)
    assert isinstance(reply, Failed), reply
    told = "holds a mark that cannot be read" if key == "dead_ids" else f"holds as {field} what is no counter"
    assert reply.message.startswith(f"DAMAGED {name} {told}")
    assert bench.state() == before


@pytest.mark.parametrize("which", ["lanes", "dead", "dead_ids", "run", "stream"])
def test_a_key_of_a_foreign_type_settles_nothing(bench: Bench, which: str) -> None:
    """It is found before anything was written."""
    bench.worker.lease()
    settling = bench.settling(bench.put("a", run="r"), dead=[0])
    names: dict[str, str] = {"run": SHARD.run("r"), "stream": SHARD.stream("")}
    name = names.get(which) or getattr(SHARD, which)
    bench.client.delete(name)
    bench.client.set(name, "foreign")
    before = bench.state()
    reply = bench.worker.settle([settling])
    assert isinstance(reply, Failed)
    assert reply.message.startswith(f"DAMAGED {name} is no ")
    assert bench.state() == before


def test_a_fenced_worker_settles_nothing(bench: Bench) -> None:
    """It is told what the lease is now."""
    settling = bench.settling(bench.put("a"))
    before = bench.state()
    assert bench.worker.settle([settling]) == [0, b""]
    assert bench.state() == before
    bench.client.set(SHARD.lease, "9:other")
    assert bench.worker.settle([settling]) == [0, b"9:other"]


# letters


def test_only_what_the_caller_knows_is_replayed(bench: Bench) -> None:
    """A letter of another namespace or run than named is left, a damaged one too; neither changes a key."""
    bench.worker.lease()
    bench.worker.settle([bench.settling(bench.put("a", namespace="n", run="r"), "n", dead=[0])])
    stored: Any = bench.client.xrange(SHARD.dead)
    letter, fields = stored[0][0].decode(), stored[0][1]
    broken = []
    for change in (
        {b"ids": b'["a","b"]'},
        {b"ids": b"["},
        {b"seq": b"x"},
        {b"ns": None},
        {b"values": b"1"},
        {b"v": None},
    ):
        changed = {name: value for name, value in {**fields, **change}.items() if value is not None}
        told: Any = bench.client.xadd(SHARD.dead, changed)
        broken.append(told.decode())
    names = [SHARD.books, SHARD.lanes, SHARD.bell, SHARD.dead, SHARD.dead_ids]
    names += [SHARD.stream("n"), SHARD.stream("m"), SHARD.run("r"), SHARD.run("s")]
    before = bench.state()
    wrong: list[Any] = [letter, 7, 8, "m", "r", letter, 6, 9, "n", "s", letter, 6, 0, "n", ""]
    damaged = [part for one in broken for part in (one, 6, 8, "n", "r")]
    assert bench.worker.call(REPLAY, names, [3, *wrong]) == [0, 0, 0]
    assert bench.worker.call(REPLAY, names, [len(broken), *damaged]) == [2] * len(broken)
    assert bench.state() == before
    assert bench.worker.call(REPLAY, names, [2, letter, 6, 8, "n", "r", letter, 6, 8, "n", "r"]) == [1, 0]
    assert bench.client.xlen(SHARD.bell) == 2
    gone = [part for one in broken for part in (one, 4, "r")]
    names = [SHARD.books, SHARD.dead, SHARD.dead_ids, SHARD.run("r")]
    assert bench.worker.call(DISCARD, names, [broken[0], 0, "", *gone]) == [0] + [1] * len(broken)
    assert bench.client.xlen(SHARD.dead) == 0


# a server that is out of memory


@pytest.fixture
def full(bench: Bench, backend: Backend) -> Iterator[Callable[[], object]]:
    """Provide a way to fill the server, and undo it."""
    if backend.server is None:
        pytest.skip("fakeredis has no memory limit")
    yield lambda: bench.client.config_set("maxmemory", "1")
    bench.client.config_set("maxmemory", "0")


def test_a_full_server_can_be_drained(bench: Bench, full: Callable[[], object]) -> None:
    """Leases, marks, letters and settling work to the end; what puts work in is refused, and changes nothing."""
    bench.worker.lease()
    dead = bench.put("a", run="r")
    bench.worker.settle([bench.settling(dead, dead=[0])])
    entries = [bench.put("a", "b", run="s"), bench.put("c", "d", run="s")]
    bench.client.delete(SHARD.lease)
    full()
    worker = ShardWorker(bench.server, SHARD, bench.shape.incarnation, "new")
    before = bench.state()
    with pytest.raises(QueueFull):
        bench.put("more")
    with pytest.raises(QueueFull):
        bench.replay()
    assert bench.state() == before
    assert worker.lease()[:4] == [2, b"new", 0, 1]
    assert worker.lease()[:2] == [2, b"new"]
    assert worker.note("alone", deaths=2) == 1
    figures: list[tuple[str, str, int | str]] = [("", "lsn:", "3"), ("s", "posted", 7)]
    settlings = [bench.settling(entries[0]), replace(bench.settling(entries[1], dead=[1]), figures=figures)]
    assert worker.settle(settlings, now_ms=5)[:2] == [1, 2]
    assert bench.client.hmget(SHARD.books, "pending", "acked", "superseded", "dead") == [b"0", b"3", b"1", b"1"]
    assert worker.release(5_000) == 1
    assert bench.client.hget(SHARD.books, "released") == b"2"
