"""Owns one worker's leases and heartbeat: prolongs them, shares out with the others, gives them up at the end."""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from upsertq.contract.errors import QueueLost, ServerRefused, ServerUnavailable
from upsertq_worker.absence import Absence
from upsertq_worker.context import Context, Signals, signalled
from upsertq_worker.damage import Damage
from upsertq_worker.events import Event
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.pool.handover import Handover
from upsertq_worker.pool.share_out import Others, Plan, share_out
from upsertq_worker.queue.lease import Change, Leases
from upsertq_worker.queue.protocols import Queue, ShardsDamaged

ROUNDS: Final = 4
"""Times that a lease is prolonged in its life, at least."""
ROUND_SECONDS: Final = 1.0
"""Between two rounds, unless leases are short."""
JITTER: Final = 0.15
HURRY_SECONDS: Final = 0.25
"""Between two rounds while shards move."""
BEAT_SECONDS: Final = 2.0
"""What a heartbeat says is the time to the next one, at most: it bears with a round that is late."""
PATIENT_SECONDS: Final = 5.0
"""Between two rounds of a worker that has others before it in the line for a shard, at most."""
NEXT_IN_LINE: Final = 4
"""Workers without a shard that follow at once where others end; the rest of them look less often."""


@dataclass(eq=False)
class Keeper:
    """Keeps the leases of one worker."""

    _context: Context
    _signals: Signals
    _queue: Queue
    _leases: Leases
    _handover: Handover
    _pinned: Callable[[], Collection[int]]
    """The shards that must not be given back now."""
    _report: Callable[[], dict[str, Any]]
    """The content of a heartbeat."""
    _changed: Callable[[Sequence[int]], None]
    """Told which shards were lost, or gained anew, after each round; also when there were none."""
    _plan: Plan = field(init=False, default=Plan(0))
    _heard: Others = field(init=False, default_factory=Others)
    others: dict[str, int] = field(init=False, default_factory=dict)
    """How many shards each other live worker holds, as far as the heartbeats are known."""
    _told: tuple[int, ...] = field(init=False, default=())
    """What was said last of our share."""
    _moved_at: float = field(init=False)
    """When the pool, or what we hold of it, changed last."""
    _silent: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._absence = Absence("take leases", self._context, self._signals)
        self._damage = Damage(self._context, self._signals)
        self._moved_at = self._context.clock()

    @property
    def every(self) -> float:
        """Seconds from a heartbeat to the next one, at most, as it is told to the others."""
        return min(max(BEAT_SECONDS, self._pace), self._context.settings.lease / ROUNDS)

    async def run(self, follow: Callable[[], Any]) -> None:
        """Keep the leases until the worker is done: what is still in flight when it stops needs them.

        `follow` is a coroutine function that is called once a round.
        """
        signals = self._signals
        while not signals.done.is_set():
            signals.noteworthy.clear()
            if await self._round():
                await follow()
                jitter = 1 + JITTER * (2 * self._context.rng.random() - 1)
                await signalled(signals.noteworthy, self._pace * jitter)

    async def end(self, hold: Hold, *, sent_last: bool) -> None:
        """Give the leases up: at once, or where an answer may still take effect, when its quarantine ends."""
        leases, now = self._leases, self._context.clock()
        held, keep = self._handover.owed()
        held |= leases.epochs
        quarantine = 0.0 if sent_last else self._context.settings.quarantine
        for shard in leases.epochs:
            until = max(leases.quarantine_end(shard), hold.keys.quarantine_end(shard, now))
            keep[shard] = max(quarantine, until - now)
        try:
            await self._queue.release(held, keep)
        except (ServerUnavailable, ServerRefused) as error:
            self._context.events.tell(Event.NOT_SEEN, error=error, consequence="the leases will run out by themselves")
            return
        try:
            await self._queue.leave()
        except (ServerUnavailable, ServerRefused) as error:
            consequence = "`upsertq status` will show this worker as gone"
            self._context.events.tell(Event.NOT_SEEN, error=error, consequence=consequence)

    @property
    def _pace(self) -> float:
        """Seconds until the next round, about."""
        lease, moving = self._context.settings.lease, self._leases.draining or self._handover.parting
        # a lack that lasts, as of a shard that is damaged, or while no heartbeat can be written, is no reason to hurry
        lacking = self._plan.take > 0 and self._context.clock() < self._moved_at + lease + ROUND_SECONDS
        if moving or lacking:
            return min(HURRY_SECONDS, lease / ROUNDS)
        patient = self._plan.line >= NEXT_IN_LINE
        return min(PATIENT_SECONDS if patient else ROUND_SECONDS, lease / ROUNDS)

    async def _round(self) -> bool:
        """Prolong what is ours, hear of the others, and give back or take (when stopping neither).

        Returns whether it worked.
        """
        asked_at, stopping = self._context.clock(), self._signals.stopping.is_set()
        try:
            await self._ask(dict(self._leases.epochs), asked_at, take=not stopping)
            alone = await self._beat()
            if not stopping:
                self._share_out(alone=alone)
                await self._take(asked_at)
            await self._hand_over()
        except ServerUnavailable as error:
            await self._absence.wait(error)
            return False
        self._absence.over()
        faults = self._leases.faults  # of shards that no worker can have
        self._damage.sound(set(range(self._context.shards)) - faults.keys())
        self._damage.found(faults)
        self._say_share()
        return True

    async def _ask(self, wanted: dict[int, int], asked_at: float, *, take: bool) -> None:
        grants = await self._queue.lease(wanted, take=take) if wanted else []
        change = self._leases.granted(grants, asked_at, self._context.clock())
        self._tell(change)
        if change.lost or change.gained:
            self._moved_at = self._context.clock()
        self._changed((*change.lost, *(grant.shard for grant in change.gained)))

    async def _beat(self) -> bool | None:
        """Say that we live, and hear which others do; returns whether we count as the only one, `None`: not known.

        A server that cannot note it, as one out of memory, is to be drained all the same.
        """
        failure: object = ""
        alone: bool | None = False
        try:
            beats = await self._queue.beat(self._report())
        except ServerUnavailable as error:
            if not self._leases.epochs:
                raise  # nothing else was asked in this round: the server is away
            failure, alone = error, None
        except QueueLost:
            raise
        except ServerRefused as error:
            failure, alone = error, True
        else:
            own, now = self._context.name, self._context.clock()
            live = self._heard.live((one for one in beats.workers if one.name != own), now)
            others = {one.name: len(one.shards) for one in live}
            if others != self.others:
                self._moved_at = now
            self.others, failure = others, beats.unwritten
            held = {shard: one.name for one in live for shard in one.shards}
            self._leases.holders = {shard: name for shard, name in held.items() if shard not in self._leases.epochs}
        if failure and not self._silent:
            consequence = "the others and `upsertq status` may take this worker for gone, it works on"
            self._context.events.tell(Event.NOT_SEEN, error=failure, consequence=consequence)
        self._silent = bool(failure)
        return alone

    def _share_out(self, *, alone: bool | None) -> None:
        """Decide what to give back and what to take; nothing new while the others are not known."""
        context, leases = self._context, self._leases
        if alone is None:
            return
        held, draining, others = leases.epochs.keys(), leases.draining.keys(), {} if alone else self.others
        self._plan = share_out(context.name, held, draining, self._pinned(), others, context.shards, context.rng)
        leases.target = self._plan.target
        if self._handover.follow(self._plan.drain):
            self._signals.readable.set()
            self._signals.sendable.set()

    async def _take(self, asked_at: float) -> None:
        """Take free shards, as many as are due to us."""
        leases, most = self._leases, self._plan.take
        if not most:
            leases.faults.clear()  # what is damaged is for the worker to tell to which it is due
            return
        ours = leases.epochs.keys() | self._handover.parting.keys()
        holders = await self._queue.holders([shard for shard in range(self._context.shards) if shard not in ours])
        leases.holders = {shard: name for shard, name in holders.items() if name}
        free = [shard for shard, name in holders.items() if not name]
        if free:
            taken = sorted(self._context.rng.sample(free, min(most, len(free))))
            await self._ask(dict.fromkeys(taken, 0), asked_at, take=True)

    async def _hand_over(self) -> None:
        """Let go of shards of which nothing is under way any more, and release those that were let go."""
        handover = self._handover
        gone = handover.let_go()
        if gone:
            self._context.events.tell(Event.SHARDS_HANDED_OVER, shards=gone)
            self._changed(())
        held, keep = handover.owed()
        if held:
            with suppress(ShardsDamaged):  # their leases run out by themselves, and the others were released
                await self._queue.release(held, keep)
            for shard in held:
                handover.parting.pop(shard, None)
            self._moved_at = self._context.clock()

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

    def _say_share(self) -> None:
        """Say how many shards are ours, where that has changed and is as it should be; or that we stand by."""
        context, held, workers = self._context, len(self._leases.epochs), 1 + len(self.others)
        share = held, workers
        if self._signals.stopping.is_set() or share == self._told or held != self._plan.target:
            return
        event = Event.SHARE if held else Event.STANDING_BY
        if held or not self._told or self._told[0]:
            context.events.tell(event, held=held, shards=context.shards, workers=workers)
        self._told = share
