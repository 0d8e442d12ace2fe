"""Pinecone's own SDK works against the emulator over plain HTTP on loopback."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from pinecone import AsyncPinecone, Pinecone, SparseValues, Vector
from pinecone.errors import ApiError, NotFoundError, UnauthorizedError

from upsertq_emulator.app import Emulator

RNG = np.random.default_rng(7)
KEY = "emulator-key"


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    """A running emulator that requires a key."""
    async with Emulator(dimension=8, api_key=KEY) as running:
        yield running


@pytest.fixture
async def index(emulator: Emulator) -> AsyncIterator[Any]:
    """The SDK's asynchronous client of the emulator."""
    async with AsyncPinecone(api_key=KEY) as client, await client.index(host=emulator.url) as opened:
        yield opened


def some_vectors(count: int) -> list[Vector]:
    """Hybrid vectors with metadata, their values exactly float32."""
    rows = RNG.standard_normal((count, 8)).astype(np.float32)
    return [
        Vector(
            id=f"id-{number}",
            values=[float(value) for value in row],
            sparse_values=SparseValues(indices=[1, number + 2], values=[0.5, 0.25]),
            metadata={"number": number, "tags": ["a", "b"], "ok": True},
        )
        for number, row in enumerate(rows)
    ]


def in_float32(vectors: dict[str, Vector]) -> dict[str, tuple[bytes, Any, Any]]:
    """The vectors with their dense values as float32 bits, to compare exactly."""
    return {
        name: (np.array(vector.values, np.float32).tobytes(), vector.sparse_values, vector.metadata)
        for name, vector in vectors.items()
    }


async def test_the_async_client_writes_and_reads(index: Any) -> None:
    """Upsert, stats, fetch, list and delete round-trip dense, sparse and metadata exactly."""
    vectors = some_vectors(5)
    written = await index.upsert(vectors=vectors, namespace="ns")
    assert written.upserted_count == 5
    assert written.response_info.lsn_committed == 1
    assert written.response_info.request_id
    fetched = (await index.fetch(ids=["id-0", "id-4", "absent"], namespace="ns")).vectors
    assert in_float32(fetched) == in_float32({"id-0": vectors[0], "id-4": vectors[4]})
    stats = await index.describe_index_stats()
    assert (stats.dimension, stats.total_vector_count) == (8, 5)
    assert stats.namespaces["ns"].vector_count == 5
    page = await index.list_paginated(namespace="ns", prefix="id-", limit=3)
    assert [item.id for item in page.vectors] == ["id-0", "id-1", "id-2"]
    page = await index.list_paginated(namespace="ns", prefix="id-", limit=3, pagination_token=page.pagination.next)
    assert [item.id for item in page.vectors] == ["id-3", "id-4"]
    await index.delete(ids=["id-0"], namespace="ns")
    assert (await index.describe_index_stats()).total_vector_count == 4


async def test_batches_in_parallel_all_land(index: Any, emulator: Emulator) -> None:
    """The SDK's own batching lands every record in the default namespace."""
    written = await index.upsert(vectors=some_vectors(200), batch_size=20, show_progress=False)
    assert (written.upserted_count, written.has_errors) == (200, False)
    assert emulator.plane.count("") == 200
    assert emulator.counters.upserts == 10


async def test_refusals_become_the_clients_exceptions(index: Any, emulator: Emulator) -> None:
    """A 400 carries the service's message, and nothing of the batch is applied."""
    with pytest.raises(ApiError) as caught:
        await index.upsert(vectors=[*some_vectors(2), ("bad", [1.0, 2.0])])
    assert caught.value.status_code == 400
    assert caught.value.message == "Vector dimension 2 does not match the dimension of the index 8"
    assert emulator.plane.count() == 0
    with pytest.raises(NotFoundError):
        await index.delete(delete_all=True, namespace="nowhere")


async def test_a_wrong_key_is_unauthorized(emulator: Emulator) -> None:
    """A wrong key becomes the client's UnauthorizedError, before the body is looked at."""
    async with AsyncPinecone(api_key="wrong") as client, await client.index(host=emulator.url) as index:
        with pytest.raises(UnauthorizedError):
            await index.upsert(vectors=some_vectors(1))
    assert emulator.plane.count() == 0


async def test_the_sync_client_writes_and_reads(emulator: Emulator) -> None:
    """The synchronous client round-trips too."""

    def use() -> tuple[Any, Any]:
        with Pinecone(api_key=KEY) as client, client.index(host=emulator.url) as index:
            index.upsert(vectors=vectors)
            return index.fetch(ids=["id-1"]).vectors, index.describe_index_stats()

    vectors = some_vectors(3)
    fetched, stats = await asyncio.to_thread(use)
    assert in_float32(fetched) == in_float32({"id-1": vectors[1]})
    assert stats.total_vector_count == 3


async def test_sparse_only_vectors_make_a_sparse_index() -> None:
    """Sparse-only vectors, which the SDK sends with an empty `values`, round-trip."""
    vector = Vector(id="s", sparse_values=SparseValues(indices=[7, 4_294_967_295], values=[0.5, -2.0]))
    async with (
        Emulator() as emulator,
        AsyncPinecone(api_key="any") as client,
        await client.index(host=emulator.url) as index,
    ):
        await index.upsert(vectors=[vector])
        assert (await index.fetch(ids=["s"])).vectors == {"s": vector}
        assert (await index.describe_index_stats()).vector_type == "sparse"
