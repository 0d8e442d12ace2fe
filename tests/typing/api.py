"""What type checkers see of the public API: checked by mypy, never run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, assert_type

import numpy as np

from upsertq import (
    AsyncProducer,
    AsyncRun,
    AsyncServer,
    Books,
    InvalidRecord,
    Limits,
    NotFound,
    Producer,
    QueueFull,
    Receipt,
    Run,
    Server,
    ServerUnavailable,
    TooManyDead,
    WaitTimeout,
)
from upsertq.contract.record import make_record, make_records
from upsertq.contract.wire import Record

if TYPE_CHECKING:
    from upsertq import UpsertqError, UsageError, WorldError


def blocking() -> None:
    """The blocking producer."""
    with Producer("q", url="redis://h/0", shards=4, limits=Limits(records=5, bytes=None), timeout=1.5) as producer:
        assert_type(producer, Producer)
        assert_type(producer.put("a", [1.0, 2.0], metadata={"k": ["x"]}, namespace="n", run="r"), None)
        assert_type(producer.put("a", (1, 2), sparse_values={"indices": [1], "values": [0.5]}), None)
        assert_type(producer.put("a", np.ones(3), sparse_values=([1], np.ones(1))), None)
        assert_type(producer.put_many(["a"], np.ones((1, 3), np.float32), namespace=["n"]), int)
        assert_type(producer.put_many(["a"], [[1.0]], metadata=[None], sparse_values=[None]), int)
        assert_type(producer.flush(), int)
        assert_type(producer.buffered, int)
        assert_type(producer.books(), Books)
        assert_type(producer.wait("r", timeout=3), Books)
        with producer.run("r") as run:
            assert_type(run, Run)
            assert_type(run.name, str)
            assert_type(run.put("a", [1.0]), None)
            assert_type(run.put_many(["a"], [[1.0]]), int)
            assert_type(run.wait(), Books)
            assert_type(run.receipt(), Receipt)
    Producer(url=Server.at("unix:///s"), max_dead=5)
    producer.put(1, [1.0])  # type: ignore[arg-type]
    producer.put("a", [1.0], ([1], [1]))  # type: ignore[call-arg]
    producer.put_many("a", [[1.0]], rows=3)  # type: ignore[call-arg]
    Producer("q", "redis://h")  # type: ignore[call-arg]
    Producer(url=AsyncServer.at("redis://h"))  # type: ignore[arg-type]


async def asynchronous() -> None:
    """The asynchronous producer."""
    async with AsyncProducer("q", url=AsyncServer.at("redis://h/0")) as producer:
        assert_type(producer, AsyncProducer)
        assert_type(await producer.put("a", [1.0]), None)
        assert_type(await producer.put_many(["a"], np.ones((1, 3))), int)
        assert_type(await producer.flush(), int)
        assert_type(await producer.wait(), Books)
        async with producer.run("r") as run:
            assert_type(run, AsyncRun)
            assert_type(await run.books(), Books)
            assert_type((await run.receipt()).as_dict(), dict[str, Any])
    AsyncProducer(url=Server.at("redis://h"))  # type: ignore[arg-type]


def values(books: Books) -> None:
    """Outcomes and errors."""
    assert_type(books.pending, int)
    assert_type(books.drift, int)
    assert_type(books.as_dict(), dict[str, int])
    assert_type(books + books, Books)
    books.pending = 3  # type: ignore[misc]
    assert_type(Limits().records, int | None)
    assert_type(make_record("a", [1.0]), Record)
    assert_type(make_records(["a"], [[1.0]]), Iterator[Record | InvalidRecord])
    assert_type(make_record("a", [1.0]).dim, int)


def errors(error: InvalidRecord) -> Literal["usage", "world", "ours"]:
    """Every error is of one family, in two branches."""
    assert_type(error.field, str)
    assert_type(error.reason, str)
    assert_type(error.index, int | None)
    usage: type[UsageError] = InvalidRecord
    world: list[type[WorldError]] = [QueueFull, TooManyDead, ServerUnavailable, NotFound, WaitTimeout]
    family: list[type[UpsertqError]] = [usage, *world]
    return "usage" if family else "world"
