"""The audit finds every kind of drift, blames the right shard and run, and is not fooled by traffic."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from buried import holder, pending
from buried import settling as outcome
from upsertq import Producer, QueueMismatch, Server
from upsertq.admin import audit as module
from upsertq.admin.audit import Drift, audit
from upsertq.contract import queue
from upsertq.contract.circumstances import Circumstances
from upsertq.contract.keys import QueueKeys
from upsertq.contract.wire import FORMAT, decode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Backend
    from upsertq.admin.audit import Report

KEYS = QueueKeys("q")
SHARDS = 4
WORLD = Circumstances(time.monotonic, time.time)


def recount(server: Server) -> Report:
    """Audit the queue."""
    shape = server.hold(queue.find_queue(KEYS, WORLD.patience(5)))
    return server.hold(audit(KEYS, shape, WORLD.patience(5)))


@pytest.fixture
def server(backend: Backend) -> Server:
    """Provide a queue with two runs and records of none."""
    server = Server(backend.sync)
    with Producer("q", url=server, shards=SHARDS) as producer:
        for run, count in (("a", 200), ("b", 60), ("", 40)):
            names = [f"{run}{i}" for i in range(count)]
            producer.put_many(names, np.ones((count, 4)), namespace="n", run=run)
    return server


def test_books_that_balance(backend: Backend, server: Server) -> None:
    """A sound queue has no drift, and its sums are those of the entries."""
    report = recount(server)
    assert report.ok
    assert (report.drifts, report.inconclusive) == ((), ())
    lengths: Any = [backend.sync.xlen(KEYS.shard(k).stream("n")) for k in range(SHARDS)]
    assert (report.records, report.entries, report.runs, report.dead) == (300, sum(lengths), 2, 0)
    with Producer("q", url=server) as producer:
        assert report.bytes == producer.books().bytes


def test_an_empty_queue_balances(backend: Backend) -> None:
    """A queue that never held anything balances."""
    server = Server(backend.sync)
    server.hold(queue.open_queue(KEYS, SHARDS, 0, WORLD.patience(5)))
    assert recount(server).as_dict() == {
        "queue": "q",
        "shards": SHARDS,
        "entries": 0,
        "records": 0,
        "bytes": 0,
        "dead": 0,
        "runs": 0,
        "drifts": [],
        "inconclusive": (),
        "ok": True,
    }


@pytest.mark.parametrize("run", ["", "b"])
@pytest.mark.parametrize(
    ("counter", "found"),
    [
        ("pending", {"pending": 5, "enqueued": 5}),
        ("pending", {"pending": -3, "enqueued": -3}),
        ("bytes", {"bytes": 1}),
        ("enqueued", {"enqueued": 1}),
        ("enqueued", {"acked": 2}),
    ],
)
def test_a_counter_that_drifts(backend: Backend, server: Server, run: str, counter: str, found: dict[str, int]) -> None:
    """A counter that is off is found, in its shard and run alone, with what it should be."""
    name = KEYS.shard(1).run(run) if run else KEYS.shard(1).books
    before: Any = {k.decode(): v for k, v in backend.sync.hgetall(name).items()}  # type: ignore[union-attr]
    for field, by in found.items():
        backend.sync.hincrby(name, field, by)
    (drift,) = recount(server).drifts
    if counter == "enqueued":
        kept = int(before["enqueued"])
        assert drift == Drift(1, run, counter, kept + found.get("acked", 0), kept + found.get("enqueued", 0))
    else:
        kept = int(before[counter])
        assert drift == Drift(1, run, counter, kept, kept + found[counter])


def test_an_entry_that_vanished(backend: Backend, server: Server) -> None:
    """An entry deleted behind the books' back shows in its shard and its run: records and bytes."""
    stream = KEYS.shard(2).stream("n")
    oldest: Any = backend.sync.xrange(stream, count=1)
    backend.sync.xdel(stream, oldest[0][0])
    lost = int(oldest[0][1][b"n"])
    drifts = recount(server).drifts
    assert {(d.shard, d.run, d.counter) for d in drifts} == {
        (2, run, counter) for run in ("", "a") for counter in ("pending", "bytes")
    }
    assert all(d.found - d.expected == lost for d in drifts if d.counter == "pending")


def test_an_entry_that_came_from_nowhere(backend: Backend, server: Server) -> None:
    """An entry that nobody counted shows, even of a run that the queue does not know."""
    backend.sync.xadd(KEYS.shard(0).stream("n"), {"n": 2, "ids": '["x","y"]', "run": "ghost"})
    drifts = recount(server).drifts
    assert Drift(0, "ghost", "pending", 2, 0) in drifts
    assert Drift(0, "ghost", "bytes", 9, 0) in drifts
    assert {(d.run, d.counter) for d in drifts} == {(r, c) for r in ("", "ghost") for c in ("pending", "bytes")}


def test_dead_letters_are_counted(backend: Backend, server: Server) -> None:
    """The dead letters are those of the dead stream."""
    for _ in range(2):
        backend.sync.xadd(KEYS.shard(0).dead, {"id": "x"})
    assert recount(server).drifts == (Drift(0, "", "dead", 2, 0),)
    assert recount(server).dead == 2
    backend.sync.hincrby(KEYS.shard(0).books, "dead", 2)
    backend.sync.hincrby(KEYS.shard(0).books, "enqueued", 2)
    assert recount(server).ok


