"""Owns how suspects are sent: what was in work when a worker died goes alone, until the record that kills is known.

What a mark means is decided in `upsertq_worker.suspicion`.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from upsertq.errors import ServerUnavailable
from upsertq.letter import Reason, Verdict
from upsertq_worker.desk import Desk
from upsertq_worker.places import Place
from upsertq_worker.seams import Delivery, QueueSeam
from upsertq_worker.suspicion import COMPANY, COMPANY_BEHIND, DEATHS, HEAD, Mark, Stage
from upsertq_worker.versions import Held, Version
from upsertq_worker.wait import signalled

log = logging.getLogger("upsertq.worker")

PATIENCE: Final = 10.0
"""Seconds that everything else waits for suspects; what takes longer is no crash, and goes on in company."""
GUILTY: Final = 5.0
"""Seconds for which a death is held against what is in work alone: what kills does so at once."""
_STREAM_ID: Final = re.compile(r"\d{1,20}-\d{1,20}")


class Admit(Protocol):
    """Takes an entry in, with `stepwise` its records one by one; `None` where it cannot be."""

    def __call__(self, place: Place, delivery: Delivery, *, stepwise: bool) -> Held | None:
        """Take it in."""


class Caution:
    """The marks of one worker's shards, and the sending of suspects.

    Args:
        desk: the worker's state.
        queue: the queue.
        is_ours: whether a place is still where its shard is read.
    """

    def __init__(self, desk: Desk, queue: QueueSeam, is_ours: Callable[[int, Place], bool]) -> None:
        self._desk = desk
        self._queue = queue
        self._is_ours = is_ours
        self._before: dict[tuple[int, str], Mark | None] = {}
        """What was held against the entries that this worker marked."""
        self._company: dict[tuple[int, str], tuple[str, int]] = {}
        """Namespace and records of the entries that are in work in company, and marked so."""

        self._taken = 0
        """Records taken in company since shards were gained."""

    async def clear_us(self, places: Mapping[int, Place]) -> None:
        """Say of what we had in work in shards that we lost that nobody died of it."""
        lost = {key: before for key, before in self._before.items() if key[0] not in places}
        if lost:
            await self._put_back(lost)
            for key in lost:
                self._forget(key)

    async def clear_aside(self, places: Mapping[int, Place]) -> None:
        """Say of what was put aside, or left on the server, that it is not in work; forget what is settled."""
        desk = self._desk
        if desk.unsettled or desk.hold.settlements:
            return  # not known yet which of it is settled
        gone = {key: before for key, before in self._before.items() if key[0] in places and not desk.hold.knows(*key)}
        aside = {key: before for key, before in gone.items() if places[key[0]].parked}
        await self._put_back(aside)  # of what is settled there is no mark to be taken
        for key in gone:
            self._forget(key)

    async def learn(self, places: Mapping[int, Place]) -> None:
        """Read the marks of the shards that were gained."""
        unknown = {shard: place for shard, place in places.items() if place.marks is None}
        if not unknown:
            return
        found = await self._queue.marks(list(unknown))
        self._taken = 0
        for shard, place in unknown.items():
            noted = found[shard].items()
            marks = {stream_id: Mark.parse(text) for stream_id, text in noted if _STREAM_ID.fullmatch(stream_id)}
            for key in [key for key in self._before if key[0] == shard]:
                # this worker made it and lives: it says nothing
                before = self._before[key]
                if before is None:
                    marks.pop(key[1], None)
                elif key[1] in marks:
                    marks[key[1]] = before
            place.marks = marks
            if marks and self._desk.clock() < place.settled_at:
                log.warning("shard %d: %d entries were in work when a worker died: they go alone", shard, len(marks))

    def room(self, places: Mapping[int, Place], is_stuck: Callable[[str], bool]) -> int:
        """Records that may be taken in company before others are settled; 0 while there is room for few.

        Whatever is in company when the worker dies is suspected afterwards: so there is not much of it.
        """
        for key in [key for key in self._company if key[0] in places and not self._desk.hold.knows(*key)]:
            del self._company[key]
        in_work = sum(records for namespace, records in self._company.values() if not is_stuck(namespace))
        window = COMPANY if self._taken < HEAD else COMPANY_BEHIND
        return window - in_work if in_work <= window // 2 else 0

    async def mark_company(self, deliveries: Iterable[tuple[Place, Delivery]]) -> None:
        """Mark what was read by an earlier holder, before anything is made of it."""
        marks = {}
        for place, delivery in deliveries:
            key = (delivery.shard, delivery.stream_id)
            if (
                delivery.fields is not None
                and place.is_inherited(delivery.stream_id)
                and not place.waits(delivery.namespace)
                and place.expects(delivery.namespace, delivery.stream_id)
            ):
                marks[key] = str(Mark(Stage.COMPANY))
                self._before[key] = None
                self._company[key] = (delivery.namespace, delivery.records)
                self._taken += delivery.records
        if marks:
            await self._queue.mark(self._desk.leases.epochs, marks)

    async def send(self, place: Place, delivery: Delivery, admit: Admit) -> None:
        """Send the records of a suspect one by one while nothing else is in work."""
        found = (place.marks or {})[delivery.stream_id]
        before, mark = {(delivery.shard, delivery.stream_id): found}, found.after_death()
        held = admit(place, delivery, stepwise=True)
        if held is None or not held.open:
            return
        left = [version for version in held.versions if version.row not in mark.dead]
        left.sort(key=lambda version: version.row != mark.row)
        for version in held.versions:
            if version.row in mark.dead:
                self._give_up(version, len(held.versions))
        if not left:
            self._desk.settleable.set()
        try:
            while left:
                await self._mark(before, mark.at(left[0].row))
                self._desk.hold.step(left.pop(0), self._desk.clock())
                if not await self._see_through(place, delivery, before, lambda: held.open <= len(left)):
                    break
            else:
                await self._put_back(before)  # its settling may take long yet
        finally:
            # the rest goes in company where this is no matter of moments
            for version in left:
                self._desk.hold.step(version, self._desk.clock())
            self._desk.sendable.set()

    async def end(self) -> None:
        """Take back the marks of what is not settled: this worker ends without being killed by it."""
        left = {key: before for key, before in self._before.items() if key[0] in self._desk.leases.epochs}
        try:
            await self._put_back(left)
        except ServerUnavailable as error:
            log.warning("%s; what is pending may go alone at first", error)

    def _forget(self, key: tuple[int, str]) -> None:
        self._company.pop(key, None)
        self._before.pop(key, None)

    def _give_up(self, version: Version, of: int) -> None:
        now = int(self._desk.wall() * 1000)
        message = f"{DEATHS} workers died or fell silent while they had it, the last two while they had nothing else"
        log.warning("dead: %s: %s", version.id, message)
        path = f"{of} 1" if of > 1 else "1"
        verdict = Verdict(
            Reason.CRASH_LOOP, message=message, path=path, attempts=DEATHS, first_ms=now, last_ms=now,
            worker=self._desk.name,
        )  # fmt: skip
        self._desk.hold.bury(version, verdict)

    async def _see_through(
        self, place: Place, suspect: Delivery, before: Mapping[tuple[int, str], Mark | None], over: Callable[[], bool]
    ) -> bool:
        """Wait until what was stepped to is `over`; returns whether it is.

        The mark says that it is in work alone until the service lets it wait: that may take long, and a worker that
        dies meanwhile says nothing about it.
        """
        desk = self._desk
        pushed_back, until, guilty_until = desk.pushed_back, desk.clock() + PATIENCE, desk.clock() + GUILTY
        desk.sendable.set()
        alone = True
        while not over():
            paused = desk.lanes.holds(suspect.namespace)
            slow = desk.clock() >= guilty_until or desk.pushed_back > pushed_back
            if alone and (slow or paused or desk.stopping.is_set()):
                alone = False
                await self._put_back(before)
            if desk.stopping.is_set() or paused or desk.clock() >= until or not self._is_ours(suspect.shard, place):
                return False
            desk.readable.clear()
            if not over():
                await signalled(desk.readable, 0.5)
        return True

    async def _mark(self, before: Mapping[tuple[int, str], Mark | None], mark: Mark) -> None:
        self._before.update(before)
        await self._queue.mark(self._desk.leases.epochs, dict.fromkeys(before, str(mark)))

    async def _put_back(self, before: Mapping[tuple[int, str], Mark | None]) -> None:
        if before:
            marks = {key: "" if mark is None else str(mark) for key, mark in before.items()}
            await self._queue.mark(self._desk.leases.epochs, marks)
