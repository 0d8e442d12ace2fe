"""Owns how the columns of an Arrow record batch become a chunk, without a Python number for any dense value.

It is given pyarrow by `upsertq.sources.arrow` and never imports it.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from upsertq.contract.errors import shown
from upsertq.contract.record import id_text
from upsertq.contract.wire import FLOAT32
from upsertq.sources.arrow_values import (
    is_binary,
    is_list,
    is_number,
    lengths_of,
    placed,
    reader,
    scattered,
)
from upsertq.sources.cells import Misread, as_metadata, as_object, as_values
from upsertq.sources.chunk import Chunk, Fault
from upsertq.sources.columns import Layout

_PRINTABLE: Final = np.isin(np.arange(256), [*b"\t\r\n\0", *range(0x20, 0x7F)])
"""The bytes that text of numbers is made of; zeros pad it."""
_OPENING: Final = re.compile(rb"\s*(?:array\()?[\[({\"]")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
_LOOK: Final = 64
"""Bytes at the beginning of a cell that tell text from floats before the rest is looked at."""


def batch_chunk(pa: Any, batch: Any, layout: Layout, begin: int) -> Chunk:
    """The chunk of `batch`, whose first row is number `begin` (from 0) of its source.

    Its columns have types that `check_types` found good, and it is no larger than a chunk may be.
    """
    faults: dict[int, Fault] = {}
    count = len(batch)

    def column(name: str) -> Any:
        return batch.column(name)

    return Chunk(
        ids=_read(pa, column(layout.id), "id", faults),
        values=_values(pa, [column(name) for name in layout.values], layout, faults),
        sparse=_sparse(pa, column(layout.sparse), faults) if layout.sparse else None,
        metadata=_metadata(pa, {name: column(name) for name in layout.metadata}, layout, faults),
        namespaces=_namespaces(pa, column(layout.namespace), layout, faults)
        if layout.namespace
        else layout.default_namespace,
        positions=range(begin + 1, begin + count + 1),
        done=0,  # for the source to say
        faults=faults,
    )


def _read(pa: Any, array: Any, field: str, faults: dict[int, Fault], name: str = "") -> list[Any]:
    """The cells as the table of types reads them; one that cannot be read is `None` and a fault."""
    cells = reader(pa, array.type)(array)
    if Misread not in set(map(type, cells)):
        return cells
    for index, cell in enumerate(cells):
        if isinstance(cell, Misread):
            faults.setdefault(index, Fault(field, f"{name and shown(name) + ' '}{cell.reason}"))
            cells[index] = None
    return cells


def _namespaces(pa: Any, array: Any, layout: Layout, faults: dict[int, Fault]) -> str | list[Any]:
    cells = _read(pa, array, "namespace", faults)
    found = [
        layout.default_namespace if cell is None else cell if isinstance(cell, str) else id_text(cell) for cell in cells
    ]
    return found if any(found) else ""


def _decoded(pa: Any, array: Any) -> Any:
    """The array without the wrapping of extensions, dictionaries and runs."""
    while isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if pa.types.is_dictionary(array.type) or pa.types.is_run_end_encoded(array.type):
        values, places = placed(pa, array)
        return _decoded(pa, values.take(pa.array(places, mask=places < 0)))
    return array


def _values(
    pa: Any, arrays: Sequence[Any], layout: Layout, faults: dict[int, Fault]
) -> npt.NDArray[Any] | list[Any] | None:
    if not arrays:
        return None
    if layout.spread:
        return _spread(pa, [_floats(pa, _decoded(pa, array)) for array in arrays])
    array = _decoded(pa, arrays[0])
    if array.null_count == len(array):
        return None
    if is_list(pa, array.type):
        return _of_lists(pa, array)
    if is_binary(pa, array.type):
        return _of_bytes(array, faults)
    return _each(_read(pa, array, "values", faults), as_values, faults)


def _floats(pa: Any, array: Any) -> Any:
    return array.cast(pa.float64()) if pa.types.is_decimal(array.type) else array


def _spread(pa: Any, arrays: Sequence[Any]) -> npt.NDArray[Any] | list[Any]:
    if all(is_number(pa, array.type) for array in arrays):
        return np.column_stack([array.to_numpy(zero_copy_only=False) for array in arrays])
    return [list(row) for row in zip(*(array.to_pylist() for array in arrays), strict=True)]


def _of_lists(pa: Any, array: Any) -> npt.NDArray[Any] | list[Any]:
    """Rows out of lists: one matrix where all have the same length, else one array or `None` a row."""
    present = array.drop_null() if array.null_count else array
    flat = _floats(pa, present.flatten()).to_numpy(zero_copy_only=False)
    lengths = lengths_of(pa, present)
    if (lengths == lengths[0]).all():
        matrix: npt.NDArray[Any] = flat.reshape(len(present), int(lengths[0]))
        return matrix if not array.null_count else scattered(list(matrix), array)
    return scattered(np.split(flat, np.cumsum(lengths)[:-1]), array)


def _of_bytes(array: Any, faults: dict[int, Fault]) -> npt.NDArray[Any] | list[Any]:
    """Rows out of little-endian float32 bytes, or of text in bytes."""
    cells = array.to_pylist()
    sizes = {len(cell) if cell is not None else -1 for cell in cells}
    if len(sizes) == 1 and (size := sizes.pop()) > 0 and size % FLOAT32 == 0:
        joined = b"".join(cells)
        table = np.frombuffer(joined, dtype=np.uint8).reshape(len(cells), size)
        if not _PRINTABLE[table[:, :_LOOK]].all(axis=1).any():
            return np.frombuffer(joined, dtype="<f4").reshape(len(cells), size // FLOAT32)
    return _each(cells, _of_cell, faults)


def _of_cell(cell: bytes | None) -> Any:
    if cell is None:
        return None
    if _is_text(cell):
        return as_values(cell.rstrip(b"\0").decode("ascii"))
    if len(cell) % FLOAT32:
        raise Misread(
            "values", f"has {len(cell)} bytes; binary values are little-endian float32, 4 bytes each, or JSON text"
        )
    return np.frombuffer(cell, dtype="<f4")


def _is_text(cell: bytes) -> bool:
    """Whether the bytes are numbers written as text: as JSON, as arrays are printed, or in base64.

    Of the four bytes of a float three are as good as random, and printable in two cases of five: three floats that
    begin like an array and are printable throughout come up once in millions.
    """
    text = cell.rstrip(b"\0").strip()
    if not _PRINTABLE[np.frombuffer(text, dtype=np.uint8)].all():
        return False
    return _OPENING.match(text) is not None or _BASE64.fullmatch(text) is not None


def _sparse(pa: Any, array: Any, faults: dict[int, Fault]) -> list[Any] | None:
    if array.null_count == len(array):
        return None
    cells = _read(pa, array, "sparse_values", faults)
    return _each(cells, lambda cell: as_object("sparse_values", cell), faults)


def _metadata(pa: Any, arrays: dict[str, Any], layout: Layout, faults: dict[int, Fault]) -> list[Any] | None:
    if not arrays:
        return None
    columns = [_read(pa, array, "metadata", faults, name) for name, array in arrays.items()]
    names, sole = tuple(arrays), len(arrays) == 1
    if layout.metadata == ("metadata",):
        return _each(columns[0], lambda cell: as_object("metadata", cell), faults)
    return _each(
        zip(*columns, strict=True),
        lambda row: as_metadata(zip(names, row, strict=True), sole=sole),
        faults,
    )


def _each(cells: Iterable[Any], read: Callable[[Any], Any], faults: dict[int, Fault]) -> list[Any]:
    """Each cell as `read` reads it; one that cannot be read is a fault and, where it is text, stays as it is."""
    done: list[Any] = []
    for index, cell in enumerate(cells):
        try:
            done.append(read(cell))
        except Misread as error:
            faults.setdefault(index, Fault(error.field, error.reason))
            done.append(cell if isinstance(cell, str) else None)
    return done
