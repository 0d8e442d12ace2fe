"""Receipts on every server: figures that are counted once, maxima that never sink, reasons that add up to the dead."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import buried
from buried import refused
from upsertq import AsyncProducer, Producer, Server
from upsertq.admin.audit import Drift, audit
from upsertq.client import receipt
from upsertq.contract.books import COUNTERS, REASON
from upsertq.contract.circumstances import Circumstances
from upsertq.contract.dead_letter import Reason
from upsertq.contract.errors import NotFound
from upsertq.contract.keys import QueueKeys
from upsertq.contract.queue import find_queue, open_queue
from upsertq.contract.server import AsyncServer
from upsertq.dead.choice import Selector
from upsertq.dead.finding import make_plan
from upsertq.dead.moves import Tally, discard, replay
from upsertq_worker.flow.usage import Usage
from upsertq_worker.queue.redis_queue import RedisQueue
from worker_bench import OURS, read_all, settle_all, settlement

if TYPE_CHECKING:
    from conftest import Backend
    from upsertq import Receipt
    from upsertq.contract.dead_letter import Verdict
    from upsertq.contract.protocol import Patience
    from upsertq_worker.flow.usage import Metered
    from upsertq_worker.queue.protocols import Delivery

KEYS = QueueKeys("q")
SHARDS = 2
WORLD = Circumstances(time.monotonic, time.time)


def patience() -> Patience:
    """A short patience."""
    return WORLD.patience(5)


class Desk:
    """A queue, put into by a producer and settled by hand."""

    def __init__(self, backend: Backend) -> None:
        self.client = backend.sync
        self.server = Server(backend.sync)
        self.shape = self.server.hold(open_queue(KEYS, SHARDS, 1, patience()))
        self.worker = RedisQueue(AsyncServer(backend.make_async()), self.shape, "me", 30.0)

    def put(self, ids: list[str], run: str = "") -> None:
        """Enqueue records."""
        with Producer("q", url=self.server, shards=SHARDS) as producer:
            producer.put_many(ids, np.ones((len(ids), 2)), run=run)

    async def read(self) -> list[Delivery]:
        """Read what is pending, as the holder of both shards."""
        await self.worker.lease(dict.fromkeys(OURS, 0), take=True)
        return await read_all(self.worker)

    async def settle(self, *settlements: Metered) -> None:
        """Settle under the first epoch."""
        assert await settle_all(self.worker, OURS, settlements) == frozenset()

    def receipt(self, run: str = "") -> Receipt:
        """The receipt."""
        return self.server.hold(receipt.read(KEYS, self.shape, run, patience()))

    def drifts(self) -> tuple[Drift, ...]:
        """What the audit finds."""
        return self.server.hold(audit(KEYS, self.server.hold(find_queue(KEYS, patience())), patience())).drifts

    def assert_reasons(self, expected: dict[str, int], run: str = "") -> None:
        """The dead by reason; in each shard's books and those of its runs they add up to the dead."""
        assert self.receipt(run).reasons == expected
        for shard in range(SHARDS):
            names: Any = self.client.keys(KEYS.shard(shard).run("*").replace("{", "[{]"))
            for name in (KEYS.shard(shard).books, *names):
                told: Any = self.client.hgetall(name)
                reasons = sum(int(count) for field, count in told.items() if field.startswith(REASON.encode()))
                assert reasons == int(told.get(b"dead", 0))
        assert self.drifts() == ()


@pytest.fixture
def desk(backend: Backend) -> Desk:
    """Provide an empty queue on every backend."""
    return Desk(backend)


def acked(delivery: Delivery, **more: Any) -> Metered:
    """The settlement of an entry that was acknowledged whole."""
    return settlement(delivery)._replace(**{"settled_ms": 0, **more})


def judged(name: str) -> Verdict | None:
    """Kill those that begin with x (refused) and y (too large)."""
    reasons = {"x": Reason.REFUSED, "y": Reason.TOO_LARGE}
    return refused("bad", reasons[name[0]]) if name[0] in reasons else None


