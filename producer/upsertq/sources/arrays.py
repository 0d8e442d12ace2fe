"""Owns how the columns of an Arrow record batch become a chunk, without a Python number for any dense value.

It is given pyarrow by `upsertq.sources.arrow` and never imports it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from upsertq.sources.cells import Misread, as_metadata, as_object, as_values
from upsertq.sources.chunk import Chunk, Fault
from upsertq.sources.columns import Layout
from upsertq.wire import FLOAT32


def batch_chunk(pa: Any, batch: Any, layout: Layout, begin: int, *, done: int) -> Chunk:
    """The chunk of `batch`, whose first row is number `begin` (from 0) of its source."""
    faults: dict[int, Fault] = {}
    count = len(batch)

    def column(name: str) -> Any:
        return _plain(pa, batch.column(name))

    return Chunk(
        ids=_ids(pa, column(layout.id)),
        values=_values(pa, [column(name) for name in layout.values], layout, faults),
        sparse=_sparse(pa, column(layout.sparse), faults) if layout.sparse else None,
        metadata=_metadata(pa, {name: column(name) for name in layout.metadata}, layout, faults),
        namespaces=_namespaces(column(layout.namespace), layout) if layout.namespace else layout.default_namespace,
        positions=range(begin + 1, begin + count + 1),
        done=done,
        faults=faults,
    )


def _plain(pa: Any, array: Any) -> Any:
    """The array without the wrapping of a dictionary or of an extension type."""
    if isinstance(array.type, pa.BaseExtensionType):
        return _plain(pa, array.storage)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _ids(pa: Any, array: Any) -> list[Any]:
    # a column of integers has one obvious spelling, unlike one of floats
    return list((array.cast(pa.string()) if pa.types.is_integer(array.type) else array).to_pylist())


def _namespaces(array: Any, layout: Layout) -> str | list[str]:
    found = [layout.default_namespace if cell is None else cell for cell in array.to_pylist()]
    return found if any(found) else ""


def _values(
    pa: Any, arrays: Sequence[Any], layout: Layout, faults: dict[int, Fault]
) -> npt.NDArray[Any] | list[Any] | None:
    if not arrays:
        return None
    if layout.spread:
        return _spread(pa, arrays)
    (array,) = arrays
    kind = array.type
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _of_lists(pa, array)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return _of_bytes(array, faults)
    return _each(array.to_pylist(), as_values, faults)


def _spread(pa: Any, arrays: Sequence[Any]) -> npt.NDArray[Any] | list[Any]:
    if all(_is_number(pa, array.type) for array in arrays):
        return np.column_stack([array.to_numpy(zero_copy_only=False) for array in arrays])
    return [list(row) for row in zip(*(array.to_pylist() for array in arrays), strict=True)]


def _is_number(pa: Any, kind: Any) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _of_lists(pa: Any, array: Any) -> npt.NDArray[Any] | list[Any] | None:
    """Rows out of lists: one matrix where all have the same length, else one array or `None` a row."""
    if array.null_count == len(array):
        return None
    if not _is_number(pa, array.type.value_type):
        return list(array.to_pylist())
    present = array.drop_null() if array.null_count else array
    flat = present.flatten().to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(array.type):
        lengths = np.full(len(present), array.type.list_size, dtype=np.int64)
    else:
        lengths = np.diff(present.offsets.to_numpy())
    rows: Sequence[Any]
    if len(lengths) and (lengths == lengths[0]).all():
        matrix: npt.NDArray[Any] = flat.reshape(len(present), int(lengths[0]))
        if not array.null_count:
            return matrix
        rows = list(matrix)
    else:
        rows = np.split(flat, np.cumsum(lengths)[:-1])
    return _scattered(rows, array)


def _scattered(rows: Iterable[Any], array: Any) -> list[Any]:
    """The rows at the places where `array` has a value, `None` at the others."""
    following = iter(rows)
    return [next(following) if present else None for present in array.is_valid().to_pylist()]


def _of_bytes(array: Any, faults: dict[int, Fault]) -> npt.NDArray[Any] | list[Any] | None:
    """Rows out of little-endian float32 bytes."""
    cells = array.to_pylist()
    lengths = {len(cell) if cell is not None else -1 for cell in cells}
    if len(lengths) == 1 and (size := lengths.pop()) > 0 and size % FLOAT32 == 0:
        return np.frombuffer(b"".join(cells), dtype="<f4").reshape(len(cells), size // FLOAT32)
    return _each(cells, _of_cell, faults)


def _of_cell(cell: bytes | None) -> npt.NDArray[np.float32] | None:
    if cell is None:
        return None
    if len(cell) % FLOAT32:
        raise Misread("values", f"has {len(cell)} bytes; binary values are little-endian float32, 4 bytes each")
    return np.frombuffer(cell, dtype="<f4")


def _sparse(pa: Any, array: Any, faults: dict[int, Fault]) -> list[Any] | None:
    if array.null_count == len(array):
        return None
    return _each(_cells(pa, array), lambda cell: as_object("sparse_values", cell), faults)


def _metadata(pa: Any, arrays: dict[str, Any], layout: Layout, faults: dict[int, Fault]) -> list[Any] | None:
    if not arrays:
        return None
    columns = [_cells(pa, array) for array in arrays.values()]
    names, sole = tuple(arrays), len(arrays) == 1
    if layout.metadata == ("metadata",):
        return _each(columns[0], lambda cell: as_object("metadata", cell), faults)
    return _each(
        zip(*columns, strict=True),
        lambda row: as_metadata(zip(names, row, strict=True), sole=sole),
        faults,
    )


def _cells(pa: Any, array: Any) -> list[Any]:
    """The cells as Python values: a map as an object, a date or time as ISO 8601 text."""
    if pa.types.is_temporal(array.type):
        return [cell and cell.replace(" ", "T", 1) for cell in array.cast(pa.string()).to_pylist()]
    cells: list[Any] = array.to_pylist()
    if pa.types.is_map(array.type):
        return [None if cell is None else dict(cell) for cell in cells]
    return cells


def _each(cells: Iterable[Any], read: Any, faults: dict[int, Fault]) -> list[Any]:
    """Each cell as `read` reads it; one that cannot be read is `None` and a fault."""
    done: list[Any] = []
    for index, cell in enumerate(cells):
        try:
            done.append(read(cell))
        except Misread as error:
            faults.setdefault(index, Fault(error.field, error.reason))
            done.append(None)
    return done
