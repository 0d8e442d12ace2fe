"""Owns how the worker's tasks wait: for an event with a bound, and through a server's absence without a busy loop."""

import asyncio
import logging
from typing import Final

from upsertq_worker.backoff import Backoff
from upsertq_worker.desk import Desk

log = logging.getLogger("upsertq.worker")

_BACKOFF: Final = Backoff(0.1, 2.0)


async def signalled(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait for `event`, at most `seconds`; returns whether it is set."""
    if seconds is not None and seconds <= 0:
        await asyncio.sleep(0)
        return event.is_set()
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


class Troubles:
    """The absence of the queue's server, as one task meets it: told once for all tasks, and waited for with jitter."""

    def __init__(self, what: str, desk: Desk) -> None:
        self._what = what
        self._desk = desk
        self._delay: float | None = None

    def over(self) -> None:
        """The server answered."""
        if self._delay is None:
            return
        self._delay = None
        lasted = self._desk.absence.ends(self._what, self._desk.clock())
        if lasted is not None:
            log.info("the queue's server is back after %.0f s", lasted)

    async def wait(self, error: Exception) -> None:
        """Let some time pass before the next attempt; ends early when the worker stops, or has done its last."""
        why = str(error).partition(": ")[2] or str(error)  # without what could not be done: that differs by task
        if self._desk.absence.begins(self._what, why, self._desk.clock()):
            log.warning("%s; trying again until it is back", error)
        self._delay = _BACKOFF.next(self._delay, self._desk.rng)
        await signalled(self._desk.done if self._desk.stopping.is_set() else self._desk.stopping, self._delay)
