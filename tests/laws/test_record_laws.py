"""Every rule that a record must meet is checked where it enters, alone and by the thousand alike."""

from __future__ import annotations

import enum
import math
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsertq.contract.errors import InvalidRecord
from upsertq.contract.record import MAX_METADATA_BYTES, make_record, make_records
from upsertq.contract.wire import MAX_DIMENSION, MAX_NAME, MAX_SPARSE, Record

BIGGEST = float(np.finfo(np.float32).max)
ONE = [1.0]


class Colour(str, enum.Enum):  # noqa: UP042 - the older kind, whose str() is not its value
    """A string that is more than a string."""

    RED = "red"


def outcome(function: Any, *args: Any, **kwargs: Any) -> tuple[str, Record | tuple[str, str]]:
    """Return the record, or the field and reason of the refusal."""
    try:
        made = function(*args, **kwargs)
    except InvalidRecord as error:
        return "refused", (error.field, error.reason)
    return "made", made


def both(record_id: Any, values: Any = None, **fields: Any) -> tuple[str, Any]:
    """Return what `make_record` and `make_records` agree on."""
    alone = outcome(make_record, record_id, values, **fields)
    (among,) = make_records(
        [record_id],
        None if values is None else [values],
        sparse_values=[fields["sparse_values"]] if "sparse_values" in fields else None,
        metadata=[fields["metadata"]] if "metadata" in fields else None,
        namespaces=[fields["namespace"]] if "namespace" in fields else "",
        dimension=fields.get("dimension"),
    )
    if isinstance(among, InvalidRecord):
        assert (among.index, among.id) == (0, record_id)
        among_outcome: tuple[str, Any] = ("refused", (among.field, among.reason))
    else:
        among_outcome = ("made", among)
    assert alone == among_outcome
    return alone


def made(record_id: Any, values: Any = None, **fields: Any) -> Record:
    """Return the record that both ways make."""
    verdict, record = both(record_id, values, **fields)
    assert verdict == "made", record
    assert isinstance(record, Record)
    return record


def refused(field: str, record_id: Any, values: Any = None, **fields: Any) -> str:
    """Return the reason why both ways refuse it, having checked that `field` is at fault."""
    verdict, what = both(record_id, values, **fields)
    assert verdict == "refused", what
    assert what[0] == field, what
    return str(what[1])


def metadata_of(record: Record) -> Any:
    """Return the metadata as a reader sees it."""
    return orjson.loads(record.metadata) if record.metadata else None


ascii_names = st.text(st.characters(min_codepoint=1, max_codepoint=127), min_size=1, max_size=MAX_NAME)
float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(ascii_names, st.one_of(ascii_names, st.just("")), st.lists(float32s, min_size=1, max_size=20).filter(any))
def test_valid_records_keep_every_bit(record_id: str, namespace: str, values: list[float]) -> None:
    """Any ASCII id and namespace and any float32 values come through unchanged."""
    record = made(record_id, values, namespace=namespace)
    assert (record.id, record.namespace) == (record_id, "" if namespace == "__default__" else namespace)
    assert np.frombuffer(record.values, "<f4").tolist() == values


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_doubles_are_cast_like_numpy(values: list[float]) -> None:
    """Doubles are rounded to float32; those that overflow or vanish altogether are refused."""
    with np.errstate(over="ignore"):
        cast = np.array(values).astype(np.float32)
    if np.isfinite(cast).all() and cast.any():
        assert made("a", values).values == cast.tobytes()
    else:
        refused("values", "a", values)


@given(anything, anything, anything, anything, anything)
def test_nothing_but_a_record_or_a_refusal(
    record_id: Any, values: Any, sparse: Any, metadata: Any, namespace: Any
) -> None:
    """Whatever is given, the answer is a record or `InvalidRecord`, and the same alone and among many."""
    both(record_id, values, sparse_values=sparse, metadata=metadata, namespace=namespace)


