"""The real `upsertq load` on a real server: what a file holds is what a worker would find, bit for bit."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from queued import books_of, records_of, shards_of, upsertq

if TYPE_CHECKING:
    from pathlib import Path

    from servers import RealServer

COUNT = 2_500
RNG = np.random.default_rng(5)
VECTORS = RNG.standard_normal((COUNT, 8), dtype=np.float32)
IDS = [f"doc-{k}" for k in range(COUNT)]


def as_jsonl() -> bytes:
    """The records as JSON lines, the odd ones in a namespace of their own."""
    lines = [
        json.dumps(
            {
                "id": IDS[k],
                "values": VECTORS[k].tolist(),
                "metadata": {"n": k, "t": ["a", "é"]},
                "namespace": "odd" * (k % 2),
                **({"sparse_values": {"indices": [k, k + 1], "values": [0.5, 2.0]}} if k % 3 == 0 else {}),
            }
        )
        for k in range(COUNT)
    ]
    return "\n".join(lines).encode()


def write(path: Path, kind: str) -> list[str]:
    """Write the records in this format; returns the arguments for loading them."""
    if kind == "jsonl":
        (path / "a.jsonl").write_bytes(as_jsonl())
        return [str(path / "a.jsonl")]
    if kind == "jsonl.gz":
        (path / "a.jsonl.gz").write_bytes(gzip.compress(as_jsonl()))
        return [str(path / "a.jsonl.gz")]
    sparse_kind = pa.struct([("indices", pa.list_(pa.uint32())), ("values", pa.list_(pa.float32()))])
    sparse = [{"indices": [k, k + 1], "values": [0.5, 2.0]} if k % 3 == 0 else None for k in range(COUNT)]
    table = pa.table(
        {
            "id": IDS,
            "values": pa.array(VECTORS.tolist(), pa.list_(pa.float32())),
            "sparse_values": pa.array(sparse, sparse_kind),
            "metadata": [json.dumps({"n": k, "t": ["a", "é"]}) for k in range(COUNT)],
            "ns": ["odd" if k % 2 else None for k in range(COUNT)],
        }
    )
    pa.parquet.write_table(table, path / "a.parquet")
    return [str(path / "a.parquet"), "--namespace-column", "ns"]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_a_load_enqueues_every_record_bit_for_bit(redis_server: RealServer, tmp_path: Path, kind: str) -> None:
    """Values, sparse values, metadata, namespace and run arrive unchanged, once each."""
    arguments = write(tmp_path, kind)
    ended = upsertq("load", *arguments, "--run", "r1", "--json", "--redis-url", redis_server.url)
    assert (ended.code, ended.err) == (0, "")
    told = json.loads(ended.out)
    assert {name: told[name] for name in ("queue", "run", "loaded", "rejected", "skipped", "enqueued", "pending")} == {
        "queue": "default",
        "run": "r1",
        "loaded": COUNT,
        "rejected": 0,
        "skipped": 0,
        "enqueued": COUNT,
        "pending": COUNT,
    }
    assert [told[name] for name in ("acked", "superseded", "discarded", "dead")] == [0, 0, 0, 0]
    found = {record.id: record for record in records_of(redis_server)}
    assert len(found) == books_of(redis_server).enqueued == books_of(redis_server, run="r1").enqueued == COUNT
    for k in range(COUNT):
        record = found[IDS[k]]
        assert record.values == VECTORS[k].tobytes()
        assert (record.namespace, record.run) == ("odd" * (k % 2), "r1")
        assert record.metadata == {"n": k, "t": ["a", "é"]}
        assert record.sparse == ({"indices": [k, k + 1], "values": [0.5, 2.0]} if k % 3 == 0 else None)


def test_stdin_is_json_lines_and_cannot_be_resumed(redis_server: RealServer) -> None:
    """`-` loads what is piped in; `--resume` with it is a usage error."""
    ended = upsertq("load", "-", "--redis-url", redis_server.url, given=gzip.compress(as_jsonl()))
    assert ended.code == 0
    assert books_of(redis_server).enqueued == COUNT
    assert ended.out.startswith(f"loaded {COUNT:,} records into queue 'default' as run 'load-")
    assert "rec/s); next: upsertq wait --run load-" in ended.out
    assert ended.out.count("\n") == 1
    ended = upsertq("load", "-", "--resume", "--redis-url", redis_server.url)
    assert ended.code == 2
    assert "--resume cannot find its place in a stream" in ended.err


def test_several_sources_in_order_into_a_queue_of_chosen_shards(redis_server: RealServer, tmp_path: Path) -> None:
    """Later sources come later: of two versions of an id the second stands behind the first."""
    for name, number in (("a", 1.0), ("b", 2.0)):
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"id": "{k}", "values": [{number}]}}\n' for k in range(99)))
    options = ["--queue", "q2", "--shards", "2", "--redis-url", redis_server.url]
    ended = upsertq("load", tmp_path / "a.jsonl", tmp_path / "b.jsonl", *options)
    assert ended.code == 0
    assert "next: upsertq wait --queue q2 --run" in ended.out
    with redis_server.client() as client:
        assert shards_of(client, "q2") == 2
    seen: dict[str, list[float]] = {}
    for record in records_of(redis_server, "q2"):
        seen.setdefault(record.id, []).append(float(np.frombuffer(record.values, "<f4")[0]))
    assert seen == {str(k): [1.0, 2.0] for k in range(99)}


def test_rejects_are_set_aside_and_can_be_loaded_once_corrected(redis_server: RealServer, tmp_path: Path) -> None:
    """With --rejects the good records go in, exit 3; the file, corrected, loads the rest."""
    lines = [json.dumps({"id": f"r{k}", "values": [1.0, k], "metadata": {"k": k}}) for k in range(3_000)]
    lines[6] = '{"id": "r6", "values": [1, 2'
    lines[1_500] = '{"id": "r1500", "values": [NaN, 1], "namespace": "n"}'
    lines[2_999] = '{"id": "", "values": [1, 2]}'
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    rejects = tmp_path / "bad.jsonl"
    options: list[str | Path] = ["--rejects", rejects, "--redis-url", redis_server.url]
    ended = upsertq("load", tmp_path / "a.jsonl", *options, "--json")
    assert ended.code == 3
    assert {name: json.loads(ended.out)[name] for name in ("loaded", "rejected", "enqueued")} == {
        "loaded": 2_997,
        "rejected": 3,
        "enqueued": 2_997,
    }
    told = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(item["_reject"]["line"], item["_reject"]["field"]) for item in told] == [
        (7, "line"),
        (1_501, "values"),
        (3_000, "id"),
    ]
    told[0] = {"id": "r6", "values": [1.0, 6.0], "_reject": told[0]["_reject"]}
    told[1]["values"] = [1.0, 1_500.0]
    told[2]["id"] = "r2999"
    corrected = tmp_path / "corrected.jsonl"
    corrected.write_text("\n".join(map(json.dumps, told)))
    assert upsertq("load", corrected, "--redis-url", redis_server.url).code == 0
    found = {record.id: record for record in records_of(redis_server)}
    assert sorted(found) == sorted(f"r{k}" for k in range(3_000))
    assert (found["r1500"].namespace, found["r1500"].metadata) == ("n", None)


def test_rejects_must_not_overwrite_a_source(redis_server: RealServer, tmp_path: Path) -> None:
    """The file being loaded is never opened for writing."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a", "values": [1]}')
    ended = upsertq("load", path, "--rejects", path, "--redis-url", redis_server.url)
    assert ended.code == 2
    assert "it would be overwritten" in ended.err
    assert path.read_text() == '{"id": "a", "values": [1]}'


