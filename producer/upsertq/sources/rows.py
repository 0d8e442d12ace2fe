"""Owns how rows that are objects (a line of JSON, a line of CSV with its header) become a chunk's columns."""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from upsertq.contract.errors import SourceError, shown
from upsertq.sources.cells import Misread, as_metadata, as_number, as_numbers, as_object, as_values
from upsertq.sources.chunk import Chunk, Fault
from upsertq.sources.columns import (
    EVERY,
    NOTES,
    SPARSE_NAMES,
    Columns,
    is_pattern,
    listed,
    named,
    no_pattern,
    numbered,
)
from upsertq.sources.nested import MISSING, found, names_towards
from upsertq.sources.operations import WATCHED, refuse_others
from upsertq.sources.spelling import Spellings


class RowReader:
    """Makes chunks of the rows of one source by the caller's columns.

    What an option names must be in the first rows of the source, or `chunk` raises `SourceError`. A pattern of values
    columns is looked up in the names of these rows, and holds for all.
    """

    def __init__(self, columns: Columns, source: str) -> None:
        self._columns = columns
        self._source = source
        self.id = columns.id or "id"
        self._values = columns.values or ("values",)
        self._sparse = (columns.sparse,) if columns.sparse else SPARSE_NAMES
        self.namespace = columns.namespace_column or ("namespace" if columns.namespace is None else None)
        self._pattern = self._values[0] if len(self._values) == 1 and is_pattern(self._values[0]) else None
        self._spread = len(self._values) > 1
        self.metadata = columns.metadata or ()
        self._named = named(columns)
        self._paths = tuple(name for _, name in self._named if "." in name)
        self._fields: dict[str, str] = {}
        self._data = frozenset(self.metadata)
        self._spellings = Spellings(name for _, name in self._named)
        self._checked = False
        self._taken: set[str | None] = set()
        self._seen: Any = None

    @property
    def asks(self) -> bool:
        """Whether options name columns, which the first rows must have."""
        return bool(self._named) or self._pattern is not None

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

        Raises:
            SourceError: an option names a column that none of the first rows has.
        """
        if not self._checked:
            self.check(rows)
        if self._paths:
            rows = [row if isinstance(row, Fault) else self._reached(row) for row in rows]
        read: list[tuple[Any, Any, Any, Any, Any]] = []
        faults: dict[int, Fault] = {}
        for index, row in enumerate(rows):
            if isinstance(row, Fault):
                faults[index] = row
                read.append((None, None, None, None, ""))
                continue
            try:
                read.append(self._cells_of(row))
            except Misread as error:
                faults[index] = Fault(error.field, error.reason)
                read.append((row.get(self.id), *self._kept_cells(row), self._kept_namespace(row)))
        ids, values, sparse, metadata, spaces = map(list, zip(*read, strict=True)) if read else ([], [], [], [], [])
        return Chunk(
            ids=ids,
            values=_matrix(values, booleans=booleans),
            sparse=sparse if sparse.count(None) < len(sparse) else None,
            metadata=metadata if any(metadata) else None,
            namespaces=spaces if spaces.count("") < len(spaces) else "",
            positions=positions,
            done=done,
            faults=faults,
        )

    def _reached(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row with what the dotted names lead to under these names."""
        reached = {name: found(row, name) for name in self._paths}
        return {**row, **{name: value for name, value in reached.items() if value is not MISSING}}

    def _name_fields(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Name the metadata that dotted names lead to by their last parts; a column with dots in its name keeps it."""
        for name in set(self.metadata).intersection(self._paths):
            literal = any(name in row for row in rows)
            self._fields[name] = name if literal else name.rpartition(".")[2]
        fields = [self._fields.get(name, name) for name in self.metadata]
        twice = next((field for field, count in Counter(fields).items() if count > 1), None)
        if twice is not None:
            raise SourceError(f"{self._source}: two of --metadata-columns would become the field {shown(twice)}")

    def check(self, first: Sequence[Mapping[str, Any] | Fault]) -> None:
        """Raise `SourceError` unless the first rows of the source have what options name; faults tell nothing."""
        rows = [row for row in first if not isinstance(row, Fault)]
        if not rows:
            return
        self._checked = True
        self._name_fields(rows)
        names = dict.fromkeys(name for row in rows for name in (self._reached(row) if self._paths else row))
        for option, name in self._named:
            if name not in names:
                there = names_towards(rows[0], name) if "." in name else [n for n in names if n not in NOTES]
                count = f"{len(rows):,} records" if len(rows) > 1 else "record"
                raise SourceError(
                    f"{self._source} has no field {shown(name)} for {option} in its first {count}; it has "
                    f"{listed(there)}"
                )
        if self._pattern is not None:
            self._values = tuple(numbered(self._pattern, list(names)))
            self._spread = True
            if not self._values:
                raise no_pattern(self._source, self._pattern, list(names))
        self._taken = {self.id, *self._values, *self._sparse, self.namespace, *NOTES}

    def _cells_of(self, row: Mapping[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        record_id = row.get(self.id)
        if record_id is None:
            raise Misread("id", f"is missing: the record has {listed([n for n in row if n not in NOTES])}")
        if not WATCHED.isdisjoint(row):
            refuse_others(row, self._data)
        return (
            # integers have one obvious spelling; a `bool` is none
            str(record_id) if type(record_id) is int else record_id,
            self._values_of(row),
            self._sparse_of(row),
            self._metadata_of(row),
            self._namespace_of(row),
        )

    def _kept_cells(self, row: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """Values, sparse values and metadata of a row with a fault: what cannot be read is text, or `None`.

        Nothing is kept of what is no upsert: the field that says so is not in its reject, which would be one.
        """
        try:
            refuse_others(row, self._data)
        except Misread:
            return None, None, None
        kept: list[Any] = []
        for name, read in (
            ("" if self._spread else self._values[0], self._values_of),
            (next((name for name in self._sparse if row.get(name) is not None), ""), self._sparse_of),
            ("metadata" if self._columns.metadata is None else "", self._metadata_of),
        ):
            try:
                kept.append(read(row))
            except Misread:
                cell = row.get(name) if name else None
                kept.append(cell if isinstance(cell, str) else None)
        values, sparse, metadata = kept
        return self._kept_columns(row) if self._spread and values is None else values, sparse, metadata

    def _kept_columns(self, row: Mapping[str, Any]) -> list[Any] | None:
        """The values of a row with a column for each: what is no number stays, so that the list is refused.

        `None` where all are numbers, and something else is wrong with them.
        """
        kept: list[Any] = []
        misread = False
        for name in self._values:
            cell = row.get(name)
            try:
                kept.append(as_number(name, cell))
            except Misread:
                kept.append(cell)
                misread = True
        return kept if misread else None

    def _sparse_of(self, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
        sparse = None
        for name in self._sparse:
            sparse = row.get(name) if sparse is None else sparse
        if sparse is None and self._columns.sparse is not None:
            self._spellings.check(row, self._columns.sparse, "sparse_values")
        return None if sparse is None else as_object("sparse_values", sparse)

    def _namespace_of(self, row: Mapping[str, Any]) -> Any:
        default = self._columns.namespace or ""
        if self.namespace is None:
            return default
        space = row.get(self.namespace)
        if space is None:
            if self._columns.namespace_column is not None:
                self._spellings.check(row, self.namespace, "namespace")
            return default
        return str(space) if type(space) is int else space

    def _kept_namespace(self, row: Mapping[str, Any]) -> Any:
        try:
            return self._namespace_of(row)
        except Misread:
            return ""

    def _values_of(self, row: Mapping[str, Any]) -> Any:
        if not self._spread:
            return as_values(row.get(self._values[0]))
        if self._pattern is not None and row.keys() != self._seen:
            self._seen = row.keys()
            more = [name for name in numbered(self._pattern, list(row)) if name not in self._values]
            if more:
                raise Misread("values", f"has the columns {listed(more, 3)}, which none of the first records has")
        return as_numbers(self._values, [row.get(name) for name in self._values])

    def _metadata_of(self, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if self._columns.metadata is None:
            return as_object("metadata", row.get("metadata"))
        names = self.metadata
        if names == (EVERY,):
            names = tuple(name for name in row if name not in self._taken)
        cells = []
        for name in names:
            cell = row.get(name)
            if cell is None and name not in row:
                self._spellings.check(row, name, "metadata")
            elif self._paths and isinstance(cell, Mapping):
                cell = {inner: value for inner, value in cell.items() if f"{name}.{inner}" not in self._taken}
            cells.append((self._fields.get(name, name), cell))
        return as_metadata(cells, sole=len(names) == 1)


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