@pytest.mark.parametrize(
    ("record_id", "fine"),
    [
        ("x", True),
        ("x" * 512, True),
        ("x" * 513, False),
        ("", False),
        ("a\0b", False),
        ("é", False),
        (7, True),
        (np.int64(7), True),
        (Decimal("7.00"), True),
        (Decimal("7.5"), False),
        (Decimal("1e600"), False),
        (Decimal("NaN"), False),
        (True, False),
        (7.0, False),
        (None, False),
        ("\ud800", False),
        ("\x7f", True),
        (np.str_("n"), True),
        (Colour.RED, True),
        (b"x", False),
    ],
)
def test_id(record_id: Any, fine: bool) -> None:  # noqa: FBT001
    """An id is 1 to 512 ASCII characters without NUL; an integer is its digits."""
    if fine:
        record = made(record_id, ONE)
        assert record.id == (str.__str__(record_id) if isinstance(record_id, str) else "7")
        assert type(record.id) is str
    else:
        refused("id", record_id, ONE)


@pytest.mark.parametrize(
    ("namespace", "kept"),
    [("", ""), ("__default__", ""), ("n" * 512, "n" * 512), ("n" * 513, None), ("\0", None), ("ü", None), (None, None)],
)
def test_namespace(namespace: Any, kept: str | None) -> None:
    """A namespace is at most 512 ASCII characters without NUL; both names of the default one are one."""
    if kept is None:
        refused("namespace", "a", ONE, namespace=namespace)
    else:
        assert made("a", ONE, namespace=namespace).namespace == kept


@pytest.mark.parametrize(
    "values",
    [
        [],
        [0.0, -0.0],
        [1e-50],
        [math.nan, 1],
        [math.inf],
        [BIGGEST * 1.1],
        [1, None],
        [1, "2"],
        [True, 1.0],
        [[1.0]],
        [[1.0], [1.0, 2.0]],
        "1",
        b"1",
        {"a": 1},
        3.0,
        [10**400],
        [1 + 2j],
        np.zeros((2, 2)) + 1,
        np.array(1.0),
        np.array(None),
        np.array([True]),
        np.array(["1"]),
        [1.0] * (MAX_DIMENSION + 1),
    ],
    ids=repr,
)
def test_values_refused(values: Any) -> None:
    """Values are a flat list of 1 to 20,000 numbers, finite as float32, not all zero."""
    refused("values", "a", values)


@pytest.mark.parametrize(
    "values",
    [
        [BIGGEST, -BIGGEST],
        [1e-45, 0.0],
        (1, 2),
        range(1, 3),
        [np.float64(0.5), np.int8(1)],
        [1, 10**30],
        np.array([1, 2], dtype=">f8"),
        np.array([1, 2], dtype=np.uint8),
        np.array([1, 2.5], dtype=object),
        np.arange(1, 9, dtype=np.float32)[::2],
        [1.0] * MAX_DIMENSION,
    ],
    ids=lambda values: repr(values)[:40],
)
def test_values_taken(values: Any) -> None:
    """Every kind of sequence of numbers is taken as little-endian float32."""
    assert made("a", values).values == np.array(list(values), dtype=np.float64).astype("<f4").tobytes()


def test_the_reason_names_the_item() -> None:
    """A refusal says which item is at fault and why."""
    assert "item 1 is nan" in refused("values", "a", [1.0, math.nan])
    assert "item 1 is 'x'" in refused("values", "a", [np.float32(1), "x"])
    assert "item 0 is True" in refused("values", "a", [True, 1.0])
    assert "2 dimensions, but the queue holds records of 3" in refused("values", "a", [1, 2], dimension=3)


def test_dense_or_sparse_is_needed() -> None:
    """A record without any values is refused; sparse-only records pass whatever the dimension."""
    refused("values", "a")
    record = made("a", None, sparse_values={"indices": [1], "values": [2]}, dimension=3)
    assert (record.values, record.sparse) == (b"", b'{"indices":[1],"values":[2.0]}')


