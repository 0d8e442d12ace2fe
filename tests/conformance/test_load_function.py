"""`upsertq.load` does in one call what `upsertq load` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

import upsertq
from upsertq.contract.keys import QueueKeys
from upsertq.contract.runs import decode_run

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Backend


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file of three records, one of them bad."""
    path = tmp_path / "vectors.jsonl"
    rows = [{"id": "a", "v": [1.0, 2.0]}, {"id": "b", "v": []}, {"id": "c", "v": [3.0, 4.0]}]
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return path


def test_records_are_in_the_queue_and_the_run_is_sealed(backend: Backend, file: Path, tmp_path: Path) -> None:
    """The good ones are enqueued, the bad one is set aside, and the run is complete."""
    server = upsertq.Server(backend.sync)
    columns = upsertq.Columns(values=("v",))
    rejects = tmp_path / "rejects.jsonl"
    loaded = upsertq.load(
        file, queue="q", url=server, run="nightly", columns=columns, namespace="news", rejects=rejects, shards=2
    )
    assert (loaded.loaded, loaded.rejected, loaded.run) == (2, 1, "nightly")
    assert b'"b"' in rejects.read_bytes()
    noted = backend.sync.hget(QueueKeys("q").runs, "nightly")
    assert isinstance(noted, bytes)
    state = decode_run(noted)
    assert state.sealed is not None
    assert state.records == 2
    assert all(backend.sync.smembers(QueueKeys("q").shard(k).lanes) <= {b"news"} for k in range(2))


def test_a_bad_record_ends_it(backend: Backend, file: Path) -> None:
    """Without a file of rejects; the run stays open."""
    server = upsertq.Server(backend.sync)
    with pytest.raises(upsertq.LoadStopped, match="'b'"):
        upsertq.load(file, queue="q", url=server, run="nightly", columns=upsertq.Columns(values=("v",)))
    noted = backend.sync.hget(QueueKeys("q").runs, "nightly")
    assert noted is None or decode_run(noted).sealed is None  # type: ignore[arg-type]


def test_nothing_to_load_is_a_mistake(backend: Backend) -> None:
    """No source, or one that is not there: nothing was created by the way."""
    server = upsertq.Server(backend.sync)
    with pytest.raises(upsertq.UsageError, match="nothing to load"):
        upsertq.load(url=server)
    with pytest.raises(upsertq.SourceError, match="absent"):
        upsertq.load("absent.parquet", url=server)
    with pytest.raises(upsertq.UsageError, match="'xml'; give one of"):
        upsertq.load("absent.parquet", format="xml", url=server)
    assert not backend.sync.keys("*")
