"""What is in a queue, read past upsertq's own code but for the entry format, and how to run the real program."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

import forked
from upsertq.contract import wire
from upsertq.contract.books import COUNTERS, Books
from upsertq.contract.keys import QueueKeys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import redis

    from servers import RealServer


class Queued(NamedTuple):
    """One record as a worker would find it."""

    id: str
    namespace: str
    values: bytes
    sparse: Any
    metadata: Any
    run: str


def records_of(server: RealServer, queue: str = "default") -> list[Queued]:
    """Every pending record, in order within its shard."""
    with server.client() as client:
        return [record for shard in range(shards_of(client, queue)) for record in _of_shard(client, queue, shard)]


def books_of(server: RealServer, queue: str = "default", run: str = "") -> Books:
    """The books of the queue or of one run; they must balance."""
    whole = Books()
    with server.client() as client:
        for shard in range(shards_of(client, queue)):
            keys = QueueKeys(queue).shard(shard)
            told: Any = client.hgetall(keys.run(run) if run else keys.books)
            whole += Books(*(int(told.get(name.encode(), 0)) for name in COUNTERS))
    assert whole.drift == 0
    return whole


def shards_of(client: redis.Redis, queue: str) -> int:
    """The queue's number of shards, 0 where there is no queue."""
    told: Any = client.hget(QueueKeys(queue).meta, "shards")
    return int(told or 0)


def _of_shard(client: redis.Redis, queue: str, shard: int) -> Iterator[Queued]:
    keys = QueueKeys(queue).shard(shard)
    lanes: Any = client.smembers(keys.lanes)
    found: list[Any] = [entry for lane in lanes for entry in _entries(client, keys.stream(lane.decode()))]
    for _, fields in sorted(found, key=lambda entry: [*map(int, entry[0].split(b"-"))]):
        entry = wire.decode(fields)
        size = entry.dim * wire.FLOAT32
        sparse = orjson.loads(entry.sparse) if entry.sparse else [None] * len(entry.ids)
        metadata = orjson.loads(entry.metadata) if entry.metadata else [None] * len(entry.ids)
        for at, record_id in enumerate(entry.ids):
            values = entry.values[at * size : (at + 1) * size]
            yield Queued(record_id, entry.namespace, values, sparse[at], metadata[at], entry.run)


def _entries(client: redis.Redis, stream: str) -> Any:
    return client.xrange(stream)


class Ended(NamedTuple):
    """What a finished command left."""

    code: int
    out: str
    err: str


def command(*arguments: str | Path) -> list[str]:
    """The command line of the real program, by the interpreter of these tests."""
    return [sys.executable, "-m", "upsertq", *map(str, arguments)]


def upsertq(*arguments: str | Path, given: bytes = b"", env: Mapping[str, str] | None = None) -> Ended:
    """Run the real program to its end."""
    done = forked.run([*map(str, arguments)], {**os.environ, **(env or {})}, 120, given)
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())
