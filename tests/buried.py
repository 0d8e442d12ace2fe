"""Dead letters as workers leave them: by the worker's own settle script, or many at once by hand."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from upsertq.contract import wire
from upsertq.contract.dead_letter import Reason, Verdict, encode_letter, place
from upsertq.contract.keys import QueueKeys
from upsertq.contract.wire import Entry
from worker_scripts import DeadRow, Settling, ShardWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import redis

    from upsertq import Server
    from upsertq.contract.keys import ShardKeys

INCARNATION = "byhand"
NOW_MS = int(time.time() * 1000)


def refused(message: str = "bad", reason: Reason = Reason.REFUSED, status: int = 400, last_ms: int = NOW_MS) -> Verdict:
    """A verdict with everything in it."""
    return Verdict(
        reason=reason,
        status=status,
        code="3",
        message=message,
        details='{"field": "x"}',
        request_id="rq-1",
        path="100 50 1",
        attempts=7,
        first_ms=last_ms - 1_500,
        last_ms=last_ms,
        worker="w1",
    )


def alone(entry: Entry, row: int, seq: str) -> Entry:
    """One record of an entry, as an entry."""
    size = entry.dim * wire.FLOAT32

    def part(array: bytes) -> bytes:
        item = orjson.loads(array)[row] if array else None
        return b"" if item is None else orjson.dumps([item])

    return Entry(
        namespace=entry.namespace,
        ids=(entry.ids[row],),
        dim=entry.dim,
        values=entry.values[row * size : (row + 1) * size],
        sparse=part(entry.sparse),
        metadata=part(entry.metadata),
        run=entry.run,
        at=entry.at,
        seq=seq,
        depth=entry.depth,
    )


def settle(
    server: Server, client: redis.Redis, judge: Callable[[str], Verdict | None], queue: str = "q", shards: int = 2
) -> None:
    """Settle all that is pending as a worker does: records with a verdict die, the others are acknowledged."""
    for shard in range(shards):
        keys = QueueKeys(queue).shard(shard)
        worker = holder(server, client, keys)
        for stream_id, fields in pending(client, keys):
            reply = worker.settle([settling(stream_id, wire.decode(fields), judge)])
            assert reply[:2] == [1, 1], reply


def holder(server: Server, client: redis.Redis, keys: ShardKeys) -> ShardWorker:
    """A worker that holds the shard from now on, whatever held it before."""
    found: Any = client.hget(keys.books, "incarnation")
    worker = ShardWorker(server, keys, found.decode(), epoch=1)
    client.set(keys.lease, worker.mark)
    return worker


def pending(client: redis.Redis, keys: ShardKeys) -> list[tuple[str, dict[bytes, bytes]]]:
    """Every entry of a shard, over its lanes, in the order of their sequences."""
    lanes: Any = client.smembers(keys.lanes)
    streams: list[Any] = [client.xrange(keys.stream(lane.decode())) for lane in lanes]
    found = [(stream_id.decode(), fields) for stream in streams for stream_id, fields in stream]
    return sorted(found, key=lambda one: place(one[0]))


def settling(stream_id: str, entry: Entry, judge: Callable[[str], Verdict | None]) -> Settling:
    """What a worker says of an entry whose records with a verdict die, and whose others are acknowledged."""
    graves = [(row, verdict) for row, name in enumerate(entry.ids) if (verdict := judge(name)) is not None]
    letters = []
    for row, verdict in graves:
        its = entry.seq or f"{stream_id}-{row}"
        letters.append(DeadRow(row, its, verdict.reason.value, encode_letter(alone(entry, row, its), verdict)))
    return Settling(
        stream_id,
        entry.namespace,
        entry.run,
        len(entry.ids),
        entry.size,
        len(entry.ids) - len(graves),
        sequence=entry.seq or stream_id,
        letters=letters,
    )


def bury_many(
    client: redis.Redis, ids: Iterable[str], *, queue: str = "q", shards: int = 2, run: str = "r", dim: int = 4
) -> None:
    """Write letters by hand, with their books and marks, into a new queue: the quick way to very many."""
    keys = QueueKeys(queue)
    meta: dict[Any, Any] = {
        "format": wire.FORMAT,
        "incarnation": INCARNATION,
        "state": "ready",
        "shards": shards,
        "dimension": dim,
    }
    client.hset(keys.meta, mapping=meta)
    client.hset(keys.runs, run, orjson.dumps({"begun": NOW_MS, "sealed": None}))
    counts = dict.fromkeys(range(shards), 0)
    by_reason = Counter[tuple[int, str]]()
    reasons = list(Reason)
    pipeline = client.pipeline(transaction=False)
    for at, name in enumerate(ids):
        shard = at % shards
        counts[shard] += 1
        by_reason[shard, f"reason:{reasons[at % 3]}"] += 1
        seq = f"{NOW_MS}-{at}-0"
        entry = Entry("", (name,), dim, np.full(dim, at, "<f4").tobytes(), run=run, at=NOW_MS, seq=seq)
        fields = encode_letter(entry, refused(reason=reasons[at % 3]))
        stream_id = f"{NOW_MS}-{at}"
        pipeline.execute_command("XADD", keys.shard(shard).dead, stream_id, *fields)  # type: ignore[no-untyped-call]
        pipeline.hset(keys.shard(shard).dead_ids, f"\0{name}", f"D,{seq},{stream_id},{run}")
        if at % 2_000 == 0:
            pipeline.execute()
    for shard, count in counts.items():
        pipeline.hset(keys.shard(shard).books, "incarnation", INCARNATION)
        for books in (keys.shard(shard).books, keys.shard(shard).run(run)):
            pipeline.hset(books, mapping={"enqueued": count, "dead": count})
            for (of, name), died in by_reason.items():
                if of == shard:
                    pipeline.hset(books, name, str(died))
    pipeline.execute()
