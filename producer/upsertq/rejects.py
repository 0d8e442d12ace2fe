"""Owns the file of rejects: JSON lines that hold each bad record with its reason, to be loaded again once corrected."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import orjson

from upsertq.errors import SourceError
from upsertq.sources.chunk import Chunk, Fault, Source
from upsertq.sources.columns import REJECT


def check_writable(path: Path) -> None:
    """Raise `SourceError` when a file of rejects cannot be written there; what it holds stays as it is."""
    try:
        path.open("ab").close()
    except OSError as error:
        raise SourceError(f"{path} cannot be written: {error.strerror or error}") from None


class Rejects:
    """A file of rejects, written anew; use it in a `with` block. What was written survives this process after `flush`.

    Raises `SourceError` when the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        check_writable(path)
        self._file = path.open("wb")

    def add(self, source: Source, chunk: Chunk, row: int, fault: Fault) -> None:
        """Write row `row` of `chunk` with its fault."""
        self._try(lambda: self._file.write(line_of(source, chunk, row, fault)))

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._try(self._file.flush)

    def _try(self, act: Any) -> None:
        try:
            act()
        except OSError as error:
            raise SourceError(f"{self._path} cannot be written: {error.strerror or error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def line_of(source: Source, chunk: Chunk, row: int, fault: Fault) -> bytes:
    """The line for one reject: the record's fields as far as JSON can say them, and why it was rejected."""
    cells = {
        "id": chunk.ids[row],
        "values": None if chunk.values is None else chunk.values[row],
        "sparse_values": None if chunk.sparse is None else chunk.sparse[row],
        "metadata": None if chunk.metadata is None else chunk.metadata[row],
        "namespace": (chunk.namespaces if isinstance(chunk.namespaces, str) else chunk.namespaces[row]) or None,
    }
    record: dict[str, Any] = {name: _sayable(cell) for name, cell in cells.items() if cell is not None}
    reject = {"source": source.name, source.unit: chunk.positions[row], "field": fault.field, "reason": fault.reason}
    if fault.text is not None:
        reject["text"] = _sayable(fault.text)
    return orjson.dumps({**record, REJECT: reject}) + b"\n"


def _sayable(cell: Any) -> Any:  # noqa: PLR0911 - one for each kind of value
    """The cell as JSON can say it: a number that is not finite becomes null, what JSON lacks becomes its text."""
    if isinstance(cell, np.ndarray | np.generic):
        cell = cell.tolist()
    match cell:
        case None | bool():
            return cell
        case str():
            return cell.encode("utf-8", "replace").decode()
        case int():
            return cell if -(2**63) <= cell < 2**64 else str(cell)
        case float():
            return cell if math.isfinite(cell) else None
        case Mapping():
            return {_sayable(str(name)): _sayable(item) for name, item in cell.items()}
        case list() | tuple():
            return [_sayable(item) for item in cell]
        case _:
            return _sayable(str(cell))
