"""Owns reading JSON lines: one object a line; a line that cannot be parsed is a fault, never the end of the load."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from upsertq.errors import shown
from upsertq.sources.chunk import CHUNK_BYTES, CHUNK_ROWS, Chunk, Fault
from upsertq.sources.columns import Columns
from upsertq.sources.rows import RowReader
from upsertq.sources.text import MAX_LINE, opened

KEPT_TEXT: Final = 2**16
"""Characters of a broken line that a fault carries."""
_BOM: Final = b"\xef\xbb\xbf"


def chunks(path: str, shown_name: str, columns: Columns) -> Iterator[Chunk]:
    """The records of the file, `-` for stdin; blank lines are passed over."""
    reader = RowReader(columns)
    rows: list[Mapping[str, Any] | Fault] = []
    positions: list[int] = []
    size, booleans = 0, False
    with opened(path, shown_name) as content:
        for number, line in enumerate(content.lines(), start=1):
            row = _row(line, first=number == 1)
            if row is None:
                continue
            rows.append(row)
            positions.append(number)
            size += MAX_LINE if line is None else len(line)
            booleans = booleans or (line is not None and (b"true" in line or b"false" in line))
            if len(rows) >= CHUNK_ROWS or size >= CHUNK_BYTES:
                yield reader.chunk(rows, positions, content.consumed, booleans=booleans)
                rows, positions, size, booleans = [], [], 0, False
        if rows:
            yield reader.chunk(rows, positions, content.consumed, booleans=booleans)


def _row(line: bytes | None, *, first: bool) -> Mapping[str, Any] | Fault | None:
    if line is None:
        return Fault("line", f"is longer than {MAX_LINE:,} bytes; no record is")
    if first:
        line = line.removeprefix(_BOM)
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return _second_look(line, error) if line.strip() else None
    if isinstance(row, dict):
        return row
    return Fault("line", f"is {shown(row)}; every line must be one JSON object", _kept(line))


def _second_look(line: bytes, error: orjson.JSONDecodeError) -> Mapping[str, Any] | Fault:
    """Read what Python's own json writes, NaN and Infinity, so that the record's fault can be told by its field."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if isinstance(row, dict):
        return row
    return Fault("line", f"is no JSON: {error.msg} at character {error.pos + 1}", _kept(line))


def _kept(line: bytes) -> str:
    return line[:KEPT_TEXT].decode("utf-8", "replace")
