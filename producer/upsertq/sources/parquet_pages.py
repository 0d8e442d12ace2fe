"""Owns the framing of a Parquet column chunk: its page headers (Thrift's compact protocol) and what they promise.

It reads headers, and of a page no more than what tells the longest text or list; `Broken` where the framing is none.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np

from upsertq.sources.ipc import Broken

Unpack = Callable[[bytes, int], bytes | None]
"""Decompresses bytes to so many; `None` where it cannot: of a kind out of use, which the library itself may know."""
DATA, DICTIONARY, DATA_V2 = 0, 2, 3
PLAIN_DICTIONARY, RLE, DELTA_BYTE_ARRAY, RLE_DICTIONARY = 2, 3, 7, 8
_HEADER: Final = 2**13
"""Bytes that a header is expected to fit in; statistics of long texts make it longer."""
_LONGEST_HEADER: Final = 2**23
_DEEP: Final = 8
_LONG_LIST: Final = 15
"""In place of a size: it follows."""
_TAIL: Final = 8
"""Bytes at the end of a file: the size of its footer, and the mark of its kind."""
_NONE, _ZERO = np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Page:
    """A page: its values, their encoding, its bytes in the file and once decompressed, and where they begin."""

    kind: int
    values: int
    encoding: int
    encoded: int
    decoded: int
    at: int
    levels: int
    """Bytes of repetition levels before the rest, of the second kind of data page; -1 for the first kind."""
    levels_encoding: int
    packed: bool

    @property
    def by_dictionary(self) -> bool:
        """Whether its values are places in the chunk's dictionary."""
        return self.encoding in {PLAIN_DICTIONARY, RLE_DICTIONARY}


def pages(file: BinaryIO, start: int, size: int, values: int) -> Iterator[Page]:
    """The pages of a column chunk that begins at `start`; `Broken` when they hold other than `values` values."""
    at, seen = start, 0
    while seen < values and at < start + size:
        page, at = _page(file, at)
        if page.kind in {DATA, DATA_V2}:
            seen += page.values
        if seen > values:
            raise Broken(f"its pages hold more than the {values} values of the footer")
        yield page


def _page(file: BinaryIO, at: int) -> tuple[Page, int]:
    header, size = _header(file, at)
    kind, decoded, encoded = (_size(header.get(field)) for field in (1, 2, 3))
    told = header.get({DATA: 5, DICTIONARY: 7, DATA_V2: 8}.get(kind, 6), {})
    if not isinstance(told, dict):
        raise Broken("a page has no sizes")
    numbers = {key: value for key, value in told.items() if isinstance(value, int)}
    second = kind == DATA_V2
    page = Page(
        kind=kind,
        values=max(0, numbers.get(1, 0)),
        encoding=numbers.get(4 if second else 2, 0),
        encoded=encoded,
        decoded=decoded,
        at=at + size,
        levels=numbers.get(6, 0) if second else -1,
        levels_encoding=RLE if second else numbers.get(4, RLE),
        packed=bool(numbers.get(7, 1)),
    )
    return page, page.at + encoded


def _size(told: object) -> int:
    if not isinstance(told, int) or told < 0:
        raise Broken("a page has no sizes")
    return told


def _header(file: BinaryIO, at: int) -> tuple[dict[int, Any], int]:
    size = _HEADER
    while True:
        file.seek(at)
        content = file.read(size)
        try:
            return _struct(content, 0, 0)
        except IndexError:
            if len(content) < size or size >= _LONGEST_HEADER:
                raise Broken("a page header is cut off") from None
            size *= 8


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift <= 63:  # noqa: PLR2004 - bits of the longest number
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last byte has no high bit
            return value, at
        shift += 7
    raise Broken("a page header has a number without an end")


