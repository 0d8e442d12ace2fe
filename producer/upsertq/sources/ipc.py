"""Owns how large the record batches of an Arrow file or stream are once decompressed, told from their headers alone.

A header that lies about it would make the library allocate what it says. Only Arrow's framing (flatbuffers) is read, at
its documented places, and nothing of the data; `Broken` is raised where the framing is none.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

FREE: Final = 64 * 2**20
"""Bytes that anything may hold once decoded, whatever its size in the file."""
RATIO: Final = 64
"""How many times its size in the file anything larger may hold; text of many repetitions comes to some twenty."""
ROWS: Final = 2**24
"""Rows that a record batch may have without a byte for each."""
_MARK: Final = 0xFFFFFFFF
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
_MAGIC: Final = b"ARROW1"
_PAD: Final = 8
_DATA: Final = re.compile(rb"[^\0]")


class Broken(Exception):  # noqa: N818 - internal: becomes a SourceError
    """The framing is not Arrow's."""


@dataclass(frozen=True, slots=True)
class Message:
    """A record batch or a dictionary: its rows, its bytes in the file and once decompressed (0 where mapped as is)."""

    is_dictionary: bool
    rows: int
    encoded: int
    decoded: int
    end: int


def too_large(decoded: int, encoded: int) -> bool:
    """Whether no honest data expands so far."""
    return decoded > FREE + RATIO * encoded


def file_messages(content: Any) -> tuple[list[Message], list[Message]]:
    """The dictionaries and the record batches of a file, by its footer."""
    try:
        end = len(content) - len(_MAGIC) - 4
        (size,) = struct.unpack_from("<i", content, end)
        if not 0 < size <= end:
            raise Broken(f"its footer has {size} bytes")
        footer = _Table.root(content, end - size)
        found = [[_message(content, block[0])[0] for block in footer.structs(field, "<qi4xq")] for field in (2, 3)]
    except (struct.error, IndexError) as error:
        raise Broken(str(error)) from None
    return [m for m in found[0] if m is not None], [m for m in found[1] if m is not None]


def stream_messages(content: Any) -> Iterator[Message]:
    """The dictionaries and record batches of a stream, each as it is reached; zeros alone may follow its end."""
    at = 0
    try:
        while at + 4 <= len(content):
            message, after = _message(content, at)
            if message is not None:
                yield message
            if not after:
                marked = struct.unpack_from("<I", content, at)[0] == _MARK
                # the library reads no further, and what several streams were joined into would be loaded in part
                if _DATA.search(content, at + (8 if marked else 4)):
                    raise Broken("it goes on after the end of its stream: write each stream into a file of its own")
                return
            at = after
    except (struct.error, IndexError) as error:
        raise Broken(str(error)) from None


class _Table:
    """A flatbuffer's table: fields by their number, each `None` where it is absent."""

    def __init__(self, content: Any, at: int) -> None:
        self._content = content
        self._at = at
        (back,) = struct.unpack_from("<i", content, at)
        self._fields = at - back
        if at < 0 or self._fields < 0:
            raise Broken("a table points before the file")
        (self._size,) = struct.unpack_from("<H", content, self._fields)

    @classmethod
    def root(cls, content: Any, at: int) -> "_Table":
        (offset,) = struct.unpack_from("<I", content, at)
        return cls(content, at + offset)

    def _place(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if entry + 2 > self._size:
            return None
        (offset,) = struct.unpack_from("<H", self._content, self._fields + entry)
        return self._at + offset if offset else None

    def number(self, field: int, form: str) -> int:
        place = self._place(field)
        return 0 if place is None else int(struct.unpack_from(form, self._content, place)[0])

    def table(self, field: int) -> "_Table | None":
        place = self._place(field)
        return None if place is None else _Table.root(self._content, place)

    def structs(self, field: int, form: str) -> Iterator[tuple[int, ...]]:
        """The numbers of each struct of a vector."""
        place = self._place(field)
        if place is None:
            return
        (offset,) = struct.unpack_from("<I", self._content, place)
        start = place + offset
        (count,) = struct.unpack_from("<I", self._content, start)
        size = struct.calcsize(form)
        if count * size > len(self._content):
            raise Broken(f"a vector has {count} items")
        for k in range(count):
            yield struct.unpack_from(form, self._content, start + 4 + k * size)


def _message(content: Any, at: int) -> tuple[Message | None, int]:
    """The message at a place, `None` where it is a schema, and where the next one begins, 0 after the last."""
    if at < 0:
        raise Broken("a block lies before the file")
    (size,) = struct.unpack_from("<I", content, at)
    begin = at + 4
    if size == _MARK:
        if begin + 4 > len(content):
            return None, 0
        (size,) = struct.unpack_from("<I", content, begin)
        begin += 4
    if not size:
        return None, 0
    table = _Table.root(content, begin)
    kind, body, length = table.number(1, "<B"), begin + size, table.number(3, "<q")
    if not 0 <= length <= len(content):
        raise Broken(f"a message has a body of {length} bytes")
    header = table.table(2)
    if kind == _SCHEMA or header is None:
        return None, body + length
    batch = header.table(1) if kind == _DICTIONARY else header
    if batch is None:
        raise Broken("a dictionary has no values")
    rows = batch.number(0, "<q")
    return Message(
        kind == _DICTIONARY, rows, size + length, _decoded(content, batch, body), body + length
    ), body + length


def _decoded(content: Any, batch: _Table, body: int) -> int:
    if batch.table(3) is None:
        return 0
    total = 0
    for offset, length in batch.structs(2, "<qq"):
        if length:
            (size,) = struct.unpack_from("<q", content, body + max(0, offset))
            total += length if size < 0 else size
    return total
