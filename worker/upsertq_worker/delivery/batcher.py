"""Owns when a batch is closed and what goes into it: by count, by bytes of JSON, or when its oldest record lingered.

Pure. Lanes take turns, so a namespace with a long backlog cannot starve the others.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from upsertq_worker.context import BatchLimits
from upsertq_worker.delivery.batch import Batch
from upsertq_worker.delivery.encoder import encode, overhead
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import Held, Item, records_of
from upsertq_worker.ordering.ready import Lane


@dataclass(slots=True)
class Batcher:
    """Forms batches out of what the hold lets go."""

    hold: Hold
    limits: BatchLimits
    _full: deque[Lane] = field(default_factory=deque)
    _lingering: list[tuple[float, int, Lane]] = field(default_factory=list)
    _ticket: int = 0
    _full_first: bool = True
    _refused: dict[str, Lane] = field(default_factory=dict)
    """Lanes whose turn came while they were not admitted."""

    def next(self, now: float, admits: Callable[[str], bool]) -> Batch | None:
        """The next batch that is due, `None` while every lane had better wait.

        Full lanes and lanes that lingered take turns, so that neither kind can starve the other. Lanes whose namespace
        `admits` refuses are passed over, and looked at again in each call.
        """
        for namespace in [namespace for namespace in self._refused if admits(namespace)]:
            self._watch(self._refused.pop(namespace))
        for lane in self.hold.ready.stirred:
            lane.stirred = False
            self._watch(lane)
        self.hold.ready.stirred.clear()
        self._full_first = not self._full_first
        if self._full_first:
            return self._next_full(now, admits) or self._next_lingering(now, admits)
        return self._next_lingering(now, admits) or self._next_full(now, admits)

    def due(self) -> float | None:
        """When the next lane's oldest record will have lingered, `None` when no lane waits."""
        return self._lingering[0][0] if self._lingering else None

    def _next_full(self, now: float, admits: Callable[[str], bool]) -> Batch | None:
        while self._full:
            lane = self._full.popleft()
            lane.full = False
            if not self._fills(lane):
                self._watch(lane)  # its turn came as a lingering lane meanwhile: what is left may wait for company
            elif not admits(lane.namespace):
                self._refused[lane.namespace] = lane
            elif batch := self._form(lane, now):
                return batch
        return None

    def _next_lingering(self, now: float, admits: Callable[[str], bool]) -> Batch | None:
        while self._lingering and self._lingering[0][0] <= now:
            due, _, lane = heapq.heappop(self._lingering)
            if lane.due != due:
                continue
            lane.due = None
            since = lane.oldest()
            if since is None or since + self.limits.linger > now:
                self._watch(lane)
            elif not admits(lane.namespace):
                self._refused[lane.namespace] = lane
            elif batch := self._form(lane, now):
                return batch
        return None

    def _watch(self, lane: Lane) -> None:
        """See to it that a lane with something to send is looked at again when it is due."""
        if lane.full or lane.namespace in self._refused:
            return
        since = lane.oldest()
        if since is None:
            return
        if self._fills(lane):
            lane.full = True
            self._full.append(lane)
            return
        due = since + self.limits.linger
        if lane.due is None or due < lane.due:
            lane.due = due
            self._ticket += 1
            heapq.heappush(self._lingering, (due, self._ticket, lane))

    def _fills(self, lane: Lane) -> bool:
        return lane.records >= self.limits.records or lane.estimate >= self.limits.bytes

    def _form(self, lane: Lane, now: float) -> Batch | None:
        items: list[Item] = []
        room, size = self.limits.records, overhead(lane.namespace)
        while room and (item := self._take(lane, now, room)) is not None:
            size += len(encode(item)) + 1
            if size - 1 > self.limits.bytes and (items or isinstance(item, Held)):
                self.hold.put_back(item, now)
                if items:
                    break
                if isinstance(item, Held):
                    self.hold.take_apart(item, now)
                size = overhead(lane.namespace)
                continue
            items.append(item)
            room -= records_of(item)
        self._watch(lane)
        return Batch(lane.namespace, items) if items else None

    def _take(self, lane: Lane, now: float, room: int) -> Item | None:
        """The next item that fits; an entry that fits into no batch is taken apart."""
        while True:
            item = self.hold.ready.take(lane, now, room)
            if item is not None or lane.oldest() is None:
                return item
            first = lane.line[0]
            if room < self.limits.records or not isinstance(first, Held):
                return None
            self.hold.take_apart(first, now)
