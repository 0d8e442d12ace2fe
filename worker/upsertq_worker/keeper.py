"""Owns the leases' upkeep and the heartbeat: takes what is free, prolongs what is ours, and gives it up at the end."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from upsertq.errors import ServerRefused, ServerUnavailable
from upsertq.pauses import Paused, spoken
from upsertq_worker.desk import Desk
from upsertq_worker.seams import QueueSeam
from upsertq_worker.wait import Troubles, signalled

log = logging.getLogger("upsertq.worker")

ROUNDS: Final = 4
"""Times that a lease is prolonged in its life."""


class Keeper:
    """Keeps the leases of one worker.

    Args:
        desk: the worker's state.
        queue: the queue.
        lost: told which shards were lost, or gained anew.
    """

    def __init__(self, desk: Desk, queue: QueueSeam, lost: Callable[[Sequence[int]], None]) -> None:
        self._desk = desk
        self._queue = queue
        self._lost = lost
        self._every = desk.settings.lease / ROUNDS
        self._started_at = desk.wall()
        self._faulty: set[int] = set()
        self._standing_by = False
        self._silent = False
        self._blind = False
        self._troubles = Troubles("take leases", desk)

    async def run(self) -> None:
        """Keep the leases until the worker is done: what is still in flight when it stops needs them."""
        while not self._desk.done.is_set():
            self._desk.noteworthy.clear()
            if await self._round():
                await signalled(self._desk.noteworthy, self._every)

    async def _round(self) -> bool:
        """Ask once for every shard (when stopping, for ours alone), and say that we live; returns whether it worked."""
        desk = self._desk
        asked_at = desk.clock()
        try:
            grants = await self._queue.lease(desk.leases.wanted(), take=not desk.stopping.is_set())
            change = desk.leases.granted(grants, asked_at)
            for shard in set(change.lost) - desk.leases.faults.keys():
                log.warning("shard %d: the lease ran out; it starts anew from what is pending", shard)
            for shard in (*change.lost, *change.gained):
                desk.alarms.pop(f"shard {shard}", None)
                desk.hold.drop(shard)  # a read that was under way when the lease was lost may have left something
            self._say_faults()
            self._lost((*change.lost, *change.gained))
            self._say_role()
            self._troubles.over()
        except ServerUnavailable as error:
            await self._troubles.wait(error)
            return False
        desk.readable.set()
        desk.sendable.set()
        desk.settleable.set()
        desk.allowable.set()
        await self._follow_pauses()
        await self._beat()
        return True

    def _say_faults(self) -> None:
        """Raise an alarm for each shard that nobody can have, and end those of the mended."""
        desk = self._desk
        for shard in self._faulty - desk.leases.faults.keys():
            log.info("shard %d is mended", shard)
            desk.alarms.pop(f"shard {shard}", None)
        for shard, fault in desk.leases.faults.items():
            desk.halt(shard, fault)
        self._faulty = set(desk.leases.faults)

    async def _follow_pauses(self) -> None:
        """Note the pauses that began or ended here, and follow what is paused and resumed by hand."""
        desk = self._desk
        changes = dict(desk.notes)
        try:
            if changes:
                await self._queue.note(changes)
            noted = await self._queue.pauses()
        except (ServerUnavailable, ServerRefused) as error:
            if not self._blind:
                log.warning("%s; pauses by hand are not seen meanwhile", error)
            self._blind = True
            desk.alarms["pauses"] = str(error)
            return
        self._blind = False
        desk.alarms.pop("pauses", None)
        desk.notes = {
            scope: why for scope, why in desk.notes.items() if scope not in changes or changes[scope] is not why
        }
        begun, ended = desk.lanes.adopt(_with_changes(noted, desk.notes), desk.clock())
        for scope in sorted(begun):
            log.warning("paused %s: %s", spoken(scope), noted[scope].message)
        for scope in sorted(ended):
            log.info("%s is not paused any more", spoken(scope))
        if begun or ended:
            desk.sendable.set()

    async def _beat(self) -> None:
        """Say that we live; a server out of memory cannot note it, and is to be drained all the same."""
        try:
            await self._queue.beat(self._desk.report(self._started_at, self._every))
            self._silent = False
        except (ServerUnavailable, ServerRefused) as error:
            if not self._silent:
                log.warning("%s; `upsertq status` may take this worker for gone, it works on", error)
            self._silent = True

    async def end(self, sent_last: bool) -> None:  # noqa: FBT001 - said at one place
        """Give the leases up: at once, or where an answer may still take effect, when its quarantine ends."""
        desk = self._desk
        now = desk.clock()
        quarantine = 0.0 if sent_last else desk.settings.quarantine
        keep = {shard: max(quarantine, desk.hold.quarantine_end(shard, now) - now) for shard in desk.leases.epochs}
        try:
            await self._queue.release(desk.leases.epochs, keep)
            await self._queue.leave()
        except (ServerUnavailable, ServerRefused) as error:
            log.warning("%s; the leases will run out by themselves", error)

    def _say_role(self) -> None:
        leases = self._desk.leases
        if leases.epochs:
            if self._standing_by:
                log.info("taking over: %d of %d shards are ours", len(leases.epochs), self._desk.shards)
            self._standing_by = False
        elif not self._standing_by and leases.holders:
            holders = ", ".join(sorted(set(leases.holders.values())))
            log.info("standing by: every shard is held by %s; taking over when it ends", holders)
            self._standing_by = True


def _with_changes(noted: Mapping[str, Paused], changes: Mapping[str, Paused | None]) -> dict[str, Paused]:
    """What is noted on the server, with what is still to be noted there."""
    whole = dict(noted)
    for scope, why in changes.items():
        if why is None:
            whole.pop(scope, None)
        else:
            whole[scope] = why
    return whole
