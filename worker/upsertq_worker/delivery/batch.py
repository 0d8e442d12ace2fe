"""Owns what is known of one batch: its items, and what became of it so far; and when a batch is closed.

Pure. A batch closes by count, by bytes of JSON, or when its oldest record lingered; at once where nothing more is to
come. Lanes take turns, so a namespace with a long backlog cannot starve the others.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from upsertq.contract.dead_letter import Verdict
from upsertq.contract.wire import Entry
from upsertq_worker.delivery.bisect import Search
from upsertq_worker.delivery.encoder import Body, MetadataOf, Unsendable, encode, overhead
from upsertq_worker.delivery.response import Sent
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import Held, Item, Version, entry_of, ids_of, records_of
from upsertq_worker.ordering.ready import Lane
from upsertq_worker.settings import BatchLimits

HANGING: Final = 5.0
"""Seconds without an answer after which a request has not killed its worker, and keeps no suspect waiting."""


@dataclass(frozen=True, slots=True)
class Culprit:
    """A record that stands alone and is refused, with why."""

    version: Version
    verdict: Verdict


@dataclass(eq=False, slots=True)
class Batch:
    """What one request carries: whole entries and single records of one namespace, each id once."""

    namespace: str
    items: list[Item]
    attempts: int = 0
    started: float = 0.0
    """When its last request began."""
    version: int = 0
    """Of the slot that its last request had, 0 where it needed none."""
    size: int = 0
    """Bytes of the body that was made last."""
    delay: float | None = None
    """Seconds that its last retry waited."""
    probe: str = ""
    """The paused scope that it probes."""
    short_acks: int = 0
    failures: int = 0
    """Failures while others succeeded."""
    landed_before: int = 0
    """Batches of the worker that had landed when it failed last."""
    lane_refusals: int = 0
    """Times that it was refused together with its lane."""
    first_failed: float = 0.0
    """When it, or what it is a part of, failed first; seconds since 1970."""
    search: Search[Culprit] | None = None
    """The search for culprits that it is part of."""
    unread_at: int | None = None
    """Batches of the worker that had landed when it, or a part of it, first had a success without a readable count."""
    parent: "Batch | None" = None
    narrowed: bool = False
    """A part of it was refused."""
    path: tuple[int, ...] = ()
    """The sizes of the groups that it was a part of, the largest first."""

    def part(self, versions: list[Version], search: Search[Culprit] | None) -> "Batch":
        """A batch of some of its records, to be sent instead of it."""
        return Batch(
            self.namespace,
            list(versions),
            attempts=self.attempts,
            landed_before=self.landed_before,
            first_failed=self.first_failed,
            search=search,
            parent=self,
            path=(*self.path, self.count),
        )

    @property
    def root(self) -> "Batch":
        """What it is a part of in the end."""
        return self if self.parent is None else self.parent.root

    @property
    def attempted_before(self) -> bool:
        """Whether its records were in a request that was answered before."""
        return self.delay is not None or self.parent is not None

    @property
    def live(self) -> list[Item]:
        """The items whose shard is still ours."""
        return [item for item in self.items if not entry_of(item).dropped]

    @property
    def count(self) -> int:
        """How many records it has."""
        return sum(map(records_of, self.items))

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of its records."""
        return tuple(chain.from_iterable(map(ids_of, self.items)))

    @property
    def records(self) -> list[tuple[Entry, int]]:
        """Each of its records: the entry, and the row in it."""
        return [
            (entry_of(item).entry, row)
            for item in self.items
            for row in (range(len(item.entry.ids)) if isinstance(item, Held) else (item.row,))
        ]

    @property
    def refused_since(self) -> float | None:
        """When the first of its items was refused with its lane, maybe in another batch; `None` where none was."""
        times = (time for item in self.items for time in (item.refused_at, entry_of(item).refused_at))
        return min((time for time in times if time is not None), default=None)

    def refused_with_lane(self, now: float) -> None:
        """Note that it was refused together with its lane."""
        self.lane_refusals += 1
        for item in self.live:
            if item.refused_at is None:
                item.refused_at = now

    def sent(self) -> Sent:
        """What its request carries, as far as an answer may speak of it."""
        return Sent(self.ids, self.namespace, MetadataOf(self.items))

    def versions(self, hold: Hold, now: float) -> list[Version]:
        """Its records each by itself, in the order sent; whole entries are taken apart."""
        versions: list[Version] = []
        for item in self.items:
            if isinstance(item, Held):
                versions += hold.take_apart(item, now)
            else:
                versions.append(item)
        self.items = list(versions)
        return versions

    def body(self) -> Body:
        """The request's body, of the live items; its size is noted."""
        body = Body([encode(item) for item in self.live], self.namespace)
        self.size = len(body)
        return body


@dataclass(slots=True)
class Batcher:
    """Forms batches out of what the hold lets go."""

    hold: Hold
    limits: BatchLimits
    _more: bool = True
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

    def expect(self, more: bool) -> None:  # noqa: FBT001 - its only argument, and called by position
        """Say whether more is to come: where nothing is, no lane waits for company."""
        self._more = more

    def waiting(self, namespace: str) -> int:
        """How many batches of this namespace could be formed now, about."""
        lane = self.hold.ready.lanes.get(namespace)
        if lane is None or not lane.line:
            return 0
        return max(1, lane.records // self.limits.records, lane.estimate // self.limits.bytes)

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
        while self._lingering and self._lingered(self._lingering[0][0], now):
            due, _, lane = heapq.heappop(self._lingering)
            if lane.due != due:
                continue
            lane.due = None
            since = lane.oldest()
            if since is None or not self._lingered(since + self.limits.linger, now):
                self._watch(lane)
            elif not admits(lane.namespace):
                self._refused[lane.namespace] = lane
            elif batch := self._form(lane, now):
                return batch
        return None

    def _watch(self, lane: Lane) -> None:
        """See to it that a lane with something to send is looked at again when it is due; one without is forgotten."""
        if lane.full or lane.namespace in self._refused:
            return
        since = lane.oldest()
        if since is None:
            self.hold.ready.forget(lane)
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

    def _lingered(self, due: float, now: float) -> bool:
        return due <= now or not self._more

    def _fills(self, lane: Lane) -> bool:
        return lane.records >= self.limits.records or lane.estimate >= self.limits.bytes

    def _form(self, lane: Lane, now: float) -> Batch | None:
        items: list[Item] = []
        room, space = self.limits.records, self.limits.bytes - overhead(lane.namespace) + 1
        while room and (item := self._take(lane, now, room)) is not None:
            try:
                size = len(encode(item)) + 1
            except Unsendable:
                for other in items:
                    self.hold.put_back(other, now)
                self._watch(lane)
                raise
            if size <= space or not (items or isinstance(item, Held)):
                items.append(item)
                room -= records_of(item)
                space -= size
                continue
            self.hold.put_back(item, now)
            if not isinstance(item, Held):
                break
            self.hold.take_apart(item, now)  # its records fill what is left
        self._watch(lane)
        return Batch(lane.namespace, items) if items else None

    def _take(self, lane: Lane, now: float, room: int) -> Item | None:
        """The next item that fits. A batch begins with the first in line: what fits into no batch is taken apart."""
        while room == self.limits.records and lane.oldest() is not None:
            first = lane.line[0]
            if not isinstance(first, Held) or records_of(first) <= room:
                break
            self.hold.take_apart(first, now)
        return self.hold.ready.take(lane, now, room)
