"""Owns reading CSV: a header, then one record a row; values as a JSON list or one column per dimension.

Text stays text: a metadata column of CSV gives strings, an empty cell gives nothing.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from upsertq.contract.errors import SourceError
from upsertq.sources.chunk import CHUNK_BYTES, CHUNK_ROWS, Chunk, Fault
from upsertq.sources.columns import Columns, resolve
from upsertq.sources.kinds import check_text, ending_of
from upsertq.sources.operations import WATCHED
from upsertq.sources.rows import RowReader
from upsertq.sources.text import MAX_LINE, Bytes, decoded, opened

DELIMITERS: Final = {",": "comma", "\t": "tab", ";": "semicolon", "|": "pipe"}
"""What may stand between two cells, by what is tried first."""
MOST_CELLS: Final = 200_000
"""Cells of a row: ten times what the largest record has as one column per dimension."""
CELL_BYTES: Final = 16
"""What a cell takes beside its text."""
KEPT_TEXT: Final = 2**16
"""Characters of a broken row that a fault carries."""


def check(path: str, shown_name: str, columns: Columns, delimiter: str | None = None) -> None:
    """Raise `SourceError` unless the header has the columns."""
    with opened(path, shown_name) as content:
        _Table(content, shown_name, columns, delimiter)


def header(path: str, shown_name: str, columns: Columns, delimiter: str | None = None) -> Sequence[str]:
    """The names of the columns, whether or not they are those that are needed."""
    with opened(path, shown_name) as content:
        check_text(content, shown_name)
        return _header(content, shown_name, columns, delimiter)[0]


def chunks(path: str, shown_name: str, columns: Columns, delimiter: str | None = None) -> Iterator[Chunk]:
    """The records of the file; positions are the lines on which they begin."""
    reader = RowReader(columns, shown_name)
    rows: list[Mapping[str, Any] | Fault] = []
    positions: list[int] = []
    size = 0
    with opened(path, shown_name) as content:
        table = _Table(content, shown_name, columns, delimiter)
        for line, cells in table.rows:
            if not cells:
                continue
            rows.append(table.row(cells))
            positions.append(line)
            size += sum(map(len, cells)) + CELL_BYTES * len(cells)
            if len(rows) >= CHUNK_ROWS or size >= CHUNK_BYTES:
                yield reader.chunk(rows, positions, content.consumed)
                rows, positions, size = [], [], 0
        if rows:
            yield reader.chunk(rows, positions, content.consumed)


class _Table:
    """A CSV stream with its header, and where in a row the columns stand that are needed."""

    def __init__(self, content: Bytes, shown_name: str, columns: Columns, delimiter: str | None) -> None:
        check_text(content, shown_name)
        self.names, self.rows, self._delimiter = _header(content, shown_name, columns, delimiter)
        layout = resolve(columns, self.names, shown_name)
        places = {name: place for place, name in reversed(list(enumerate(self.names)))}
        wanted = dict.fromkeys([*layout.needed, *(name for name in self.names if name in WATCHED)])
        self._wanted = [(name, places[name]) for name in wanted]

    def row(self, cells: list[str]) -> Mapping[str, Any] | Fault:
        """The cells that are needed by their names; an empty one is `None`."""
        if len(cells) != len(self.names):
            told = f"has {len(cells)} cells, but the header names {len(self.names)} columns"
            return Fault("line", told, self._delimiter.join(cells)[:KEPT_TEXT])
        return {name: cells[place] or None for name, place in self._wanted}


def _header(
    content: Bytes, shown_name: str, columns: Columns, delimiter: str | None
) -> tuple[Sequence[str], Iterator[tuple[int, list[str]]], str]:
    """The names of the columns, the rows after them, and what separates the cells."""
    tab = "\t" if ending_of(shown_name) in (".tsv", ".tab") else None
    chosen = delimiter or tab or _delimiter(content, shown_name, columns)
    rows = _rows(content, shown_name, chosen)
    _, names = next(rows, (0, []))
    if not names:
        raise SourceError(f"{shown_name} has no header; its first line must name the columns")
    return names, rows, chosen


def _delimiter(content: Bytes, shown_name: str, columns: Columns) -> str:
    """What separates the cells: with which the header has the columns that are needed, else the most columns."""
    first = content.ahead(lambda read: b"\n" in read.lstrip(b"\r\n"))
    line = first.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n").partition(b"\n")[0].decode("utf-8", "replace")
    found: dict[str, int] = {}
    for delimiter in DELIMITERS:
        if line.count(delimiter) > MOST_CELLS:
            continue
        try:
            header = next(csv.reader([line], delimiter=delimiter), [])
            resolve(columns, header, shown_name)
        except csv.Error:
            continue
        except SourceError:
            found[delimiter] = len(header)
        else:
            return delimiter
    return max(found, key=lambda delimiter: found[delimiter], default=",")


def _rows(content: Bytes, shown_name: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV stream, each with the line on which it begins."""
    csv.field_size_limit(MAX_LINE)
    lines = _Lines(content, shown_name, delimiter)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.begins = reader.line_num + 1
        lines.size = lines.cells = 0
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise SourceError(
                f"{shown_name} line {lines.begins} is no CSV: {error}; is a quotation mark missing or not doubled?"
            ) from None
        yield lines.begins, cells


class _Lines:
    """The lines of a CSV stream as text, of which one row may take no more than a record can."""

    def __init__(self, content: Bytes, shown_name: str, delimiter: str) -> None:
        self.begins = 1
        self.size = self.cells = 0
        self._lines = enumerate(content.lines(), start=1)
        self._name = shown_name
        self._delimiter = delimiter.encode()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        number, line = next(self._lines)
        if line is None:
            raise SourceError(f"{self._name} line {number} is longer than {MAX_LINE:,} bytes; no record is")
        self.size += len(line) + 1
        if self.size > MOST_CELLS:  # fewer bytes cannot hold more cells
            self.cells += line.count(self._delimiter)
        if self.size > MAX_LINE:
            raise SourceError(
                f"{self._name}: the row that begins on line {self.begins} is longer than {MAX_LINE:,} bytes; no record "
                "is: is a quotation mark missing?"
            )
        if self.cells > MOST_CELLS:
            raise SourceError(
                f"{self._name}: the row that begins on line {self.begins} has more than {MOST_CELLS:,} cells; no "
                "record has"
            )
        text = decoded(line, number, self._name)
        return (text.removeprefix("\ufeff") if number == 1 else text) + "\n"