@given(st.dictionaries(st.integers(0, 2**32 - 1), float32s, min_size=1, max_size=30))
def test_sparse_round_trip(pairs: dict[int, float]) -> None:
    """Indices and values come through bit by bit, without the zeros."""
    kept = {index: value for index, value in pairs.items() if value != 0}
    given_sparse = {"indices": list(pairs), "values": list(pairs.values())}
    if not kept:
        refused("sparse_values", "a", ONE, sparse_values=given_sparse)
        return
    found = orjson.loads(made("a", ONE, sparse_values=given_sparse).sparse)
    assert found["indices"] == list(kept)
    assert np.array(found["values"], dtype=np.float32).tolist() == list(kept.values())


@pytest.mark.parametrize(
    "sparse",
    [
        {"indices": [], "values": []},
        {"indices": [1, 1], "values": [1, 2]},
        {"indices": [1, 1], "values": [1, 0]},
        {"indices": [-1], "values": [1]},
        {"indices": [2**32], "values": [1]},
        {"indices": [2**70], "values": [1]},
        {"indices": [1.0], "values": [1]},
        {"indices": [True, 5], "values": [1, 1]},
        {"indices": ["1"], "values": [1]},
        {"indices": [1, 2], "values": [1]},
        {"indices": [[1]], "values": [[1]]},
        {"indices": np.array(1), "values": np.array(1)},
        {"indices": [1], "values": [math.nan]},
        {"indices": [1], "values": [BIGGEST * 2]},
        {"indices": [1], "values": [None]},
        {"indices": [1]},
        {"indices": [1], "values": [1], "more": 1},
        ([1], [1], [1]),
        [[1], [1]],
        "x",
        {"indices": list(range(MAX_SPARSE + 1)), "values": [1.0] * (MAX_SPARSE + 1)},
    ],
    ids=lambda sparse: repr(sparse)[:40],
)
def test_sparse_refused(sparse: Any) -> None:
    """Sparse values are as many uint32 indices, none twice, as finite values; 1 to 2,048 of them not zero."""
    refused("sparse_values", "a", ONE, sparse_values=sparse)


def test_sparse_at_the_edge() -> None:
    """2,048 values other than zero pass, with any number of zeros beside them; so do NumPy arrays and pairs."""
    indices = np.arange(MAX_SPARSE + 1, dtype=np.int64)
    values = np.ones(MAX_SPARSE + 1)
    values[5] = 0
    found = orjson.loads(made("a", sparse_values=(indices, values)).sparse)
    assert len(found["indices"]) == MAX_SPARSE
    assert 5 not in found["indices"]


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda name: not name.startswith("$")),
        st.none()
        | st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=8)
        | st.lists(st.text(max_size=4), max_size=3),
        max_size=6,
    )
)
def test_metadata_round_trip(metadata: dict[str, Any]) -> None:
    """Every allowed metadata comes back as it was, but for its nulls."""
    kept = {name: value for name, value in metadata.items() if value is not None}
    assert metadata_of(made("a", ONE, metadata=metadata)) == (kept or None)


@pytest.mark.parametrize(
    "metadata",
    [
        {"$in": 1},
        {"a": {"b": 1}},
        {"a": [1]},
        {"a": ["x", None]},
        {"a": [["x"]]},
        {"a": math.nan},
        {"a": -math.inf},
        {"a": np.float32("inf")},
        {"a": 2**53 + 1},
        {"a": -(2**53) - 1},
        {"a": b"x"},
        {"a": {"x"}},
        {"a": np.datetime64("2024-01-01")},
        {"a": np.array([1.0])},
        {1: "x"},
        {"\ud800": 1},
        {"a": "\udfff"},
        {"a": ["\ud800"]},
        [],
        "x",
        7,
    ],
    ids=ascii,
)
def test_metadata_refused(metadata: Any) -> None:
    """Metadata is flat: strings, finite numbers, booleans and lists of strings, without lone surrogates."""
    refused("metadata", "a", ONE, metadata=metadata)


