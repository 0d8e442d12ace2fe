"""Each Arrow type has one value for ids, namespaces and metadata, or is refused by column and type before any row."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from upsertq.client.loading import outcomes
from upsertq.contract.errors import SourceError
from upsertq.contract.wire import Record
from upsertq.sources import Columns, Fault, open_sources

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=dt.UTC)
NAIVE = MOMENT.replace(tzinfo=None)
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")
ONES = pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float32()))


def arrow(path: Path, table: pa.Table) -> Path:
    """Write Arrow's file format."""
    with pa.ipc.new_file(path / "t.arrow", table.schema) as writer:
        writer.write_table(table)
    return path / "t.arrow"


def parquet(path: Path, table: pa.Table) -> Path:
    """Write Parquet."""
    pa.parquet.write_table(table, path / "t.parquet")
    return path / "t.parquet"


def read(path: Path, columns: Columns | None = None) -> list[Record | Fault]:
    """What the loader would make of the file."""
    (source,) = open_sources([str(path)], columns or Columns())
    return [outcome for chunk in source.chunks() for outcome in outcomes(chunk, None)]


def first(path: Path, columns: Columns | None = None) -> Record:
    """The first of its records."""
    found = read(path, columns)[0]
    assert isinstance(found, Record), found
    return found


def refusal(path: Path, columns: Columns | None = None) -> str:
    """Why the file is refused before any row is read."""
    with pytest.raises(SourceError) as raised:
        open_sources([str(path)], columns or Columns())
    assert "\n" not in str(raised.value)
    assert "damaged" not in str(raised.value)
    return str(raised.value)


def runs(cell: Any, kind: pa.DataType) -> pa.Array:
    """Two rows of a cell, run-end encoded."""
    return pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array([cell], kind))


TEXTS: list[tuple[pa.DataType | pa.Array, Any, str]] = [
    (pa.string(), "x", "x"),
    (pa.large_string(), "x", "x"),
    (pa.string_view(), "a text that is no short one", "a text that is no short one"),
    (pa.binary(), b"x", "x"),
    (pa.large_binary(), b"x", "x"),
    (pa.binary_view(), b"x", "x"),
    (pa.binary(2), b"xy", "xy"),
    (pa.dictionary(pa.int8(), pa.string()), "x", "x"),
    (pa.uuid(), ID.bytes, str(ID)),
    (pa.date32(), MOMENT.date(), "2026-01-02"),
    (pa.date64(), MOMENT.date(), "2026-01-02"),
    (pa.time32("s"), dt.time(3, 4, 5), "03:04:05"),
    (pa.time64("us"), dt.time(3, 4, 5), "03:04:05.000000"),
    (pa.timestamp("s"), NAIVE.replace(microsecond=0), "2026-01-02T03:04:05"),
    (pa.timestamp("ms"), NAIVE, "2026-01-02T03:04:05.678"),
    (pa.timestamp("ns"), NAIVE, "2026-01-02T03:04:05.678000000"),
    (pa.timestamp("ms", "UTC"), MOMENT, "2026-01-02T03:04:05.678Z"),
    (pa.timestamp("ms", "Europe/Berlin"), MOMENT, "2026-01-02T03:04:05.678Z"),
    (pa.timestamp("ms", "+02:00"), MOMENT, "2026-01-02T03:04:05.678Z"),
    (pa.timestamp("ms", "Mars/Olympus"), 1767323045678, "2026-01-02T03:04:05.678Z"),
    (pa.duration("s"), 90, "PT90S"),
    (pa.duration("ms"), -1500, "PT-1.5S"),
    (pa.month_day_nano_interval(), pa.MonthDayNano([1, 2, 3_500_000_000]), "P1M2DT3.5S"),
]
DIGITS: list[tuple[pa.DataType, Any]] = [
    (pa.int8(), 7),
    (pa.uint64(), 2**64 - 1),
    (pa.int64(), -7),
    (pa.decimal32(5, 0), Decimal(7)),
    (pa.decimal64(18, 2), Decimal("7.00")),
    (pa.decimal128(38, 0), Decimal(10**37)),
    (pa.decimal256(76, 10), Decimal(7)),
    (pa.dictionary(pa.int8(), pa.int64()), 7),
]


