"""Queues that are drained, as an operator has them before they are resharded, purged or deleted."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np

import buried
from upsertq import Producer, Server
from upsertq.admin.audit import audit
from upsertq.client import receipt
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Patience
from upsertq.contract.queue import find_queue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import redis

    from upsertq import Books
    from upsertq.contract.dead_letter import Verdict
    from upsertq.contract.queue import QueueShape


def patience() -> Patience:
    """A patience for a moment, that takes none of it."""
    ticks = iter(range(10_000))
    return Patience(30.0, lambda: float(next(ticks)), random.Random(1))


def no_patience() -> Patience:
    """A patience that is over at once."""
    return Patience(0, lambda: 0.0, random.Random(1))


def put(server: Server, queue: str, ids: Sequence[str], *, run: str = "", shards: int | None = None) -> None:
    """Put records into two namespaces of a queue, and seal the run."""
    with Producer(queue, url=server, shards=shards, timeout=0) as producer:
        for at, space in enumerate(("", "n")):
            some = list(ids[at::2])
            producer.put_many(some, np.ones((len(some), 2), np.float32), namespace=space, run=run)


def drain(
    client: redis.Redis, queue: str, judge: Callable[[str], Verdict | None] = lambda _: None, *, leased: bool = False
) -> None:
    """Settle all that is pending, as a worker does that gives its leases up at the end."""
    server = Server(client)
    shards = shape_of(server, queue).shards
    buried.settle(server, client, judge, queue=queue, shards=shards)
    if not leased:
        for shard in range(shards):
            client.delete(QueueKeys(queue).shard(shard).lease)


def bury(client: redis.Redis, queue: str, *ids: str, run: str = "") -> None:
    """Records that die."""
    put(Server(client), queue, ids, run=run)
    drain(client, queue, lambda name: buried.refused() if name in ids else None)


def shape_of(server: Server, queue: str) -> QueueShape:
    """What the queue is."""
    return server.hold(find_queue(QueueKeys(queue), no_patience()))


def receipt_of(server: Server, queue: str, run: str = "") -> dict[str, Any]:
    """The receipt of the queue, or of a run."""
    return server.hold(receipt.read(QueueKeys(queue), shape_of(server, queue), run, no_patience())).as_dict()


def books_of(server: Server, queue: str, run: str = "") -> Books:
    """The books of the queue, or of a run."""
    shape = shape_of(server, queue)
    return server.hold(receipt.read(QueueKeys(queue), shape, run, no_patience())).books


def assert_balanced(server: Server, queue: str) -> None:
    """The audit finds nothing."""
    report = server.hold(audit(QueueKeys(queue), shape_of(server, queue), no_patience()))
    assert report.ok, report.drifts
    assert not report.inconclusive


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)
