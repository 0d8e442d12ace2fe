"""Owns the JSON of an upsert request: each entry's text is made in one call, straight from its float32.

Pure. A batch's size is therefore known exactly before it is closed.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from upsertq.contract.wire import Entry
from upsertq_worker.ordering.model import Held, Item, Text, entry_of

if TYPE_CHECKING:
    import numpy.typing as npt

_HEAD, _TAIL = b'{"vectors":[', b"]}"
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
_FLOAT32 = np.dtype("<f4")


class Unsendable(Exception):  # noqa: N818 - as its siblings in `upsertq.contract.errors`
    """No JSON can be made of a record, though its entry was decoded: a bug of ours, and its lane's affair alone.

    Attributes:
        shard: where the entry stands.
        namespace: of the entry.
    """

    def __init__(self, held: Held, error: Exception) -> None:
        self.shard = held.shard
        self.namespace = held.namespace
        super().__init__(f"entry {held.stream_id} cannot be sent ({error!r}); it stays in the queue: report this bug")


class Encoder:
    """Makes the JSON of an entry's records; parses the entry's columns once."""

    __slots__ = ("_ids", "_matrix", "_metadata", "_sparse")

    def __init__(self, entry: Entry) -> None:
        count = len(entry.ids)
        self._ids = entry.ids
        self._matrix: npt.NDArray[np.float32] | None = (
            np.frombuffer(entry.values, _FLOAT32).reshape(count, entry.dim) if entry.dim else None
        )
        self._sparse: list[Any] | None = orjson.loads(entry.sparse) if entry.sparse else None
        self._metadata: list[Any] | None = orjson.loads(entry.metadata) if entry.metadata else None

    def all(self) -> memoryview:
        """The JSON objects of all records, joined by commas: a view, for at 1,536 dimensions they are 400 kB."""
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
        return memoryview(orjson.dumps(records, option=_OPTIONS))[1:-1]

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


def encode(item: Item) -> Text:
    """The JSON of a whole entry's records, or of one record; made once and kept with the item.

    Raises:
        Unsendable: it cannot be made. No entry may end a worker.
    """
    if not item.body:
        try:
            item.body = _encoded(item)
        except Exception as error:
            raise Unsendable(entry_of(item), error) from error
    return item.body


def _encoded(item: Item) -> Text:
    if isinstance(item, Held):
        return Encoder(item.entry).all()
    held = item.held
    if held.encoder is None:
        held.encoder = Encoder(held.entry)
    return held.encoder.record(item.row)


class MetadataOf:
    """The metadata of records as parsed JSON, of those that have any. It is parsed when it is looked at."""

    __slots__ = ("_items",)

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        """Each record's, in order."""
        parsed: dict[int, list[Any]] = {}
        for item in self._items:
            held = entry_of(item)
            if not held.entry.metadata:
                continue
            rows = parsed.get(id(held))
            if rows is None:
                rows = parsed[id(held)] = orjson.loads(held.entry.metadata)
            found = rows if isinstance(item, Held) else (rows[item.row],)
            yield from (one for one in found if one is not None)


def overhead(namespace: str) -> int:
    """Bytes of a request's body beside its records and the commas between them."""
    return len(_HEAD) + len(_TAIL) + len(_space(namespace))


class Body:
    """A request's JSON, in pieces: joining them copies 1.7 MB at 1,536 dimensions. `len` is its size in bytes.

    Args:
        records: the texts of its records.
        namespace: theirs; the default one is left out.
    """

    __slots__ = ("_size", "pieces")

    def __init__(self, records: Sequence[Text], namespace: str) -> None:
        pieces: list[Text] = [_HEAD]
        for record in records:
            pieces += (record, b",")
        pieces[-1] = b"]" + _space(namespace) + b"}"
        self.pieces = pieces
        self._size = sum(map(len, pieces))

    def __len__(self) -> int:
        """Bytes."""
        return self._size

    def __bytes__(self) -> bytes:
        """Its pieces in one."""
        return b"".join(self.pieces)


def _space(namespace: str) -> bytes:
    return b',"namespace":' + orjson.dumps(namespace) if namespace else b""
