"""Owns how a command writes a file for its user: beside the target, private, and in its place only at the end.

A target that is a link, a pipe, a device, a socket or a folder is refused: what it leads to is not ours. What stood
there before stays until the new file is complete, also when the disk is full.
"""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from upsertq.contract.errors import SourceError
from upsertq.contract.printable import printable

_KINDS: Final = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NewFile:
    """A file in the making, readable by its owner alone (0600); leaving the `with` block without `keep` removes it.

    Raises:
        SourceError: it cannot be written: the message names the target and the cause.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._size = 0
        self._beside: Path | None = None
        self._to_null = _is_null(target)
        if not self._to_null:
            check_target(target)
        try:
            if self._to_null:
                self._fd = os.open(os.devnull, os.O_WRONLY)
            else:
                self._fd, name = tempfile.mkstemp(".part", f"{target.name[:50]}.", target.parent)
                self._beside = Path(name)
        except OSError as error:
            raise self._fault(error) from None

    @property
    def size(self) -> int:
        """Bytes of the whole lines that are written."""
        return self._size

    def write(self, lines: bytes) -> None:
        """Hand whole lines to the operating system, where they survive this process.

        Where that fails, those that fit are kept, and none is cut.
        """
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            done = len(lines) - len(rest)
            self._size += lines.rfind(b"\n", 0, done) + 1
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
                os.lseek(self._fd, self._size, os.SEEK_SET)
            raise self._fault(error) from None
        self._size += len(lines)

    def keep(self) -> None:
        """Put it in its target's place; a second call does nothing. Where that fails its content stays beside."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        beside, self._beside = self._beside, None
        try:
            try:
                if beside is not None:
                    os.fsync(fd)
            finally:
                os.close(fd)
            if beside is not None:
                check_target(self._target)  # that may have changed meanwhile
                beside.replace(self._target)
        except (OSError, SourceError) as error:
            told = error if isinstance(error, SourceError) else self._fault(error)
            raise SourceError(f"{told}; what was written is in {printable(str(beside))}") from None

    def discard(self) -> None:
        """Remove it, unless it was kept; what stood at the target stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._beside is not None:
            with suppress(OSError):
                self._beside.unlink()
            self._beside = None

    def _fault(self, error: OSError) -> SourceError:
        return SourceError(f"{printable(str(self._target))} cannot be written: {error.strerror or error}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def check_target(path: Path) -> None:
    """Raise `SourceError` unless there is a regular file that may be replaced, or nothing yet."""
    shown = printable(str(path))
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise SourceError(f"{shown} cannot be written: {getattr(error, 'strerror', None) or error}") from None
    for is_kind, name in _KINDS:
        if is_kind(mode):
            raise SourceError(f"{shown} is {name} and is not written to or replaced: name a file")
    if not os.access(path, os.W_OK):
        raise SourceError(f"{shown} cannot be written: it is there and read-only; name another file")


def _is_null(path: Path) -> bool:
    """Whether it is the device that takes everything, by its own name: nothing of it is replaced or changed."""
    try:
        own, null = path.lstat(), Path(os.devnull).stat()
    except (OSError, ValueError):
        return False
    return stat.S_ISCHR(own.st_mode) and stat.S_ISCHR(null.st_mode) and own.st_rdev == null.st_rdev
