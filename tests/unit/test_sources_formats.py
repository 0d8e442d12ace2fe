"""Every format says the same: the records that a file holds do not depend on how it holds them."""

from __future__ import annotations

import gzip
import io
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upsertq.client.loading import outcomes
from upsertq.contract.errors import SourceError
from upsertq.contract.wire import Record
from upsertq.sources import Columns, Fault, open_sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


class Row(NamedTuple):
    """A record as a test writes it."""

    id: str
    values: np.ndarray[Any, np.dtype[np.float32]]
    metadata: dict[str, Any]


def jsonl(path: Path, rows: Sequence[Row]) -> Path:
    """JSON lines."""
    lines = [json.dumps({"id": r.id, "values": r.values.tolist(), "metadata": r.metadata}) for r in rows]
    return written(path / "a.jsonl", "\n".join(lines).encode())


def gz(path: Path, rows: Sequence[Row]) -> Path:
    """JSON lines in gzip, in two members."""
    whole = jsonl(path, rows).read_bytes()
    half = len(whole) // 2
    return written(path / "a.jsonl.gz", gzip.compress(whole[:half]) + gzip.compress(whole[half:]))


def zst(path: Path, rows: Sequence[Row]) -> Path:
    """JSON lines in Zstandard, in two frames."""
    whole = jsonl(path, rows).read_bytes()
    half = len(whole) // 2
    squeeze = zstandard.ZstdCompressor().compress
    return written(path / "a.jsonl.zst", squeeze(whole[:half]) + squeeze(whole[half:]))


def csv_of_lists(path: Path, rows: Sequence[Row]) -> Path:
    """CSV with values and metadata as JSON."""
    lines = ["id,values,metadata"]
    lines += [",".join(map(quoted, (r.id, json.dumps(r.values.tolist()), json.dumps(r.metadata)))) for r in rows]
    return written(path / "a.csv", "\r\n".join(lines).encode())


def table(rows: Sequence[Row], values: pa.Array, metadata: pa.Array | None = None) -> pa.Table:
    """An Arrow table of the rows with these values."""
    told = pa.array([json.dumps(r.metadata) for r in rows]) if metadata is None else metadata
    return pa.table({"id": pa.array([r.id for r in rows]), "values": values, "metadata": told})


def parquet_lists(path: Path, rows: Sequence[Row]) -> Path:
    """Parquet: lists of float32, metadata as JSON text: Pinecone's import layout."""
    values = pa.array([r.values.tolist() for r in rows], pa.list_(pa.float32()))
    return parquet(path, table(rows, values))


def parquet_doubles(path: Path, rows: Sequence[Row]) -> Path:
    """Parquet: large lists of float64, in row groups of three."""
    values = pa.array([r.values.tolist() for r in rows], pa.large_list(pa.float64()))
    return parquet(path, table(rows, values), row_group_size=3)


def parquet_fixed(path: Path, rows: Sequence[Row]) -> Path:
    """Parquet: fixed-size lists, metadata as a struct."""
    size = len(rows[0].values)
    values = pa.array([r.values.tolist() for r in rows], pa.list_(pa.float32(), size))
    kind = pa.struct([("n", pa.int64()), ("b", pa.bool_()), ("s", pa.string()), ("l", pa.list_(pa.string()))])
    return parquet(path, table(rows, values, pa.array([r.metadata for r in rows], kind)))


def parquet_binary(path: Path, rows: Sequence[Row]) -> Path:
    """Parquet: little-endian float32 bytes."""
    values = pa.array([r.values.astype("<f4").tobytes() for r in rows], pa.binary())
    return parquet(path, table(rows, values))


def arrow_file(path: Path, rows: Sequence[Row]) -> Path:
    """Arrow's file format, uncompressed, ids as a dictionary."""
    whole = table(rows, pa.array([r.values.tolist() for r in rows], pa.list_(pa.float32())))
    whole = whole.set_column(0, "id", whole["id"].dictionary_encode())
    with pa.ipc.new_file(path / "a.arrow", whole.schema) as writer:
        writer.write_table(whole, max_chunksize=4)
    return path / "a.arrow"


def arrow_stream(path: Path, rows: Sequence[Row]) -> Path:
    """Arrow's streaming format."""
    whole = table(rows, pa.array([r.values.tolist() for r in rows], pa.list_(pa.float16())))
    whole = table(rows, pa.array([r.values.tolist() for r in rows], pa.list_(pa.float32())), whole["metadata"])
    with pa.ipc.new_stream(path / "a.arrows", whole.schema) as writer:
        writer.write_table(whole)
    return path / "a.arrows"


