"""Owns reading CSV: a header, then one record a row; values as a JSON list or one column per dimension.

Text stays text: a metadata column of CSV gives strings, an empty cell gives nothing.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from upsertq.errors import SourceError, shown
from upsertq.sources.chunk import CHUNK_BYTES, CHUNK_ROWS, Chunk, Fault
from upsertq.sources.columns import Columns, resolve
from upsertq.sources.rows import RowReader
from upsertq.sources.text import MAX_LINE, Bytes, decoded, opened


def check(path: str, shown_name: str, columns: Columns) -> None:
    """Raise `SourceError` unless the header has the columns."""
    with opened(path, shown_name) as content:
        resolve(columns, _header(_rows(content, shown_name), shown_name), shown_name)


def chunks(path: str, shown_name: str, columns: Columns) -> Iterator[Chunk]:
    """The records of the file; positions are the lines on which they begin."""
    reader = RowReader(columns)
    rows: list[Mapping[str, Any] | Fault] = []
    positions: list[int] = []
    size = 0
    with opened(path, shown_name) as content:
        table = _rows(content, shown_name)
        header = _header(table, shown_name)
        resolve(columns, header, shown_name)
        for line, cells in table:
            if not cells:
                continue
            rows.append(_row(header, cells))
            positions.append(line)
            size += sum(map(len, cells))
            if len(rows) >= CHUNK_ROWS or size >= CHUNK_BYTES:
                yield reader.chunk(rows, positions, content.consumed)
                rows, positions, size = [], [], 0
        if rows:
            yield reader.chunk(rows, positions, content.consumed)


def _rows(content: Bytes, shown_name: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV stream, each with the line on which it begins."""
    csv.field_size_limit(MAX_LINE)
    reader = csv.reader(_lines(content, shown_name), strict=True)
    while True:
        begins = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise SourceError(
                f"{shown_name} line {begins} is no CSV: {error}; is a quotation mark missing or not doubled?"
            ) from None
        yield begins, cells


def _lines(content: Bytes, shown_name: str) -> Iterator[str]:
    for number, line in enumerate(content.lines(), start=1):
        if line is None:
            raise SourceError(f"{shown_name} line {number} is longer than {MAX_LINE:,} bytes; no record is")
        text = decoded(line, number, shown_name)
        yield (text.removeprefix("\ufeff") if number == 1 else text) + "\n"


def _header(rows: Iterator[tuple[int, list[str]]], shown_name: str) -> Sequence[str]:
    _, header = next(rows, (0, []))
    if not header:
        raise SourceError(f"{shown_name} has no header; its first line must name the columns")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise SourceError(f"{shown_name} names the column {shown(twice)} twice; each needs a name of its own")
    return header


def _row(header: Sequence[str], cells: list[str]) -> Mapping[str, Any] | Fault:
    if len(cells) != len(header):
        return Fault("line", f"has {len(cells)} cells, but the header names {len(header)} columns", ",".join(cells))
    return {name: cell or None for name, cell in zip(header, cells, strict=True)}
