"""Absence is never success: where a queue or run is not there, or not any more, nothing that waits for it returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from upsertq import AsyncProducer, AsyncServer, NotFound, Producer, QueueLost, Server, WaitTimeout
from upsertq.contract.keys import QueueKeys

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Backend

KEYS = QueueKeys("q")


@pytest.fixture
def make(backend: Backend) -> Callable[[], Producer]:
    """Return what makes producers of queue `q`."""
    return lambda: Producer("q", url=Server(backend.sync), shards=2, timeout=0)


@pytest.mark.parametrize("asked", ["wait", "books", "receipt"])
def test_no_queue(backend: Backend, make: Callable[[], Producer], asked: str) -> None:
    """Asking makes no queue by the way."""
    producer = make()
    with pytest.raises(NotFound, match="no queue 'q'"):
        getattr(producer, asked)()
    assert producer.flush() == 0
    assert not backend.sync.keys("*")


def test_no_run(make: Callable[[], Producer]) -> None:
    """A run that was never begun, or whose name is mistyped."""
    with make() as producer:
        producer.run("nightly").put("a", [1.0])
        with pytest.raises(NotFound, match="no run 'nigthly'"):
            producer.wait("nigthly", timeout=5)
        with pytest.raises(NotFound, match="no run 'other'"):
            producer.run("other").wait(timeout=5)


def test_a_run_without_a_record_is_there(make: Callable[[], Producer]) -> None:
    """An ingestion that found nothing to do is done."""
    with make() as producer, producer.run("empty") as run:
        assert run.wait(timeout=5).enqueued == 0


def lose(backend: Backend) -> None:
    """The server loses its data."""
    backend.sync.flushall()


@pytest.mark.parametrize("run", ["r", ""])
@pytest.mark.parametrize("made_anew", [False, True])
def test_data_lost_before_a_wait(backend: Backend, make: Callable[[], Producer], run: str, made_anew: bool) -> None:  # noqa: FBT001
    """Also where another producer has made the queue again."""
    producer = make()
    producer.put("a", [1.0], run=run)
    producer.flush()
    lose(backend)
    if made_anew:
        with make() as other:
            other.put("b", [1.0])
    for ask in (lambda: producer.wait(run, timeout=5), lambda: producer.books(run), lambda: producer.receipt(run)):
        with pytest.raises(QueueLost, match="lost queue 'q'"):
            ask()


@pytest.mark.parametrize("run", ["r", ""])
@pytest.mark.parametrize("made_anew", [False, True])
def test_data_lost_during_a_wait(
    backend: Backend,
    make: Callable[[], Producer],
    monkeypatch: pytest.MonkeyPatch,
    run: str,
    made_anew: bool,  # noqa: FBT001
) -> None:
    """In mid-wait, also where the queue is made again before the next look."""
    producer = make()
    producer.put("a", [1.0], run=run)
    producer.flush()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            lose(backend)
            if made_anew:
                with make() as other:
                    other._intake._world = producer._intake._world
                    with other.run("r"):
                        pass

    conversation: Any = producer._intake.wait(run, 30)
    with pytest.raises(QueueLost, match="lost queue 'q'"):
        producer._server.hold(conversation, sleep=sleep)
    assert len(slept) == 3


def test_one_shards_books_are_evicted_during_a_wait(backend: Backend, make: Callable[[], Producer]) -> None:
    """Fewer records than there were are a loss, not an end."""
    producer = make()
    for i in range(20):
        producer.put(f"id{i}", [1.0], run="r")
    producer.flush()

    def sleep(_: float) -> None:
        for k in range(2):
            backend.sync.delete(KEYS.shard(k).run("r"))

    with pytest.raises(QueueLost, match="run 'r' had 20 records and has 0 now"):
        producer._server.hold(producer._intake.wait("r", 30), sleep=sleep)


@pytest.mark.parametrize("run", ["r", ""])
def test_one_shard_is_lost(backend: Backend, make: Callable[[], Producer], run: str) -> None:
    """What the other shards hold is not the whole: neither books nor receipt are told, and no wait ends."""
    producer = make()
    for i in range(20):
        producer.put(f"id{i}", [1.0], run="r")
    producer.flush()
    backend.sync.delete(KEYS.shard(1).books)
    for ask in (lambda: producer.wait(run, timeout=5), lambda: producer.books(run), lambda: producer.receipt(run)):
        with pytest.raises(QueueLost, match="shard 1 is gone"):
            ask()


def test_what_is_there_and_pending_still_times_out(make: Callable[[], Producer]) -> None:
    """The old end of a wait."""
    with make() as producer:
        producer.put("a", [1.0], run="r")
        with pytest.raises(WaitTimeout):
            producer.wait("r", timeout=0)


async def test_an_asyncio_producer_finds_nothing_too(backend: Backend) -> None:
    """The same for asyncio."""
    producer = AsyncProducer("q", url=AsyncServer(backend.make_async()), shards=2, timeout=0)
    with pytest.raises(NotFound, match="no queue 'q'"):
        await producer.wait()
    async with producer.run("empty") as run:
        assert (await run.wait(timeout=5)).enqueued == 0
    with pytest.raises(NotFound, match="no run 'typo'"):
        await producer.run("typo").wait(timeout=5)
    lose(backend)
    with pytest.raises(QueueLost, match="lost queue 'q'"):
        await producer.run("empty").wait(timeout=5)


def test_a_queue_whose_meta_is_gone_is_lost_and_not_made_again(backend: Backend, make: Callable[[], Producer]) -> None:
    """While its shards are there it is no queue that never was; no producer makes it by the way."""
    with make() as producer:
        producer.put("a", [1.0])
    backend.sync.delete(KEYS.meta)
    other = make()
    with pytest.raises(QueueLost, match="meta"):
        other.books()
    with pytest.raises(QueueLost, match="meta"):
        other.put("b", [1.0])
    assert not backend.sync.exists(KEYS.meta)
