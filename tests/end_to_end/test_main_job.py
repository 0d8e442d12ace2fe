"""The main job as a user meets it: files go through the queue into the index, bit for bit, and the books are exact."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest

from datasets import NAMESPACES, Dataset
from processes import books, call, document, emulated

if TYPE_CHECKING:
    from pathlib import Path

    from processes import Index

COUNT = int(os.environ.get("TEST_MAIN_JOB_RECORDS", "8000"))
"""The issue's own figure is 100,000; the suite runs a smaller one."""
DIMENSION = 384


def assert_holds(index: Index, data: Dataset) -> None:
    """Every id in the index equals the source in float32 and in its metadata."""
    for namespace in NAMESPACES:
        rows = data.of_namespace(namespace)
        found = index.fetch([data.ids[row] for row in rows], namespace)
        for row in rows:
            vector = found[data.ids[row]]
            assert np.asarray(vector["values"], dtype="<f4").tobytes() == data.matrix[row].tobytes()
            assert vector["metadata"] == data.metadata[row]


@pytest.mark.parametrize("form", ["parquet", "jsonl.gz"])
def test_a_file_lands_bit_for_bit(form: str, redis_url: str, tmp_path: Path) -> None:
    """A file in Pinecone's layout, over three namespaces with metadata: loaded, drained, fetched back equal."""
    data = Dataset.make(COUNT, DIMENSION)
    path = tmp_path / f"vectors.{form}"
    source = data.parquet(path) if form == "parquet" else data.jsonl_gz(path)
    with emulated("--dimension", str(DIMENSION)) as index:
        loaded = document("load", source, "--queue", "q", "--run", "r", url=redis_url, timeout=600)
        assert (loaded["enqueued"], loaded["pending"]) == (COUNT, COUNT)
        call("work", "--queue", "q", "--index-host", index.url, "--until-empty", url=redis_url, timeout=600)
        expected = {name: 0 for name in loaded if name in {"superseded", "discarded", "dead", "pending"}}
        assert books(redis_url, "q") == books(redis_url, "q", "r") == expected | {"enqueued": COUNT, "acked": COUNT}
        call("audit", "--queue", "q", url=redis_url)
        assert_holds(index, data)


def test_run_does_all_of_it(redis_url: str, tmp_path: Path) -> None:
    """`upsertq run` loads, drains and waits, and prints the run's books."""
    data = Dataset.make(500, 16)
    source = data.parquet(tmp_path / "vectors.parquet")
    with emulated() as index:
        found = document("run", source, "--queue", "q", "--run", "r", "--index-host", index.url, url=redis_url)
        assert (found["enqueued"], found["acked"], found["pending"], found["dead"]) == (500, 500, 0, 0)
        assert_holds(index, data)


def test_the_embedded_server_keeps_a_queue_between_commands(tmp_path: Path) -> None:
    """Without a server's address, one command's records are there for the next, though no server runs between them."""
    data = Dataset.make(200, 8)
    source = data.parquet(tmp_path / "vectors.parquet")
    call("load", source, "--run", "r", url=None)
    with emulated() as index:
        call("work", "--index-host", index.url, "--until-empty", url=None)
        assert_holds(index, data)
    found = document("status", "--run", "r", url=None)
    assert (found["enqueued"], found["acked"], found["pending"]) == (200, 200, 0)


@pytest.mark.parametrize("concurrency", [1, 4, 16])
def test_the_last_of_fifty_versions_wins(concurrency: int, redis_url: str, tmp_path: Path) -> None:
    """One id put 50 times among others, in one run and across runs: the index holds the last; the books add up."""
    last: dict[str, float] = {}
    for run in ("first", "second"):
        path = tmp_path / f"{run}.jsonl"
        with path.open("wb") as file:
            for version in range(50):
                for record_id in ["hot", *(f"{run}-{version}-{other}" for other in range(10))]:
                    value = len(last) + version + 1.0
                    last[record_id] = value
                    record = {"id": record_id, "values": [value, 1.0], "metadata": {"version": version}}
                    file.write(orjson.dumps(record) + b"\n")
        call("load", path, "--queue", "q", "--run", run, url=redis_url)
    with emulated("--dimension", "2") as index:
        options = ("--concurrency", str(concurrency), "--batch-size", "7", "--until-empty")
        call("work", "--queue", "q", "--index-host", index.url, *options, url=redis_url)
        found = index.values(list(last))
        assert found == {name: np.asarray([value, 1.0], dtype="<f4").tobytes() for name, value in last.items()}
        assert index.counters["overlaps"] == 0
    found_books = books(redis_url, "q")
    assert found_books["enqueued"] == 2 * 50 * 11 == found_books["acked"] + found_books["superseded"]
    assert found_books["pending"] == found_books["dead"] == 0


@pytest.mark.parametrize(("count", "dimension", "requests"), [(100, 1536, 1), (100, 3072, 2), (250, 8, 3)])
def test_requests_are_legal_and_few(count: int, dimension: int, requests: int, redis_url: str, tmp_path: Path) -> None:
    """100 x 1,536 fit one request; 100 x 3,072 are split by bytes; 250 records make 100, 100 and 50."""
    data = Dataset(
        [f"id-{i}" for i in range(count)],
        np.random.default_rng(3).standard_normal((count, dimension), dtype=np.float32),
        [""] * count,
        [{"row": i} for i in range(count)],
    )
    call("load", data.parquet(tmp_path / "v.parquet"), "--queue", "q", url=redis_url)
    with emulated("--dimension", str(dimension)) as index:
        call("work", "--queue", "q", "--index-host", index.url, "--until-empty", url=redis_url)
        assert index.counters["upserts"] == requests
        assert len(index.fetch(data.ids)) == count
