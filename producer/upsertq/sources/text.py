"""Owns reading text files and streams, plain or compressed, in bounded lines: no file makes it hold more than one.

Compression is told by the first bytes, not by the name.
"""

import gzip
import io
import os
import select
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Protocol, cast

from upsertq.contract.errors import SourceError
from upsertq.sources import zstd

STDIN: Final = "-"
MAX_LINE: Final = 16 * 2**20
"""Bytes of the longest line: ten times what the largest record that the rules allow takes as JSON."""
BLOCK: Final = 2**18
LISTEN_SECONDS: Final = 0.2
"""How long a signal may go unnoticed while a stream is silent."""
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, none at the end."""
        ...


class Bytes:
    """The bytes of one file, decompressed; `consumed` counts those read from the file itself."""

    def __init__(self, raw: Readable) -> None:
        self._raw = raw
        self._head = raw.read(len(_ZSTD))
        while 0 < len(self._head) < len(_ZSTD) and (more := raw.read(len(_ZSTD) - len(self._head))):
            self._head += more
        self.consumed = 0
        self._ahead = b""
        if self._head.startswith(_GZIP):
            self._content: Readable = gzip.GzipFile(fileobj=cast("BinaryIO", _Counted(self)))
        elif self._head == _ZSTD:
            self._content = zstd.Reader(self._read_raw)
        else:
            self._content = _Counted(self)

    def _read_raw(self, size: int) -> bytes:
        head, self._head = self._head[:size], self._head[size:]
        block = head or self._raw.read(size)
        self.consumed += len(block)
        return block

    def read(self, size: int) -> bytes:
        """The next bytes of the content, at most `size`; none at the end."""
        if self._ahead:
            block, self._ahead = self._ahead[:size], self._ahead[size:]
            return block
        return self._content.read(size)

    def ahead(self, enough: Callable[[bytes], bool]) -> bytes:
        """The beginning of what will be read, until it is `enough`, the content ends or it passes `MAX_LINE`."""
        while not enough(self._ahead) and len(self._ahead) <= MAX_LINE:
            block = self._content.read(max(BLOCK, len(self._ahead)))
            if not block:
                break
            self._ahead += block
        return self._ahead

    def lines(self) -> Iterator[bytes | None]:
        """Each line without its newline; `None` stands for one that is longer than `MAX_LINE`."""
        parts: list[bytes] = []
        held, skipping = 0, False
        while block := self.read(BLOCK):
            pieces = block.split(b"\n")
            if len(pieces) > 1:
                whole = b"".join([*parts, pieces[0]])
                yield None if skipping or len(whole) > MAX_LINE else whole
                yield from pieces[1:-1]
                parts, held, skipping = [], 0, False
            held += len(pieces[-1])
            skipping = skipping or held > MAX_LINE
            parts = [] if skipping else [*parts, pieces[-1]]
        if held:
            yield None if skipping else b"".join(parts)


class _Counted(io.RawIOBase):
    """The raw bytes of a `Bytes`, as a stream."""

    def __init__(self, owner: Bytes) -> None:
        self._owner = owner

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        return self._owner._read_raw(size if size >= 0 else BLOCK)  # noqa: SLF001 - two halves of one thing


def is_stream(path: str) -> bool:
    """Whether the source can be read only once: stdin or a pipe."""
    try:
        return path == STDIN or not stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 - a path or '-'
    except OSError:
        return False


@contextmanager
def opened(path: str, shown_name: str) -> Iterator[Bytes]:
    """The content of the file `path`, or of stdin for `-`; whatever fails while reading it is a `SourceError`."""
    try:
        with _raw(path) as raw:
            yield Bytes(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile, zstd.DamagedError) as error:
        raise SourceError(f"{shown_name} is damaged: {_one_line(error)}; get it whole again") from None
    except OSError as error:
        raise SourceError(f"{shown_name} cannot be read: {error.strerror or _one_line(error)}") from None


@contextmanager
def _raw(path: str) -> Iterator[Readable]:
    if path == STDIN:
        if sys.stdin is None:
            raise SourceError("stdin is closed: pipe something in, or name a file")
        yield _Stream(sys.stdin.buffer)
        return
    with Path(path).open("rb") as file:
        yield file if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else _Stream(file)


class _Stream:
    """A pipe or terminal that may be silent for ever.

    It is read only when it has something: a signal that comes just before a blocking read would not be acted on.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._number = stream.fileno()

    def read(self, size: int = -1, /) -> bytes:
        while not select.select([self._number], [], [], LISTEN_SECONDS)[0]:
            pass
        return os.read(self._number, size if size >= 0 else BLOCK)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def decoded(line: bytes, number: int, shown_name: str) -> str:
    """A line as text; `SourceError` when it is not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{shown_name} line {number} is not UTF-8 (byte {error.start + 1} of the line is "
            f"0x{line[error.start]:02x}); convert the file to UTF-8"
        ) from None


def counted_lines(path: str, shown_name: str) -> int:
    """The number of lines that are not blank."""
    with opened(path, shown_name) as content:
        return sum(1 for line in content.lines() if line is None or line.strip())