@pytest.mark.parametrize(("kind", "cell", "text"), TEXTS, ids=lambda value: str(value)[:30])
def test_a_type_with_a_text_is_that_text_everywhere(tmp_path: Path, kind: pa.DataType, cell: Any, text: str) -> None:
    """As an id, a namespace, metadata, in a list, a struct, a map and a run alike."""
    array = pa.array([cell, cell], kind)
    record = first(
        arrow(
            tmp_path,
            pa.table(
                {
                    "id": array,
                    "namespace": array,
                    "values": ONES,
                    "m": array,
                    "l": pa.ListArray.from_arrays([0, 1, 2], array),
                    "s": pa.StructArray.from_arrays([array], names=["f"]),
                    "p": pa.MapArray.from_arrays([0, 1, 2], pa.array(["k", "k"]), array),
                    "r": pa.RunEndEncodedArray.from_arrays(pa.array([1, 2], pa.int32()), array),
                }
            ),
        ),
        Columns(metadata=("*",)),
    )
    assert (record.id, record.namespace) == (text, text)
    assert json.loads(record.metadata) == {"m": text, "l": [text], "f": text, "k": text, "r": text}


@pytest.mark.parametrize(("kind", "cell"), DIGITS, ids=lambda value: str(value)[:30])
def test_integers_and_decimals_are_digits_as_ids_and_namespaces(tmp_path: Path, kind: pa.DataType, cell: Any) -> None:
    """A number that is a name is its digits."""
    array = pa.array([cell, cell], kind)
    record = first(arrow(tmp_path, pa.table({"id": array, "namespace": array, "values": ONES})))
    assert record.id == record.namespace == str(int(cell))


@pytest.mark.parametrize(
    ("kind", "cell", "value"),
    [
        (pa.decimal128(10, 2), Decimal("9.99"), 9.99),
        (pa.decimal128(10, 0), Decimal(7), 7),
        (pa.float16(), 0.5, 0.5),
        (pa.bool_(), True, True),
        (pa.bool8(), 1, True),
        (pa.int8(), 7, 7),
        (pa.struct([("a", pa.timestamp("s")), ("b", pa.null())]), {"a": NAIVE, "b": None}, None),
    ],
    ids=str,
)
def test_metadata_keeps_numbers(tmp_path: Path, kind: pa.DataType, cell: Any, value: Any) -> None:
    """A decimal is the number that it is, a struct gives its fields."""
    table = pa.table({"id": ["a", "b"], "values": ONES, "m": pa.array([cell, None], kind)})
    record, bare = read(arrow(tmp_path, table), Columns(metadata=("m",)))
    assert isinstance(record, Record)
    assert json.loads(record.metadata) == ({"a": "2026-01-02T03:04:05"} if value is None else {"m": value})
    assert isinstance(bare, Record)
    assert bare.metadata == b""


UNION = pa.UnionArray.from_sparse(pa.array([0, 0], pa.int8()), [pa.array(["a", "b"])])
TWICE = pa.StructArray.from_arrays([pa.array([1, 2]), pa.array([1, 2])], names=["a", "a"])


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("id", pa.array([1.0, 2.0])),
        ("id", pa.array([True, False])),
        ("id", pa.nulls(2)),
        ("id", pa.array([["a"], ["b"]])),
        ("id", pa.array([{"a": 1}] * 2)),
        ("id", UNION),
        ("namespace", pa.array([1.0, 2.0])),
        ("namespace", pa.array([{"a": 1}] * 2)),
        ("values", pa.array([1.0, 2.0])),
        ("values", pa.array([{"a": 1}] * 2)),
        ("values", pa.array([["1"], ["2"]])),
        ("values", pa.array([[True], [True]])),
        ("values", pa.array([[[1.0]], [[2.0]]])),
        ("values", pa.array([dt.date(2026, 1, 1)] * 2)),
        ("metadata", pa.array([1, 2])),
        ("metadata", pa.array([{"a": {"b": 1}}] * 2)),
        ("metadata", pa.array([{"a": [1]}] * 2)),
        ("metadata", TWICE),
        ("metadata", pa.array([[({"k": 1}, 1)]] * 2, pa.map_(pa.struct([("k", pa.int8())]), pa.int8()))),
        ("sparse_values", pa.array([1, 2])),
        ("sparse_values", pa.array([{"indices": 1, "values": 2}] * 2)),
        ("x", UNION),
        ("x", pa.array([[1], [2]])),
        ("x", pa.array([[{"a": 1}]] * 2)),
        ("x", pa.array([[["a"]]] * 2)),
    ],
    ids=lambda value: str(getattr(value, "type", value))[:40],
)
def test_a_type_without_a_value_is_refused_by_column_and_type(tmp_path: Path, name: str, array: pa.Array) -> None:
    """Before a row is read, with the words of the schema."""
    columns: dict[str, Any] = {"id": ["a", "b"], "values": ONES}
    path = arrow(tmp_path, pa.table({**columns, name: array}))
    told = refusal(path, Columns(metadata=("x",) if name == "x" else None))
    assert f"column '{name}' is {str(array.type)[:60]}" in told


