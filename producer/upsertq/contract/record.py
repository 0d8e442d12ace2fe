"""Owns the rules that a record must meet before it may enter a queue, and nothing else.

It turns what a caller has (lists, arrays, dicts) into the valid `Record` that travels; it does no I/O, keeps no state.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from upsertq.contract.errors import InvalidRecord, shown
from upsertq.contract.given import Unusable, as_array, as_column, as_rows, is_foreign_array, unmasked
from upsertq.contract.wire import MAX_DIMENSION, MAX_NAME, MAX_SPARSE, Record, default_namespace

MAX_ID_BITS = 1_700
"""Bits of an integer that is an id: 512 digits. Python refuses to write much longer ones."""
MAX_METADATA_BYTES = 40_960
MAX_INTEGER = 2**53
"""Numbers travel as JSON and are kept as float64 by the service: beyond this an integer would silently change."""

Values = Sequence[float] | npt.NDArray[Any]
"""Dense values of one record: d numbers, cast to float32."""
Metadata = Mapping[str, Any]
SparseValues = Mapping[str, Any] | tuple[Any, Any]
"""Sparse values of one record: `{"indices": [...], "values": [...]}`, or the pair of both."""


class _Fault(Exception):  # noqa: N818 - internal: becomes an InvalidRecord that also names the record
    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field
        self.reason = reason


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
        dense = b"" if values is None else _dense(values, dimension)
        return _assemble(record_id, dense, sparse_values, metadata, space)
    except _Fault as fault:
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
    rows = _rows(_column("values", matrix, count, as_rows), count, dimension)
    sparse = _column("sparse_values", sparse_values, count)
    fields = _column("metadata", metadata, count)
    spaces = repeat(namespaces, count) if isinstance(namespaces, str) else _column("namespace", namespaces, count)
    columns = zip(names, rows, sparse or repeat(None, count), fields or repeat(None, count), spaces, strict=True)
    for index, (name, row, pairs, described, space) in enumerate(columns):
        try:
            record_id, place = _checked_id(name), _checked_namespace(space)
            if isinstance(row, _Fault):
                raise row
            yield _assemble(record_id, row, pairs, described, place)
        except _Fault as fault:
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
    sparse = b"" if sparse_values is None else _sparse(sparse_values)
    if not dense and not sparse:
        raise _Fault("values", "is missing: give values, sparse_values or both")
    return Record(record_id, namespace, dense, sparse, _metadata(metadata))


def _rows(
    matrix: npt.NDArray[Any] | Sequence[Values] | None, count: int, dimension: int | None
) -> Iterator[bytes | _Fault]:
    if matrix is None:
        yield from (b"" for _ in range(count))
    elif isinstance(matrix, np.ndarray) and matrix.ndim == 2 and matrix.dtype.kind in "fiu":  # noqa: PLR2004 - a matrix
        yield from _matrix_rows(matrix, dimension)
    else:
        for values in matrix:
            try:
                yield b"" if values is None else _dense(values, dimension)
            except _Fault as fault:
                yield fault


def _matrix_rows(matrix: npt.NDArray[Any], dimension: int | None) -> Iterator[bytes | _Fault]:
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.ascontiguousarray(matrix, dtype="<f4")
    width = cast.shape[1]
    good = (
        np.isfinite(cast).all(axis=1) & cast.any(axis=1)
        if _width_fault(width, dimension) is None
        else np.zeros(len(cast), dtype=bool)
    )
    for row, fine in zip(cast, good, strict=True):
        yield row.tobytes() if fine else _fault_of(row, dimension)


def _width_fault(width: int, dimension: int | None) -> _Fault | None:
    if not 1 <= width <= MAX_DIMENSION:
        return _Fault("values", f"has {width} dimensions; 1 to {MAX_DIMENSION:,} are allowed")
    if dimension is not None and width != dimension:
        return _Fault("values", f"has {width} dimensions, but the queue holds records of {dimension}")
    return None


def _fault_of(cast: npt.NDArray[np.float32], dimension: int | None) -> _Fault:
    wide = _width_fault(len(cast), dimension)
    if wide is not None:
        return wide
    bad = np.flatnonzero(~np.isfinite(cast))
    if bad.size:
        return _Fault("values", f"item {bad[0]} is {cast[bad[0]]} as float32; every value must be finite")
    return _Fault("values", "are all zero (as float32); the service refuses a vector without a direction")


def _dense(values: Values, dimension: int | None) -> bytes:
    array = _numbers("values", values)
    if array.ndim != 1:
        raise _Fault("values", f"has the shape {array.shape}; give one flat list of numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype("<f4", copy=False)
    if _width_fault(len(cast), dimension) is None and np.isfinite(cast).all() and cast.any():
        return cast.tobytes()
    raise _fault_of(cast, dimension)


def _numbers(field: str, values: object) -> npt.NDArray[Any]:
    values = _native(field, values)
    if isinstance(values, str | bytes | bytearray | Mapping | AbstractSet) or not isinstance(values, Iterable):
        raise _Fault(field, f"is {shown(values)}; give a list of numbers or a NumPy array")
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        if values.ndim == 0:
            raise _Fault(field, f"is {shown(values.item())}; give a list of numbers or a NumPy array")
        array, items = values, None
    else:
        items = list(values) if not isinstance(values, np.ndarray) or values.ndim else [values.item()]
        try:
            array = np.asarray(items)
            if array.dtype.kind == "O" and all(map(_is_number, items)):
                array = array.astype(np.float64)  # integers beyond 64 bits
        except ValueError:
            raise _Fault(field, "is nested unevenly; give one flat list of numbers") from None
        except OverflowError:
            raise _Fault(field, "has a number beyond float32's range") from None
    if array.size == 0:
        return np.zeros(0, dtype="<f4")
    # NumPy would make 1.0 of a `True` among numbers
    if array.dtype.kind not in "fiu" or (items is not None and not {bool, np.bool_}.isdisjoint(map(type, items))):
        items = array.ravel().tolist() if items is None else items
        odd = next((i for i, item in enumerate(items) if not _is_number(item)), 0)
        raise _Fault(field, f"item {odd} is {shown(items[odd])}; every value must be a number of float32's range")
    return array


def _native(field: str, values: object) -> object:
    """The values as NumPy's, where another library or a mask holds them."""
    try:
        if isinstance(values, np.ma.MaskedArray):
            return unmasked(values)
        return as_array(values) if is_foreign_array(values) else values
    except Unusable as unusable:
        raise _Fault(field, str(unusable)) from None


