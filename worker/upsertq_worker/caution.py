"""Owns how suspects are sent: what was in work when a worker died goes alone, until the record that kills is known.

Everything else that an earlier holder left follows in `upsertq_worker.company`.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from upsertq.errors import ServerUnavailable
from upsertq.letter import Reason, Verdict
from upsertq.pauses import scope_of, spoken
from upsertq_worker.company import Company
from upsertq_worker.desk import Desk
from upsertq_worker.marks import Marks
from upsertq_worker.seams import QueueSeam
from upsertq_worker.suspicion import DEATHS, GUILTY, MANY, Mark, Stage
from upsertq_worker.versions import Held, Version, estimate
from upsertq_worker.wait import Troubles, signalled

log = logging.getLogger("upsertq.worker")

PATIENCE: Final = 10.0
"""Seconds that a suspect waits for its turn, and that what is in flight may take when suspects are to be sent."""
HANGING: Final = 5
"""Suspects given up in a row after which it is the service that hangs: those of the namespace go on in company."""


class Caution:
    """Lets go what earlier holders of the shards left: suspects one by one, the others in company.

    Args:
        desk: the worker's state.
        queue: the queue.
        is_stuck: whether nothing of a namespace passes.
    """

    def __init__(self, desk: Desk, queue: QueueSeam, is_stuck: Callable[[str], bool]) -> None:
        self._desk = desk
        self._marks = Marks(desk, queue)
        self._company = Company(desk, self._marks, is_stuck)
        self._is_stuck = is_stuck
        self._hushed_since = 0.0
        self._hung: Counter[str] = Counter()
        """Suspects in a row of each namespace whose requests hung."""
        self._many = False
        """So many are suspected that they go entry by entry, until all are through."""
        self._troubles = Troubles("mark suspects", desk)

    async def run(self) -> None:
        """Let go until the worker stops."""
        desk = self._desk
        while not desk.stopping.is_set():
            desk.allowable.clear()
            try:
                wait = await self._round()
                self._troubles.over()
            except ServerUnavailable as error:
                await self._troubles.wait(error)
            else:
                await signalled(desk.allowable, wait)

    async def end(self) -> None:
        """Leave nothing behind that would be held against what is still pending."""
        await self._marks.end()

    def forget(self, shards: Sequence[int]) -> None:
        """These shards were lost or gained anew."""
        self._marks.forget(shards)

    async def _round(self) -> float:
        """Let go what may be let go now; returns the seconds after which to look again."""
        desk = self._desk
        if await self._marks.follow():
            self._company.begin_anew()
        if desk.catching_up:
            self._hush(hushed=False)
            return 0.5  # newer versions of what is here may be read yet: they are to be sent instead
        now = desk.clock()
        suspects = list(self._marks.suspects())
        settled_at = self._marks.settled_at(held.shard for held, _ in suspects)
        if suspects and now < settled_at:
            # then nothing of a suspect has to wait for its turn, and whoever lost the shard and lives has said so
            self._hush(hushed=False)
            return min(0.5, settled_at - now)
        for held, mark in suspects:
            # all of them first: an older version that one of them hides is a suspect, too
            for version in held.versions:
                if version.open and version.row in mark.after_death().dead:
                    self._give_up(version, len(held.versions))
        ready = [(held, mark) for held, mark in suspects if desk.hold.lines.ready(held, now)]
        self._many = bool(ready) and (self._many or sum(held.open for held, _ in ready) > MANY)
        if ready:
            return await self._send_suspects(ready)
        self._hush(hushed=False)
        await self._company.let_go()
        return 0.5

    def _hush(self, *, hushed: bool) -> None:
        """Let nothing be sent but what goes alone, or everything again."""
        desk = self._desk
        if hushed and not desk.hushed:
            self._hushed_since = desk.clock()
        elif desk.hushed and not hushed:
            desk.sendable.set()
        desk.hushed = hushed

    async def _send_suspects(self, suspects: Sequence[tuple[Held, Mark]]) -> float:
        """Send the first of these once nothing else is in work; returns the seconds after which to look again."""
        desk = self._desk
        held, mark = suspects[0]
        if self._is_stuck(held.entry.namespace):
            self._exonerate(suspects, held.entry.namespace)
            return 0.0
        self._hush(hushed=True)
        if desk.in_flight or desk.unsettled or desk.hold.settlements:
            if desk.clock() - self._hushed_since >= PATIENCE:
                # what hangs is given up: its answer counts as lost
                desk.impatient, self._hushed_since = True, desk.clock()
                desk.sendable.set()
            return 0.5
        try:
            plan = mark.after_death(many=self._many)
            survived = await self._send_alone(held, plan)
        finally:
            desk.alone = []
        if survived and plan.dead:
            # who is convicted stays so until the entry is settled, which may have to wait for older ones
            self._marks.exonerate(held)
            await self._marks.take_back([(held.shard, held.stream_id)])
        elif survived:
            await self._marks.acquit(held)
        else:
            self._exonerate(suspects, held.entry.namespace)
            await self._marks.take_back([(held.shard, held.stream_id)])
        self._hushed_since = desk.clock()
        return 0.0

    def _exonerate(self, suspects: Sequence[tuple[Held, Mark]], namespace: str) -> None:
        """Nothing of this namespace passes soon: its suspects go on in company."""
        self._hung.pop(namespace, None)
        for held, _ in suspects:
            if held.entry.namespace == namespace:
                self._marks.exonerate(held)

    async def _send_alone(self, held: Held, plan: Mark) -> bool:
        """Send the records of a suspect, at once or one by one, as is planned; `False` if that takes too long."""
        desk, key, limits = self._desk, (held.shard, held.stream_id), self._desk.settings.batch
        ready = desk.hold.lines.ready(held, desk.clock())
        fits = 0 < len(ready) <= limits.records and sum(map(estimate, ready)) <= limits.bytes
        if plan.stage is Stage.ENTRY and fits:
            await self._marks.write({key: plan})
            return await self._see_through(ready)
        for version in sorted(ready, key=lambda one: one.row != plan.row):
            await self._marks.write({key: plan.at(version.row)})
            if not await self._see_through([version]):
                return False
        return True

    async def _see_through(self, versions: list[Version]) -> bool:
        """Send these of one entry, and nothing else, and wait until their request has ended, however.

        Returns `False` where none can be made for long.

        The mark says that it is in work alone for so long as a death may be its fault; then it is given up. What fails
        is no matter of suspicion: it is sent again when all suspects are through.
        """
        desk, hangs, held = self._desk, False, versions[0].held
        namespace = held.entry.namespace
        desk.alone, until = versions, desk.clock() + PATIENCE
        desk.sendable.set()
        while desk.alone or desk.in_flight:
            desk.allowable.clear()
            now = desk.clock()
            if desk.stopping.is_set() or (not desk.alone and now >= desk.alone_since + GUILTY):
                await self._marks.take_back([(held.shard, held.stream_id)])
                if desk.stopping.is_set():
                    return False
                desk.impatient = hangs = True
                desk.sendable.set()
            elif desk.alone:
                if not set(versions) & set(desk.hold.lines.ready(held, now)):
                    return True  # newer ones came, or its shard was lost
                if now >= until or self._is_stuck(namespace):
                    return False
            await signalled(desk.allowable, 0.5)
        self._hung[namespace] = self._hung[namespace] + 1 if hangs else 0
        return self._hung[namespace] < HANGING

    def _give_up(self, version: Version, of: int) -> None:
        now = int(self._desk.wall() * 1000)
        message = f"at least {DEATHS} workers died or fell silent with it, the last two while they had nothing else"
        log.warning("gives up %s of %s: %s", version.id, spoken(scope_of(version.namespace)), message)
        path = f"{of} 1" if of > 1 else "1"
        verdict = Verdict(
            Reason.CRASH_LOOP, message=message, path=path, attempts=DEATHS, first_ms=now, last_ms=now,
            worker=self._desk.name,
        )  # fmt: skip
        self._desk.hold.bury(version, verdict, self._desk.clock())
        self._desk.settleable.set()
