"""Owns what a job has at hand while it runs: the address of its queue's server, and its notes.

The notes are `job.meta`: how far the job is, as anyone may read it. But for those that are to be kept they never fail a
job.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final

from upsertq.contract.errors import UsageError

SAVED_SECONDS: Final = 1.0


class JobContext:
    """What a job has at hand; `notes` are sent to Redis by `save`, at most once a second."""

    def __init__(
        self, url: str, notes: dict[str, Any], save: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.url = url
        self.notes = notes
        self._save = save
        self._clock = clock
        self._begun = clock()
        self._due = 0.0

    @property
    def seconds(self) -> float:
        """Since the job began, this time."""
        return self._clock() - self._begun

    def progress(self, records: int, **more: Any) -> None:
        """Note how many records are done, and how fast, and whatever `more` is of interest."""
        rate = records / max(0.001, self.seconds)
        self.note(records=records, rate=round(rate, 1), seconds=round(self.seconds, 1), **more)

    def note(self, **more: Any) -> None:
        """Note what is of interest."""
        self.notes |= more
        if self._clock() >= self._due:
            self.save()

    def keep(self, **more: Any) -> None:
        """Note what the next attempt must know, and raise what hinders that."""
        self.notes |= more
        self._save()

    def save(self) -> None:
        """Send the notes now; what hinders that is no reason to fail."""
        self._due = self._clock() + SAVED_SECONDS
        with suppress(Exception):
            self._save()


_current: ContextVar[JobContext] = ContextVar("context")


def this_job() -> JobContext:
    """The context of the job that runs here; `UsageError` where it was not begun by our worker."""
    context = _current.get(None)
    if context is None:
        raise UsageError("this is run by our rq worker alone: rq worker -w upsertq_worker.jobs.Worker upsertq")
    return context


@contextmanager
def active(context: JobContext) -> Iterator[JobContext]:
    """Let this be the context of what runs in the block."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)
