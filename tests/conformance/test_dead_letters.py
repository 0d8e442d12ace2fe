"""Dead letters on every server: chosen exactly, moved atomically, each in one place, and books that balance."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import buried
from buried import refused
from upsertq import Producer, Server
from upsertq.admin.audit import audit
from upsertq.contract.books import Books, read
from upsertq.contract.circumstances import Circumstances
from upsertq.contract.dead_letter import Reason
from upsertq.contract.errors import NotFound, ServerRefused, WaitTimeout
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Ask, Failed, Trouble
from upsertq.contract.queue import find_queue
from upsertq.contract.wire import decode
from upsertq.dead import choice as dead_choice
from upsertq.dead import finding as dead
from upsertq.dead.choice import Selector
from upsertq.dead.finding import Plan, find_letters, find_picks, make_plan, walk
from upsertq.dead.moves import Tally, discard, replay, wait_until_replayed

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Backend
    from upsertq.contract.dead_letter import Head, Verdict
    from upsertq.contract.protocol import Conversation, Patience
    from upsertq.contract.queue import QueueShape

KEYS = QueueKeys("q")
SHARDS = 2
WORLD = Circumstances(time.monotonic, time.time)
BAD = ("x1", "x2", "x3", "y1", "y2")


def patience() -> Patience:
    """A short patience."""
    return WORLD.patience(5)


class Bench:
    """A queue with dead letters made by the worker's script."""

    def __init__(self, backend: Backend) -> None:
        self.client = backend.sync
        self.server = Server(backend.sync)

    def put(self, ids: list[str], run: str = "", namespace: str = "n") -> None:
        """Enqueue records of 4 dimensions with metadata."""
        with Producer("q", url=self.server, shards=SHARDS) as producer:
            matrix = np.arange(4 * len(ids), dtype=np.float32).reshape(-1, 4) + 0.1
            producer.put_many(ids, matrix, metadata=[{"of": i} for i in ids], namespace=namespace, run=run)

    def settle(self, judge: Callable[[str], Verdict | None] = lambda _: None) -> None:
        """Settle what is pending."""
        buried.settle(self.server, self.client, judge, shards=SHARDS)

    def shape(self) -> QueueShape:
        """What the queue is."""
        return self.server.hold(find_queue(KEYS, patience()))

    def heads(self) -> list[Head]:
        """Every letter."""
        return list(walk(self.server.hold, KEYS, SHARDS, patience))

    def plan(self, selector: Selector = Selector(), limit: int | None = None) -> Plan:  # noqa: B008 - it is frozen
        """Choose letters."""
        return self.server.hold(make_plan(KEYS, SHARDS, selector, limit, patience))

    def replay(self, plan: Plan) -> Tally:
        """Replay a plan."""
        tally = Tally()
        self.server.hold(replay(KEYS, self.shape(), plan.picks, tally, patience))
        return tally

    def discard(self, plan: Plan) -> Tally:
        """Discard a plan."""
        tally = Tally()
        self.server.hold(discard(KEYS, self.shape(), plan.picks, tally, patience))
        return tally

    def books(self, run: str = "") -> Books:
        """The books; they must balance, and the audit must agree."""
        report = self.server.hold(audit(KEYS, self.shape(), patience()))
        assert (report.drifts, report.inconclusive) == ((), ())
        found = self.server.hold(read(KEYS, SHARDS, run, patience()))
        assert found.drift == 0
        return found

    def pending(self) -> list[tuple[str, str, int]]:
        """The pending records: id, sequence and depth."""
        found = []
        for shard in range(SHARDS):
            for _, fields in buried.pending(self.client, KEYS.shard(shard)):
                entry = decode(fields)
                found += [(name, entry.seq, entry.depth) for name in entry.ids]
        return found

    def marks(self) -> dict[str, list[str]]:
        """The marks by id."""
        found: dict[str, list[str]] = {}
        for shard in range(SHARDS):
            told: Any = self.client.hgetall(KEYS.shard(shard).dead_ids)
            found |= {name.decode().split("\0")[1]: mark.decode().split() for name, mark in told.items()}
        return found


def of_bad(name: str) -> Verdict | None:
    """Kill those that begin with x (refused) and y (too large)."""
    if name.startswith("x"):
        return refused("no good")
    return refused("huge", Reason.TOO_LARGE, 413) if name.startswith("y") else None


@pytest.fixture
def bench(backend: Backend) -> Bench:
    """Provide a queue in which 5 of 10 records died: x1, x2, x3 of run a, y1, y2 of none."""
    bench = Bench(backend)
    bench.put(["x1", "g1", "x2", "g2", "x3"], run="a")
    bench.put(["y1", "g3", "y2", "g4", "g5"])
    bench.settle(of_bad)
    return bench


