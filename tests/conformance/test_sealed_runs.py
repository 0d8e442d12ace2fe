"""A run is done when it is sealed and nothing of it is pending: on every server, whatever seals it or fails to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

import buried
from upsertq import (
    AsyncProducer,
    AsyncServer,
    LoadStopped,
    NotFound,
    Producer,
    QueueLost,
    RunOpen,
    Server,
    WaitTimeout,
    load,
)
from upsertq.client.waiting import MAX_POLL, OPEN_TIMEOUT, Wait, wait_until_settled
from upsertq.contract import runs
from upsertq.contract.circumstances import Circumstances
from upsertq.contract.keys import QueueKeys
from upsertq.contract.queue import find_queue

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Backend
    from upsertq import Books
    from upsertq.contract.protocol import Conversation
    from upsertq.contract.runs import RunState

KEYS = QueueKeys("q")
SHARDS = 2


class Hall:
    """A server where waits take no time: it passes in their pauses, in which something may happen."""

    def __init__(self, backend: Backend) -> None:
        self.client = backend.sync
        self.server = Server(backend.sync)
        self.now = 1_000.0
        self.world = Circumstances(lambda: self.now, time.time)
        self.happens: Callable[[], object] = lambda: None

    def producer(self) -> Producer:
        """A producer of the queue."""
        return Producer("q", url=self.server, shards=SHARDS, timeout=0)

    def sleep(self, seconds: float) -> None:
        """The pause of a wait."""
        self.now += seconds
        self.happens()

    def wait(self, run: str = "r", **limits: Any) -> Books:
        """Wait as a command does, which adds to no run itself."""
        shape = self.server.hold(find_queue(KEYS, self.world.patience(0)))
        return self.server.hold(wait_until_settled(Wait(KEYS, shape, run, **limits), self.world), sleep=self.sleep)

    def settle(self) -> None:
        """A worker acknowledges all."""
        buried.settle(self.server, self.client, lambda _: None, shards=SHARDS)

    def state(self, run: str = "r") -> RunState:
        """What is noted of the run."""
        shape = self.server.hold(find_queue(KEYS, self.world.patience(0)))
        return self.server.hold(runs.find_run(KEYS, shape, run, self.world.patience(0)))


@pytest.fixture
def hall(backend: Backend) -> Hall:
    """Provide a server of a test's own."""
    return Hall(backend)


def put(producer: Producer, *ids: str, run: str = "r") -> None:
    """Enqueue records of the run."""
    for record_id in ids:
        producer.put(record_id, [1.0], run=run)
    producer.flush()


def test_an_open_run_is_not_done(hall: Hall) -> None:
    """All of it is settled, but more may come: after a minute in which nothing does, the wait says how to go on."""
    put(hall.producer(), "a", "b")
    hall.settle()
    with pytest.raises(RunOpen, match=r"its 2 records are settled.*added for 60 s.*--queue q --run r --resume"):
        hall.wait()
    assert OPEN_TIMEOUT <= hall.now - 1_000 <= OPEN_TIMEOUT + MAX_POLL


def test_what_is_added_meanwhile_renews_the_patience_with_an_open_run(hall: Hall) -> None:
    """A load that is slow, but goes on, is waited for until it seals its run."""
    producer, ends = hall.producer(), 1_000 + OPEN_TIMEOUT
    put(producer, "a")

    def happens() -> None:
        if hall.now < ends:
            put(producer, f"a{hall.now}")
        else:
            producer.close()
        hall.settle()

    hall.happens = happens
    assert hall.wait(open_timeout=2 * MAX_POLL).pending == 0
    assert hall.now >= ends


def test_no_limit_for_an_open_run(hall: Hall) -> None:
    """The time to wait ends it then, and the message says why."""
    put(hall.producer(), "a")
    hall.settle()
    with pytest.raises(WaitTimeout, match="the run is open"):
        hall.wait(open_timeout=None, timeout=500)
    assert hall.now >= 1_500


