"""Owns the format of a stream entry: how records become the fields of an entry and back; it does no I/O.

An entry of a format or operation that this version does not know is never misread: decoding raises `UnknownEntry`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import orjson

from upsertq.errors import QueueMismatch

FORMAT = 2
"""Version of the entry format and of the key layout; a queue of another version is refused."""
OP_UPSERT = "upsert"
ENTRY_RECORDS = 25
"""Records an entry holds at most: measured as the point where packing stops paying and memory starts to cost."""
ENTRY_BYTES = 1_000_000
"""Bytes after which an entry is closed early, so that wide vectors do not make huge values."""
FLOAT32 = 4


class Record(NamedTuple):
    """A valid record in the form that travels: made by `upsertq.record`, so every rule of the contract holds.

    `values` are `dim` little-endian float32 (empty when there are none), `sparse` and `metadata` are JSON objects
    (empty when absent), `namespace` is `""` for the default one.
    """

    id: str
    namespace: str
    values: bytes
    sparse: bytes
    metadata: bytes

    @property
    def dim(self) -> int:
        """Number of dense dimensions, 0 for a sparse-only record."""
        return len(self.values) // FLOAT32

    @property
    def size(self) -> int:
        """Bytes that the record takes in an entry."""
        return len(self.id) + 3 + len(self.values) + len(self.sparse) + len(self.metadata)


class UnknownEntry(QueueMismatch):
    """An entry of a version or operation that this program does not know: it stays where it is."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Up to 25 records of one shard, one namespace, one run and one dimension.

    `ids` has n items; `values` n x dim little-endian float32; `sparse` and `metadata` are JSON arrays of n objects or
    nulls, empty when no record has any. `at` is the enqueue time in milliseconds, `seq` the original stream id of a
    replayed entry, `depth` how often it was replayed.
    """

    namespace: str
    ids: tuple[str, ...]
    dim: int
    values: bytes
    sparse: bytes = b""
    metadata: bytes = b""
    run: str = ""
    at: int = 0
    seq: str = ""
    depth: int = 0

    @property
    def size(self) -> int:
        """Bytes of payload: what `bytes` in the books counts."""
        return len(_ids_json(self.ids)) + len(self.values) + len(self.sparse) + len(self.metadata)


def _ids_json(ids: Sequence[str]) -> bytes:
    return orjson.dumps(list(ids))


def _json_array(parts: Sequence[bytes]) -> bytes:
    if not any(parts):
        return b""
    return b"[" + b",".join(part or b"null" for part in parts) + b"]"


def pack(records: Sequence[Record], *, run: str, at: int) -> Entry:
    """One entry out of records that share their namespace and dimension."""
    return Entry(
        namespace=records[0].namespace,
        ids=tuple(record.id for record in records),
        dim=records[0].dim,
        values=b"".join([record.values for record in records]),
        sparse=_json_array([record.sparse for record in records]),
        metadata=_json_array([record.metadata for record in records]),
        run=run,
        at=at,
    )


def encode(entry: Entry) -> list[str | bytes | int]:
    """The flat field-value list of the stream entry; empty fields are left out."""
    fields: list[str | bytes | int] = ["v", FORMAT, "op", OP_UPSERT, "n", len(entry.ids), "ns", entry.namespace]
    fields += ["ids", _ids_json(entry.ids), "dim", entry.dim]
    optional: list[tuple[str, bytes | str | int]] = [
        ("values", entry.values),
        ("sparse", entry.sparse),
        ("meta", entry.metadata),
        ("run", entry.run),
        ("at", entry.at),
        ("seq", entry.seq),
        ("depth", entry.depth),
    ]
    for name, value in optional:
        if value:
            fields += [name, value]
    return fields


def decode(fields: Mapping[bytes, bytes]) -> Entry:
    """The entry of a stream entry's fields; `UnknownEntry` when it is of another version, operation or shape."""
    version, operation = fields.get(b"v"), fields.get(b"op")
    if version != b"%d" % FORMAT or operation != OP_UPSERT.encode():
        raise UnknownEntry(
            f"a queue entry has format version {_text(version)} and operation {_text(operation)}; this program knows "
            f"version {FORMAT} and operation {OP_UPSERT}: upgrade the workers, the entry stays in the queue"
        )
    try:
        ids = orjson.loads(fields[b"ids"])
        if not isinstance(ids, list) or not ids or not all(isinstance(item, str) for item in ids):
            raise TypeError("ids are no list of strings")  # noqa: TRY301 - one place words every kind of damage
        entry = Entry(
            namespace=fields[b"ns"].decode("ascii"),
            ids=tuple(ids),
            dim=int(fields[b"dim"]),
            values=fields.get(b"values", b""),
            sparse=fields.get(b"sparse", b""),
            metadata=fields.get(b"meta", b""),
            run=fields.get(b"run", b"").decode("ascii"),
            at=int(fields.get(b"at", b"0")),
            seq=fields.get(b"seq", b"").decode("ascii"),
            depth=int(fields.get(b"depth", b"0")),
        )
        count = int(fields[b"n"])
    except (KeyError, ValueError, TypeError) as error:
        raise UnknownEntry(f"a queue entry is damaged ({error!r}); it stays in the queue") from error
    if len(entry.ids) != count or len(entry.values) != count * entry.dim * FLOAT32:
        raise UnknownEntry(
            f"a queue entry is damaged: {count} records of {entry.dim} dimensions, but {len(entry.ids)} ids and "
            f"{len(entry.values)} bytes of values; it stays in the queue"
        )
    return entry


def _text(value: bytes | None) -> str:
    return "none" if value is None else repr(value.decode("ascii", "backslashreplace"))


def one_record(entry: Entry, row: int, seq: str) -> Entry:
    """The record at `row` as an entry of its own, with its place in order."""
    width = entry.dim * FLOAT32
    return replace(
        entry,
        ids=(entry.ids[row],),
        values=entry.values[row * width : (row + 1) * width],
        sparse=_only(entry.sparse, row),
        metadata=_only(entry.metadata, row),
        seq=seq,
    )


def _only(array: bytes, row: int) -> bytes:
    """A JSON array of the item at `row` alone; empty when that is null."""
    item = orjson.loads(array)[row] if array else None
    return b"" if item is None else orjson.dumps([item])


def default_namespace(namespace: str) -> str:
    """`""` for both names of the default namespace, any other unchanged."""
    return "" if namespace == "__default__" else namespace
