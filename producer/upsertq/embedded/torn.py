"""Owns the mending of an append-only file whose last transaction was torn when its server died. It never adds a byte.

Servers mend this badly (Redis up to 7.0 at least, Valkey before pull request 4342 of August 2026): they cut the last
command alone and leave the beginning of the transaction in the file, whose commands join the next transaction when the
file is read once more: entries that were enqueued twice, or are missing from the books. `redis-check-aof --fix` cuts as
this module does; it comes with no wheel.
"""

import mmap
import os
from pathlib import Path
from typing import Final

_BEGIN: Final = b"*1\r\n$5\r\nMULTI\r\n"
_END: Final = b"*1\r\n$4\r\nEXEC\r\n"
_LONGEST_HEADER: Final = 32
_SHORT: Final = -1
_NONE: Final = -2


def cut_torn_transaction(directory: Path) -> int:
    """Cut an unfinished transaction from the end of the file that a server in `directory` wrote last.

    No server may run on it. What is no append-only file, or damaged otherwise, is left to the server's own judgement.

    Returns:
        The bytes cut.
    """
    path = _last_file(directory)
    if path is None or path.is_symlink() or not path.is_file() or not path.stat().st_size:
        return 0
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            size, whole = len(data), _whole(data)
        if whole < size:
            file.truncate(whole)
            os.fsync(file.fileno())
        return size - whole


def _last_file(directory: Path) -> Path | None:
    """The file that was appended to: of several (Redis 7 and later) the last that their manifest names."""
    folder = directory / "appendonlydir"
    try:
        named = [line.split() for line in (folder / "appendonly.aof.manifest").read_text().splitlines()]
    except (OSError, ValueError):
        return directory / "appendonly.aof"
    names = [words[1] for words in named if words[0::2] == ["file", "seq", "type"] and words[5] == "i"]
    return folder / Path(names[-1]).name if names else None


def _whole(data: mmap.mmap) -> int:
    """Bytes to keep: all of them, but for a transaction that the end of the file interrupts."""
    at = begun = 0
    inside = False
    while at < len(data):
        end = _end_of_command(data, at)
        if end is None:
            return len(data)
        if end > len(data):
            break
        if data[at : at + len(_BEGIN)] == _BEGIN and not inside:
            inside, begun = True, at
        elif data[at : at + len(_END)] == _END:
            inside = False
        at = end
    return begun if inside else len(data)


def _end_of_command(data: mmap.mmap, at: int) -> int | None:
    """Where the command ends that begins `at`: beyond the file where it is cut off, `None` where it is none."""
    beyond = len(data) + 1
    left, at = _header(data, at, b"*")
    while left > 0:
        length, at = _header(data, at, b"$")
        if length < 0:
            left = length
            break
        at += length + len(b"\r\n")
        left -= 1
    return at if left == 0 else beyond if left == _SHORT else None


def _header(data: mmap.mmap, at: int, kind: bytes) -> tuple[int, int]:
    """The number in the line `at` and where the next one begins; `_SHORT` where the file ends before, else `_NONE`."""
    end = data.find(b"\r\n", at, at + _LONGEST_HEADER)
    line = data[at : end if end >= 0 else at + _LONGEST_HEADER]
    if line and line[:1] != kind:
        return _NONE, at
    if end < 0:
        return (_SHORT if at + _LONGEST_HEADER > len(data) else _NONE), at
    return (int(line[1:]) if line[1:].isdigit() else _NONE), end + len(b"\r\n")
