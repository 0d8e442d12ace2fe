"""Owns the leases' upkeep and the heartbeat: takes what is free, prolongs what is ours, and gives it up at the end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from upsertq.contract.errors import ServerRefused, ServerUnavailable
from upsertq_worker.absence import Absence
from upsertq_worker.context import Context, Signals, signalled
from upsertq_worker.events import Event
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.queue.lease import Change, Leases
from upsertq_worker.queue.protocols import Queue

ROUNDS: Final = 4
"""Times that a lease is prolonged in its life."""
STANDBY_SECONDS: Final = 0.5
"""Between two looks of a worker that holds nothing: so soon it follows one that stops."""


@dataclass(eq=False)
class Keeper:
    """Keeps the leases of one worker."""

    _context: Context
    _signals: Signals
    _queue: Queue
    _leases: Leases
    _report: Callable[[], dict[str, Any]]
    """The content of a heartbeat."""
    _changed: Callable[[Sequence[int]], None]
    """Told which shards were lost, or gained anew, after each round; also when there were none."""
    _alarms: dict[str, str]
    """What needs an operator, by what it concerns."""
    _faulty: set[int] = field(init=False, default_factory=set)
    _standing_by: bool = field(init=False, default=False)
    _silent: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._absence = Absence("take leases", self._context, self._signals)

    @property
    def every(self) -> float:
        """Seconds between two rounds."""
        every = self._context.settings.lease / ROUNDS
        return every if self._leases.epochs else min(every, STANDBY_SECONDS)

    async def run(self, follow: Callable[[], Any]) -> None:
        """Keep the leases until the worker is done: what is still in flight when it stops needs them.

        `follow` is a coroutine function that is called once a round.
        """
        signals = self._signals
        while not signals.done.is_set():
            signals.noteworthy.clear()
            if await self._round():
                await follow()
                await self._beat()
                await signalled(signals.noteworthy, self.every)

    async def end(self, hold: Hold, *, sent_last: bool) -> None:
        """Give the leases up: at once, or where an answer may still take effect, when its quarantine ends."""
        now = self._context.clock()
        quarantine = 0.0 if sent_last else self._context.settings.quarantine
        keep = {shard: max(quarantine, hold.keys.quarantine_end(shard, now) - now) for shard in self._leases.epochs}
        try:
            await self._queue.release(self._leases.epochs, keep)
        except (ServerUnavailable, ServerRefused) as error:
            self._context.events.tell(Event.NOT_SEEN, error=error, consequence="the leases will run out by themselves")
            return
        try:
            await self._queue.leave()
        except (ServerUnavailable, ServerRefused) as error:
            consequence = "`upsertq status` will show this worker as gone"
            self._context.events.tell(Event.NOT_SEEN, error=error, consequence=consequence)

    async def _round(self) -> bool:
        """Ask once for every shard (when stopping, for ours alone); returns whether it worked."""
        asked_at = self._context.clock()
        try:
            grants = await self._queue.lease(self._leases.wanted(), take=not self._signals.stopping.is_set())
        except ServerUnavailable as error:
            await self._absence.wait(error)
            return False
        self._absence.over()
        change = self._leases.granted(grants, asked_at, self._context.clock())
        self._tell(change)
        self._tell_faults()
        self._changed((*change.lost, *(grant.shard for grant in change.gained)))
        self._say_role()
        return True

    def _tell(self, change: Change) -> None:
        events = self._context.events
        for shard in set(change.lost) - self._leases.faults.keys():
            events.tell(Event.LEASE_LOST, shard=shard)
        if change.gained:
            handed_over = sum(grant.clean and grant.epoch > 1 for grant in change.gained)
            events.tell(Event.SHARDS_GAINED, shards=[grant.shard for grant in change.gained], handed_over=handed_over)
        unclean = [grant for grant in change.gained if not grant.clean]
        if unclean:
            deaths = max(grant.deaths for grant in unclean)
            events.tell(Event.UNCLEAN_TAKEOVER, shards=len(unclean), deaths=deaths)

    def _tell_faults(self) -> None:
        """Raise an alarm for each shard that no worker can have, and end those of the mended."""
        events, faults = self._context.events, self._leases.faults
        for shard in self._faulty - faults.keys():
            events.tell(Event.SHARD_MENDED, shard=shard)
            self._alarms.pop(f"shard {shard}", None)
        for shard, fault in faults.items():
            if shard not in self._faulty:
                events.tell(Event.SHARD_DAMAGED, shard=shard, error=fault)
            self._alarms[f"shard {shard}"] = fault
        self._faulty = set(faults)

    async def _beat(self) -> None:
        """Say that we live; a server that cannot note it, as one out of memory, is to be drained all the same."""
        try:
            await self._queue.beat(self._report())
            self._silent = False
        except (ServerUnavailable, ServerRefused) as error:
            if not self._silent:
                consequence = "`upsertq status` may take this worker for gone, it works on"
                self._context.events.tell(Event.NOT_SEEN, error=error, consequence=consequence)
            self._silent = True

    def _say_role(self) -> None:
        leases, events = self._leases, self._context.events
        if leases.epochs:
            if self._standing_by:
                events.tell(Event.TAKING_OVER, held=len(leases.epochs), shards=self._context.shards)
            self._standing_by = False
        elif not self._standing_by and leases.holders:
            events.tell(Event.STANDING_BY, holders=", ".join(sorted(set(leases.holders.values()))))
            self._standing_by = True
