"""A row that cannot be read is one fault with its place; its neighbours are read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from upsertq.client.loading import outcomes
from upsertq.client.rejects import line_of
from upsertq.contract.wire import Record
from upsertq.sources import Columns, Fault, open_sources
from upsertq.sources.text import MAX_LINE

if TYPE_CHECKING:
    from pathlib import Path

GOOD = '{"id": "good", "values": [1, 2]}'


def read(path: Path, content: str | bytes) -> list[tuple[int, Record | Fault]]:
    """The outcomes of a JSONL file with their lines."""
    (path / "a.jsonl").write_bytes(content.encode() if isinstance(content, str) else content)
    (source,) = open_sources([str(path / "a.jsonl")], Columns())
    return [pair for chunk in source.chunks() for pair in zip(chunk.positions, outcomes(chunk, 2), strict=True)]


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        ('{"id": "x", "values": [1, 2]', "line", "is no JSON: "),
        ("[1, 2]", "line", "every line must be one JSON object"),
        ("7", "line", "every line must be one JSON object"),
        ("[" * 5_000, "line", "is nested deeper than 64 levels"),
        ('{"values": [1, 2]}', "id", "is missing: the record has 'values'"),
        ('{"id": null, "values": [1, 2]}', "id", "is missing"),
        ('{"id": "", "values": [1, 2]}', "id", "is empty"),
        ('{"id": 1e5, "values": [1, 2]}', "id", "give a string"),
        ('{"id": true, "values": [1, 2]}', "id", "give a string"),
        (json.dumps({"id": "x" * 513, "values": [1, 2]}), "id", "513 characters long"),
        (json.dumps({"id": "é", "values": [1, 2]}), "id", "non-ASCII character"),
        ('{"id": "x"}', "values", "is missing"),
        ('{"id": "x", "values": [1, NaN]}', "values", "item 1 is nan"),
        ('{"id": "x", "values": [-Infinity, 1]}', "values", "item 0 is -inf"),
        ('{"id": "x", "values": [1e39, 1]}', "values", "item 0 is inf"),
        ('{"id": "x", "values": [0, 0]}', "values", "are all zero"),
        ('{"id": "x", "values": [1, true]}', "values", "item 1 is True"),
        ('{"id": "x", "values": [1, "2"]}', "values", "item 1 is '2'"),
        ('{"id": "x", "values": [1, null]}', "values", "item 1 is None"),
        ('{"id": "x", "values": [1, 2, 3]}', "values", "has 3 dimensions, but the queue holds records of 2"),
        ('{"id": "x", "values": [[1, 2]]}', "values", "flat list"),
        ('{"id": "x", "values": 5}', "values", "give a list of numbers"),
        ('{"id": "x", "values": "[1,"}', "values", "is no JSON list of numbers"),
        ('{"id": "x", "values": [1, 2], "metadata": {"a": {"b": 1}}}', "metadata", "'a' is {'b': 1}, a dict"),
        ('{"id": "x", "values": [1, 2], "metadata": [1]}', "metadata", "give a flat JSON object"),
        ('{"id": "x", "values": [1, 2], "metadata": "{"}', "metadata", "is no JSON object"),
        (json.dumps({"id": "x", "values": [1, 2], "metadata": {"t": "x" * 41_000}}), "metadata", "bytes as JSON"),
        ('{"id": "x", "values": [1, 2], "sparse_values": [1]}', "sparse_values", "give a flat JSON object"),
        ('{"id": "x", "values": [1, 2], "namespace": 3.5}', "namespace", "give a string"),
        ('{"id": "x", "values": [1, 2], "namespace": false}', "namespace", "is False, a bool; give a string"),
        ('{"id": "x", "values": [1, 2], "namespace": []}', "namespace", "is [], a list; give a string"),
    ],
)
def test_each_bad_line_is_one_fault_between_good_ones(tmp_path: Path, line: str, field: str, reason: str) -> None:
    """The fault has the line's number, the field and the reason; both neighbours are records."""
    before, (place, fault), after = read(tmp_path, f"{GOOD}\n\n{line}\n{GOOD}\n")
    assert isinstance(before[1], Record)
    assert isinstance(after[1], Record)
    assert (before[0], place, after[0]) == (1, 3, 4)
    assert isinstance(fault, Fault), fault
    assert fault.field == field
    assert reason in fault.reason


