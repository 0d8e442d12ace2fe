"""Owns the format of a stream entry: how records become the fields of an entry and back; it does no I/O.

An entry of a format or operation that this version does not know is never misread: decoding raises `UnknownEntry`, as
it does where a column is not what `encode` makes. So whatever was decoded can be sent, split and written again.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from upsertq.contract.errors import QueueMismatch, shown
from upsertq.contract.figures import LAST_MS, whole

FORMAT = 2
"""Version of the entry format and of the key layout; a queue of another version is refused."""
OP_UPSERT = "upsert"
_VERSION, _OPERATION = b"%d" % FORMAT, OP_UPSERT.encode()
ENTRY_RECORDS = 100
"""Records an entry holds at most: a request's, since what an entry costs a worker is the same for any number."""
ENTRY_BYTES = 160_000
"""Bytes after which an entry is closed early (25 records of 1,536 dimensions): larger values waste memory."""
FLOAT32 = 4
MAX_NAME = 512
"""Characters of an id or a namespace."""
MAX_DIMENSION = 20_000
MAX_SPARSE = 2_048
MAX_RECORDS = 1_000
"""Records that any program may pack into an entry of this format: what one request may carry."""
MAX_DEPTH = 1_000_000
"""Replays of one record."""


class Record(NamedTuple):
    """A valid record in the form that travels: made by `upsertq.contract.record`, so every rule of the contract holds.

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


class Entry(NamedTuple):
    """Up to 100 records of one shard, one namespace, one run and one dimension.

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
    """The entry of a stream entry's fields.

    Raises:
        UnknownEntry: it is of another version or operation, or one of its columns is not what `encode` makes: then
            nothing of it may be used, for what is left could be taken for another record's.
    """
    version, operation = fields.get(b"v"), fields.get(b"op")
    if version != _VERSION or operation != _OPERATION:
        raise UnknownEntry(
            f"a queue entry has format version {_text(version)} and operation {_text(operation)}; this program knows "
            f"version {FORMAT} and operation {OP_UPSERT}: upgrade the workers, the entry stays in the queue"
        )
    count = _number(fields, b"n", 1, MAX_RECORDS)
    dim = _number(fields, b"dim", 0, MAX_DIMENSION)
    entry = Entry(
        namespace=_name(fields, b"ns", missing=None),
        ids=_ids(fields.get(b"ids", b""), count),
        dim=dim,
        values=fields.get(b"values", b""),
        sparse=_column(fields, b"sparse", count, is_sparse),
        metadata=_column(fields, b"meta", count, is_metadata),
        run=_name(fields, b"run", missing=b""),
        at=_number(fields, b"at", 0, LAST_MS, missing=0),
        seq=_name(fields, b"seq", missing=b""),
        depth=_number(fields, b"depth", 0, MAX_DEPTH, missing=0),
    )
    if len(entry.values) != count * dim * FLOAT32:
        raise _damaged(f"{count} records of {dim} dimensions have {len(entry.values)} bytes of values")
    if entry.seq and (count != 1 or not is_sequence(entry.seq)):
        raise _damaged(f"seq {legible(entry.seq)} is not the place of one record")
    return entry


def is_sequence(seq: str) -> bool:
    """Whether this is the place of a version in order: `ms-number`, or of one record of an entry `ms-number-row`."""
    parts = seq.split("-")
    return len(parts) in {2, 3} and all(whole(part, most=2**64 - 1) is not None for part in parts)


def is_metadata(item: Any) -> bool:
    """Whether a record may carry this as its metadata: names and values, not nested deeply."""
    return isinstance(item, dict) and all(type(value) in _PLAIN or is_shallow(value) for value in item.values())


def is_sparse(item: Any) -> bool:
    """Whether a record may carry these as its sparse values: as many indices as values."""
    if not isinstance(item, dict) or item.keys() != {"indices", "values"}:
        return False
    indices, values = item["indices"], item["values"]
    return (
        isinstance(indices, list)
        and isinstance(values, list)
        and 0 < len(indices) == len(values)
        and set(map(type, indices)) == {int}
        and set(map(type, values)) <= {int, float}
        and 0 <= min(indices) <= max(indices) < 2**32
    )


_PLAIN: Final = frozenset({str, int, float, bool})


def is_shallow(value: Any, levels: int = 16) -> bool:
    """Whether it nests no deeper than so many levels: the parser takes more than the writer."""
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(type(item) in _PLAIN or is_shallow(item, levels - 1) for item in inner)


def _column(fields: Mapping[bytes, bytes], name: bytes, count: int, sound: Callable[[Any], bool]) -> bytes:
    """A JSON column of which each item is null or sound, `b""` where there is none."""
    text = fields.get(name, b"")
    if text:
        items = _json(text, name)
        if not isinstance(items, list) or len(items) != count:
            raise _damaged(f"{name.decode()} is no array of {count} items")
        for row, item in enumerate(items):
            if item is not None and not sound(item):
                raise _damaged(f"{name.decode()} of record {row} is not what a record may have")
    return text


def _ids(text: bytes, count: int) -> tuple[str, ...]:
    ids = _json(text, b"ids")
    if not isinstance(ids, list) or len(ids) != count or set(map(type, ids)) != {str}:
        raise _damaged(f"ids are no array of {count} strings")
    # without an escape they are as plain as their text, and none is longer
    plain = (text.isascii() and b"\\" not in text) or _is_plain("".join(ids))
    if not plain or not all(ids) or (len(text) > MAX_NAME and max(map(len, ids)) > MAX_NAME):
        raise _damaged(f"an id is not 1 to {MAX_NAME} ASCII characters")
    return tuple(ids)


def _name(fields: Mapping[bytes, bytes], name: bytes, missing: bytes | None) -> str:
    value = fields.get(name, missing)
    if value == b"":
        return ""
    text = None if value is None else value.decode("ascii", "replace")
    if text is None or len(text) > MAX_NAME or not _is_plain(text):
        raise _damaged(f"{name.decode()} is not up to {MAX_NAME} ASCII characters")
    return text


def _is_plain(text: str) -> bool:
    return text.isascii() and "\0" not in text


def _number(fields: Mapping[bytes, bytes], name: bytes, least: int, most: int, missing: int | None = None) -> int:
    value = fields.get(name)
    if value is None and missing is not None:
        return missing
    number = whole(value, least, most)
    if number is None:
        raise _damaged(f"{name.decode()} is no number from {least:,} to {most:,}")
    return number


def _json(text: bytes, name: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _damaged(f"{name.decode()} is no JSON ({error})") from None


def _damaged(what: str) -> UnknownEntry:
    return UnknownEntry(f"a queue entry is damaged: {what}; it stays in the queue")


def legible(text: str) -> str:
    """A stranger's text in quotes, cut, and without what a terminal would act on."""
    return shown(repr(text)[1:-1], 40)


def _text(value: bytes | None) -> str:
    return "none" if value is None else legible(value.decode("ascii", "backslashreplace"))


def one_record(entry: Entry, row: int, seq: str) -> Entry:
    """The record at `row` as an entry of its own, with its place in order."""
    width = entry.dim * FLOAT32
    return entry._replace(
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
