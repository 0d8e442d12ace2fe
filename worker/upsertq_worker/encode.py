"""Owns the JSON of an upsert request: each record's text is made once, straight from the entry's float32, and joined.

Pure. A batch's size is therefore known exactly before it is closed, and a split batch needs no encoding again.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from upsertq.wire import Entry

if TYPE_CHECKING:
    import numpy.typing as npt

_HEAD, _TAIL = b'{"vectors":[', b"]}"


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

    def record(self, row: int) -> bytes:
        """The JSON object of the record at `row`, with float32 in its shortest text that reads back bit for bit."""
        record: dict[str, Any] = {"id": self._ids[row]}
        if self._matrix is not None:
            record["values"] = self._matrix[row]
        if self._sparse is not None and self._sparse[row] is not None:
            record["sparseValues"] = self._sparse[row]
        if self._metadata is not None and self._metadata[row] is not None:
            record["metadata"] = self._metadata[row]
        return orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY)

    def metadata(self, row: int) -> Any:
        """The metadata of the record at `row` as parsed JSON, `None` without any."""
        return None if self._metadata is None else self._metadata[row]


def overhead(namespace: str) -> int:
    """Bytes of a request's body beside its records and the commas between them."""
    return len(_HEAD) + len(_TAIL) + len(_space(namespace))


def join(records: Sequence[bytes], namespace: str) -> bytes:
    """The body of one request; the default namespace is left out."""
    return b"".join((_HEAD, b",".join(records), b"]", _space(namespace), b"}"))


def _space(namespace: str) -> bytes:
    return b',"namespace":' + orjson.dumps(namespace) if namespace else b""
