"""Whatever a Parquet, Arrow or Feather file holds, it loads or is refused in one line, in bounded memory.

The library that reads it may crash on bytes of a stranger, so a process of its own reads each file.
"""

from __future__ import annotations

import datetime as dt
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import fuzzed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="the child's memory is read from /proc"),
]
PEAK = 700
"""Megabytes that the child may come to: an idle one takes about 120."""


class Child:
    """The process that reads, begun anew whenever it has ended."""

    def __init__(self, path: Path) -> None:
        self._path = path / "fuzzed"
        self._process: subprocess.Popen[str] | None = None

    def read(self, content: bytes, ending: str) -> str:
        """What becomes of a file with this content; fails when the process dies of it."""
        if self._process is None:
            program = Path(__file__).with_name("arrow_child.py")
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            self._process = subprocess.Popen([sys.executable, str(program)], text=True, **pipes)
        path = self._path.with_suffix(ending)
        path.write_bytes(content)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            ended, errors = self._process.wait(), self._process.stderr.read() if self._process.stderr else ""
            self.end()
            pytest.fail(f"the reader ended with {ended}: {errors[-2_000:]}")
        answer = json.loads(line)
        if answer["peak"] > PEAK:
            self.end()
            pytest.fail(f"{answer['peak']} MB for {len(content)} bytes: {answer['told']}")
        told: str = answer["told"]
        assert "\n" not in told
        return told

    def end(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture(scope="session")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """The reader."""
    found = Child(tmp_path_factory.mktemp("arrow"))
    yield found
    found.end()


MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
INDICES, FLOATS = pa.list_(pa.int64()), pa.list_(pa.float32())
CELLS: list[tuple[pa.DataType, Any]] = [
    (pa.string(), "x"), (pa.large_string(), "x"), (pa.string_view(), "a longer text than twelve"),
    (pa.binary(), b"x"), (pa.binary_view(), b"a longer text than twelve"), (pa.binary(2), b"ab"),
    (pa.large_binary(), b""),
    (pa.int64(), 7), (pa.uint8(), 7), (pa.float16(), 0.5), (pa.float64(), 0.5), (pa.bool_(), True), (pa.null(), None),
    (pa.decimal32(5, 2), 7), (pa.decimal128(20, 0), 7), (pa.decimal256(50, 3), 7),
    (pa.date32(), MOMENT.date()), (pa.date64(), MOMENT.date()), (pa.time64("ns"), MOMENT.time()),
    (pa.timestamp("ns"), MOMENT.replace(tzinfo=None)), (pa.timestamp("s", "UTC"), MOMENT),
    (pa.timestamp("us", "Europe/Berlin"), MOMENT), (pa.duration("ms"), dt.timedelta(seconds=1)),
    (pa.month_day_nano_interval(), pa.MonthDayNano([1, 2, 3])), (pa.uuid(), bytes(16)), (pa.json_(), "{}"),
    (pa.list_(pa.string()), ["a"]), (pa.list_(pa.int64()), [1]), (pa.list_(pa.float32(), 2), [1.0, 2.0]),
    (pa.large_list(pa.float64()), [1.0]), (pa.list_view(pa.float32()), [1.0]), (pa.list_view(pa.string()), ["a"]),
    (pa.struct([("a", pa.string()), ("b", pa.timestamp("us"))]), {"a": "x", "b": None}),
    (pa.struct([("indices", INDICES), ("values", FLOATS)]), {"indices": [1], "values": [2]}),
    (pa.map_(pa.string(), pa.int64()), [("k", 1)]), (pa.map_(pa.string(), pa.list_(pa.string())), [("k", ["v"])]),
    (pa.dictionary(pa.int8(), pa.string()), "x"), (pa.list_(pa.list_(pa.string())), [["a"]]),
    (pa.struct([("a", pa.struct([("b", pa.int8())]))]), {"a": {"b": 1}}),
]  # fmt: skip
NAMES = ["id", "values", "metadata", "sparse_values", "namespace", "x", "__index_level_0__", "é", ""]
LISTS = [pa.list_(pa.float32()), pa.list_(pa.float32(), 3), pa.large_list(pa.float64()), pa.list_view(pa.float32())]


@st.composite
def columns(draw: st.DrawFn) -> tuple[pa.Array, str]:
    """A column of any type under any name; most often of those that make a record."""
    kind, cell = draw(st.sampled_from(CELLS))
    present = draw(st.lists(st.booleans(), min_size=4, max_size=4))
    return pa.array([cell if there else None for there in present], kind), draw(st.sampled_from(NAMES))


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Four rows, as records have them, and any other columns."""
    found = [
        (pa.array(["a", "b", "c", "d"]), "id"),
        (pa.array([[1.0, 2.0, 3.0]] * 4, draw(st.sampled_from(LISTS))), "values"),
    ]
    kept = found[draw(st.integers(0, 1)) :] if draw(st.integers(0, 4)) == 0 else found
    everything = [*kept, *draw(st.lists(columns(), max_size=4))]
    return pa.table([array for array, _ in everything], names=[name for _, name in everything])


def as_parquet(table: pa.Table, compression: str) -> bytes:
    """Parquet; what it cannot hold is left out."""
    sink = io.BytesIO()
    pa.parquet.write_table(
        table, sink, compression=compression, data_page_version="1.0" if table.num_columns % 2 else "2.0"
    )
    return sink.getvalue()


def as_file(table: pa.Table, compression: str) -> bytes:
    """Arrow's file format."""
    return _ipc(table, compression, pa.ipc.new_file)


def as_stream(table: pa.Table, compression: str) -> bytes:
    """Arrow's streaming format."""
    return _ipc(table, compression, pa.ipc.new_stream)


def _ipc(table: pa.Table, compression: str, make: Any) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression)
    with make(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()


WRITERS: list[tuple[str, Callable[[pa.Table, str], bytes]]] = [
    (".parquet", as_parquet),
    (".arrow", as_file),
    (".arrows", as_stream),
]
PATCHES = [b"", b"\0", b"\xff", b"\xff\xff\xff\x7f", b"\x7f", b"\x80", b"\0\0\0\0\0\0\0\x10", b"\xff" * 8, b"\x01"]


@st.composite
def written(draw: st.DrawFn) -> tuple[str, bytes]:
    """A whole file of any types, with its ending."""
    ending, write = draw(st.sampled_from(WRITERS))
    table, compression = draw(tables()), draw(st.sampled_from(["none", "zstd", "lz4"]))
    try:
        return ending, write(table, compression)
    except (pa.ArrowException, NotImplementedError):
        return ".arrow", as_file(table, compression)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file with a few bytes of it changed, most often by such as make large numbers, put in or cut out."""
    ending, good = draw(written())
    content = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        patch = draw(st.one_of(st.sampled_from(PATCHES), st.binary(max_size=8)))
        same = draw(st.integers(0, 5)) > 0
        content[at : at + (len(patch) if same else draw(st.integers(0, 16)))] = patch
    return ending, bytes(content)


@fuzzed(examples=800)
@given(written())
def test_files_of_any_types_load_or_are_refused_by_column(child: Child, file: tuple[str, bytes]) -> None:
    """A whole file is never called damaged: its rows are read, or a column is refused by its name and type."""
    told = child.read(file[1], file[0])
    assert "damaged" not in told
    assert told.startswith("rows: ") or "column" in told, told


@fuzzed(examples=2_500)
@given(damaged())
def test_damaged_files_load_or_are_refused(child: Child, file: tuple[str, bytes]) -> None:
    """Whatever bytes are changed, the process lives, its memory is bounded, and it answers in one line."""
    child.read(file[1], file[0])


@fuzzed(examples=300)
@given(
    st.sampled_from([".parquet", ".arrow", ".arrows", ".feather"]),
    st.sampled_from([b"", b"PAR1", b"ARROW1\0\0", b"\xff\xff\xff\xff", b"FEA1"]),
    st.binary(max_size=200),
    st.sampled_from([b"", b"PAR1", b"ARROW1", b"\0\0\0\0"]),
)
def test_bytes_of_any_kind_are_refused(child: Child, ending: str, head: bytes, body: bytes, tail: bytes) -> None:
    """What is no such file is refused."""
    assert not child.read(head + body + tail, ending).startswith("rows: ") or head == b"\xff\xff\xff\xff"