def test_runs_beyond_the_entries_are_checked(backend: Backend, server: Server) -> None:
    """A run whose books say pending, but of which no entry is left, drifts."""
    backend.sync.hset(KEYS.runs, "old", 1)
    backend.sync.hset(KEYS.shard(2).run("old"), mapping={"enqueued": 4, "pending": 4})
    assert recount(server).drifts == (Drift(2, "old", "pending", 0, 4),)


@pytest.mark.parametrize("page", [1, 3, 1000])
def test_pages_add_up(server: Server, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    """However short the pages, the count is the same."""
    monkeypatch.setattr(module, "PAGE_ENTRIES", page)
    report = recount(server)
    assert (report.records, report.drifts) == (300, ())


class Meddler:
    """A server on which something happens before each call of the audit."""

    def __init__(self, server: Server, meddle: Iterator[Any]) -> None:
        self.server = server
        self.meddle = meddle

    def audit(self) -> Report:
        """Audit the queue, meddling all the while."""
        shape = self.server.hold(queue.find_queue(KEYS, WORLD.patience(5)))
        conversation = audit(KEYS, shape, WORLD.patience(5))
        effect = next(conversation)
        while True:
            next(self.meddle, None)
            replies = self.server._ask(effect.commands)  # type: ignore[union-attr]
            try:
                effect = conversation.send(replies)
            except StopIteration as stop:
                report: Report = stop.value
                return report


def settling(backend: Backend) -> Iterator[None]:
    """Settle the oldest entry of each shard in turn, one at every step."""
    workers = [holder(Server(backend.sync), backend.sync, KEYS.shard(k)) for k in range(SHARDS)]
    for worker in itertools.cycle(workers):
        for stream_id, fields in pending(backend.sync, worker.keys)[:1]:
            assert worker.settle([outcome(stream_id, decode(fields), lambda _: None)])[:2] == [1, 1]
        yield


@pytest.mark.parametrize("page", [1, 200])
def test_traffic_is_no_drift(backend: Backend, server: Server, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    """Entries that are settled between any two calls give no false drift."""
    monkeypatch.setattr(module, "PAGE_ENTRIES", page)
    keep = settling(backend)
    report = Meddler(server, itertools.islice(keep, 8)).audit()
    assert (report.drifts, report.inconclusive) == ((), ())


def test_a_shard_that_never_stands_still_is_counted_at_once(backend: Backend, server: Server) -> None:
    """When the books change all the time one atomic call gives the answer, and real drift still shows."""

    def churn() -> Iterator[None]:
        for _ in itertools.count():
            for k in range(SHARDS):
                backend.sync.hincrby(KEYS.shard(k).books, "enqueued", 1)
                backend.sync.hincrby(KEYS.shard(k).books, "acked", 1)
            yield

    assert Meddler(server, churn()).audit().ok
    backend.sync.hincrby(KEYS.shard(1).run("a"), "bytes", 7)
    (drift,) = Meddler(server, churn()).audit().drifts
    assert (drift.shard, drift.run, drift.counter, drift.found - drift.expected) == (1, "a", "bytes", 7)


def test_too_long_and_never_still_is_inconclusive(
    backend: Backend, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that is too long for one call and never stands still is said to be inconclusive, not to drift."""
    monkeypatch.setattr(module, "ATOMIC_ENTRIES", 1)

    def churn() -> Iterator[None]:
        for _ in itertools.count():
            backend.sync.hincrby(KEYS.shard(1).books, "enqueued", 1)
            backend.sync.hincrby(KEYS.shard(1).books, "acked", 1)
            yield

    report = Meddler(server, churn()).audit()
    assert (report.inconclusive, report.drifts, report.ok) == ((1,), (), True)


def test_real_traffic_is_no_drift(backend: Backend, server: Server) -> None:
    """While a producer puts and a worker settles, audit after audit finds the books in balance."""
    if backend.server is None:
        pytest.skip("fakeredis has one lock for everything: nothing happens between two calls")
    stop = threading.Event()

    def produce() -> None:
        with backend.server.client() as client, Producer("q", url=Server(client)) as producer:  # type: ignore[union-attr]
            for turn in itertools.count():
                if stop.is_set():
                    break
                producer.put_many([f"t{turn}-{i}" for i in range(40)], np.ones((40, 4)), namespace="n", run="a")
                producer.flush()

    def work() -> None:
        keep = settling(backend)
        while not stop.is_set():
            next(keep)

    threads = [threading.Thread(target=produce), threading.Thread(target=work)]
    for thread in threads:
        thread.start()
    try:
        with backend.server.client() as client:
            reports = [recount(Server(client)) for _ in range(15)]
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert all(report.ok for report in reports), next(report for report in reports if not report.ok)


def test_a_newer_queue_is_refused(backend: Backend, server: Server) -> None:
    """The audit does not judge what it may not understand."""
    backend.sync.hset(KEYS.meta, "format", FORMAT + 1)
    with pytest.raises(QueueMismatch, match="upgrade upsertq"):
        recount(server)
