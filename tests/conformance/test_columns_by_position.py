"""Both producers pair the columns of a shuffled data frame by position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pandas as pd
import pytest

from buried import pending
from upsertq import AsyncProducer, AsyncServer, InvalidRecord, Producer, Server
from upsertq.contract.keys import QueueKeys
from upsertq.contract.wire import decode

if TYPE_CHECKING:
    from conftest import Backend

KEYS = QueueKeys("q")


def shuffled() -> pd.DataFrame:
    """A frame whose labels are in another order than its rows."""
    frame = pd.DataFrame(
        {
            "id": list("abcd"),
            "values": [np.full(2, k, dtype=np.float32) for k in (1, 2, 3, 4)],
            "space": ["n1", "n2", "n3", "n4"],
            "told": [{"k": k} for k in (1, 2, 3, 4)],
            "pairs": [{"indices": [k], "values": [1.0]} for k in (1, 2, 3, 4)],
        }
    )
    return frame.iloc[[2, 0, 3]]


def found(backend: Backend) -> dict[str, tuple[str, list[float], Any, Any]]:
    """What is in the queue, by id."""
    records = {}
    for _, fields in [one for k in range(2) for one in pending(backend.sync, KEYS.shard(k))]:
        entry = decode(fields)
        values = np.frombuffer(entry.values, "<f4").reshape(len(entry.ids), entry.dim).tolist()
        told, pairs = orjson.loads(entry.metadata), orjson.loads(entry.sparse)
        for row, record_id in enumerate(entry.ids):
            records[record_id] = (entry.namespace, values[row], told[row], pairs[row])
    return records


WANTED = {
    record_id: (f"n{k}", [k, k], {"k": k}, {"indices": [k], "values": [1.0]})
    for record_id, k in (("c", 3), ("a", 1), ("d", 4))
}


def test_a_shuffled_frame_through_the_blocking_producer(backend: Backend) -> None:
    """Each id keeps its own row."""
    frame = shuffled()
    with Producer("q", url=Server(backend.sync), shards=2) as producer:
        producer.put_many(
            frame["id"],
            np.stack(frame["values"]),
            namespace=frame["space"],
            metadata=frame["told"],
            sparse_values=frame["pairs"],
        )
    assert found(backend) == WANTED


async def test_a_shuffled_frame_through_the_asynchronous_producer(backend: Backend) -> None:
    """Each id keeps its own row; the vectors may be a Series or a frame too."""
    frame = shuffled()
    async with AsyncProducer("q", url=AsyncServer(backend.make_async()), shards=2) as producer:
        async with producer.run("night") as run:
            await run.put_many(
                frame["id"],
                frame["values"],
                namespace=frame["space"],
                metadata=frame["told"],
                sparse_values=frame["pairs"],
            )
        assert found(backend) == WANTED
        with pytest.raises(InvalidRecord, match="one str; give a list"):
            await producer.put_many("ab", [[1.0], [2.0]])