def feather(path: Path, rows: Sequence[Row]) -> Path:
    """Feather version 2, compressed."""
    whole = table(rows, pa.array([r.values.tolist() for r in rows], pa.list_(pa.float32())))
    pa.feather.write_feather(whole, path / "a.feather", compression="zstd", chunksize=5)
    return path / "a.feather"


WRITERS: list[Callable[[Path, Sequence[Row]], Path]] = [
    jsonl,
    gz,
    zst,
    csv_of_lists,
    parquet_lists,
    parquet_doubles,
    parquet_fixed,
    parquet_binary,
    arrow_file,
    arrow_stream,
    feather,
]


def test_what_follows_the_end_of_an_arrow_stream_is_never_left_out(tmp_path: Path) -> None:
    """Streams that were joined into one file are refused: a reader stops at the end of the first; zeros are padding."""
    data = pa.table({"id": ["a", "b"], "values": pa.array([[1.0], [2.0]], pa.list_(pa.float32()))})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, data.schema) as writer:
        writer.write_table(data)
    stream, path = sink.getvalue(), tmp_path / "a.arrows"
    for more in (stream, stream[:-8], b"more"):
        path.write_bytes(stream + more)
        (source,) = open_sources([str(path)], Columns())
        with pytest.raises(SourceError, match="after the end of its stream"):
            list(source.chunks())
    for end in (stream, stream[:-8], stream + bytes(56)):
        path.write_bytes(end)
        (source,) = open_sources([str(path)], Columns())
        assert [record_id for chunk in source.chunks() for record_id in chunk.ids] == ["a", "b"]


def written(path: Path, content: bytes) -> Path:
    """Write the file."""
    path.write_bytes(content)
    return path


def parquet(path: Path, whole: pa.Table, **options: Any) -> Path:
    """Write a Parquet file."""
    pa.parquet.write_table(whole, path / "a.parquet", **options)
    return path / "a.parquet"


def quoted(cell: str) -> str:
    """A cell of CSV."""
    return '"' + cell.replace('"', '""') + '"'


def read(path: Path | str, columns: Columns | None = None, **options: Any) -> list[Record | Fault]:
    """What the loader would make of the file."""
    (source,) = open_sources([str(path)], columns or Columns(), **options)
    return [outcome for chunk in source.chunks() for outcome in outcomes(chunk, None)]


def rows_of(count: int, dim: int = 4, seed: int = 0) -> list[Row]:
    """So many good rows."""
    rng = np.random.default_rng(seed)
    return [
        Row(f"id-{k}", rng.standard_normal(dim, dtype=np.float32), {"n": k, "b": k % 2 == 0, "s": f"é{k}", "l": ["x"]})
        for k in range(count)
    ]


def expected(rows: Sequence[Row]) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """What must be read of the rows."""
    return ((row.id, row.values.tobytes(), row.metadata) for row in rows)


def said(records: Sequence[Record | Fault]) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """What was read."""
    for record in records:
        assert isinstance(record, Record), record
        yield record.id, record.values, json.loads(record.metadata or b"{}")


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("count", [1, 2_345])
def test_every_format_gives_the_same_records_bit_for_bit(
    tmp_path: Path, write: Callable[[Path, Sequence[Row]], Path], count: int
) -> None:
    """What was written is what is read, in order, over chunk and batch limits."""
    rows = rows_of(count)
    assert list(said(read(write(tmp_path, rows)))) == list(expected(rows))


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
# of fewer values the bytes may be text by chance (6.4514373e+16 is '{3e['), and are read as such
ROWS = st.integers(4, 6).flatmap(
    lambda dim: st.lists(
        st.builds(
            Row,
            st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8),
            st.lists(FLOATS, min_size=dim, max_size=dim).map(lambda v: np.array(v, dtype=np.float32)),
            st.fixed_dictionaries(
                {
                    "n": st.integers(-(2**53), 2**53),
                    "b": st.booleans(),
                    "s": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6),
                    "l": st.lists(st.sampled_from(["a", "b,", '"']), max_size=2),
                }
            ),
        ),
        min_size=1,
        max_size=12,
    )
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_formats_agree_on_any_rows(tmp_path: Path, rows: list[Row]) -> None:
    """Whatever the rows are, zero vectors among them, each format gives the same outcomes."""
    first = read(jsonl(tmp_path, rows))
    for write in WRITERS[1:]:
        assert [kind(o) for o in read(write(tmp_path, rows))] == [kind(o) for o in first], write.__name__


def kind(outcome: Record | Fault) -> tuple[Any, ...]:
    """What may be compared between formats."""
    if isinstance(outcome, Fault):
        return outcome.field, outcome.reason
    return outcome.id, outcome.values, json.loads(outcome.metadata or b"{}"), outcome.namespace


