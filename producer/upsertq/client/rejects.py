"""Owns the file of rejects: JSON lines that hold each bad record with its reason, to be loaded again once corrected."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import orjson

from upsertq.client.new_file import NewFile
from upsertq.contract.errors import SourceError
from upsertq.contract.printable import printable
from upsertq.sources.chunk import Chunk, Fault, Source
from upsertq.sources.columns import REJECT

MAX_BYTES: Final = 1_000_000_000
"""How large a file of rejects may grow unless more is allowed: a wrong column must not fill a disk."""
_DEEPEST: Final = 100
"""Levels of nesting that are told; no record that loads has more than three."""


class Rejects:
    """A file of rejects, written anew; use it in a `with` block. What was written survives this process after `flush`.

    It takes its place with `keep`. When the block ends without, it is kept all the same if there was a reject, and what
    stood there before stays if there was none.

    Raises:
        SourceError: the file cannot be written, or would hold more than `most` bytes.
    """

    def __init__(self, path: Path, most: int = MAX_BYTES) -> None:
        self._path = path
        self._most = most
        self._file = NewFile(path)
        self._pending = bytearray()

    def add(self, source: Source, chunk: Chunk, row: int, fault: Fault) -> None:
        """Write row `row` of `chunk` with its fault."""
        line = line_of(source, chunk, row, fault)
        if self._file.size + len(self._pending) + len(line) > self._most:
            raise SourceError(
                f"{printable(str(self._path))} would pass {self._most:,} bytes with {source.name} {source.unit} "
                f"{chunk.positions[row]} ({fault.field}: {fault.reason}): mend what is wrong with so many records, or "
                "give a larger --max-rejects"
            )
        self._pending += line

    def flush(self) -> None:
        """Hand everything to the operating system."""
        if self._pending:
            lines, self._pending = bytes(self._pending), bytearray()
            self._file.write(lines)

    def keep(self) -> None:
        """Put the file in its place, complete or as far as the load came; a second call does nothing."""
        try:
            self.flush()
        finally:
            self._file.keep()

    def stop(self) -> None:
        """Keep what there is of a load that ended early, if there is anything."""
        if self._pending or self._file.size:
            self.keep()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file, suppress(SourceError):  # the call of `keep` or `stop` before told it
            self.stop()


def line_of(source: Source, chunk: Chunk, row: int, fault: Fault) -> bytes:
    """The line for one reject: the record's fields as far as JSON can say them, and why it was rejected."""
    space = chunk.namespaces if isinstance(chunk.namespaces, str) else chunk.namespaces[row]
    cells = {
        "id": chunk.ids[row],
        "values": None if chunk.values is None else chunk.values[row],
        "sparse_values": None if chunk.sparse is None else chunk.sparse[row],
        "metadata": None if chunk.metadata is None else chunk.metadata[row],
        "namespace": None if space == "" else space,
    }
    if row in chunk.faults and fault.field in cells and (cells[fault.field] is None or fault.field == "namespace"):
        # what could not be read is no longer here: the record must not load without it unless it is corrected
        cells[fault.field] = []
    record: dict[str, Any] = {name: _sayable(cell) for name, cell in cells.items() if cell is not None}
    reject = {"source": _text(source.name), source.unit: chunk.positions[row]}
    reject |= {"field": _text(fault.field), "reason": _text(fault.reason)}
    if fault.text is not None:
        reject["text"] = _text(fault.text)
    line = {**record, REJECT: reject}
    try:
        return orjson.dumps(line) + b"\n"
    except TypeError:  # no lone surrogate: with another character in its place the record would load uncorrected
        return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _sayable(cell: Any, depth: int = 0) -> Any:  # noqa: PLR0911 - one for each kind of value
    """The cell as JSON can say it; what it lacks becomes text.

    A number that is not finite becomes an object, which no field takes: as null it would be missing without a word.
    """
    if isinstance(cell, np.ndarray | np.generic):
        cell = cell.tolist()
    if depth > _DEEPEST:
        return f"(a {type(cell).__name__}, nested too deeply)"
    match cell:
        case None | bool():
            return cell
        case str():
            return str(cell)
        case int():
            return int(cell) if -(2**63) <= cell < 2**64 else str(cell)
        case float():
            return float(cell) if math.isfinite(cell) else {"number": str(float(cell))}
        case Mapping():
            return {_sayable(str(name)): _sayable(item, depth + 1) for name, item in cell.items()}
        case list() | tuple():
            return [_sayable(item, depth + 1) for item in cell]
        case _:
            return _sayable(str(cell))