def test_bytes_that_are_no_text_are_a_fault(tmp_path: Path) -> None:
    """A line that is not UTF-8 is set aside with what can be shown of it."""
    (_, fault), (_, after) = read(tmp_path, b'{"id": "\xff", "values": [1, 2]}\n' + GOOD.encode())
    assert isinstance(fault, Fault)
    assert fault.text == '{"id": "�", "values": [1, 2]}'
    assert isinstance(after, Record)


def test_a_line_that_no_record_can_fill_is_a_fault(tmp_path: Path) -> None:
    """A line above the limit is passed over without being held."""
    (place, fault), (next_place, after) = read(tmp_path, b"x" * (MAX_LINE + 1) + b"\n" + GOOD.encode())
    assert isinstance(fault, Fault)
    assert "longer than" in fault.reason
    assert (place, next_place) == (1, 2)
    assert isinstance(after, Record)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    """Files from Windows begin with one."""
    ((_, record),) = read(tmp_path, b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n\r\n")
    assert isinstance(record, Record)


def reject(path: Path, line: str) -> dict[str, Any]:
    """The reject that a line becomes."""
    (path / "a.jsonl").write_text(line)
    (source,) = open_sources([str(path / "a.jsonl")], Columns())
    (chunk,) = source.chunks()
    (outcome,) = outcomes(chunk, None)
    assert isinstance(outcome, Fault)
    told: dict[str, Any] = json.loads(line_of(source, chunk, 0, outcome))
    return told


def test_a_reject_keeps_the_records_fields(tmp_path: Path) -> None:
    """What JSON cannot say is told all the same; the rest is as it was."""
    told = reject(tmp_path, '{"id": "x", "values": [1, NaN], "metadata": {"a": [1]}, "namespace": "n"}')
    why = told.pop("_reject")
    assert told == {"id": "x", "values": [1.0, {"number": "nan"}], "metadata": {"a": [1]}, "namespace": "n"}
    assert why["field"] == "values"
    assert why["line"] == 1
    assert why["source"].endswith("a.jsonl")
    assert "must be finite" in why["reason"]


def test_a_reject_keeps_what_is_no_namespace(tmp_path: Path) -> None:
    """Left out, it would be the default namespace when the reject is loaded again."""
    told = reject(tmp_path, '{"id": "x", "values": [1, 2], "namespace": false}')
    assert told["namespace"] is False


def test_a_reject_of_a_number_that_json_lacks_is_refused_again(tmp_path: Path) -> None:
    """As null it would be left out, and the record would land without it."""
    told = reject(tmp_path, '{"id": "x", "values": [1, 2], "metadata": {"a": -Infinity, "b": "c"}}')
    assert told["metadata"] == {"a": {"number": "-inf"}, "b": "c"}
    assert reject(tmp_path, json.dumps(told))["_reject"]["field"] == "metadata"


@pytest.mark.parametrize(("cell", "kept"), [("x", "x"), ("nan", "nan"), ("", None)])
def test_a_reject_keeps_the_values_of_columns(tmp_path: Path, cell: str, kept: Any) -> None:
    """Of a row with a column for each dimension all stay: only what is no number is to be corrected."""
    (tmp_path / "a.csv").write_text(f"id,e0,e1,e2\nx,1.5,{cell},-2\n")
    (source,) = open_sources([str(tmp_path / "a.csv")], Columns(values=("e*",)))
    (chunk,) = source.chunks()
    (fault,) = outcomes(chunk, None)
    assert isinstance(fault, Fault)
    told = json.loads(line_of(source, chunk, 0, fault))
    assert told["values"] == [1.5, kept, -2.0]
    assert reject(tmp_path, json.dumps(told))["_reject"]["field"] == "values"


def test_a_reject_of_a_broken_line_keeps_its_text(tmp_path: Path) -> None:
    """There is no record to keep, so the line itself is kept."""
    told = reject(tmp_path, '{"id": "x", values}')
    assert told["_reject"]["text"] == '{"id": "x", values}'


@pytest.mark.parametrize(
    ("cells", "kept"),
    [
        ({"metadata": "{bad"}, {"metadata": "{bad"}),
        ({"metadata": [1]}, {"metadata": []}),
        ({"sparse_values": "no"}, {"sparse_values": "no"}),
        ({"values": "1 and 2"}, {"values": "1 and 2"}),
        ({"id": None}, {"id": []}),
    ],
)
def test_a_reject_of_a_cell_keeps_the_others_and_is_one_again(
    tmp_path: Path, cells: dict[str, Any], kept: dict[str, Any]
) -> None:
    """One cell cannot be read: the rest of the record is kept, and loads only with that cell corrected."""
    record = {"id": "x", "values": [1.0, 2.0], "metadata": {"a": "b"}, "namespace": "n"}
    told = reject(tmp_path, json.dumps(record | cells))
    del told["_reject"]
    assert told == record | kept
    assert reject(tmp_path, json.dumps(told))["_reject"]


def test_a_reject_of_a_deletion_is_no_record(tmp_path: Path) -> None:
    """The field that says what it is would be missing: loaded again it would be an upsert."""
    told = reject(tmp_path, '{"id": "x", "values": [1, 2], "op": "delete"}')
    assert "values" not in told
    assert reject(tmp_path, json.dumps(told))["_reject"]


def test_a_reject_of_a_column_never_loads_without_its_cell(tmp_path: Path) -> None:
    """What Arrow holds and JSON cannot say is marked, not left out: metadata, sparse values and the namespace."""
    good = {"id": pa.array(["x"]), "values": pa.array([[1.0, 2.0]], pa.list_(pa.float32()))}
    twice = pa.array([[("a", "1"), ("a", "2")]], pa.map_(pa.string(), pa.string()))
    for name, cell, kept in [
        ("metadata", pa.array(["{bad"]), "{bad"),
        ("metadata", twice, []),
        ("sparse_values", pa.array(["bad"]), "bad"),
        ("namespace", pa.array([b"\xff\xfe"]), []),
    ]:
        pa.parquet.write_table(pa.table(good | {name: cell}), tmp_path / "a.parquet")
        (source,) = open_sources([str(tmp_path / "a.parquet")], Columns())
        (chunk,) = source.chunks()
        (fault,) = outcomes(chunk, None)
        assert isinstance(fault, Fault)
        told = json.loads(line_of(source, chunk, 0, fault))
        del told["_reject"]
        assert told == {"id": "x", "values": [1.0, 2.0], name: kept}
        assert reject(tmp_path, json.dumps(told))["_reject"]


def test_reading_ignores_what_a_reject_adds(tmp_path: Path) -> None:
    """A corrected reject is a record, and its reason never becomes metadata."""
    line = json.dumps({"id": "x", "values": [1, 2], "t": "v", "_reject": {"reason": "old"}})
    (tmp_path / "a.jsonl").write_text(line)
    (source,) = open_sources([str(tmp_path / "a.jsonl")], Columns(metadata=("*",)))
    (record,) = (outcome for chunk in source.chunks() for outcome in outcomes(chunk, None))
    assert isinstance(record, Record)
    assert record.metadata == b'{"t":"v"}'


def test_an_id_beyond_64_bits_leaves_the_other_numbers_what_they_were(tmp_path: Path) -> None:
    """Its digits are taken from the text; what stands beside it can still be said in a file of rejects."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": -9223372036854775809, "values": [0.5], "metadata": {"n": 0.25}}\n')
    (source,) = open_sources([str(path)], Columns())
    (chunk,) = source.chunks()
    told = json.loads(line_of(source, chunk, 0, Fault("values", "is wrong")))
    assert (str(told["id"]), told["values"], told["metadata"]) == ("-9223372036854775809", [0.5], {"n": 0.25})
