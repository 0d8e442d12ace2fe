"""Owns what every task of one worker may know: its name and settings, the clocks, and the events that they share.

Nothing here decides, and no task keeps its state here.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass

from upsertq_worker.events import Events
from upsertq_worker.settings import Settings


@dataclass(frozen=True, slots=True)
class Context:
    """What every task may know, and none may change.

    Attributes:
        name: the worker's, unique in the fleet.
        shards: of the queue.
        settings: how to drain.
        clock: seconds from any origin, never going back.
        wall: seconds since 1970.
        rng: for jitter.
        events: what happens, for logs and for whatever else listens.
    """

    name: str
    shards: int
    settings: Settings
    clock: Callable[[], float]
    wall: Callable[[], float]
    rng: random.Random
    events: Events


@dataclass(slots=True)
class Tally:
    """What one worker did since it started: counts of records and requests, and bytes of bodies posted."""

    acked: int = 0
    superseded: int = 0
    dead: int = 0
    requests: int = 0
    retries: int = 0
    bytes: int = 0

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


class Away:
    """The time in which calls to the server fail, as all tasks of a worker meet it: each reason is told once."""

    def __init__(self) -> None:
        self._since = 0.0
        self._waiting: set[str] = set()
        self._told: set[str] = set()

    @property
    def lasts(self) -> bool:
        """Whether any task waits for the server."""
        return bool(self._waiting)

    def begins(self, what: str, why: str, now: float) -> bool:
        """Task `what` waits because of `why`; returns whether that is worth a line."""
        if not self._waiting:
            self._since = now
        self._waiting.add(what)
        news = why not in self._told
        self._told.add(why)
        return news

    def ends(self, what: str, now: float) -> float | None:
        """Task `what` succeeded; returns the seconds that it all lasted once none waits any more."""
        self._waiting.discard(what)
        if self._waiting or not self._told:
            return None
        self._told.clear()
        return now - self._since


class Signals:
    """The events by which the tasks of one worker wake one another, and what all of them know of the server."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        """Why the worker stops, where something failed."""
        self.alarms: dict[str, str] = {}
        """What needs an operator, by what it concerns."""
        self.away = Away()
        self.stopping = asyncio.Event()
        self.done = asyncio.Event()
        """Set when the last settling is over: nothing needs the leases any more."""
        self.sendable = asyncio.Event()
        self.settleable = asyncio.Event()
        self.readable = asyncio.Event()
        self.noteworthy = asyncio.Event()
        self.suspicious = asyncio.Event()
        self.unpaced = asyncio.Event()
        """Set when the server is to be asked about the pace of a lane."""
        self.calm = asyncio.Event()
        """Set when nothing that was read is left to do."""

    def stop(self) -> None:
        """Stop the worker in good order."""
        self.stopping.set()
        for event in (self.sendable, self.settleable, self.readable, self.noteworthy, self.suspicious, self.calm):
            event.set()
        self.unpaced.set()

    def fail(self, error: Exception) -> None:
        """Stop the worker because of `error`; the first one is the one reported."""
        self.failure = self.failure or error
        self.stop()


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