def test_letters_are_read_whole(bench: Bench) -> None:
    """Heads and letters hold what died and why."""
    assert bench.books() == Books(enqueued=10, acked=5, dead=5)
    heads = {head.id: head for head in bench.heads()}
    assert heads.keys() == set(BAD)
    assert heads["x1"].verdict == of_bad("x1")
    assert (heads["x1"].run, heads["y1"].run, heads["x1"].namespace, heads["x1"].dim) == ("a", "", "n", 4)
    (letter,) = bench.server.hold(find_letters(KEYS, SHARDS, [heads["x2"].dead_id], patience()))
    assert (letter.id, letter.verdict, letter.entry.metadata) == ("x2", of_bad("x2"), b'[{"of":"x2"}]')
    assert letter.entry.values == np.array([8.1, 9.1, 10.1, 11.1], "<f4").tobytes()
    assert letter.entry.seq == heads["x2"].seq


@pytest.mark.parametrize("page", [10, 500])
def test_walking_follows_the_order_of_death(backend: Backend, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    """However long the pages, every letter comes once, in the order of death over all shards."""
    monkeypatch.setattr(dead_choice, "PAGE_HEADS", page)
    buried.bury_many(backend.sync, [f"i{i}" for i in range(95)])
    bench = Bench(backend)
    assert [head.id for head in bench.heads()] == [f"i{i}" for i in range(95)]
    assert len(bench.plan().picks) == 95
    assert [head.id for head in bench.heads()][:7] == [p.mark[1:] for p in bench.plan(limit=7).picks]


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        (Selector(), {*BAD}),
        (Selector(reasons=frozenset({Reason.REFUSED})), {"x1", "x2", "x3"}),
        (Selector(statuses=frozenset({413})), {"y1", "y2"}),
        (Selector(runs=frozenset({"a"}), ids=frozenset({"x1", "y1"})), {"x1"}),
        (Selector(namespaces=frozenset({"other"})), set()),
        (Selector(since_ms=buried.NOW_MS), {*BAD}),
        (Selector(since_ms=buried.NOW_MS + 1), set()),
        (Selector(until_ms=buried.NOW_MS), set()),
        (Selector(until_ms=buried.NOW_MS + 1), {*BAD}),
    ],
)
def test_selectors(bench: Bench, selector: Selector, chosen: set[str]) -> None:
    """Every given criterion must hold; `since` is in, `until` is out."""
    plan = bench.plan(selector)
    assert {pick.mark.split("\0")[1] for pick in plan.picks} == chosen
    assert plan.count.total == len(chosen)


def test_replay_moves_each_letter_once(bench: Bench) -> None:
    """A replayed letter is pending with its sequence and counted; a repeated replay moves nothing."""
    plan = bench.plan(Selector(runs=frozenset({"a"})))
    before = {head.id: head for head in bench.heads()}
    tally = bench.replay(plan)
    assert (len(tally.moved), tally.gone) == (3, 0)
    assert sorted(bench.pending()) == [(name, before[name].seq, 1) for name in ("x1", "x2", "x3")]
    assert {name: bench.marks()[name] for name in ("x1", "y1")} == {
        "x1": [f"R,{before['x1'].seq}"],
        "y1": [f"D,{before['y1'].seq},{before['y1'].stream_id},"],
    }
    books = bench.books()
    assert (books.dead, books.pending, bench.books("a").pending, bench.books("a").dead) == (2, 3, 3, 0)
    again = bench.replay(plan)
    assert (again.moved, again.gone) == ([], 3)
    assert bench.books() == books
    bench.settle()
    assert bench.books() == Books(enqueued=10, acked=8, dead=2)
    assert bench.marks().keys() == {"y1", "y2"}


def test_a_replayed_entry_is_the_record(bench: Bench) -> None:
    """Nothing of the record changes by dying and coming back, and no verdict travels."""
    (letter,) = bench.server.hold(find_letters(KEYS, SHARDS, [bench.heads()[0].dead_id], patience()))
    bench.replay(bench.server.hold(find_picks(KEYS, SHARDS, [letter.dead_id], patience())))
    entries = buried.pending(bench.client, KEYS.shard(letter.shard))
    assert decode(entries[0][1]) == letter.entry._replace(depth=1)
    assert set(entries[0][1]) <= set(b"v op n ns ids dim values meta run at seq depth".split())