def test_numpy_with_ids_beside_it(tmp_path: Path) -> None:
    """A matrix and its ids, as text and as NPY, of strings and of integers, give records."""
    matrix = np.arange(1, 2_401 * 3 + 1, dtype=np.float64).reshape(2_401, 3)
    np.save(tmp_path / "v.npy", matrix)
    names = [f"n{k}" for k in range(2_401)]
    (tmp_path / "v.ids.txt").write_text("\n".join(names) + "\n")
    np.save(tmp_path / "strings.npy", np.array(names))
    np.save(tmp_path / "numbers.npy", np.arange(2_401))
    wanted = [row.tobytes() for row in matrix.astype("<f4")]
    for ids, told in (((), names), (["strings.npy"], names), (["numbers.npy"], list(map(str, range(2_401))))):
        found = [
            r for r in read(tmp_path / "v.npy", ids=[str(tmp_path / name) for name in ids]) if isinstance(r, Record)
        ]
        assert [r.id for r in found] == told
        assert [r.values for r in found] == wanted


def test_parquet_values_are_never_python_numbers(tmp_path: Path) -> None:
    """A chunk of Parquet, Arrow or binary values is one float32 matrix, so that loading is fast and small."""
    for write in (parquet_lists, parquet_fixed, parquet_binary, arrow_file):
        (source,) = open_sources([str(write(tmp_path, rows_of(50)))], Columns())
        for chunk in source.chunks():
            assert isinstance(chunk.values, np.ndarray)
            assert chunk.values.dtype == np.float32
            assert chunk.values.shape[1] == 4


@pytest.mark.slow
def test_a_chunk_is_bounded_in_bytes(tmp_path: Path) -> None:
    """Wide vectors make chunks of fewer rows, in text as in Parquet."""
    rows = rows_of(60, dim=20_000)
    for write in (jsonl, parquet_lists, parquet_binary):
        (source,) = open_sources([str(write(tmp_path, rows))], Columns())
        counts = [len(chunk) for chunk in source.chunks()]
        assert sum(counts) == 60
        assert max(counts) <= 55, write.__name__


@pytest.mark.parametrize("lists", [pa.list_(pa.float32()), pa.list_(pa.float32(), 2), pa.large_list(pa.int32())])
def test_arrow_rows_without_values_are_told_from_those_with(tmp_path: Path, lists: pa.DataType) -> None:
    """Nulls among lists, at the ends and within, fall to their own rows."""
    values = pa.array([None, [1, 2], None, [3, 4], [5, 6], None], lists)
    whole = pa.table({"id": list("abcdef"), "values": values})
    found = read(parquet(tmp_path, whole))
    assert [isinstance(o, Record) for o in found] == [False, True, False, True, True, False]
    assert [np.frombuffer(o.values, "<f4").tolist() for o in found if isinstance(o, Record)] == [[1, 2], [3, 4], [5, 6]]


def test_arrow_lists_of_unequal_lengths_keep_their_own(tmp_path: Path) -> None:
    """Each row of a ragged column is read for itself, and an empty one is a fault."""
    values = pa.array([[1.0], [2.0, 3.0], [], [4.0]], pa.list_(pa.float64()))
    found = read(parquet(tmp_path, pa.table({"id": list("abcd"), "values": values})))
    assert [o.dim if isinstance(o, Record) else o.field for o in found] == [1, 2, "values", 1]


def test_binary_that_is_no_float32_is_a_fault_of_its_row(tmp_path: Path) -> None:
    """Ten bytes are no vector; the neighbours are."""
    values = pa.array([b"\0\0\x80\x3f", b"0123456789", None], pa.binary())
    found = read(parquet(tmp_path, pa.table({"id": list("abc"), "values": values})))
    assert isinstance(found[0], Record)
    assert isinstance(found[1], Fault)
    assert "10 bytes" in found[1].reason
    assert isinstance(found[2], Fault)


def test_map_metadata_and_sparse_structs(tmp_path: Path) -> None:
    """A map column is metadata, and a struct of indices and values is sparse values."""
    whole = pa.table(
        {
            "id": ["a", "b"],
            "sparse_values": pa.array(
                [{"indices": [3, 1], "values": [0.5, 2.0]}, {"indices": [7], "values": [1.0]}],
                pa.struct([("indices", pa.list_(pa.uint32())), ("values", pa.list_(pa.float32()))]),
            ),
            "metadata": pa.array([[("k", "v")], None], pa.map_(pa.string(), pa.string())),
        }
    )
    found = read(parquet(tmp_path, whole))
    assert [json.loads(o.sparse) for o in found if isinstance(o, Record)] == [
        {"indices": [3, 1], "values": [0.5, 2.0]},
        {"indices": [7], "values": [1.0]},
    ]
    assert [o.metadata for o in found if isinstance(o, Record)] == [b'{"k":"v"}', b""]