async def test_a_repeated_settling_counts_nothing_twice(desk: Desk) -> None:
    """Requests, bytes and the rest go into the books of the run and of the queue with the entry, once."""
    desk.put(["a"], "r")
    (delivery,) = await desk.read()
    of_run, of_queue = Usage(3, 1, 500, {"": 7, "n": 9}), Usage(5, 2, 800, {"": 8})
    one = acked(delivery, settled_ms=1_700_000_000_123, usage=of_run, queue_usage=of_queue)
    for _ in range(2):
        await desk.settle(one)
        found = desk.receipt("r")
        assert (found.requests, found.retries, found.posted_bytes) == (3, 1, 500)
        assert found.lsn == {"__default__": 7, "n": 9}
        assert receipt.spoken(found.last_settled_at) == "2023-11-14T22:13:20.123Z"
        whole = desk.receipt()
        assert (whole.requests, whole.retries, whole.posted_bytes, whole.lsn) == (5, 2, 800, {"__default__": 8})
        assert whole.last_settled_at == found.last_settled_at


async def test_a_fenced_worker_leaves_no_figures(desk: Desk) -> None:
    """What is not settled is not counted, whatever travels with it."""
    desk.put(["a"], "r")
    (delivery,) = await desk.read()
    one = acked(delivery, settled_ms=5, usage=Usage(1, 0, 9, {"": 1}), queue_usage=Usage(1))
    assert await settle_all(desk.worker, {delivery.shard: 2}, [one]) == {delivery.shard}
    found = desk.receipt("r")
    assert (found.requests, found.lsn, found.last_settled_at, found.seconds) == (0, {}, None, None)


async def test_lsn_and_time_are_maxima(desk: Desk) -> None:
    """Neither sinks when settlements come out of order, nor is one beyond a double's precision mistaken."""
    big = 2**59
    told = [(9, 5), (10, 3), (2, 9), (big + 1, 8), (big, 2)]
    expected = [9, 10, 10, big + 1, big + 1]
    for number, (lsn, at) in enumerate(told):
        desk.put(["a"], "r")
        (delivery,) = await desk.read()
        await desk.settle(acked(delivery, settled_ms=at, usage=Usage(1, 0, 1, {"n": lsn})))
        assert desk.receipt("r").lsn == {"n": expected[number]}
    assert receipt.spoken(desk.receipt("r").last_settled_at) == "1970-01-01T00:00:00.009Z"
    assert desk.receipt("r").requests == 5


async def test_the_shards_are_added_up(desk: Desk) -> None:
    """Counts of shards are sums, LSN and time the greatest."""
    desk.put([f"a{number}" for number in range(20)], "r")
    first, second = await desk.read()
    assert first.shard != second.shard
    await desk.settle(
        acked(first, settled_ms=4, usage=Usage(1, 1, 10, {"n": 3})),
        acked(second, settled_ms=4, usage=Usage(2, 0, 20, {"n": 2, "m": 1})),
    )
    found = desk.receipt("r")
    assert (found.requests, found.retries, found.posted_bytes, found.lsn) == (3, 1, 30, {"m": 1, "n": 3})
    assert list(found.lsn) == ["m", "n"]


async def test_the_books_keep_a_bounded_number_of_namespaces(desk: Desk) -> None:
    """A queue of very many namespaces keeps the LSN of some; those that are kept go on growing."""
    desk.put(["a"], "r")
    (delivery,) = await desk.read()
    await desk.settle(acked(delivery, usage=Usage(1, 0, 1, {f"n{number}": 1 for number in range(1_500)})))
    assert 900 < len(desk.receipt("r").lsn) <= 1_000
    desk.put(["a"], "r")
    (delivery,) = await desk.read()
    await desk.settle(acked(delivery, usage=Usage(1, 0, 1, {"n0": 5, "n1499": 5})))
    lsn = desk.receipt("r").lsn
    assert (lsn["n0"], "n1499" in lsn) == (5, False)


@pytest.mark.parametrize("foreign", ["dead", "dead_ids", "run"])
async def test_a_foreign_key_stops_before_anything_happened(desk: Desk, foreign: str) -> None:
    """Where a key is of another type nothing is settled in part."""
    desk.put(["a"], "r")
    (delivery,) = await desk.read()
    keys = KEYS.shard(delivery.shard)
    name = keys.run("r") if foreign == "run" else getattr(keys, foreign)
    before: Any = desk.client.hgetall(keys.books)
    desk.client.delete(name)
    desk.client.set(name, "mine")
    faults = (await desk.worker.settle(OURS, [acked(delivery)])).faults
    assert "another program wrote it" in faults[delivery.shard]
    assert (desk.client.xlen(keys.stream("")), desk.client.hgetall(keys.books)) == (1, before)


