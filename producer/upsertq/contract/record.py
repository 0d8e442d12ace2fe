"""Owns the rules that a record must meet before it may enter a queue, and nothing else.

It turns what a caller has (lists, arrays, dicts) into the valid `Record` that travels; it does no I/O, keeps no state.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from upsertq.contract.errors import InvalidRecord, shown
from upsertq.contract.given import Unusable, as_column, as_rows
from upsertq.contract.values import Fault, SparseValues, Values, dense_of, rows_of, sparse_of
from upsertq.contract.wire import MAX_NAME, Record, default_namespace

MAX_ID_BITS = 1_700
"""Bits of an integer that is an id: 512 digits. Python refuses to write much longer ones."""
MAX_METADATA_BYTES = 40_960
MAX_INTEGER = 2**53
"""Numbers travel as JSON and are kept as float64 by the service: beyond this an integer would silently change."""

Metadata = Mapping[str, Any]


def make_record(
    id: str,  # noqa: A002 - the contract's word
    values: Values | None = None,
    *,
    sparse_values: SparseValues | None = None,
    metadata: Metadata | None = None,
    namespace: str = "",
    dimension: int | None = None,
) -> Record:
    """A valid record, or `InvalidRecord` naming the record, the field and the reason.

    Args:
        id: 1 to 512 ASCII characters, no NUL; an integer is its digits.
        values: 1 to 20,000 numbers, finite as float32, not all zero; `None` for a sparse-only record.
        sparse_values: indices (uint32, none twice) and as many values; zeros are dropped; 1 to 2,048 remain.
        metadata: flat; strings, finite numbers, booleans, lists of strings; nulls are dropped.
        namespace: up to 512 ASCII characters; `""` and `"__default__"` are the same.
        dimension: the queue's dimension once known; other dense values are refused.
    """
    try:
        record_id, space = _checked_id(id), _checked_namespace(namespace)
        dense = b"" if values is None else dense_of(values, dimension)
        return _assemble(record_id, dense, sparse_values, metadata, space)
    except Fault as fault:
        raise InvalidRecord(id, fault.field, fault.reason) from None


def make_records(
    ids: Iterable[str | int],
    matrix: npt.NDArray[Any] | Iterable[Values] | None,
    *,
    sparse_values: Iterable[SparseValues | None] | None = None,
    metadata: Iterable[Metadata | None] | None = None,
    namespaces: str | Iterable[str] = "",
    dimension: int | None = None,
) -> Iterator[Record | InvalidRecord]:
    """Yield for each of the n ids its valid record, or the `InvalidRecord` that says what is wrong with it.

    Columns may be lists, iterators, or columns of any library (NumPy, pandas, polars, Arrow); they are paired by
    position, never by label.

    Args:
        ids: n ids.
        matrix: n x d numbers (an array, a data frame, a tensor), n sequences of numbers, or `None` when all records
            are sparse-only.
        sparse_values: n sparse values or nulls.
        metadata: n metadata or nulls.
        namespaces: one namespace for all, or n.
        dimension: the queue's dimension once known.

    Raises:
        InvalidRecord: at once, when a column is none or the lengths do not agree, so that no record could be told
            from another.
    """
    names = _column("id", ids, None)
    count = len(names)
    rows = rows_of(_column("values", matrix, count, as_rows), count, dimension)
    sparse = _column("sparse_values", sparse_values, count)
    fields = _column("metadata", metadata, count)
    spaces = repeat(namespaces, count) if isinstance(namespaces, str) else _column("namespace", namespaces, count)
    columns = zip(names, rows, sparse or repeat(None, count), fields or repeat(None, count), spaces, strict=True)
    for index, (name, row, pairs, described, space) in enumerate(columns):
        try:
            record_id, place = _checked_id(name), _checked_namespace(space)
            if isinstance(row, Fault):
                raise row
            yield _assemble(record_id, row, pairs, described, place)
        except Fault as fault:
            yield InvalidRecord(name, fault.field, fault.reason, index=index)


def id_text(value: object) -> object:
    """An integer as its digits, also one that a decimal holds; anything else unchanged."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value).bit_length() < MAX_ID_BITS:
        return str(int(value))
    if isinstance(value, Decimal) and value.is_finite() and value.adjusted() < MAX_NAME and value == int(value):
        return str(int(value))
    return value


