"""A queue on one server and workers that use it, for tests of what a worker asks of its queue."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from upsertq.admin.audit import audit
from upsertq.client.async_producer import AsyncProducer
from upsertq.contract.books import COUNTERS
from upsertq.contract.dead_letter import Reason, Verdict
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Patience
from upsertq.contract.queue import find_queue, open_queue
from upsertq.contract.wire import decode, one_record
from upsertq_worker.flow.usage import Metered
from upsertq_worker.ordering.model import DeadRecord, Settlement
from upsertq_worker.queue.protocols import START
from upsertq_worker.queue.redis_queue import RedisQueue

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from upsertq.contract.queue import QueueShape
    from upsertq.contract.server import AsyncServer
    from upsertq_worker.queue.protocols import Delivery

SHARDS: Final = 2
LEASE: Final = 30.0
KEYS: Final = QueueKeys("q")
OURS: Final = {0: 1, 1: 1}
"""Both shards under their first epoch."""
NOW_MS: Final = 1_700_000_000_000


def no_patience() -> Patience:
    """A patience that is over at once."""
    return Patience(0, time.monotonic, random.Random(1))


class Bench:
    """A queue on one server, and workers that use it."""

    def __init__(self, server: AsyncServer, sync: redis.Redis, shape: QueueShape) -> None:
        self.server = server
        self.sync = sync
        self.shape = shape

    @classmethod
    async def on(cls, server: AsyncServer, sync: redis.Redis) -> Bench:
        """A new queue."""
        shape = await server.hold(open_queue(KEYS, SHARDS, NOW_MS, no_patience()))
        return cls(server, sync, shape)

    def worker(self, name: str = "me", lease: float = LEASE) -> RedisQueue:
        """The queue as a worker sees it."""
        return RedisQueue(self.server, self.shape, name, lease)

    async def holder(self, name: str = "me") -> RedisQueue:
        """A worker that holds both shards."""
        worker = self.worker(name)
        await worker.lease({0: 0, 1: 0}, take=True)
        return worker

    async def put(self, ids: list[str], run: str = "", namespace: str = "") -> None:
        """Enqueue a record for each id, one entry a call and shard."""
        producer = AsyncProducer("q", url=self.server, shards=SHARDS, timeout=0)
        await producer.put_many(ids, np.ones((len(ids), 2), np.float32), run=run, namespace=namespace)
        await producer.flush()

    def expire(self, *shards: int) -> None:
        """Let leases run out."""
        for shard in shards:
            self.sync.delete(KEYS.shard(shard).lease)

    def shard_books(self, shard: int, run: str = "") -> dict[str, int]:
        """The counters of a shard, or of a run in it, without the zeros."""
        keys = KEYS.shard(shard)
        told: Any = self.sync.hgetall(keys.run(run) if run else keys.books)
        known = {name.encode(): name for name in COUNTERS}
        return {known[name]: int(value) for name, value in told.items() if name in known and int(value)}

    def everything(self) -> dict[bytes, Any]:
        """Every key of the server."""
        keys: Any = self.sync.keys()
        return {key: self.sync.dump(key) for key in keys}

    async def drifts(self) -> tuple[Any, ...]:
        """What the audit finds wrong."""
        shape = await self.server.hold(find_queue(KEYS, no_patience()))
        return (await self.server.hold(audit(KEYS, shape, no_patience()))).drifts


def settlement(delivery: Delivery, *, superseded: int = 0, dead: int = 0) -> Metered:
    """The settling of a whole entry, acknowledged but for what is said."""
    entry = decode(delivery.fields)
    n = len(entry.ids)
    letters = tuple(
        DeadRecord(row, one_record(entry, row, f"{delivery.stream_id}-{row}"), Verdict(Reason.REFUSED))
        for row in range(dead)
    )
    one = Settlement(
        delivery.shard,
        delivery.stream_id,
        delivery.namespace,
        entry.run,
        n,
        entry.size,
        n - superseded - dead,
        superseded,
        delivery.stream_id,
        letters,
        entry.ids,
    )
    return Metered(one, NOW_MS)


async def read_all(worker: RedisQueue, count: int = 1_000) -> list[Delivery]:
    """All that stands in every lane of both shards, from the first entry on."""
    lists = await worker.lanes(range(SHARDS))
    cursors = {(shard, name): START for shard, lanes in lists.items() for name in lanes.namespaces}
    bells = {shard: lanes.place for shard, lanes in lists.items()}
    return list((await worker.read(cursors, bells, count, 0.01)).deliveries)


async def settle_all(worker: RedisQueue, held: dict[int, int], settlements: Sequence[Metered]) -> frozenset[int]:
    """The shards that turn out to be foreign, where nothing is damaged."""
    came_of_it = await worker.settle(held, settlements)
    assert not came_of_it.faults
    return came_of_it.foreign