def test_no_character_keeps_a_letter_from_its_replay(backend: Backend) -> None:
    """Every character that an id, a namespace and metadata may have comes back: DEL too, which JSON does not escape."""
    bench = Bench(backend)
    ids = [f"x{chr(code)}" for code in range(1, 128)]
    text = "".join(map(chr, range(128)))
    with Producer("q", url=bench.server, shards=SHARDS) as producer:
        producer.put_many(ids, np.ones((len(ids), 4)), metadata=[{"text": text}] * len(ids), namespace=text[1:])
    bench.settle(of_bad)
    tally = bench.replay(bench.plan())
    assert (len(tally.moved), tally.gone, tally.damaged) == (len(ids), 0, 0)
    assert sorted(name for name, _, _ in bench.pending()) == ids
    assert bench.books().pending == len(ids)


def test_versions_of_one_id_go_in_their_order(backend: Backend) -> None:
    """Two dead versions of an id are replayed the older first, whichever died first; both marks are kept."""
    bench = Bench(backend)
    bench.put(["x1"])
    bench.settle(of_bad)
    bench.put(["x1"])
    bench.settle(of_bad)
    plan = Plan(bench.plan().picks[::-1])
    assert [p.seq for p in dead.plan_of(plan.picks).picks] == [p.seq for p in bench.plan().picks]
    bench.replay(bench.plan(limit=1))
    older, newer = (pick.seq for pick in plan.picks[::-1])
    assert [token[:2] for token in bench.marks()["x1"]] == ["D,", "R,"]
    bench.replay(bench.plan())
    assert [seq for _, seq, _ in bench.pending()] == [older, newer]
    assert bench.marks()["x1"] == [f"R,{older}", f"R,{newer}"]
    bench.settle()
    assert bench.books() == Books(enqueued=2, acked=2)
    assert bench.marks() == {}


def test_a_superseded_letter_is_gone(bench: Bench) -> None:
    """A letter that a newer acknowledged version superseded after the plan was made is skipped and counted."""
    plan = bench.plan()
    bench.put(["x1"], run="b")
    bench.settle()
    tally = bench.replay(plan)
    assert (len(tally.moved), tally.gone) == (4, 1)
    books = bench.books()
    assert (books.superseded, books.dead, books.pending) == (1, 0, 4)


def test_discard_is_for_good(bench: Bench) -> None:
    """Discarded letters leave no trace but their count; a repetition counts nothing."""
    plan = bench.plan(Selector(reasons=frozenset({Reason.REFUSED})))
    assert len(bench.discard(plan).moved) == 3
    assert bench.books() == Books(enqueued=10, acked=5, dead=2, discarded=3)
    assert bench.books("a").discarded == 3
    assert bench.marks().keys() == {"y1", "y2"}
    assert bench.discard(plan).gone == bench.replay(plan).gone == 3
    assert bench.books().discarded == 3


def test_discard_keeps_the_marks_of_others(backend: Backend) -> None:
    """Of two dead versions the discarded one alone leaves the mark; that of the replayed one is kept."""
    bench = Bench(backend)
    for _ in range(2):
        bench.put(["x1"])
        bench.settle(of_bad)
    first = bench.plan(limit=1)
    bench.replay(first)
    bench.discard(bench.plan())
    assert bench.marks()["x1"] == [f"R,{first.picks[0].seq}"]
    assert bench.books() == Books(enqueued=2, discarded=1, pending=1, bytes=bench.books().bytes)


def test_more_letters_than_a_call_takes(backend: Backend) -> None:
    """A plan of many calls is carried out whole, and told of while it goes."""
    buried.bury_many(backend.sync, [f"i{i}" for i in range(450)])
    bench = Bench(backend)
    told: list[int] = []
    tally = Tally()
    bench.server.hold(
        replay(KEYS, bench.shape(), bench.plan().picks, tally, patience, lambda now: told.append(now.done))
    )
    assert told == [200, 400, 450]
    assert sorted(name for name, *_ in bench.pending()) == sorted(f"i{i}" for i in range(450))
    assert bench.books("r").pending == 450


def test_unreadable_letters_are_left(bench: Bench) -> None:
    """A letter of another version is passed over and counted, never moved."""
    bench.client.xadd(KEYS.shard(0).dead, {"v": 9, "op": "erase", "n": 1, "ids": '["z"]', "ns": ""})
    bench.client.xadd(KEYS.shard(0).dead, {"v": 2, "op": "upsert", "ids": "[", "ns": "", "reason": "refused"})
    plan = bench.plan()
    assert (len(plan.picks), plan.unreadable) == (5, 2)
    passed: list[int] = []
    assert len(list(walk(bench.server.hold, KEYS, SHARDS, patience, passed.append))) == 5
    assert sum(passed) == 2


