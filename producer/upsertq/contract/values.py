"""Owns the rules for the numbers of a record: how dense and sparse values become what travels, or are refused. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from upsertq.contract.errors import shown
from upsertq.contract.given import Unusable, as_array, is_foreign_array, unmasked
from upsertq.contract.wire import MAX_DIMENSION, MAX_SPARSE

Values = Sequence[float] | npt.NDArray[Any]
"""Dense values of one record: d numbers, cast to float32."""
SparseValues = Mapping[str, Any] | tuple[Any, Any]
"""Sparse values of one record: `{"indices": [...], "values": [...]}`, or the pair of both."""


class Fault(Exception):  # noqa: N818 - becomes an InvalidRecord, which also names the record
    """What is wrong with a field of a record."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field
        self.reason = reason


def rows_of(
    matrix: npt.NDArray[Any] | Sequence[Values] | None, count: int, dimension: int | None
) -> Iterator[bytes | Fault]:
    """The dense values of each of `count` records as float32 bytes (none where there are none), or what is wrong."""
    if matrix is None:
        yield from (b"" for _ in range(count))
    elif isinstance(matrix, np.ndarray) and matrix.ndim == 2 and matrix.dtype.kind in "fiu":  # noqa: PLR2004 - a matrix
        yield from _matrix_rows(matrix, dimension)
    else:
        for values in matrix:
            try:
                yield b"" if values is None else dense_of(values, dimension)
            except Fault as fault:
                yield fault


def _matrix_rows(matrix: npt.NDArray[Any], dimension: int | None) -> Iterator[bytes | Fault]:
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


def _width_fault(width: int, dimension: int | None) -> Fault | None:
    if not 1 <= width <= MAX_DIMENSION:
        return Fault("values", f"has {width} dimensions; 1 to {MAX_DIMENSION:,} are allowed")
    if dimension is not None and width != dimension:
        return Fault("values", f"has {width} dimensions, but the queue holds records of {dimension}")
    return None


def _fault_of(cast: npt.NDArray[np.float32], dimension: int | None) -> Fault:
    wide = _width_fault(len(cast), dimension)
    if wide is not None:
        return wide
    bad = np.flatnonzero(~np.isfinite(cast))
    if bad.size:
        return Fault("values", f"item {bad[0]} is {cast[bad[0]]} as float32; every value must be finite")
    return Fault("values", "are all zero (as float32); the service refuses a vector without a direction")


def dense_of(values: Values, dimension: int | None) -> bytes:
    """One record's dense values as float32 bytes; raises `Fault`."""
    array = _numbers("values", values)
    if array.ndim != 1:
        raise Fault("values", f"has the shape {array.shape}; give one flat list of numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype("<f4", copy=False)
    if _width_fault(len(cast), dimension) is None and np.isfinite(cast).all() and cast.any():
        return cast.tobytes()
    raise _fault_of(cast, dimension)


def _numbers(field: str, values: object) -> npt.NDArray[Any]:
    values = _native(field, values)
    if isinstance(values, str | bytes | bytearray | Mapping | AbstractSet) or not isinstance(values, Iterable):
        raise Fault(field, f"is {shown(values)}; give a list of numbers or a NumPy array")
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        if values.ndim == 0:
            raise Fault(field, f"is {shown(values.item())}; give a list of numbers or a NumPy array")
        array, items = values, None
    else:
        items = list(values) if not isinstance(values, np.ndarray) or values.ndim else [values.item()]
        try:
            array = np.asarray(items)
            if array.dtype.kind == "O" and all(map(_is_number, items)):
                array = array.astype(np.float64)  # integers beyond 64 bits
        except ValueError:
            raise Fault(field, "is nested unevenly; give one flat list of numbers") from None
        except OverflowError:
            raise Fault(field, "has a number beyond float32's range") from None
    if array.size == 0:
        return np.zeros(0, dtype="<f4")
    # NumPy would make 1.0 of a `True` among numbers
    if array.dtype.kind not in "fiu" or (items is not None and not {bool, np.bool_}.isdisjoint(map(type, items))):
        items = array.ravel().tolist() if items is None else items
        odd = next((i for i, item in enumerate(items) if not _is_number(item)), 0)
        raise Fault(field, f"item {odd} is {shown(items[odd])}; every value must be a number of float32's range")
    return array


def _native(field: str, values: object) -> object:
    """The values as NumPy's, where another library or a mask holds them."""
    try:
        if isinstance(values, np.ma.MaskedArray):
            return unmasked(values)
        return as_array(values) if is_foreign_array(values) else values
    except Unusable as unusable:
        raise Fault(field, str(unusable)) from None


def _is_number(item: object) -> bool:
    return isinstance(item, int | float | np.floating | np.integer) and not isinstance(item, bool)


def sparse_of(given: SparseValues) -> bytes:
    """One record's sparse values as JSON; raises `Fault`."""
    indices, values = _sparse_pair(given)
    index_array, value_array = _numbers("sparse_values", indices), _numbers("sparse_values", values)
    if index_array.ndim != 1 or index_array.shape != value_array.shape:
        raise Fault(
            "sparse_values", f"has {index_array.size} indices and {value_array.size} values; give two equal lists"
        )
    if index_array.size and (
        index_array.dtype.kind not in "iu" or int(index_array.min()) < 0 or int(index_array.max()) >= 2**32
    ):
        raise Fault("sparse_values", "has an index that is no integer from 0 to 4,294,967,295")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = value_array.astype("<f4", copy=False)
    if not np.isfinite(cast).all():
        raise Fault("sparse_values", "has a value that is not finite as float32")
    if len(np.unique(index_array)) != len(index_array):
        raise Fault("sparse_values", "names an index twice")
    kept = cast != 0
    index_array, cast = index_array[kept].astype(np.uint32), np.ascontiguousarray(cast[kept], dtype=np.float32)
    if not 1 <= len(cast) <= MAX_SPARSE:
        raise Fault("sparse_values", f"has {len(cast)} values other than zero; 1 to {MAX_SPARSE:,} are allowed")
    return orjson.dumps({"indices": index_array, "values": cast}, option=orjson.OPT_SERIALIZE_NUMPY)


def _sparse_pair(given: object) -> tuple[Any, Any]:
    if isinstance(given, Mapping):
        if set(given) != {"indices", "values"}:
            raise Fault("sparse_values", f"has the keys {sorted(map(str, given))}; give 'indices' and 'values'")
        return given["indices"], given["values"]
    if isinstance(given, tuple) and len(given) == 2:  # noqa: PLR2004 - a pair
        return given[0], given[1]
    raise Fault("sparse_values", f"is {shown(given)}; give {{'indices': [...], 'values': [...]}}")
