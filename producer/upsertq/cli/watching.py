"""Owns how a person watches a load and ends it: a bar on a terminal, silence in a pipe, signals between two chunks."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from upsertq.cli.progress import load_bar
from upsertq.client.load import Interrupted, Watch
from upsertq.client.loading import Loading
from upsertq.sources import Source

Show = Callable[[str, int, int | None, str], None]


class Shown(Watch):
    """A watch that draws with `show`, and ends the load in good order after the first signal."""

    def __init__(self, show: Show, guard: Callable[[], None] = lambda: None) -> None:
        self.signal = 0
        self._guard = guard
        self._show = show
        self._stopped = threading.Event()
        self._reading = False
        self._run = ""
        self._source: Source | None = None
        self._done = self._count = 0
        self._begun = time.monotonic()

    def stop(self, number: int) -> None:
        """End the load: at once while a source is read, else once the server's answers are in."""
        self.signal = number
        self._stopped.set()
        if self._reading:
            raise Interrupted

    def begins(self, run: str, *, resumed: bool) -> None:  # noqa: ARG002 - the bar shows both alike
        """Remember the run for the bar."""
        self._run = run

    def reads(self, source: Source) -> None:
        """Begin the bar of a source."""
        self._source, self._done = source, 0
        self._check()
        self._draw("")

    def advances(self, done: int, loading: Loading) -> None:
        """Draw how far the load is, and how fast it goes."""
        self._done, self._count = done, loading.confirmed
        self._check()
        parts = [f"{self._count:,} records, {self._count / max(0.001, time.monotonic() - self._begun):,.0f}/s"]
        parts += [f"{loading.rejected:,} rejected"] if loading.rejected else []
        self._draw(", ".join(parts))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let a signal end what may block for ever, such as a silent pipe."""
        self._reading = True
        try:
            self._check()
            yield
        finally:
            self._reading = False

    def waits(self, why: str) -> None:
        """Say why nothing moves."""
        self._check()
        self._draw(f"{self._count:,} records; waiting: {why}")

    def sleep(self, seconds: float) -> None:
        """Sleep until the time is over or a signal comes."""
        self._stopped.wait(seconds)
        self._check()

    def _check(self) -> None:
        self._guard()
        if self._stopped.is_set():
            raise Interrupted

    def _draw(self, remark: str) -> None:
        if self._source is not None:
            self._show(f"{self._run}: {self._source.name}", self._done, self._source.size, remark)


@contextmanager
def watching(guard: Callable[[], None] = lambda: None) -> Iterator[Shown]:
    """Yield the watch of a command: it draws where stderr is a terminal, and takes SIGINT and SIGTERM meanwhile.

    `guard` is called at every step, and may raise to end the command.

    A second signal acts as if it were not handled.
    """
    with load_bar() as show:
        watch = Shown(show, guard)
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def take(number: int, _: FrameType | None) -> None:
            _restore(before)
            watch.stop(number)

        for number in before:
            signal.signal(number, take)
        try:
            yield watch
        finally:
            _restore(before)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
