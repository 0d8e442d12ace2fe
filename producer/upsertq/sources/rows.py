"""Owns how rows that are objects (a line of JSON, a line of CSV with its header) become a chunk's columns."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from upsertq.errors import shown
from upsertq.sources.cells import Misread, as_metadata, as_number, as_object, as_values
from upsertq.sources.chunk import Chunk, Fault
from upsertq.sources.columns import EVERY, NOTES, SPARSE_NAMES, Columns, is_pattern, listed, numbered


class RowReader:
    """Makes chunks of rows by the caller's columns.

    A pattern of values columns is looked up in the names of the first row, and holds for all.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._id = columns.id or "id"
        self._values = columns.values or ("values",)
        self._sparse = (columns.sparse,) if columns.sparse else SPARSE_NAMES
        self._space = columns.namespace_column or ("namespace" if columns.namespace is None else None)
        self._spread = len(self._values) > 1
        self._pattern = self._values[0] if len(self._values) == 1 and is_pattern(self._values[0]) else None
        self._metadata = columns.metadata or ()

    def chunk(
        self,
        rows: Sequence[Mapping[str, Any] | Fault],
        positions: Sequence[int],
        done: int,
        *,
        booleans: bool = True,
    ) -> Chunk:
        """The chunk of these rows; a row that could not be parsed comes as its fault.

        `booleans` says that there may be some among the rows' values: looking for them takes time.
        """
        ids: list[Any] = []
        values: list[Any] = []
        sparse: list[Any] = []
        metadata: list[Any] = []
        spaces: list[str] = []
        faults: dict[int, Fault] = {}
        for index, row in enumerate(rows):
            try:
                if isinstance(row, Fault):
                    faults[index] = row
                    cells: tuple[Any, ...] = (None, None, None, None)
                    space = ""
                else:
                    space = self._namespace_of(row)
                    cells = self._cells_of(row)
            except Misread as error:
                assert not isinstance(row, Fault)  # noqa: S101 - only rows are read
                faults[index] = Fault(error.field, error.reason)
                cells = (row.get(self._id), None, None, None)
            ids.append(cells[0])
            values.append(cells[1])
            sparse.append(cells[2])
            metadata.append(cells[3])
            spaces.append(space)
        return Chunk(
            ids=ids,
            values=_matrix(values, booleans=booleans),
            sparse=sparse if any(cell is not None for cell in sparse) else None,
            metadata=metadata if any(metadata) else None,
            namespaces=spaces if any(spaces) else "",
            positions=positions,
            done=done,
            faults=faults,
        )

    def _namespace_of(self, row: Mapping[str, Any]) -> Any:
        default = self._columns.namespace or ""
        if self._space is None:
            return default
        found = row.get(self._space)
        return default if found is None else found

    def _cells_of(self, row: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
        record_id = row.get(self._id)
        if record_id is None:
            raise Misread("id", f"is missing: the record has {listed([n for n in row if n not in NOTES])}")
        sparse = next((row[name] for name in self._sparse if row.get(name) is not None), None)
        return record_id, self._values_of(row), as_object("sparse_values", sparse), self._metadata_of(row)

    def _values_of(self, row: Mapping[str, Any]) -> Any:
        if self._pattern is not None:
            self._values = tuple(numbered(self._pattern, list(row)))
            if not self._values:
                raise Misread("values", f"has no column like {shown(self._pattern)}, where '*' stands for a number")
            self._pattern, self._spread = None, True
        if not self._spread:
            return as_values(row.get(self._values[0]))
        return [as_number(name, row.get(name)) for name in self._values]

    def _metadata_of(self, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if self._columns.metadata is None:
            return as_object("metadata", row.get("metadata"))
        names = self._metadata
        if names == (EVERY,):
            taken = {self._id, *self._values, *self._sparse, self._space, *NOTES}
            names = tuple(name for name in row if name not in taken)
        return as_metadata([(name, row.get(name)) for name in names], sole=len(names) == 1)


def _matrix(rows: list[Any], *, booleans: bool) -> npt.NDArray[Any] | list[Any] | None:
    """The rows as one array where that changes nothing; `None` where no row has values."""
    first = next((row for row in rows if row is not None), None)
    if first is None:
        return None
    if not isinstance(first, list) or not all(isinstance(row, list) and len(row) == len(first) for row in rows):
        return rows
    # an array would make 1.0 of a `true` among numbers
    if booleans and any(bool in set(map(type, row)) for row in rows):
        return rows
    try:
        # twice as fast as NumPy's own reading of lists, and it refuses text and nulls
        packed = b"".join([array("f", row) for row in rows])
    except (TypeError, OverflowError):
        return rows
    return np.frombuffer(packed, dtype=np.float32).reshape(len(rows), len(first))