def _column(field: str, given: Any, count: int | None, convert: Any = as_column) -> Any:
    """`given` by position, `None` where there is none; it has `count` items, where that is known."""
    if given is None and field not in {"id", "namespace"}:
        return None
    try:
        found = convert(given, count)
    except Unusable as unusable:
        raise InvalidRecord(None, field, str(unusable)) from None
    if count is not None and len(found) != count:
        many = len(found) if hasattr(given, "__len__") else "fewer" if len(found) < count else "more"
        raise InvalidRecord(None, field, f"has {many} items for {count} ids; give one for each id")
    return found


def _assemble(
    record_id: str, dense: bytes, sparse_values: SparseValues | None, metadata: Metadata | None, namespace: str
) -> Record:
    sparse = b"" if sparse_values is None else sparse_of(sparse_values)
    if not dense and not sparse:
        raise Fault("values", "is missing: give values, sparse_values or both")
    return Record(record_id, namespace, dense, sparse, _metadata(metadata))


def _checked_id(given: object) -> str:
    value = given if isinstance(given, str) else id_text(given)
    if not isinstance(value, str):
        if isinstance(value, int) and not isinstance(value, bool):
            raise Fault("id", f"is an integer of {value.bit_length()} bits; at most {MAX_NAME} digits are allowed")
        raise Fault("id", f"is {shown(value)}, a {type(value).__name__}; give a string")
    if not value:
        raise Fault("id", f"is empty; give 1 to {MAX_NAME} ASCII characters")
    return _checked_text("id", value)


def _checked_namespace(value: object) -> str:
    if not isinstance(value, str):
        raise Fault("namespace", f"is {shown(value)}, a {type(value).__name__}; give a string")
    return default_namespace(_checked_text("namespace", value))


def _checked_text(field: str, value: str) -> str:
    if not value.isascii():
        at = next(i for i, character in enumerate(value) if not character.isascii())
        raise Fault(field, f"has the non-ASCII character {value[at]!a} at position {at}; only ASCII is allowed")
    if len(value) > MAX_NAME:
        raise Fault(field, f"is {len(value)} characters long; at most {MAX_NAME} are allowed")
    if "\0" in value:
        raise Fault(field, "contains a NUL character, which is not allowed")
    return _plain(value)


def _plain(text: str) -> str:
    """`text` as an exact `str`: what JSON writes and hashes see of an enumeration's member or a NumPy string."""
    return str.__str__(text)


def _metadata(metadata: object) -> bytes:
    if metadata is None:
        return b""
    if not isinstance(metadata, Mapping):
        raise Fault("metadata", f"is {shown(metadata)}; give a flat object of names and values")
    kept = {_metadata_name(name): _metadata_value(name, value) for name, value in metadata.items() if value is not None}
    if not kept:
        return b""
    try:
        text = orjson.dumps(kept)
    except TypeError:
        raise Fault("metadata", "has a lone surrogate (half of a character) in a name or string") from None
    if len(text) > MAX_METADATA_BYTES:
        raise Fault("metadata", f"is {len(text):,} bytes as JSON; at most {MAX_METADATA_BYTES:,} are allowed")
    return text


def _metadata_name(name: object) -> str:
    if not isinstance(name, str):
        raise Fault("metadata", f"has the name {shown(name)}; names are strings")
    if name.startswith("$"):
        raise Fault("metadata", f"has the name {shown(name)}; a name must not start with '$'")
    return _plain(name)


def _metadata_value(name: object, value: object) -> object:
    # a date of NumPy would become an integer
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind not in "mM":
        value = value.tolist()
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _plain(value)
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            value = value if value.bit_length() < MAX_ID_BITS else "huge"
            raise Fault("metadata", f"{shown(name)} is {value}, beyond 2^53, and would change; give it as a string")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Fault("metadata", f"{shown(name)} is {value}; numbers must be finite")
        return float(value)
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return [_plain(item) for item in value]
    raise Fault(
        "metadata",
        f"{shown(name)} is {shown(value, 60)}, a {type(value).__name__}; "
        "give a string, a number, a boolean or a list of strings",
    )
