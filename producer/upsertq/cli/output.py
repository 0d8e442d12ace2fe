"""Owns what becomes of output that cannot be written: a full disk is one error, a reader that has gone ends it quietly.

stderr is different: what it does not take is dropped, so that a log that cannot be written never stops the work.
"""

import errno
import io
import os
import sys
from contextlib import suppress
from select import select
from typing import Any, Final, TextIO

from upsertq.cli.exit_code import ExitCode
from upsertq.contract.errors import UpsertqError

_GONE: Final = (errno.EPIPE, errno.ECONNRESET)


class OutputFailed(UpsertqError):  # noqa: N818 - as its siblings in `upsertq.contract.errors`
    """stdout does not take what was written; `quiet` where its reader has gone, which needs no complaint."""

    def __init__(self, error: OSError) -> None:
        self.quiet = error.errno in _GONE
        super().__init__(
            f"cannot write to stdout: {error.strerror or error}; what is done stays done, the output is cut off"
        )


class _Descriptor(io.RawIOBase):
    """An open file descriptor that fails once: what comes after a failed write is dropped."""

    def __init__(self, number: int, *, essential: bool) -> None:
        self._number = number
        self._essential = essential
        self._failed = False

    def writable(self) -> bool:
        """It is for writing alone."""
        return True

    def fileno(self) -> int:
        """The number of the descriptor."""
        return self._number

    def isatty(self) -> bool:
        """Whether a person sees it."""
        with suppress(OSError):
            return os.isatty(self._number)
        return False

    def write(self, content: bytes) -> int:  # type: ignore[override]
        """Write some of it; raises `OutputFailed` the first time that it cannot be written."""
        while not self._failed:
            try:
                return os.write(self._number, content)
            except BlockingIOError:  # another process made the terminal that it shares with us non-blocking
                select([], [self._number], [])
            except OSError as error:
                self._failed = True
                if self._essential:
                    raise OutputFailed(error) from None
        return len(content)


def guard_output() -> None:
    """Put the guard below stdout and stderr, for the rest of the process; to be done before anything wraps these."""
    for name in ("stdout", "stderr"):
        stream = _guarded(getattr(sys, name), essential=name == "stdout")
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)  # which is what draws on a terminal


def flushed(code: int) -> int:
    """Write out what stdout still holds; returns the command's exit code, or that of the failure."""
    try:
        sys.stdout.flush()
    except OutputFailed as error:
        return complain(error)
    return code


def complain(error: OutputFailed) -> int:
    """Say that output was cut off, unless its reader has gone; returns the exit code."""
    if not error.quiet:
        sys.stderr.write(f"upsertq: {error}\n")
    return ExitCode.FAILED


def _guarded(stream: TextIO | None, *, essential: bool) -> TextIO:
    try:
        number = -1 if stream is None else stream.fileno()  # None: closed, and its number may be another file's by now
    except OSError:  # no file of this process: a test listens
        assert stream is not None  # noqa: S101 - for mypy
        return stream
    if isinstance(stream, io.TextIOWrapper):
        stream.flush()
    raw: Any = _Descriptor(number, essential=essential)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", "utf-8"),
        errors=getattr(stream, "errors", "backslashreplace"),
        line_buffering=not essential or raw.isatty() or getattr(stream, "write_through", False),
    )