def test_a_sealed_run_is_waited_for_until_it_is_settled(hall: Hall) -> None:
    """Sealed alone is not done; once both are true the wait returns at once."""
    with hall.producer() as producer:
        put(producer, "a", "b")
    with pytest.raises(WaitTimeout, match="2 of 2 records of run 'r' are pending"):
        hall.wait(timeout=90)
    hall.happens = hall.settle
    assert (hall.wait().acked, hall.wait().acked) == (2, 2)


def test_adding_opens_a_sealed_run_again(hall: Hall) -> None:
    """By the same producer, and by one that begins the run anew: also before it has added anything."""
    with hall.producer() as producer:
        put(producer, "a")
        assert hall.state().sealed is None
        hall.settle()
        assert producer.wait("r", timeout=5).acked == 1
        first = hall.state()
        assert first.sealed is not None
        put(producer, "b")
        hall.settle()
        with pytest.raises(RunOpen):
            hall.wait()
        assert hall.state().begun == first.begun
    assert hall.wait().acked == 2
    other = hall.producer()
    other.put("c", [1.0], run="r")
    with pytest.raises(RunOpen):
        hall.wait()
    other.close()
    hall.settle()
    assert hall.wait().acked == 3


def test_a_producer_that_did_not_know_that_it_was_sealed_opens_it_too(hall: Hall) -> None:
    """It began the run before, and adds to it: the run is open until that one seals it as well."""
    slow, quick = hall.producer(), hall.producer()
    put(slow, "a")
    with quick:
        put(quick, "b")
    hall.settle()
    assert hall.wait().acked == 2
    put(slow, "c")
    hall.settle()
    with pytest.raises(RunOpen, match="its 3 records"):
        hall.wait()
    slow.close()
    assert hall.wait().acked == 3


def rest_of(conversation: Conversation[RunState], replies: list[Any]) -> Conversation[RunState]:
    """What is left of a conversation, after these replies."""
    while True:
        try:
            effect = conversation.send(replies)
        except StopIteration as stop:
            state: RunState = stop.value
            return state
        replies = yield effect


def test_what_comes_while_a_run_is_sealed_opens_it(hall: Hall) -> None:
    """Between the count of its records and the seal another producer adds one."""
    other = hall.producer()
    put(other, "a")
    shape = hall.server.hold(find_queue(KEYS, hall.world.patience(0)))
    sealing = runs.seal_run(KEYS, shape, "r", 1, hall.world.patience(0))
    counting: Any = next(sealing)
    counted = hall.server._ask(counting.commands)
    put(other, "b")
    hall.server.hold(rest_of(sealing, counted))
    hall.settle()
    with pytest.raises(RunOpen):
        hall.wait()
    other.close()
    assert hall.wait().acked == 2


@pytest.mark.parametrize("evicted", [range(1), range(SHARDS)])
def test_books_of_a_sealed_run_that_are_gone_are_a_loss(hall: Hall, evicted: range) -> None:
    """How many records it had was noted when it was sealed: fewer are no success, whenever the wait begins."""
    with hall.producer() as producer:
        put(producer, *(f"id{i}" for i in range(20)))
    hall.settle()
    assert hall.wait().acked == 20
    for k in evicted:
        hall.client.delete(KEYS.shard(k).run("r"))
    with pytest.raises(QueueLost, match=r"run 'r' had 20 records and has \d+ now"):
        hall.wait()
    assert hall.wait("").acked == 20


def test_absent_or_lost(hall: Hall) -> None:
    """What was never there is not found; what is not there any more is lost, also where it is made anew."""
    with pytest.raises(NotFound, match="no queue 'q'"):
        hall.wait()
    with hall.producer() as producer:
        put(producer, "a")
    with pytest.raises(NotFound, match="no run 'other'"):
        hall.wait("other")
    hall.happens = hall.client.flushall
    with pytest.raises(QueueLost):
        hall.wait()

    def made_anew() -> None:
        hall.client.flushall()
        with hall.producer() as another:
            put(another, "b")
        hall.settle()

    with hall.producer() as producer:
        put(producer, "a")
    hall.happens = made_anew
    with pytest.raises(QueueLost, match="another creation"):
        hall.wait()