def test_metadata_of_numpy_and_enumerations() -> None:
    """NumPy's scalars and arrays and members of enumerations are what they stand for."""
    given_metadata = {
        "i": np.int64(3),
        "f": np.float32(0.5),
        "b": np.bool_(1),
        "s": np.str_("x"),
        "l": np.array(["x", "y"]),
        "z": np.array("x"),
        "e": Colour.RED,
        Colour.RED: (Colour.RED,),
        "n": None,
        "d": float.__new__(type("Metres", (float,), {}), 1.5),
    }
    found = metadata_of(made("a", ONE, metadata=given_metadata))
    assert found == {
        "i": 3,
        "f": 0.5,
        "b": True,
        "s": "x",
        "l": ["x", "y"],
        "z": "x",
        "e": "red",
        "red": ["red"],
        "d": 1.5,
    }
    assert found["b"] is True


def test_metadata_size_at_the_edge() -> None:
    """40,960 bytes of UTF-8 JSON pass and one more does not, counted in bytes and not in characters."""
    frame = len('{"a":""}')
    fits = "é" * ((MAX_METADATA_BYTES - frame) // 2)
    assert len(made("a", ONE, metadata={"a": fits}).metadata) == MAX_METADATA_BYTES
    reason = refused("metadata", "a", ONE, metadata={"a": fits + "x"})
    assert "40,961" in reason


def test_a_null_may_have_any_name() -> None:
    """A name without a value does not count, so metadata of nulls alone is none."""
    assert made("a", ONE, metadata={"a": None, "b": None}).metadata == b""


@given(st.data())
def test_a_matrix_is_its_rows(data: st.DataObject) -> None:
    """An array of records gives what its rows give, one by one, each refusal with its number."""
    width = data.draw(st.integers(0, 4))
    some = st.sampled_from([0.0, 1.0, -2.5, math.nan, 1e39, 1e-46])
    rows = data.draw(st.lists(st.lists(some, min_size=width, max_size=width), max_size=5))
    dimension = data.draw(st.none() | st.integers(1, 4))
    matrix = np.array(rows, dtype=np.float64).reshape(len(rows), width)
    ids = [f"id{i}" if i % 3 else "" for i in range(len(rows))]
    for index, made_row in enumerate(make_records(ids, matrix, dimension=dimension)):
        alone = outcome(make_record, ids[index], matrix[index], dimension=dimension)
        if isinstance(made_row, InvalidRecord):
            assert alone == ("refused", (made_row.field, made_row.reason))
            assert made_row.index == index
        else:
            assert alone == ("made", made_row)


@pytest.mark.parametrize(
    ("field", "columns"),
    [
        ("values", {"matrix": np.ones((3, 2))}),
        ("sparse_values", {"matrix": np.ones((2, 2)), "sparse_values": [None]}),
        ("metadata", {"matrix": np.ones((2, 2)), "metadata": [None] * 3}),
        ("namespace", {"matrix": np.ones((2, 2)), "namespaces": ["a"]}),
    ],
)
def test_columns_of_unequal_length(field: str, columns: dict[str, Any]) -> None:
    """When the columns do not match the ids no record can be told from another: all are refused."""
    with pytest.raises(InvalidRecord) as raised:
        list(make_records(["a", "b"], **columns))
    assert raised.value.field == field


def test_one_bad_record_harms_only_itself() -> None:
    """The neighbours of an invalid record are made."""
    found = list(make_records(["a", "é", "c"], [[1.0], [1.0], [math.nan]], namespaces="n"))
    assert isinstance(found[0], Record)
    assert [isinstance(item, InvalidRecord) for item in found] == [False, True, True]
    assert "record 'c' (number 2 of this call, from 0): values: item 0 is nan" in str(found[2])