@pytest.mark.parametrize("name", ["0:1-1", "7:1-1", "x", "0:5", "0:-", "", "0:1-99999999999999999999", "²:1-1"])
def test_letters_that_are_not_there(bench: Bench, name: str) -> None:
    """An id that names no letter, or is none, is named in the error, and nothing is read for it."""
    with pytest.raises(NotFound, match="there is no dead letter"):
        bench.server.hold(find_letters(KEYS, SHARDS, [bench.heads()[0].dead_id, name], patience()))


def test_waiting_for_replayed_letters(bench: Bench) -> None:
    """The wait ends when all are settled, and tells which died again and why."""
    picks = bench.plan().picks
    bench.replay(Plan(picks))
    with pytest.raises(WaitTimeout, match="5 of the first 5"):
        bench.server.hold(wait_until_replayed(KEYS, picks, 0, WORLD))
    bench.settle(lambda name: refused("new", Reason.SHORT_ACK) if name == "x1" else of_bad(name) and None)
    (died,) = bench.server.hold(wait_until_replayed(KEYS, picks, 5, WORLD))
    assert (died[0].mark, died[1]) == ("n\0x1", Reason.SHORT_ACK)
    assert bench.books() == Books(enqueued=10, acked=9, dead=1)
    assert bench.heads()[0].depth == 1


def driven(bench: Bench, conversation: Conversation[None], lose: Callable[[int], bool]) -> None:
    """Hold a conversation of which some answers are lost after the server has acted."""
    step, effect = 0, next(conversation)
    while True:
        replies: list[Any] = []
        if isinstance(effect, Ask):
            replies = bench.server._ask(effect.commands)
            if lose(step):
                replies = [Failed(Trouble.AWAY, "connection lost")] * len(replies)
            step += 1
        try:
            effect = conversation.send(replies)
        except StopIteration:
            return


def test_a_lost_answer_is_no_second_replay(bench: Bench) -> None:
    """A call whose answer was lost is repeated: what it had moved is counted as moved, once."""
    bench.replay(Plan(bench.plan().picks[:1]))  # so that the server knows the script
    tally = Tally()
    driven(bench, replay(KEYS, bench.shape(), bench.plan().picks, tally, patience), lambda step: step == 0)
    assert (len(tally.moved), tally.gone) == (4, 0)
    assert len(bench.pending()) == 5
    assert bench.books().pending == 5


@pytest.mark.parametrize("key", ["stream", "dead_ids", "books"])
def test_a_foreign_key_stops_before_anything_happened(bench: Bench, key: str) -> None:
    """Where a key is of another type nothing is moved."""
    plan, shape = bench.plan(), bench.shape()
    foreign = [KEYS.shard(k).stream("n") if key == "stream" else getattr(KEYS.shard(k), key) for k in range(SHARDS)]
    for name in foreign:
        bench.client.delete(name)
        bench.client.set(name, "mine")
    with pytest.raises(ServerRefused, match="cannot replay"):
        bench.server.hold(replay(KEYS, shape, plan.picks, Tally(), patience))
    assert len(bench.heads()) == 5
    assert all(key == "stream" or not bench.client.xlen(KEYS.shard(k).stream("n")) for k in range(SHARDS))


def test_out_of_memory_moves_nothing(backend: Backend) -> None:
    """On a server out of memory a replay fails whole; a discard still works, and makes room."""
    if backend.server is None:
        pytest.skip("fakeredis has no memory limit")
    bench = Bench(backend)
    bench.put([*BAD])
    bench.settle(of_bad)
    plan = bench.plan()
    bench.client.config_set("maxmemory", "1")
    try:
        with pytest.raises(Exception, match="cannot replay"):
            bench.server.hold(replay(KEYS, bench.shape(), plan.picks, Tally(), lambda: WORLD.patience(0)))
        bench.client.config_set("maxmemory", "0")
        assert bench.books() == Books(enqueued=5, dead=5)
        bench.client.config_set("maxmemory", "1")
        assert len(bench.discard(plan).moved) == 5
    finally:
        bench.client.config_set("maxmemory", "0")
    assert bench.books() == Books(enqueued=5, discarded=5)


def test_the_audit_counts_letters_by_run(bench: Bench) -> None:
    """A letter that vanished behind the books' back shows in its shard and in its run."""
    lost = next(head for head in bench.heads() if head.id == "x1")
    bench.client.xdel(KEYS.shard(lost.shard).dead, lost.stream_id)
    report = bench.server.hold(audit(KEYS, bench.shape(), patience()))
    assert {(d.shard, d.run, d.counter, d.found - d.expected) for d in report.drifts} == {
        (lost.shard, "", "dead", 1),
        (lost.shard, "a", "dead", 1),
        (lost.shard, "", "reason:refused", 1),
        (lost.shard, "a", "reason:refused", 1),
    }