def _integer(content: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(content, at)
    return (value >> 1) ^ -(value & 1), at


def _struct(content: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """The fields of a struct by number: integers, booleans, structs and lists; others are passed over."""
    if depth > _DEEP:
        raise Broken("a page header is nested too deeply")
    found: dict[int, Any] = {}
    number = 0
    while True:
        head = content[at]
        at += 1
        if not head:
            return found, at
        kind = head & 0x0F
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(content, at)
        found[number], at = _value(content, at, kind, depth)


def _value(content: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    match kind:
        case 1 | 2:
            return int(kind == 1), at
        case 3:
            return content[at], at + 1
        case 4 | 5 | 6:
            return _integer(content, at)
        case 7 | 8:
            size, at = (8, at) if kind == 7 else _varint(content, at)  # noqa: PLR2004 - a double
            if at + size > len(content):
                raise IndexError
            return None, at + size
        case 9:
            return _list(content, at, depth)
        case 12:
            return _struct(content, at, depth + 1)
        case _:
            raise Broken("a page header has a field of no kind that it may have")


def _list(content: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    head = content[at]
    size, at = _varint(content, at + 1) if head >> 4 == _LONG_LIST else (head >> 4, at + 1)
    kind, found = head & 0x0F, []
    for _ in range(size):
        one, at = (content[at], at + 1) if kind in {1, 2} else _value(content, at, kind, depth)
        found.append(one)
    return found, at


def size_statistics(file: BinaryIO) -> list[list[dict[int, Any]]]:
    """What the footer says of the sizes of each column chunk, by row group and column; nothing where it is silent.

    The fields are those of `SizeStatistics` in parquet.thrift. `Broken` where the footer cannot be read.
    """
    file.seek(-_TAIL, 2)
    end = file.tell()
    size = int.from_bytes(file.read(4), "little")
    if size > end:
        raise Broken("the footer is longer than the file")
    file.seek(end - size)
    try:
        footer, _ = _struct(file.read(size), 0, 0)
        return [[chunk.get(3, {}).get(16, {}) for chunk in group[1]] for group in footer[4]]
    except (IndexError, KeyError, TypeError, AttributeError):
        raise Broken("the footer is not what it should be") from None


def longest_text(file: BinaryIO, page: Page, unpack: Unpack) -> int:
    """Bytes of the longest text of a dictionary page; all of it where it cannot be looked into."""
    content = _body(file, page, unpack)
    if content is None:
        return page.decoded
    at = longest = 0
    read = struct.Struct("<I").unpack_from
    try:
        for _ in range(page.values):
            (size,) = read(content, at)
            at += 4 + size
            if size > longest:  # noqa: PLR1730 - half the time of `max`, for each text of a file
                longest = size
    except struct.error:
        raise Broken("a dictionary is cut off") from None
    return int(longest)


def longest_list(file: BinaryIO, all_pages: list[Page], unpack: Unpack) -> int:
    """Items of the longest list of a column of flat lists; `Broken` where the levels are of a kind long out of use."""
    longest = current = 0
    for page in all_pages:
        if page.kind not in {DATA, DATA_V2}:
            continue
        if page.levels_encoding != RLE:
            raise Broken("its repetition levels are bit-packed, which is out of use")
        for zeros, size in _level_runs(_levels(file, page, unpack), page.values):
            if not len(zeros):
                current += size
                continue
            longest = max(longest, current + int(zeros[0]), int(np.diff(zeros).max(initial=0)))
            current = size - int(zeros[-1])
    return max(longest, current)


def _levels(file: BinaryIO, page: Page, unpack: Unpack) -> bytes:
    if page.levels >= 0:
        file.seek(page.at)
        return file.read(min(page.levels, page.encoded))
    content = _body(file, page, unpack)
    if content is None:
        raise Broken("it is compressed in a way that cannot be looked into")
    return content[4 : 4 + int.from_bytes(content[:4], "little")]


def _body(file: BinaryIO, page: Page, unpack: Unpack) -> bytes | None:
    file.seek(page.at)
    return unpack(file.read(page.encoded), page.decoded)


def _level_runs(content: bytes, count: int) -> Iterator[tuple[Any, int]]:
    """Runs of levels of one bit: the places of the zeros, each of which begins a list, and the run's length."""
    at = seen = 0
    try:
        while seen < count:
            head, at = _varint(content, at)
            if head & 1:
                bits = np.unpackbits(np.frombuffer(content[at : at + (head >> 1)], np.uint8), bitorder="little")
                at += head >> 1
                size = min(len(bits), count - seen)
                yield np.flatnonzero(bits[:size] == 0), size
            else:
                size = min(head >> 1, count - seen)
                if content[at]:
                    yield _NONE, size
                elif size:
                    # only the last one may go on; those before it have one item each
                    yield from [(_ZERO, 1)] * min(size, 2)
                at += 1
            if not size:
                raise Broken("a run of levels is empty")
            seen += size
    except IndexError:
        raise Broken("repetition levels are cut off") from None
