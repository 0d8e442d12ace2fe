"""A small Arrow or Parquet file never stands for gigabytes: it is refused, or read in pieces of bounded size."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from upsertq.client.loading import outcomes
from upsertq.client.rejects import line_of
from upsertq.contract.errors import SourceError
from upsertq.contract.wire import Record
from upsertq.sources import Columns, Fault, open_sources

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]

READ = """
import json, sys
import numpy, pyarrow, pyarrow.compute, pyarrow.parquet
from upsertq.contract.errors import SourceError
from upsertq.client.loading import outcomes
from upsertq.sources import Columns, open_sources

def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024

before, rows, told = peak(), 0, ""
try:
    (source,) = open_sources([sys.argv[1]], Columns(metadata=("m",) if sys.argv[2] else None))
    for chunk in source.chunks():
        rows += sum(1 for _ in outcomes(chunk, None))
        if rows >= 60:
            break
except SourceError as error:
    told = str(error)
print(json.dumps({"rows": rows, "told": told, "grown": peak() - before}))
"""
GROWN = 250
"""Megabytes; the files stand for 200 to 16,000 times as much."""
SMALL = 100_000


def ids(count: int) -> pa.Array:
    """So many ids."""
    return pa.array([f"r{k}" for k in range(count)])


def lists(*lengths: int) -> pa.Array:
    """Lists of ones."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ones(offsets[-1], np.float32)))