def test_a_tensor_of_one_dimension_is_a_vector_and_others_are_not(tmp_path: Path) -> None:
    """Fixed-shape tensors are stored as fixed-size lists."""
    for shape, fine in (([2], True), ([1, 2], False)):
        kind = pa.fixed_shape_tensor(pa.float32(), shape)
        storage = pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float32(), 2))
        path = arrow(tmp_path, pa.table({"id": ["a", "b"], "values": pa.ExtensionArray.from_storage(kind, storage)}))
        if fine:
            assert np.frombuffer(first(path).values, "<f4").tolist() == [1, 2]
        else:
            assert "a tensor of 1 x 2" in refusal(path)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float16()),
        pa.list_(pa.int8()),
        pa.list_(pa.decimal128(5, 2)),
        pa.large_list(pa.float64()),
        pa.list_(pa.float32(), 2),
        pa.list_view(pa.float32()),
        pa.large_list_view(pa.uint8()),
    ],
    ids=str,
)
def test_every_list_of_numbers_is_a_vector(tmp_path: Path, kind: pa.DataType) -> None:
    """Also where rows are null, and in dictionaries and runs."""
    values = pa.array([[1, 2], None, [3, 4]], kind)
    places = pa.DictionaryArray.from_arrays(pa.array([2, 1, 0], pa.int8()), values)
    for array, wanted in ((values, [[1, 2], [3, 4]]), (places, [[3, 4], [1, 2]])):
        found = read(arrow(tmp_path, pa.table({"id": ["a", "b", "c"], "values": array})))
        assert [np.frombuffer(r.values, "<f4").tolist() for r in found if isinstance(r, Record)] == wanted
        assert isinstance(found[1], Fault)
    table = pa.table({"id": ["a", "b"], "values": runs([1, 2], kind)})
    assert np.frombuffer(first(arrow(tmp_path, table)).values, "<f4").tolist() == [1, 2]


@pytest.mark.parametrize("write", [arrow, parquet])
@pytest.mark.parametrize(
    "cell", [b"[0.25,0.5,1]", b" [ 0.25, 0.5, 1.0 ]\n", b"[2.5e-1,0.5,1] ", b"[0.25,0.5,1]\0\0\0\0"]
)
def test_json_in_bytes_is_json(tmp_path: Path, write: Callable[[Path, pa.Table], Path], cell: bytes) -> None:
    """Twelve bytes of text are no three floats; fixed-size bytes are padded."""
    for kind in (pa.binary(), pa.large_binary(), pa.binary(len(cell))):
        path = write(tmp_path, pa.table({"id": ["a", "b"], "values": pa.array([cell] * 2, kind)}))
        assert np.frombuffer(first(path).values, "<f4").tolist() == [0.25, 0.5, 1]


@pytest.mark.parametrize("cell", [b"[0.25, NaN, 1.0]", b"[0.25, ..., 1.0]", b"[0.25,0.5,1,1.0", b'{"a": 1.5, "b":'])
def test_text_in_bytes_that_is_no_vector_is_never_floats(tmp_path: Path, cell: bytes) -> None:
    """Bytes that are text are a fault of their row where the text holds no numbers."""
    (fault,) = read(parquet(tmp_path, pa.table({"id": ["a"], "values": pa.array([cell], pa.binary())})))
    assert isinstance(fault, Fault)
    assert fault.field == "values"


def test_bytes_of_floats_stay_floats(tmp_path: Path) -> None:
    """A million of floats that embeddings hold are read bit for bit, whatever bytes they have."""
    matrix = np.random.default_rng(5).standard_normal((40_000, 3), dtype=np.float32)
    cells = pa.array([row.tobytes() for row in matrix], pa.binary())
    found = read(parquet(tmp_path, pa.table({"id": [str(k) for k in range(len(matrix))], "values": cells})))
    assert b"".join(record[2] for record in found if isinstance(record, Record)) == matrix.tobytes()


