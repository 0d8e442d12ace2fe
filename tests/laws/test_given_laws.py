"""Columns are paired by position, whatever library holds them and whatever labels they carry."""

from __future__ import annotations

from collections import OrderedDict, UserList, deque
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upsertq.contract.errors import InvalidRecord
from upsertq.contract.record import make_records
from upsertq.contract.wire import Record

if TYPE_CHECKING:
    from collections.abc import Sequence


class Polars:
    """A column as polars has it: no `tolist`, a shape, and items by iteration."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = list(items)
        self.shape = (len(items),)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Any:
        return iter(self._items)

    def to_list(self) -> list[Any]:
        """As polars names it."""
        return list(self._items)


def objects(items: Sequence[Any]) -> Any:
    """An array of objects, one for each item."""
    array = np.empty(len(items), dtype=object)
    array[:] = list(items)
    return array


COLUMNS: dict[str, Any] = {
    "list": lambda items, labels: list(items),
    "tuple": lambda items, labels: tuple(items),
    "deque": lambda items, labels: deque(items),
    "user list": lambda items, labels: UserList(items),
    "generator": lambda items, labels: (item for item in items),
    "keys": lambda items, labels: dict(enumerate(items)).values(),
    "array of objects": lambda items, labels: objects(items),
    "series": lambda items, labels: pd.Series(list(items), dtype=object),
    "shuffled series": lambda items, labels: pd.Series(list(items), index=list(labels), dtype=object),
    "filtered series": lambda items, labels: pd.Series(
        list(items), index=[10 + 3 * label for label in labels], dtype=object
    ),
    "series by names": lambda items, labels: pd.Series(
        list(items), index=[f"r{label}" for label in labels], dtype=object
    ),
    "series of one label": lambda items, labels: pd.Series(list(items), index=[0] * len(items), dtype=object),
    "polars": lambda items, labels: Polars(items),
}
MATRICES: dict[str, Any] = {
    **COLUMNS,
    "array": lambda items, labels: np.array(items),
    "frame": lambda items, labels: pd.DataFrame(np.array(items), index=list(labels)),
    "frame of nullable numbers": lambda items, labels: pd.DataFrame(np.array(items), index=list(labels)).astype(
        "Float64"
    ),
    "frame of numbered columns backwards": lambda items, labels: pd.DataFrame(np.array(items), columns=[1, 0]),
    "arrow lists": lambda items, labels: pa.array(items),
    "arrow pieces": lambda items, labels: pa.chunked_array([items[:1], items[1:]]),
    "arrow fixed lists": lambda items, labels: pa.array(items, pa.list_(pa.float32(), 2)),
    "series as rows": lambda items, labels: [pd.Series(row, index=[1, 0]) for row in items],
    "arrow rows": lambda items, labels: [pa.array(row) for row in items],
    "arrow table": lambda items, labels: pa.table(
        {"b": [row[0] for row in items], "a": [row[1] for row in items]},
    ),
}
TEXTS: dict[str, Any] = {
    **COLUMNS,
    "array": lambda items, labels: np.array(items),
    "array of bytes": lambda items, labels: np.array(items).astype("S"),
    "arrow": lambda items, labels: pa.array(items),
    "arrow dictionary": lambda items, labels: pa.array(items).dictionary_encode(),
    "arrow pieces": lambda items, labels: pa.chunked_array([items[:1], items[1:]]),
    "index": lambda items, labels: pd.Index(list(items)),
    "categories": lambda items, labels: pd.Series(list(items), index=list(labels), dtype="category"),
    "text series": lambda items, labels: pd.Series(list(items), index=list(labels), dtype="string"),
    "arrow series": lambda items, labels: pd.Series(list(items), index=list(labels), dtype="string[pyarrow]"),
}


@settings(deadline=None)
@given(
    st.permutations(range(4)),
    st.sampled_from(sorted(TEXTS)),
    st.sampled_from(sorted(MATRICES)),
    st.sampled_from(sorted(TEXTS)),
    st.sampled_from(sorted(COLUMNS)),
    st.sampled_from(sorted(COLUMNS)),
)
def test_every_container_gives_the_records_of_the_lists(
    labels: list[int], ids: str, matrix: str, spaces: str, fields: str, pairs: str
) -> None:
    """The records are those of the plain lists, in any mixture of containers and under any labels."""
    names, rows = ["a", "b", "c", "d"], [[1.0, 5.0], [2.0, 6.0], [3.0, 7.0], [4.0, 8.0]]
    places, told = ["n1", "n2", "n3", "n4"], [{"k": 1}, {"k": 2}, None, {"k": 4}]
    sparse = [{"indices": [k], "values": [1.0]} if k else None for k in range(4)]
    wanted = list(make_records(names, rows, sparse_values=sparse, metadata=told, namespaces=places))
    assert all(isinstance(record, Record) for record in wanted)
    found = make_records(
        TEXTS[ids](names, labels),
        MATRICES[matrix](rows, labels),
        sparse_values=COLUMNS[pairs](sparse, labels),
        metadata=COLUMNS[fields](told, labels),
        namespaces=TEXTS[spaces](places, labels),
    )
    assert list(found) == wanted


@pytest.mark.parametrize(
    "ids",
    [
        [7, 8],
        np.array([7, 8]),
        np.array([7, 8], dtype=np.uint8),
        pd.Series([7, 8], index=[1, 0]),
        pd.Series([7, 8], dtype="Int64"),
        pa.array([7, 8]),
        range(7, 9),
        iter([7, 8]),
    ],
    ids=lambda ids: type(ids).__name__,
)
def test_integers_are_ids_by_their_digits(ids: Any) -> None:
    """A column of integers has one obvious spelling."""
    assert [record.id for record in make_records(ids, [[1.0], [2.0]])] == ["7", "8"]


ONES = np.ones((2, 2))
FRAME = pd.DataFrame({"id": ["a", "b"], "x": [1.0, 2.0]})


@pytest.mark.parametrize(
    ("field", "columns"),
    [
        ("id", {"ids": "ab"}),
        ("id", {"ids": b"ab"}),
        ("id", {"ids": {"a", "b"}}),
        ("id", {"ids": frozenset({"a", "b"})}),
        ("id", {"ids": {"a": 1, "b": 2}}),
        ("id", {"ids": OrderedDict(a=1, b=2)}),
        ("id", {"ids": None}),
        ("id", {"ids": 7}),
        ("id", {"ids": np.array("a")}),
        ("id", {"ids": np.array([["a", "b"]])}),
        ("id", {"ids": FRAME}),
        ("id", {"ids": FRAME[["id"]]}),
        ("id", {"ids": pa.table({"id": ["a", "b"]})}),
        ("values", {"matrix": np.array(1.0)}),
        ("values", {"matrix": {"a": [1.0], "b": [2.0]}}),
        ("values", {"matrix": {1.0, 2.0}}),
        ("values", {"matrix": "ab"}),
        ("values", {"matrix": np.ones((3, 2))}),
        ("values", {"matrix": iter([[1.0]])}),
        ("values", {"matrix": ([float(k)] for k in count(1))}),
        ("values", {"matrix": pd.Series([[1.0]])}),
        ("sparse_values", {"matrix": ONES, "sparse_values": {"indices": [1], "values": [1.0]}}),
        ("sparse_values", {"matrix": ONES, "sparse_values": [None]}),
        ("metadata", {"matrix": ONES, "metadata": {"k": 1, "j": 2}}),
        ("metadata", {"matrix": ONES, "metadata": FRAME}),
        ("metadata", {"matrix": ONES, "metadata": "ab"}),
        ("metadata", {"matrix": ONES, "metadata": pd.Series([None], dtype=object)}),
        ("namespace", {"matrix": ONES, "namespaces": None}),
        ("namespace", {"matrix": ONES, "namespaces": b"ab"}),
        ("namespace", {"matrix": ONES, "namespaces": {"a", "b"}}),
        ("namespace", {"matrix": ONES, "namespaces": ["a"]}),
        ("namespace", {"matrix": ONES, "namespaces": (str(k) for k in range(3))}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_column_is_refused_by_its_field(field: str, columns: dict[str, Any]) -> None:
    """One text, one dict, a set, a frame or a wrong length never pairs with anything."""
    with pytest.raises(InvalidRecord) as raised:
        list(make_records(columns.pop("ids", ["a", "b"]), columns.pop("matrix", [[1.0], [2.0]]), **columns))
    assert raised.value.field == field
    assert raised.value.index is None
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("field", "ids", "columns"),
    [
        ("id", pd.Series(["a", None]), {}),
        ("id", pd.Series([1.0, 2.0]), {}),
        ("id", pd.Series(pd.to_datetime(["2026-01-01", "2026-01-02"])), {}),
        ("id", np.array(["2026-01-01", "2026-01-02"], dtype="M8[ns]"), {}),
        ("id", np.ma.masked_array([1, 2], mask=[False, True]), {}),
        ("namespace", ["a", "b"], {"namespaces": pd.Series(["n", np.nan], dtype=object)}),
        ("values", ["a", "b"], {"matrix": np.ma.masked_array([[1, 2], [3, 4]], mask=[[False, False], [False, True]])}),
        ("values", ["a", "b"], {"matrix": pd.DataFrame([[1.0, 2.0], [3.0, None]])}),
        ("values", ["a", "b"], {"matrix": pd.DataFrame([[1.0, 2.0], [3.0, None]]).astype("Float64")}),
        ("values", ["a", "b"], {"matrix": FRAME}),
        ("values", ["a", "b"], {"matrix": [[1.0, 2.0], pd.DataFrame([[1.0, 2.0]])]}),
        ("values", ["a", "b"], {"matrix": [[1.0, 2.0], {0.5, 0.25}]}),
        ("metadata", ["a", "b"], {"metadata": [None, {"t": np.datetime64("2026-01-01", "ns")}]}),
        ("metadata", ["a", "b"], {"metadata": [None, {"t": 10**5000}]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_missing_or_odd_cell_falls_to_its_own_record(field: str, ids: Any, columns: dict[str, Any]) -> None:
    """What a library says is missing is no value, and nothing becomes a number by chance."""
    *_, last = make_records(ids, columns.pop("matrix", [[1.0], [2.0]]), **columns)
    assert isinstance(last, InvalidRecord)
    assert last.field == field
    assert last.index == 1


def test_missing_metadata_of_a_series_is_none() -> None:
    """A left join leaves NaN where there is no metadata."""
    told = pd.Series([{"k": 1}, np.nan], index=[5, 4])
    assert [r.metadata for r in make_records(["a", "b"], ONES, metadata=told) if isinstance(r, Record)] == [
        b'{"k":1}',
        b"",
    ]