def _is_number(item: object) -> bool:
    return isinstance(item, int | float | np.floating | np.integer) and not isinstance(item, bool)


def _checked_id(given: object) -> str:
    value = given if isinstance(given, str) else id_text(given)
    if not isinstance(value, str):
        if isinstance(value, int) and not isinstance(value, bool):
            raise _Fault("id", f"is an integer of {value.bit_length()} bits; at most {MAX_NAME} digits are allowed")
        raise _Fault("id", f"is {shown(value)}, a {type(value).__name__}; give a string")
    if not value:
        raise _Fault("id", f"is empty; give 1 to {MAX_NAME} ASCII characters")
    return _checked_text("id", value)


def _checked_namespace(value: object) -> str:
    if not isinstance(value, str):
        raise _Fault("namespace", f"is {shown(value)}, a {type(value).__name__}; give a string")
    return default_namespace(_checked_text("namespace", value))


def _checked_text(field: str, value: str) -> str:
    if not value.isascii():
        at = next(i for i, character in enumerate(value) if not character.isascii())
        raise _Fault(field, f"has the non-ASCII character {value[at]!a} at position {at}; only ASCII is allowed")
    if len(value) > MAX_NAME:
        raise _Fault(field, f"is {len(value)} characters long; at most {MAX_NAME} are allowed")
    if "\0" in value:
        raise _Fault(field, "contains a NUL character, which is not allowed")
    return _plain(value)


def _plain(text: str) -> str:
    """`text` as an exact `str`: what JSON writes and hashes see of an enumeration's member or a NumPy string."""
    return str.__str__(text)


def _sparse(given: SparseValues) -> bytes:
    indices, values = _sparse_pair(given)
    index_array, value_array = _numbers("sparse_values", indices), _numbers("sparse_values", values)
    if index_array.ndim != 1 or index_array.shape != value_array.shape:
        raise _Fault(
            "sparse_values", f"has {index_array.size} indices and {value_array.size} values; give two equal lists"
        )
    if index_array.size and (
        index_array.dtype.kind not in "iu" or int(index_array.min()) < 0 or int(index_array.max()) >= 2**32
    ):
        raise _Fault("sparse_values", "has an index that is no integer from 0 to 4,294,967,295")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = value_array.astype("<f4", copy=False)
    if not np.isfinite(cast).all():
        raise _Fault("sparse_values", "has a value that is not finite as float32")
    if len(np.unique(index_array)) != len(index_array):
        raise _Fault("sparse_values", "names an index twice")
    kept = cast != 0
    index_array, cast = index_array[kept].astype(np.uint32), np.ascontiguousarray(cast[kept], dtype=np.float32)
    if not 1 <= len(cast) <= MAX_SPARSE:
        raise _Fault("sparse_values", f"has {len(cast)} values other than zero; 1 to {MAX_SPARSE:,} are allowed")
    return orjson.dumps({"indices": index_array, "values": cast}, option=orjson.OPT_SERIALIZE_NUMPY)


def _sparse_pair(given: object) -> tuple[Any, Any]:
    if isinstance(given, Mapping):
        if set(given) != {"indices", "values"}:
            raise _Fault("sparse_values", f"has the keys {sorted(map(str, given))}; give 'indices' and 'values'")
        return given["indices"], given["values"]
    if isinstance(given, tuple) and len(given) == 2:  # noqa: PLR2004 - a pair
        return given[0], given[1]
    raise _Fault("sparse_values", f"is {shown(given)}; give {{'indices': [...], 'values': [...]}}")


def _metadata(metadata: object) -> bytes:
    if metadata is None:
        return b""
    if not isinstance(metadata, Mapping):
        raise _Fault("metadata", f"is {shown(metadata)}; give a flat object of names and values")
    kept = {_metadata_name(name): _metadata_value(name, value) for name, value in metadata.items() if value is not None}
    if not kept:
        return b""
    try:
        text = orjson.dumps(kept)
    except TypeError:
        raise _Fault("metadata", "has a lone surrogate (half of a character) in a name or string") from None
    if len(text) > MAX_METADATA_BYTES:
        raise _Fault("metadata", f"is {len(text):,} bytes as JSON; at most {MAX_METADATA_BYTES:,} are allowed")
    return text


def _metadata_name(name: object) -> str:
    if not isinstance(name, str):
        raise _Fault("metadata", f"has the name {shown(name)}; names are strings")
    if name.startswith("$"):
        raise _Fault("metadata", f"has the name {shown(name)}; a name must not start with '$'")
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
            raise _Fault("metadata", f"{shown(name)} is {value}, beyond 2^53, and would change; give it as a string")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _Fault("metadata", f"{shown(name)} is {value}; numbers must be finite")
        return float(value)
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return [_plain(item) for item in value]
    raise _Fault(
        "metadata",
        f"{shown(name)} is {shown(value, 60)}, a {type(value).__name__}; "
        "give a string, a number, a boolean or a list of strings",
    )
