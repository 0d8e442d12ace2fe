"""Where a record belongs is never lost without a word: named columns exist, and only upserts are loaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from upsertq.client.loading import outcomes
from upsertq.contract.errors import SourceError
from upsertq.contract.wire import Record
from upsertq.sources import Columns, Fault, open_sources

if TYPE_CHECKING:
    from pathlib import Path

GOOD: dict[str, Any] = {"id": "a", "values": [1.0, 2.0]}


def lines(path: Path, *rows: dict[str, Any]) -> str:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path: str, columns: Columns | None = None) -> list[Record | Fault]:
    """What the loader would make of the file."""
    (source,) = open_sources([path], columns or Columns())
    return [outcome for chunk in source.chunks() for outcome in outcomes(chunk, None)]


@pytest.mark.parametrize(
    ("columns", "option"),
    [
        (Columns(id="key"), "--id-column"),
        (Columns(values=("key",)), "--values-column"),
        (Columns(values=("values", "key")), "--values-column"),
        (Columns(sparse="key"), "--sparse-column"),
        (Columns(metadata=("key",)), "--metadata-columns"),
        (Columns(namespace_column="key"), "--namespace-column"),
        (Columns(namespace_column="key", namespace="rest"), "--namespace-column"),
        (Columns(namespace_column="deep.key"), "--namespace-column"),
    ],
)
def test_a_named_field_that_no_record_has_is_refused(tmp_path: Path, columns: Columns, option: str) -> None:
    """It is found before anything is taken, and the fields that there are are told."""
    path = lines(tmp_path / "a.jsonl", {**GOOD, "tenantId": "t1"}, {**GOOD, "tenantId": "t2"})
    with pytest.raises(SourceError, match=option) as caught:
        open_sources([path], columns)
    assert "'id', 'values', 'tenantId'" in str(caught.value)


def test_a_stream_is_checked_at_its_first_chunk(tmp_path: Path) -> None:
    """What cannot be looked at twice is refused before its first record is given out."""
    from upsertq.sources import jsonl  # noqa: PLC0415 - the reader as stdin has it

    path = lines(tmp_path / "a.jsonl", GOOD)
    with pytest.raises(SourceError, match="no field 'tenant'"):
        next(jsonl.chunks(path, "stdin", Columns(namespace_column="tenant")))


def test_a_later_file_that_spells_it_differently_is_refused(tmp_path: Path) -> None:
    """Each file is held to the options, not the first one alone."""
    first = lines(tmp_path / "a.jsonl", {**GOOD, "tenant_id": "t1"})
    second = lines(tmp_path / "b.jsonl", {**GOOD, "tenantId": "t2"})
    with pytest.raises(SourceError, match=r"b\.jsonl has no field 'tenant_id' for --namespace-column"):
        open_sources([first, second], Columns(namespace_column="tenant_id"))


@pytest.mark.parametrize("other", ["tenantId", "TENANT_ID", "tenant-id", "Tenant Id"])
def test_a_later_record_that_spells_it_differently_is_a_fault(tmp_path: Path, other: str) -> None:
    """A record without the field is of the default namespace; one with a near miss is bad."""
    path = lines(
        tmp_path / "a.jsonl", {**GOOD, "tenant_id": "t"}, GOOD, {**GOOD, "tenant_id": None}, {**GOOD, other: "u"}
    )
    *good, fault = read(path, Columns(namespace_column="tenant_id"))
    assert [record.namespace for record in good if isinstance(record, Record)] == ["t", "", ""]
    assert isinstance(fault, Fault)
    assert (fault.field, "no 'tenant_id'" in fault.reason, other in fault.reason) == ("namespace", True, True)


def test_without_an_option_any_field_is_legal(tmp_path: Path) -> None:
    """A field that only looks like a default is data."""
    found = read(lines(tmp_path / "a.jsonl", {**GOOD, "Namespace": "x", "tenantId": "y", "ID": "z"}))
    assert [record.namespace for record in found if isinstance(record, Record)] == [""]


def test_fields_that_a_pattern_finds_later_are_no_lost_dimensions(tmp_path: Path) -> None:
    """The pattern holds for the first records together; a later record with more is bad."""
    rows = [{"id": "a", "v0": 1.0}, {"id": "b", "v0": 1.0, "v1": 2.0}]
    missing, whole = read(lines(tmp_path / "a.jsonl", *rows), Columns(values=("v*",)))
    assert isinstance(missing, Fault)
    assert "'v1' is empty" in missing.reason
    assert isinstance(whole, Record)
    rows = [{"id": "a", "v0": 1.0}] * 1_000 + [{"id": "b", "v0": 1.0, "v1": 2.0}]
    *_, late = read(lines(tmp_path / "a.jsonl", *rows), Columns(values=("v*",)))
    assert isinstance(late, Fault)
    assert "'v1'" in late.reason


@pytest.mark.parametrize(
    "named",
    [
        {"op": "d"},
        {"op": "delete"},
        {"op": "t"},
        {"op": "patch"},
        {"__op": "d"},
        {"__deleted": "true"},
        {"__deleted": True},
        {"_deleted": True},
        {"deleted": True},
        {"payload": {"op": "d"}},
        {"payload": {"__op": "d", "x": 1}},
        {"operation": "DELETE"},
        {"operationType": "delete"},
        {"action": "delete"},
        {"action": "D"},
        {"eventName": "REMOVE"},
        {"type": "delete"},
        {"kind": "delete"},
        {"_change_type": "update_preimage"},
        {"_op_type": "delete"},
        {"METADATA$ACTION": "DELETE"},
        {"_fivetran_deleted": True},
        {"_ab_cdc_deleted_at": "2026-01-01"},
        {"__$operation": 1},
        {"row_kind": "-D"},
    ],
    ids=str,
)
def test_another_operation_than_an_upsert_is_never_loaded(tmp_path: Path, named: dict[str, Any]) -> None:
    """The record is bad, its neighbours are not; in an object around records it counts for all of them."""
    path = lines(tmp_path / "a.jsonl", GOOD, {**GOOD, **named}, GOOD, {"vectors": [GOOD, GOOD], **named})
    before, fault, after, *within = read(path)
    assert isinstance(before, Record)
    assert isinstance(after, Record)
    assert [type(outcome) for outcome in (fault, *within)] == [Fault] * 3
    assert isinstance(fault, Fault)
    assert "an operation other than an upsert" in fault.reason


@pytest.mark.parametrize(
    "named",
    [
        {"op": "c"},
        {"op": "u"},
        {"op": "r"},
        {"op": "upsert"},
        {"__deleted": "false"},
        {"deleted": False},
        {"payload": {"op": "c"}},
        {"operation": "INSERT"},
        {"type": "article"},
        {"kind": "d"},
        {"event": "concert"},
        {"action": "buy"},
        {"op": None},
        {"op": ""},
        {"payload": "text"},
        {"__$operation": 2},
    ],
    ids=str,
)
def test_upserts_and_data_are_loaded(tmp_path: Path, named: dict[str, Any]) -> None:
    """What names an upsert, or only looks like an operation, is no fault."""
    assert [type(outcome) for outcome in read(lines(tmp_path / "a.jsonl", {**GOOD, **named}))] == [Record]


def test_what_is_named_as_metadata_is_data(tmp_path: Path) -> None:
    """An option makes the field plain data; `*` does not."""
    path = lines(tmp_path / "a.jsonl", {**GOOD, "action": "delete"})
    (record,) = read(path, Columns(metadata=("action",)))
    assert isinstance(record, Record)
    assert json.loads(record.metadata) == {"action": "delete"}
    assert isinstance(read(path, Columns(metadata=("*",)))[0], Fault)


def test_operations_are_seen_in_csv(tmp_path: Path) -> None:
    """A column of operations is looked at though nothing else needs it."""
    (tmp_path / "a.csv").write_text('id,values,op\na,"[1]",c\nb,"[1]",d\n')
    good, fault = read(str(tmp_path / "a.csv"))
    assert isinstance(good, Record)
    assert isinstance(fault, Fault)
    assert fault.field == "op"


@pytest.mark.parametrize(
    ("text", "record_id"),
    [
        ("7", "7"),
        ("-7", "-7"),
        ("1.50", "1.50"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("1.0", "1.0"),
    ],
)
def test_numbers_as_ids_keep_their_digits(tmp_path: Path, text: str, record_id: str) -> None:
    """An id is what is written, in a line of its own, in an array and at the end of a path."""
    path = tmp_path / "a.jsonl"
    for content, columns in (
        (f'{{"id": {text}, "values": [1]}}', Columns()),
        (f'[{{"id": {text}, "values": [1]}},\n{{"id": {text}, "values": [1]}}]', Columns()),
        (f'{{"k": {{"n": {text}}}, "values": [1]}}', Columns(id="k.n")),
        (f'{{"vectors": [{{"id": {text}, "values": [1]}}]}}', Columns()),
    ):
        path.write_text(content)
        assert {record.id for record in read(str(path), columns) if isinstance(record, Record)} == {record_id}, content


def test_integer_namespaces_are_their_digits(tmp_path: Path) -> None:
    """A tenant's number is a namespace."""
    (record,) = read(lines(tmp_path / "a.jsonl", {**GOOD, "tenant": 42}), Columns(namespace_column="tenant"))
    assert isinstance(record, Record)
    assert record.namespace == "42"
