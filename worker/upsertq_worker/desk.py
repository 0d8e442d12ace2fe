"""Owns what the tasks of one worker share: its settings, its state, and the events by which they wake one another."""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from upsertq.pauses import Paused
from upsertq_worker.batch import Batcher, BatchLimits
from upsertq_worker.gates import Gates
from upsertq_worker.hold import Hold
from upsertq_worker.isolate import MOST_CULPRITS
from upsertq_worker.lanes import Lanes
from upsertq_worker.leases import Leases
from upsertq_worker.postage import Meter

if TYPE_CHECKING:
    from upsertq_worker.outage import Outage
    from upsertq_worker.versions import Settlement, Version


log = logging.getLogger("upsertq.worker")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to drain. Times are seconds.

    Args:
        batch: what one request may carry.
        concurrency: requests in flight at most.
        read_ahead: bytes of memory that entries read and not yet settled may take, about.
        lease: how long a shard stays ours without a word from us.
        quarantine: how long an id whose answer was lost keeps its newer versions waiting.
        grace: how long requests in flight may take to finish after the signal to stop.
        max_attempts: failures while others succeed after which a batch is taken apart, and a single record given up.
        max_culprits: refused records of one batch, or in a row, beyond which the lane is paused instead.
        pause_timeout: with `until_empty`, how long a pause may keep everything waiting.
        until_empty: stop when nothing is pending any more.
        stop_after: stop after so many seconds, `None` for never.
    """

    batch: BatchLimits = field(default_factory=BatchLimits)
    concurrency: int = 16
    read_ahead: int = 96_000_000
    lease: float = 10.0
    quarantine: float = 5.0
    grace: float = 30.0
    max_attempts: int = 8
    max_culprits: int = MOST_CULPRITS
    pause_timeout: float = 300.0
    until_empty: bool = False
    stop_after: float | None = None


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


class Desk:
    """The shared state of one worker's tasks. Only its event loop touches it.

    Args:
        name: the worker's name.
        shards: of the queue.
        settings: how to drain.
        clock: seconds from any origin, never going back.
        wall: seconds since 1970.
        rng: for jitter.
    """

    def __init__(
        self,
        name: str,
        shards: int,
        settings: Settings,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.name = name
        self.shards = shards
        self.settings = settings
        self.clock = clock
        self.wall = wall
        self.rng = rng
        self.hold = Hold(settings.quarantine)
        self.batcher = Batcher(self.hold, settings.batch)
        self.gates = Gates(settings.concurrency)
        self.leases = Leases(shards, settings.lease)
        self.tally = Tally()
        self.meter = Meter()
        self.alarms: dict[str, str] = {}
        """What needs an operator, by what it concerns."""
        self.outage: Outage | None = None
        """The time in which nothing lands, while it lasts."""
        self.catching_up = True
        """More of what earlier holders left is being read: newer versions of what is here may come."""
        self.hushed = False
        """Nothing is sent but what goes alone."""
        self.impatient = False
        """What is in flight is to be given up."""
        self.alone: list[Version] = []
        """What goes alone, until it does: one record, or those of one entry."""
        self.alone_since = 0.0
        """When the last one went."""
        self.in_flight = 0
        self.unsettled = 0
        """Entries given out for settling whose settling is not confirmed."""
        self.lanes = Lanes()
        self.notes: dict[str, Paused | None] = {}
        """Pauses that begun or ended here and are not yet noted on the server."""
        self.progress_at = clock()
        """When a batch landed last."""
        self.settling: list[Settlement] = []
        """What is being settled."""
        self.settled_meanwhile: list[Settlement] | None = None
        """What was settled while somebody looks at it; `None` when nobody does."""
        self.failure: Exception | None = None
        self.stopping = asyncio.Event()
        self.done = asyncio.Event()
        """Set when the last settling is over: nothing needs the leases any more."""
        self.sendable = asyncio.Event()
        self.settleable = asyncio.Event()
        self.readable = asyncio.Event()
        self.allowable = asyncio.Event()
        self.noteworthy = asyncio.Event()

    def fail(self, error: Exception) -> None:
        """Stop the worker because of `error`; the first one is the one reported."""
        self.failure = self.failure or error
        self.stop()

    def note(self, scope: str, paused: Paused | None) -> None:
        """Have a pause, or its end, noted on the server."""
        self.notes[scope] = paused
        self.noteworthy.set()

    def stop(self) -> None:
        """Stop the worker in good order."""
        self.stopping.set()
        self.sendable.set()
        self.readable.set()
        self.allowable.set()

    @property
    def idle(self) -> bool:
        """Whether nothing that was read is left to do."""
        return not (self.hold.entries or self.in_flight or self.unsettled or self.hold.settlements)

    def paused_namespaces(self) -> set[str]:
        """The namespaces of what is held that may not be sent now."""
        return {namespace for namespace in self.hold.weights if self.lanes.holds(namespace)}

    def halt(self, shard: int, fault: str) -> None:
        """Do nothing more with a shard in which something is damaged, and say so; the others go on."""
        if self.alarms.get(f"shard {shard}") != fault:
            log.error("shard %d stops: %s", shard, fault)
        self.alarms[f"shard {shard}"] = fault
        self.hold.drop(shard)
        self.readable.set()

    def lose(self, shard: int) -> None:
        """Forget a shard that is not ours any more."""
        self.leases.fenced(shard)
        self.hold.drop(shard)
        self.alarms.pop(f"shard {shard}", None)
        self.readable.set()

    def report(self, started_at: float, every: float) -> dict[str, Any]:
        """The heartbeat's content."""
        return {
            "name": self.name,
            "started_at": started_at,
            "at": self.wall(),
            "every": every,
            "shards": sorted(self.leases.epochs),
            "standby": not self.leases.epochs,
            "in_flight": self.in_flight,
            "posted": self.tally.acked,
            "alarms": self._all_alarms(),
            **self.tally.as_dict(),
        }

    def _all_alarms(self) -> dict[str, str]:
        """What needs an operator, pauses and an outage included, as it stands now."""
        alarms = self.alarms | {scope: paused.message for scope, paused in self.lanes.paused.items()}
        if self.outage is not None and (told := self.outage.told(self.clock(), self.wall())):
            alarms["index"] = told
        return alarms