def test_waiting_has_its_own_limit(redis_server: RealServer, tmp_path: Path) -> None:
    """`--wait` without a worker ends with exit code 4, and has printed the books by then."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a", "values": [1]}')
    ended = upsertq("load", path, "--wait", "--wait-timeout", "0.2", "--json", "--redis-url", redis_server.url)
    assert ended.code == 4
    assert json.loads(ended.out)["pending"] == 1
    assert ended.err.count("\n") == 1
    assert "1 of 1 records of run" in ended.err


def test_a_format_is_told_by_its_lower_case_name(redis_server: RealServer, tmp_path: Path) -> None:
    """`--format csv` reads a file of any name as CSV."""
    (tmp_path / "export.txt").write_text("id,v0,v1\na,1,2\n")
    options = ["--format", "csv", "--values-column", "v*", "--redis-url", redis_server.url]
    assert upsertq("load", tmp_path / "export.txt", *options).code == 0
    assert [record.id for record in records_of(redis_server)] == ["a"]


def test_an_empty_file_is_loaded_and_drained_at_once(redis_server: RealServer, tmp_path: Path) -> None:
    """No records is no failure."""
    (tmp_path / "a.jsonl").write_bytes(b"\n\n")
    ended = upsertq("load", tmp_path / "a.jsonl", "--wait", "--redis-url", redis_server.url)
    assert (ended.code, ended.err) == (0, "")


def test_very_many_namespaces_are_loaded_whole(redis_server: RealServer, tmp_path: Path) -> None:
    """Records that share no entry arrive all the same."""
    lines: list[dict[str, Any]] = [{"id": "x", "values": [1, 2], "namespace": f"n{k}"} for k in range(5_000)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert upsertq("load", tmp_path / "a.jsonl", "--redis-url", redis_server.url).code == 0
    assert {record.namespace for record in records_of(redis_server)} == {f"n{k}" for k in range(5_000)}