def dead_of_both(desk: Desk) -> None:
    """Let three die as refused, two of them in run a, and one as too large in none."""
    desk.put(["x1", "x2", "g1"], "a")
    desk.put(["x3", "y1"])
    buried.settle(desk.server, desk.client, judged, shards=SHARDS)
    desk.assert_reasons({"refused": 3, "too_large": 1})
    desk.assert_reasons({"refused": 2}, "a")


def test_replayed_letters_leave_their_reasons(desk: Desk) -> None:
    """A replay takes a letter out of its reason; dead again it counts by its new one."""
    dead_of_both(desk)
    plan = desk.server.hold(make_plan(KEYS, SHARDS, Selector(), None, patience))
    for _ in range(2):  # a repetition finds them gone
        desk.server.hold(replay(KEYS, desk.shape, plan.picks, Tally(), patience))
        desk.assert_reasons({})
        desk.assert_reasons({}, "a")
    buried.settle(
        desk.server, desk.client, lambda name: refused("no", Reason.SHORT_ACK) if name == "x1" else None, shards=SHARDS
    )
    desk.assert_reasons({"short_ack": 1})
    desk.assert_reasons({"short_ack": 1}, "a")


def test_discarded_letters_leave_their_reasons(desk: Desk) -> None:
    """A discard takes a letter out of its reason, in the queue and in its run."""
    dead_of_both(desk)
    selector = Selector(ids=frozenset({"x1", "x3"}))
    plan = desk.server.hold(make_plan(KEYS, SHARDS, selector, None, patience))
    for _ in range(2):
        desk.server.hold(discard(KEYS, desk.shape, plan.picks, Tally(), patience))
        desk.assert_reasons({"refused": 1, "too_large": 1})
        desk.assert_reasons({"refused": 1}, "a")


def test_superseded_letters_leave_their_reasons(desk: Desk) -> None:
    """A newer acknowledged version, be it of another run, takes the letter out of its own run's reason."""
    dead_of_both(desk)
    desk.put(["x1", "y1"], "b")
    buried.settle(desk.server, desk.client, lambda _: None, shards=SHARDS)
    desk.assert_reasons({"refused": 2})
    desk.assert_reasons({"refused": 1}, "a")
    desk.assert_reasons({}, "b")


@pytest.mark.parametrize("run", ["", "a"])
def test_the_audit_finds_a_reason_that_drifts(desk: Desk, run: str) -> None:
    """A reason's counter that is off is named with its shard and run."""
    dead_of_both(desk)
    keys = KEYS.shard(1)
    name = keys.run(run) if run else keys.books
    before = int(desk.client.hget(name, "reason:refused") or 0)
    desk.client.hincrby(name, "reason:refused", 2)
    assert desk.drifts() == (Drift(1, run, "reason:refused", before, before + 2),)


async def test_producers_give_receipts(desk: Desk, backend: Backend) -> None:
    """Both producers read the receipt of a run and of the queue; the first time is the run's first use."""
    before = int(time.time() * 1000) / 1000
    desk.put(["a"], "r")
    buried.settle(desk.server, desk.client, lambda _: None, shards=SHARDS)
    told = Producer("q", url=desk.server).run("r").receipt()
    producer = AsyncProducer("q", url=AsyncServer(backend.make_async()))
    assert await producer.run("r").receipt() == told
    assert (await producer.receipt()).books == told.books
    assert (told.queue, told.run, told.books.acked, told.reasons) == ("q", "r", 1, {})
    assert told.first_enqueued_at is not None
    assert before <= told.first_enqueued_at.timestamp() <= time.time()
    with pytest.raises(NotFound, match="no run 'other'"):
        Producer("q", url=desk.server).run("other").receipt()
    document = told.as_dict()
    assert list(document)[:8] == ["queue", "run", *COUNTERS[:6]]
    assert (document["last_settled_at"], document["seconds"]) == (None, None)
