"""Which column means what, by default and by option, in formats with a header and without."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from upsertq.client.loading import outcomes
from upsertq.contract.errors import SourceError, UsageError
from upsertq.contract.wire import Record
from upsertq.sources import Columns, Fault, Format, fingerprint, open_sources

if TYPE_CHECKING:
    from pathlib import Path

ROWS: list[dict[str, Any]] = [
    {"key": "a", "vec": [1.0, 2.0], "title": "one", "year": 1999, "extra": {"k": "v"}, "space": "s1"},
    {"key": "b", "vec": [3.0, 4.0], "title": "two", "year": 2001, "extra": None, "space": None},
]


def as_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write JSON lines."""
    (path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path / "r.jsonl")


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write Parquet, with the types that Arrow finds."""
    pa.parquet.write_table(pa.Table.from_pylist(rows), path / "r.parquet")
    return str(path / "r.parquet")


def read(path: str, columns: Columns) -> list[Record | Fault]:
    """What the loader would make of the file."""
    (source,) = open_sources([path], columns)
    return [outcome for chunk in source.chunks() for outcome in outcomes(chunk, None)]


def good(found: list[Record | Fault]) -> list[Record]:
    """All records, of which none may be a fault."""
    assert [f for f in found if isinstance(f, Fault)] == []
    return [record for record in found if isinstance(record, Record)]


@pytest.mark.parametrize("write", [as_jsonl, as_parquet])
@pytest.mark.parametrize(
    ("asked", "metadata"),
    [
        (None, [{}, {}]),
        (("title",), [{"title": "one"}, {"title": "two"}]),
        (("year", "title"), [{"year": 1999, "title": "one"}, {"year": 2001, "title": "two"}]),
        (("extra",), [{"k": "v"}, {}]),
        (("*",), [{"title": "one", "year": 1999, "k": "v"}, {"title": "two", "year": 2001}]),
    ],
)
def test_columns_by_option(tmp_path: Path, write: Any, asked: Any, metadata: list[dict[str, Any]]) -> None:
    """Any layout is read by options; `*` is all the other columns, and an object gives its fields."""
    columns = Columns(id="key", values=("vec",), metadata=asked, namespace_column="space", namespace="rest")
    found = good(read(write(tmp_path, ROWS), columns))
    assert [record.id for record in found] == ["a", "b"]
    assert [record.namespace for record in found] == ["s1", "rest"]
    assert [json.loads(record.metadata or b"{}") for record in found] == metadata


@pytest.mark.parametrize("write", [as_jsonl, as_parquet])
@pytest.mark.parametrize("asked", [("v*",), ("v1", "v2", "v10")])
def test_one_column_per_dimension(tmp_path: Path, write: Any, asked: tuple[str, ...]) -> None:
    """Columns are taken in the order named, or by the number in the place of the star."""
    rows = [
        {"id": "a", "v10": 3.0, "v2": 2.0, "v1": 1, "vx": 9.0},
        {"id": "b", "v10": 6.0, "v2": 5.0, "v1": 4, "vx": 0.0},
    ]
    found = good(read(write(tmp_path, rows), Columns(values=asked)))
    assert [np.frombuffer(record.values, "<f4").tolist() for record in found] == [[1, 2, 3], [4, 5, 6]]


def test_one_column_per_dimension_in_csv(tmp_path: Path) -> None:
    """Numbers in CSV are read exactly; a cell that is none is a fault of its row, as is an empty one."""
    path = tmp_path / "a.csv"
    path.write_text('id,d0,d1,note\na,0.1,-2e-3,"x, ""y"""\nb,1,zwei,\nc,,1,\nd,nan,1,\n')
    found = read(str(path), Columns(values=("d*",), metadata=("note",)))
    assert isinstance(found[0], Record)
    assert found[0].values == np.array([0.1, -2e-3], dtype="<f4").tobytes()
    assert json.loads(found[0].metadata) == {"note": 'x, "y"'}
    faults = [fault for fault in found[1:] if isinstance(fault, Fault)]
    assert [fault.field for fault in faults] == ["values"] * 3
    assert ["'zwei', which is no number" in faults[0].reason, "'d0' is empty" in faults[1].reason] == [True, True]
    assert "'nan', which is no number" in faults[2].reason


def test_a_namespace_option_rules_over_the_files_own_column(tmp_path: Path) -> None:
    """`--namespace` alone sends every record there; without it the column `namespace` is followed."""
    rows = [{"id": "a", "values": [1.0], "namespace": "own"}, {"id": "b", "values": [1.0]}]
    path = as_jsonl(tmp_path, rows)
    assert [r.namespace for r in good(read(path, Columns(namespace="all")))] == ["all", "all"]
    assert [r.namespace for r in good(read(path, Columns()))] == ["own", ""]


def test_json_text_is_metadata_in_the_one_named_column(tmp_path: Path) -> None:
    """A column of JSON text that is named alone is the metadata; plain text stays one field."""
    rows = [{"id": "a", "values": [1.0], "m": '{"x": 1}'}, {"id": "b", "values": [1.0], "m": "plain"}]
    for write in (as_jsonl, as_parquet):
        found = good(read(write(tmp_path, rows), Columns(metadata=("m",))))
        assert [json.loads(record.metadata) for record in found] == [{"x": 1}, {"m": "plain"}]