def fail(block: Any, record_id: str, **where: str) -> None:
    """Put a record within the block of a producer or run, and fail there."""
    with block as own:
        own.put(record_id, [1.0], **where)
        raise ZeroDivisionError


def is_sealed(hall: Hall) -> bool:
    """Whether the run is sealed, by what is noted and by what a wait makes of it."""
    hall.settle()
    try:
        hall.wait()
    except RunOpen:
        return False
    assert hall.state().sealed is not None
    return True


def test_the_end_of_a_block_seals(hall: Hall) -> None:
    """That of a run, while the producer goes on; that of the producer, for every run; and `close`."""
    with hall.producer() as producer:
        with producer.run("r") as run:
            run.put("a", [1.0])
        assert is_sealed(hall)
        put(producer, "b")
        assert not is_sealed(hall)
    assert is_sealed(hall)
    producer = hall.producer()
    put(producer, "c")
    producer.close()
    assert is_sealed(hall)


def test_a_block_that_failed_seals_nothing(hall: Hall) -> None:
    """What was put before is enqueued, but the run is not complete."""
    with hall.producer() as producer:
        with pytest.raises(ZeroDivisionError):
            fail(producer.run("r"), "a")
        assert producer.books("r").enqueued == 1
        assert not is_sealed(hall)
    assert is_sealed(hall), "the failure was handled within the producer's own block"
    with pytest.raises(ZeroDivisionError):
        fail(hall.producer(), "b", run="r")
    assert not is_sealed(hall)
    assert hall.server.hold(find_queue(KEYS, hall.world.patience(0))).shards == SHARDS


async def fail_in(block: Any, record_id: str, **where: str) -> None:
    """The same with an `async with` block."""
    async with block as own:
        await own.put(record_id, [1.0], **where)
        raise ZeroDivisionError


async def test_asyncio_seals_as_well(backend: Backend, hall: Hall) -> None:
    """The same for `AsyncProducer`."""

    def producer() -> AsyncProducer:
        return AsyncProducer("q", url=AsyncServer(backend.make_async()), shards=SHARDS, timeout=0)

    async with producer() as own:
        async with own.run("r") as run:
            await run.put("a", [1.0])
        assert is_sealed(hall)
        with pytest.raises(ZeroDivisionError):
            await fail_in(own.run("r"), "b")
        assert not is_sealed(hall)
    assert is_sealed(hall)
    with pytest.raises(ZeroDivisionError):
        await fail_in(producer(), "c", run="r")
    assert not is_sealed(hall)
    last = producer()
    await last.put("d", [1.0], run="r")
    await last.close()
    assert is_sealed(hall)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Provide a file whose third record is bad."""
    path = tmp_path / "records.jsonl"
    path.write_text('{"id":"a","values":[1]}\n{"id":"b","values":[2]}\n{"id":"c","values":"?"}\n')
    return path


def test_a_load_seals_its_run(hall: Hall, source: Path, tmp_path: Path) -> None:
    """One that stopped does not; the one that resumes it does, also where nothing was left to do."""
    options: dict[str, Any] = {"url": hall.server, "queue": "q", "shards": SHARDS, "run": "r"}
    with pytest.raises(LoadStopped):
        load(source, **options)
    assert not is_sealed(hall)
    assert load(source, resume=True, rejects=tmp_path / "bad.jsonl", **options).skipped == 2
    assert is_sealed(hall)
    assert hall.wait().acked == hall.state().records == 2


def test_a_load_of_nothing_is_done(hall: Hall, tmp_path: Path) -> None:
    """A file without a record makes a run that is there, and sealed."""
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    load(empty, url=hall.server, queue="q", shards=SHARDS, run="r")
    assert hall.wait().enqueued == 0