def same(count: int, cell: str) -> pa.Array:
    """A text that stands in every row and once in the file."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([cell]))


def parquet(path: Path, table: pa.Table, **options: Any) -> Path:
    """Write Parquet."""
    pa.parquet.write_table(table, path / "b.parquet", **{"compression": "zstd", **options})
    return path / "b.parquet"


def arrow(path: Path, table: pa.Table, *, stream: bool = False) -> Path:
    """Write Arrow, compressed."""
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(path / "b.arrow", table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return path / "b.arrow"


def runs(values: pa.Array, count: int) -> pa.Array:
    """One run."""
    return pa.RunEndEncodedArray.from_arrays(pa.array([count], pa.int32()), values)


BOMBS: dict[str, Callable[[Path], Path]] = {
    "one long list": lambda path: parquet(
        path, pa.table({"id": ids(60), "values": lists(*[4] * 30, 60_000_000, *[4] * 29)})
    ),
    "one long list in the second kind of page": lambda path: parquet(
        path,
        pa.table({"id": ids(60), "values": lists(*[4] * 30, 60_000_000, *[4] * 29)}),
        data_page_version="2.0",
    ),
    "long lists": lambda path: parquet(path, pa.table({"id": ids(1_000), "values": lists(*[50_000] * 1_000)})),
    "a text of a dictionary": lambda path: parquet(
        path,
        pa.table({"id": ids(2_000), "values": lists(*[4] * 2_000), "m": same(2_000, "x" * 1_000_000)}),
    ),
    "an id of a dictionary": lambda path: parquet(
        path, pa.table({"id": same(1_000, "x" * 3_000_000), "values": lists(*[4] * 1_000)})
    ),
    "plain texts": lambda path: parquet(
        path,
        pa.table({"id": ids(200), "values": lists(*[4] * 200), "m": pa.array(["x" * 1_000_000] * 200)}),
        use_dictionary=False,
    ),
    "texts by their ends": lambda path: parquet(
        path,
        pa.table({"id": ids(300), "values": lists(*[4] * 300), "m": pa.array(["x" * 1_000_000] * 300)}),
        use_dictionary=False,
        column_encoding={"m": "DELTA_BYTE_ARRAY"},
    ),
    "bytes of a dictionary": lambda path: parquet(
        path, pa.table({"id": ids(300), "values": pa.array([bytes(1_000_000)] * 300, pa.binary(1_000_000))})
    ),
    "a zstd batch": lambda path: arrow(path, pa.table({"id": ids(3_000), "values": lists(*[20_000] * 3_000)})),
    "a zstd batch of a stream": lambda path: arrow(
        path, pa.table({"id": ids(3_000), "values": lists(*[20_000] * 3_000)}), stream=True
    ),
    "a dictionary": lambda path: arrow(
        path, pa.table({"id": ids(3_000), "values": lists(*[4] * 3_000), "m": same(3_000, "x" * 5_000_000)})
    ),
    "a large dictionary": lambda path: arrow(
        path, pa.table({"id": ids(300), "values": lists(*[4] * 300), "m": same(300, "x" * 200_000_000)})
    ),
    "a run": lambda path: arrow(
        path, pa.table({"id": runs(pa.array(["x" * 1_000_000]), 9_000), "values": runs(lists(20_000), 9_000)})
    ),
    "a run of millions": lambda path: arrow(
        path, pa.table({"id": runs(pa.array(["x"]), 30_000_000), "values": runs(lists(2), 30_000_000)})
    ),
    "views of one list": lambda path: arrow(
        path,
        pa.table(
            {
                "id": ids(9_000),
                "values": pa.ListViewArray.from_arrays(
                    pa.array(np.zeros(9_000, np.int32)),
                    pa.array(np.full(9_000, 900_000, np.int32)),
                    pa.array(np.ones(900_000, np.float32)),
                ),
            }
        ),
    ),
    "nulls in a list": lambda path: arrow(
        path,
        pa.table(
            {
                "id": ids(60),
                "values": lists(*[4] * 60),
                "m": pa.ListArray.from_arrays(pa.array([0] + [2_000_000_000] * 60, pa.int32()), pa.nulls(2 * 10**9)),
            }
        ),
    ),
    "rows without bytes": lambda path: arrow(
        path,
        pa.table(
            {
                "id": pa.FixedSizeBinaryArray.from_buffers(pa.binary(0), 1 << 28, [None, pa.py_buffer(b"")]),
                "values": pa.nulls(1 << 28),
            }
        ),
    ),
}


@pytest.mark.parametrize("bomb", sorted(BOMBS))
def test_a_small_file_takes_little_memory(tmp_path: Path, bomb: str) -> None:
    """The process that reads it grows by a bounded number of megabytes, whatever the file stands for."""
    path = BOMBS[bomb](tmp_path)
    assert path.stat().st_size < SMALL
    metadata = "m" if b"m" in path.read_bytes() and "m" in pa_names(path) else ""
    program = [sys.executable, "-c", READ, str(path), metadata]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2_000:]
    found = json.loads(done.stdout)
    assert found["grown"] < GROWN, found
    assert found["rows"] >= 60 or str(path) in found["told"], found


def pa_names(path: Path) -> list[str]:
    """The columns of a file."""
    if path.suffix == ".parquet":
        return list(pa.parquet.read_schema(path).names)
    head = path.read_bytes()
    opened = pa.ipc.open_file(head) if head.startswith(b"ARROW1") else pa.ipc.open_stream(head)
    return list(opened.schema.names)


@pytest.mark.parametrize("compression", ["zstd", "snappy"])
def test_equal_vectors_are_no_bomb(tmp_path: Path, compression: str) -> None:
    """Thirty thousand equal vectors are a few kilobytes in Parquet, and load."""
    path = parquet(tmp_path, pa.table({"id": ids(30_000), "values": lists(*[384] * 30_000)}), compression=compression)
    (source,) = open_sources([str(path)], Columns())
    assert sum(isinstance(o, Record) for chunk in source.chunks() for o in outcomes(chunk, None)) == 30_000


def test_patched_offsets_never_read_what_is_not_the_files(tmp_path: Path) -> None:
    """Offsets beyond a buffer are refused: none of this process's memory comes into the rejects."""
    table = pa.table({"id": ["first", "second"], "values": lists(2, 2), "metadata": ["{}", "{}"]})
    with pa.ipc.new_file(tmp_path / "p.arrow", table.schema) as writer:
        writer.write_table(table)
    good = (tmp_path / "p.arrow").read_bytes()
    offsets = np.array([0, 5, 11], np.int32).tobytes()
    at = good.index(offsets)
    refused = 0
    for patch in ([0, 5, 5_000], [0, 5, 2**31 - 1], [0, -90, 11], [-9_000, 5, 11], [0, 11, 5], [0, 10**6, 10**6]):
        content = good[:at] + np.array(patch, np.int32).tobytes() + good[at + len(offsets) :]
        path = tmp_path / "q.arrow"
        path.write_bytes(content)
        with pytest.raises(SourceError, match="is damaged"):
            lines(path)
        refused += 1
    assert refused == 6


def lines(path: Path) -> list[bytes]:
    """The rejects of a file, of which every row is one."""
    (source,) = open_sources([str(path)], Columns())
    pairs = ((chunk, row, o) for chunk in source.chunks() for row, o in enumerate(outcomes(chunk, 3)))
    return [line_of(source, chunk, row, o) for chunk, row, o in pairs if isinstance(o, Fault)]


@pytest.mark.parametrize("fixed", [True, False])
def test_ordinary_vectors_come_in_whole_chunks(*, fixed: bool, tmp_path: Path) -> None:
    """What is counted against bombs never cuts ordinary rows into crumbs: they come as many at a time as are read."""
    count, width = 1500, 1536
    numbers = pa.array(np.ones(count * width, np.float32))
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * width)
    values = pa.FixedSizeListArray.from_arrays(numbers, width) if fixed else pa.ListArray.from_arrays(offsets, numbers)
    path = tmp_path / "ordinary.parquet"
    pa.parquet.write_table(pa.table({"id": ids(count), "values": values}), path)
    (source,) = open_sources([str(path)], Columns())
    sizes = [len(chunk) for chunk in source.chunks()]
    assert len(set(sizes[:-1])) == 1
    assert sizes[-1] <= sizes[0]
    assert sizes[0] > 500