def test_dates_and_times_of_arrow_become_iso_text(tmp_path: Path) -> None:
    """What JSON and the service lack travels as ISO 8601."""
    day, moment = dt.date(2026, 1, 2), dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    rows = [{"id": "a", "values": [1.0], "day": day, "moment": moment}]
    (found,) = good(read(as_parquet(tmp_path, rows), Columns(metadata=("day", "moment"))))
    assert json.loads(found.metadata) == {"day": "2026-01-02", "moment": "2026-01-02T03:04:05.000000Z"}


@pytest.mark.parametrize("write", [as_jsonl, as_parquet])
def test_integer_ids_become_their_digits(tmp_path: Path, write: Any) -> None:
    """An integer has one obvious spelling, in Parquet as in JSON."""
    assert good(read(write(tmp_path, [{"id": 7, "values": [1.0]}]), Columns()))[0].id == "7"


@pytest.mark.parametrize("name", ["sparse_values", "sparseValues", "mine"])
def test_sparse_values_by_either_name(tmp_path: Path, name: str) -> None:
    """Both spellings are known, and any other by option; the text of an object will do."""
    path = tmp_path / "a.jsonl"
    told = {"indices": [2], "values": [0.5]}
    path.write_text("".join(json.dumps({"id": "a", name: cell}) + "\n" for cell in (told, json.dumps(told))))
    found = good(read(str(path), Columns(sparse="mine" if name == "mine" else None)))
    assert [json.loads(record.sparse) for record in found] == [told, told]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(), "no column 'id'; name it with --id-column: it has 'key', 'vec'"),
        (Columns(id="key"), "no column 'values'; name it with --values-column"),
        (Columns(id="key", values=("w*",)), r"no column like 'w\*'"),
        (Columns(id="key", values=("vec",), metadata=("nope",)), "no column 'nope' for --metadata-columns"),
        (Columns(id="key", values=("vec",), namespace_column="nope"), "no column 'nope' for --namespace-column"),
        (Columns(id="key", values=("vec",), sparse="nope"), "no column 'nope' for --sparse-column"),
    ],
)
def test_a_missing_column_is_found_before_anything_is_read(tmp_path: Path, columns: Columns, message: str) -> None:
    """The error names the column, the option and what there is."""
    with pytest.raises(SourceError, match=message):
        open_sources([as_parquet(tmp_path, ROWS)], columns)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1" + bytes(100), "is damaged or no such file"),
        ("a.arrow", b"ARROW1" + bytes(100), "is damaged or no such file"),
        ("a.arrow", b"", "is empty"),
        ("a.npy", b"no numpy", "has no ids"),
        ("a.csv", b"", "has no header"),
        ("a.csv", b"id,values,id\n", "'id' twice"),
        ("a.csv", b"id,values\xff\n", "not UTF-8"),
        ("a.txt", b"x", "the ending tells no format"),
        ("a.parquet.gz", b"x", "the ending tells no format"),
    ],
)
def test_a_file_that_is_not_what_it_seems(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """Opening says which file is wrong, and how."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        open_sources([str(tmp_path / name)], Columns())
    assert name in str(caught.value)


def test_numpy_files_that_cannot_be_vectors(tmp_path: Path) -> None:
    """Objects, records, wrong shapes, a cut and a wrong number of ids are all told apart."""
    path = tmp_path / "v.npy"
    (tmp_path / "v.ids.txt").write_text("a\nb\n")
    for array, message in (
        (np.array([{}, 1], dtype=object), "Python objects"),
        (np.ones(2, dtype=[("a", "f4"), ("b", "f4")]), "records of"),
        (np.ones((2, 20_001), dtype=np.int8), "20,001 dimensions"),
        (np.ones((2, 0)), "0 dimensions"),
        (np.ones(3), "vectors are a matrix"),
        (np.ones((3, 2)), "holds 3 vectors, but .* holds 2 ids"),
    ):
        np.save(path, array)
        with pytest.raises(SourceError, match=message):
            open_sources([str(path)], Columns())
    np.save(path, np.ones((2, 3)))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(SourceError, match="cut off"):
        open_sources([str(path)], Columns())


def test_a_format_can_be_told_against_the_name(tmp_path: Path) -> None:
    """`--format` rules over the ending."""
    path = tmp_path / "data.bin"
    path.write_text('{"id": "a", "values": [1]}')
    (source,) = open_sources([str(path)], Columns(), format=Format.JSONL)
    assert [chunk.ids for chunk in source.chunks()] == [["a"]]


def test_stdin_can_be_named_once(tmp_path: Path) -> None:
    """Twice is a mistake."""
    with pytest.raises(UsageError, match="only once"):
        open_sources(["-", "-"], Columns())


def test_a_fingerprint_changes_with_whatever_would_change_the_records(tmp_path: Path) -> None:
    """Name, size, content at either end, order, queue and options all count; the folder does not."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode() * 300_000)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    first = fingerprint([a, b], "q", Columns())
    others = [
        fingerprint([b, a], "q", Columns()),
        fingerprint([a], "q", Columns()),
        fingerprint([a, b], "p", Columns()),
        fingerprint([a, b], "q", Columns(namespace="n")),
        fingerprint([a, b], "q", Columns(), ["jsonl"]),
    ]
    assert fingerprint([a, b], "q", Columns()) == first
    content = bytearray((tmp_path / "b").read_bytes())
    content[-1] ^= 1
    (tmp_path / "b").write_bytes(content)
    others.append(fingerprint([a, b], "q", Columns()))
    assert len({first, *others}) == 7
    moved = tmp_path / "folder"
    moved.mkdir()
    (tmp_path / "a").rename(moved / "a")
    assert fingerprint([str(moved / "a"), b], "q", Columns()) == others[-1]
