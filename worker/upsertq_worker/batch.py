"""Owns when a batch is closed and what goes into it: by count, by bytes of JSON, or when its oldest record lingered.

Pure. Lanes take turns, so a namespace with a long backlog cannot starve the others.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from upsertq.letter import Verdict
from upsertq_worker.encode import join, overhead
from upsertq_worker.hold import Hold
from upsertq_worker.versions import Lane, Unsendable, Version

if TYPE_CHECKING:
    from upsertq_worker.isolate import Search


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one request may carry, and how long a record may wait for company (seconds)."""

    records: int = 100
    bytes: int = 2_000_000
    linger: float = 0.2


@dataclass(frozen=True, slots=True)
class Convicted:
    """A record that stands alone and is refused, with why."""

    version: Version
    verdict: Verdict


@dataclass(eq=False, slots=True)
class Batch:
    """What one request carries: versions of one namespace, each id once."""

    namespace: str
    versions: list[Version]
    attempts: int = 0
    started: float = 0.0
    """When its last request began."""
    delay: float | None = None
    """Seconds that its last retry waited."""
    probe: str = ""
    """The paused scope that it probes."""
    short_acks: int = 0
    failures: int = 0
    """Failures while others succeeded."""
    landed_before: int = 0
    """Batches of the worker that had landed when it failed last."""
    first_failed: float = 0.0
    """When it, or what it is a part of, failed first; seconds since 1970."""
    search: "Search[Convicted] | None" = None
    """The search for culprits that it is part of."""
    unread_at: int | None = None
    """Batches of the worker that had landed when it, or a part of it, first had a success without a readable count."""
    parent: "Batch | None" = None
    narrowed: bool = False
    """A part of it was refused."""
    path: tuple[int, ...] = ()
    """The sizes of the groups that it was a part of, the largest first."""

    def part(self, versions: list[Version], search: "Search[Convicted] | None") -> "Batch":
        """A batch of some of its versions, to be sent instead of it."""
        return Batch(
            self.namespace,
            versions,
            attempts=self.attempts,
            landed_before=self.landed_before,
            first_failed=self.first_failed,
            search=search,
            parent=self,
            path=(*self.path, len(self.versions)),
        )

    @property
    def root(self) -> "Batch":
        """What it is a part of in the end."""
        return self if self.parent is None else self.parent.root

    @property
    def live(self) -> list[Version]:
        """The versions whose shard is still ours."""
        return [version for version in self.versions if not version.held.dropped]

    def body(self) -> bytes:
        """The request's body, of the live versions."""
        return join([version.body for version in self.live], self.namespace)


@dataclass(slots=True)
class Batcher:
    """Forms batches out of what the hold lets go."""

    hold: Hold
    limits: BatchLimits
    hurried: frozenset[str] = frozenset()
    """Namespaces whose records do not wait for company: few are let go at a time."""
    _full: deque[Lane] = field(default_factory=deque)
    _lingering: list[tuple[float, int, Lane]] = field(default_factory=list)
    _ticket: int = 0
    _full_first: bool = True
    _parked: dict[str, Lane] = field(default_factory=dict)

    def next(self, now: float, admits: Callable[[str], bool]) -> Batch | None:
        """The next batch that is due, `None` while every lane had better wait.

        Full lanes and lanes that lingered take turns, so that neither kind can starve the other. Lanes whose namespace
        `admits` refuses are passed over, and looked at again in each call.
        """
        for namespace in [namespace for namespace in self._parked if admits(namespace)]:
            self._watch(self._parked.pop(namespace))
        for lane in self.hold.lines.stirred:
            lane.stirred = False
            self._watch(lane)
        self.hold.lines.stirred.clear()
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
                self._parked[lane.namespace] = lane
            elif batch := self._form(lane, now):
                return batch
        return None

    def _next_lingering(self, now: float, admits: Callable[[str], bool]) -> Batch | None:
        while self._lingering and self._lingering[0][0] <= now:
            due, _, lane = heapq.heappop(self._lingering)
            if lane.due != due:
                continue
            lane.due = None
            if not lane.line or lane.line[0].since + self._linger(lane) > now:
                self._watch(lane)
            elif not admits(lane.namespace):
                self._parked[lane.namespace] = lane
            elif batch := self._form(lane, now):
                return batch
        return None

    def _watch(self, lane: Lane) -> None:
        """See to it that a lane with something to send is looked at again when it is due."""
        if not lane.line or lane.full or lane.namespace in self._parked:
            return
        if self._fills(lane):
            lane.full = True
            self._full.append(lane)
            return
        due = lane.line[0].since + self._linger(lane)
        if lane.due is None or due < lane.due:
            lane.due = due
            self._ticket += 1
            heapq.heappush(self._lingering, (due, self._ticket, lane))

    def _linger(self, lane: Lane) -> float:
        return 0.0 if lane.namespace in self.hurried else self.limits.linger

    def _fills(self, lane: Lane) -> bool:
        return len(lane.line) >= self.limits.records or lane.estimate >= self.limits.bytes

    def _form(self, lane: Lane, now: float) -> Batch | None:
        versions: list[Version] = []
        size = overhead(lane.namespace)
        while len(versions) < self.limits.records:
            version = self.hold.lines.take(lane, now)
            if version is None:
                break
            try:
                size += len(version.encode()) + 1
            except Unsendable:
                for other in versions:
                    self.hold.put_back(other, now)
                self._watch(lane)
                raise
            if versions and size - 1 > self.limits.bytes:
                self.hold.put_back(version, now)
                break
            versions.append(version)
        self._watch(lane)
        return Batch(lane.namespace, versions) if versions else None
