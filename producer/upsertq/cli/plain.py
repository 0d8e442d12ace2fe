"""Owns the way out of a command: all text that it writes to stdout and stderr goes through `printable`.

Nothing else may name what lies below (`buffer`, `__stdout__`), but for what a terminal needs to draw (`cli.terminal`).
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from upsertq.contract.printable import printable_lines


class Plain:
    """A text stream whose lines are made printable; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, its line feeds as they are."""
        self._stream.write(printable_lines(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write them all."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_streams() -> None:
    """Make stdout and stderr plain for the rest of the process; what a narrow encoding lacks is escaped."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Plain):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, _plain(stream))


@contextmanager
def guarded_streams() -> Iterator[None]:
    """The same of what stands there now, until the block ends."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_plain, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _plain(stream: TextIO) -> TextIO:
    return cast("TextIO", Plain(stream))
