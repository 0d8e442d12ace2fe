"""What a job has at hand: notes that are saved once a second and fail nothing, and the word to stop."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from upsertq_worker.jobs import stopping
from upsertq_worker.jobs.job_context import JobContext
from upsertq_worker.jobs.stopping import Stop, Stopped


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The time it shows."""
        return self.now


def test_notes_are_saved_once_a_second() -> None:
    """The first at once, those within a second with the next one, and all of them at the end."""
    clock, saved, notes = Clock(), list[dict[str, Any]](), dict[str, Any]()
    context = JobContext("redis://h", notes, lambda: saved.append(dict(notes)), clock)
    for step in range(10):
        clock.now = 100.0 + step * 0.25
        context.progress(step * 100, rejected=step)
    assert [one["records"] for one in saved] == [0, 400, 800]
    assert saved[1] == {"records": 400, "rate": 400.0, "seconds": 1.0, "rejected": 4}
    assert notes["records"] == 900
    context.save()
    assert saved[-1] == notes


def test_notes_that_cannot_be_saved_fail_nothing() -> None:
    """The server may be away, and the job goes on."""

    def fail() -> None:
        raise ConnectionError

    context = JobContext("redis://h", {}, fail, Clock())
    context.note(waits="for room")
    assert context.notes == {"waits": "for room"}


def test_the_word_to_stop_comes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one changes nothing, and the last resort is armed by the first."""
    armed: list[float] = []

    class Timer:
        daemon = False

        def __init__(self, seconds: float, *_: Any) -> None:
            self.seconds = seconds

        def start(self) -> None:
            """Note it."""
            armed.append(self.seconds)

    monkeypatch.setattr("threading.Timer", Timer)
    stop, woken = Stop(), list[int]()
    stop.wake = lambda: woken.append(1)
    stop.check()
    stop.ask(signal.SIGTERM)
    stop.ask(signal.SIGINT)
    assert (stop.asked, stop.for_good, woken, armed) == (signal.SIGTERM, False, [1], [stopping.GRACE])
    with pytest.raises(Stopped):
        stop.check()
    with pytest.raises(Stopped):
        stop.interrupt()
