"""Owns the JSON of an upsert request: each entry's text is made in one call, straight from its float32, and joined.

Pure. A batch's size is therefore known exactly before it is closed.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from upsertq.wire import Entry
from upsertq_worker.ordering.model import Held, Item

if TYPE_CHECKING:
    import numpy.typing as npt

_HEAD, _TAIL = b'{"vectors":[', b"]}"
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


class Encoder:
    """Makes the JSON of an entry's records; parses the entry's columns once."""

    __slots__ = ("_ids", "_matrix", "_metadata", "_sparse")

    def __init__(self, entry: Entry) -> None:
        count = len(entry.ids)
        self._ids = entry.ids
        self._matrix: npt.NDArray[np.float32] | None = (
            np.frombuffer(entry.values, dtype="<f4").reshape(count, entry.dim) if entry.dim else None
        )
        self._sparse: list[Any] | None = orjson.loads(entry.sparse) if entry.sparse else None
        self._metadata: list[Any] | None = orjson.loads(entry.metadata) if entry.metadata else None

    def all(self) -> bytes:
        """The JSON objects of all records, joined by commas."""
        if self._matrix is not None and self._sparse is None:
            if self._metadata is None:
                records = [{"id": name, "values": row} for name, row in zip(self._ids, self._matrix, strict=True)]
            else:
                records = [
                    {"id": name, "values": row, "metadata": found} if found is not None else {"id": name, "values": row}
                    for name, row, found in zip(self._ids, self._matrix, self._metadata, strict=True)
                ]
        else:
            records = [self._record(row) for row in range(len(self._ids))]
        return orjson.dumps(records, option=_OPTIONS)[1:-1]

    def record(self, row: int) -> bytes:
        """The JSON object of the record at `row`, with float32 in its shortest text that reads back bit for bit."""
        return orjson.dumps(self._record(row), option=_OPTIONS)

    def _record(self, row: int) -> dict[str, Any]:
        record: dict[str, Any] = {"id": self._ids[row]}
        if self._matrix is not None:
            record["values"] = self._matrix[row]
        if self._sparse is not None and self._sparse[row] is not None:
            record["sparseValues"] = self._sparse[row]
        if self._metadata is not None and self._metadata[row] is not None:
            record["metadata"] = self._metadata[row]
        return record


def encode(item: Item) -> bytes:
    """The JSON of a whole entry's records, or of one record; made once and kept with the item."""
    if not item.body:
        if isinstance(item, Held):
            item.body = Encoder(item.entry).all()
        else:
            held = item.held
            if held.encoder is None:
                held.encoder = Encoder(held.entry)
            item.body = held.encoder.record(item.row)
    return item.body


def overhead(namespace: str) -> int:
    """Bytes of a request's body beside its records and the commas between them."""
    return len(_HEAD) + len(_TAIL) + len(_space(namespace))


def join(records: Sequence[bytes], namespace: str) -> bytes:
    """The body of one request; the default namespace is left out."""
    return b"".join((_HEAD, b",".join(records), b"]", _space(namespace), b"}"))


def _space(namespace: str) -> bytes:
    return b',"namespace":' + orjson.dumps(namespace) if namespace else b""
