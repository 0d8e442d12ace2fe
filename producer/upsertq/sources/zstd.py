"""Owns reading Zstandard streams: the only module that names zstandard, which the extra `files` brings."""

from collections.abc import Callable
from typing import Any, Final

from upsertq.contract.errors import SourceError

FEED: Final = 512
"""Compressed bytes given at once: a block of 4 bytes may unfold to 128 KiB, so this bounds what comes out to 16 MiB."""


class DamagedError(Exception):
    """The stream is cut off or damaged."""


class Reader:
    """The content of a stream of Zstandard frames, read by `read_raw(size)`."""

    def __init__(self, read_raw: Callable[[int], bytes]) -> None:
        try:
            import zstandard  # noqa: PLC0415 - an optional library
        except ModuleNotFoundError:
            raise SourceError("reading Zstandard files needs zstandard: pip install 'upsertq[files]'") from None
        self._library: Any = zstandard
        self._read_raw = read_raw
        self._fed = b""
        self._ready = bytearray()
        self._frame: Any = None

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes of content, none at the end; `DamagedError` when the last frame is cut off."""
        while size < 0 or len(self._ready) < size:
            if not self._fed:
                self._fed = self._read_raw(2**17)
            if not self._fed:
                if self._frame is not None:
                    raise DamagedError("the compressed stream ends in the middle")
                break
            self._feed()
        block = bytes(self._ready[:size] if size >= 0 else self._ready)
        del self._ready[: len(block)]
        return block

    def _feed(self) -> None:
        if self._frame is None:
            self._frame = self._library.ZstdDecompressor().decompressobj()
        piece, self._fed = self._fed[:FEED], self._fed[FEED:]
        try:
            self._ready += self._frame.decompress(piece)
        except self._library.ZstdError as error:
            raise DamagedError(str(error)) from None
        if self._frame.eof:
            self._fed = self._frame.unused_data + self._fed
            self._frame = None