def test_json_and_text_in_bytes_are_metadata_and_names(tmp_path: Path) -> None:
    """Spark and Athena write strings as bytes; what is no UTF-8 is a fault of its row."""
    table = pa.table(
        {
            "id": pa.array([b"a", b"\xff\xfe", b"c"], pa.binary()),
            "namespace": pa.array([b"n", b"n", b"\xff"], pa.binary()),
            "values": pa.array([[1.0]] * 3),
            "metadata": pa.array([b'{"k": "\xc3\xa9"}', None, None], pa.binary()),
        }
    )
    record, *faults = read(parquet(tmp_path, table))
    assert isinstance(record, Record)
    assert (record.id, record.namespace, json.loads(record.metadata)) == ("a", "n", {"k": "é"})
    assert [fault.field for fault in faults if isinstance(fault, Fault)] == ["id", "namespace"]


def test_text_of_parquet_that_is_no_utf8_is_a_fault_of_its_row(tmp_path: Path) -> None:
    """Parquet promises UTF-8 in strings and does not check it."""
    bad = pa.array([b"a", b"\xff"], pa.binary()).view(pa.string())
    table = pa.table({"id": bad, "values": ONES, "metadata": pa.array([b"{}", b"{}"]).view(pa.string())})
    record, fault = read(parquet(tmp_path, table))
    assert isinstance(record, Record)
    assert isinstance(fault, Fault)
    assert "no UTF-8" in fault.reason


@pytest.mark.parametrize("write", [arrow, parquet])
@pytest.mark.parametrize(
    ("name", "metadata"), [("id", None), ("values", None), ("metadata", None), ("x", ("*",)), ("x", ("x",))]
)
def test_a_used_name_that_stands_twice_is_refused(
    tmp_path: Path, write: Callable[[Path, pa.Table], Path], name: str, metadata: Any
) -> None:
    """Which of the two is meant, nothing tells; a name that is not used may stand twice."""
    arrays = {"id": pa.array(["a", "b"]), "values": ONES, "metadata": pa.array(["{}", "{}"]), "x": pa.array(["1", "2"])}
    table = pa.table([*arrays.values(), arrays[name]], names=[*arrays, name])
    path = write(tmp_path, table)
    assert f"the column '{name}' twice" in refusal(path, Columns(metadata=metadata))
    if name == "x":
        assert first(path).id == "a"


@pytest.mark.parametrize("write", [pd.DataFrame.to_parquet, pd.DataFrame.to_feather])
def test_the_index_of_pandas_is_no_metadata_unless_named(tmp_path: Path, write: Any) -> None:
    """`*` leaves out `__index_level_0__` and an index with a name; by its name it is taken."""
    frame = pd.DataFrame({"id": ["a", "b"], "values": [[1.0], [2.0]], "t": ["x", "y"]})
    path = tmp_path / "f.parquet"
    if write is pd.DataFrame.to_feather:
        path = tmp_path / "f.feather"
        write(frame, path)
        assert json.loads(first(path, Columns(metadata=("*",))).metadata) == {"t": "x"}
        return
    for index in (pd.Index(["p", "q"]), pd.Index(["p", "q"], name="row"), pd.MultiIndex.from_tuples([(1, 2), (3, 4)])):
        write(frame.set_index(index), path)
        assert json.loads(first(path, Columns(metadata=("*",))).metadata) == {"t": "x"}
    write(frame.set_index(pd.Index(["p", "q"], name="row")), path)
    assert json.loads(first(path, Columns(metadata=("row",))).metadata) == {"row": "p"}
    write(frame.drop(columns="id").set_index(pd.Index(["i", "j"], name="id")), path)
    assert first(path, Columns(metadata=("*",))).id == "i"


def test_what_a_schema_says_of_pandas_may_be_anything(tmp_path: Path) -> None:
    """The note is a stranger's text."""
    for note in (b"{", b"[]", b'{"index_columns": 3}', b'{"index_columns": [{"kind": "range"}, 1, "x"]}', b"\xff"):
        table = pa.table({"id": ["a"], "values": [[1.0]], "x": ["y"]}).replace_schema_metadata({b"pandas": note})
        assert first(arrow(tmp_path, table), Columns(metadata=("*",))).id == "a"


def test_an_extension_that_is_no_text_by_itself_is_refused(tmp_path: Path) -> None:
    """A period of pandas is stored as a number that means nothing alone."""
    named = {"ARROW:extension:name": "pandas.period", "ARROW:extension:metadata": '{"freq": "D"}'}
    field = pa.field("p", pa.int64(), metadata=named)
    schema = pa.schema([pa.field("id", pa.string()), pa.field("values", ONES.type), field])
    table = pa.table([pa.array(["a", "b"]), ONES, pa.array([1, 2])], schema=schema)
    assert "pandas.period" in refusal(arrow(tmp_path, table), Columns(metadata=("*",)))
