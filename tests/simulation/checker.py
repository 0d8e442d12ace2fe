"""Owns the promises as the simulation checks them (design §1), against a model that is too plain to be wrong.

It is told what the world saw (enqueued, posted, applied, settled) and never asks a worker what it thinks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from upsertq.books import Books
    from upsertq_worker.hold import Settlement

Key = tuple[str, str]
"""Namespace and id."""
ENOUGH: Final = 20
"""Violations kept of one history."""
ROUNDING: Final = 1e-6


@dataclass(slots=True)
class Line:
    """What is known of one key: version numbers count from 1 in the order enqueued, 0 is none."""

    enqueued: int = 0
    index: int = 0
    """The version in the index."""
    floor: int = 0
    """The newest version that was settled: nothing older may reach the index any more."""
    applied: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Filed:
    """One entry of the queue."""

    run: str
    size: int
    records: tuple[tuple[Key, int], ...]
    settled: bool = False


@dataclass(slots=True)
class Flight:
    """The last version of a key that a worker sent."""

    version: int
    flying: bool = True
    held_until: float = 0.0
    """No other version may be sent before: the answer was lost."""


class Checker:
    """Notes every violation of a promise.

    Args:
        now: seconds of virtual time.
        traced: keep the history as lines of text too.
    """

    def __init__(self, now: Callable[[], float], *, traced: bool) -> None:
        self.violations: list[str] = []
        self.history: list[str] = []
        self.seen: dict[str, int] = {}
        """How often each kind of event was seen: shows that a history was worth its time."""
        self._now = now
        self._traced = traced
        self._lines: dict[Key, Line] = {}
        self._filed: dict[tuple[int, str], Filed] = {}
        self._flights: dict[str, dict[Key, Flight]] = {}

    def note(self, kind: str, text: str) -> None:
        """Count an event, and write it down where that is wanted."""
        self.seen[kind] = self.seen.get(kind, 0) + 1
        if self._traced:
            self.history.append(f"{self._now():9.3f} {kind:8} {text}")

    def violated(self, text: str) -> None:
        """Write a violation down."""
        if len(self.violations) < ENOUGH:
            self.violations.append(f"at {self._now():.3f}: {text}")
        self.note("VIOLATED", text)

    # what happens

    def enqueued(self, shard: int, stream_id: str, filed: Filed) -> None:
        """An entry is in the queue."""
        self._filed[shard, stream_id] = filed
        for key, version in filed.records:
            self._line(key).enqueued = version
        self.note("enqueue", f"shard {shard} {stream_id} run {filed.run!r}: {_shown(filed.records)}")

    def posted(self, worker: str, records: Sequence[tuple[Key, int]], strangers: Sequence[int]) -> None:
        """A request leaves `worker`; `strangers` are the shards of its records whose lease it does not hold."""
        self.note("post", f"{worker}: {_shown(records)}")
        if strangers:
            self.violated(f"{worker} sends records of shards {list(strangers)} without their lease")
        flights = self._flights.setdefault(worker, {})
        if len({key for key, _ in records}) < len(records):
            self.violated(f"{worker} sends one id twice in a request: {_shown(records)}")
        for key, version in records:
            before = flights.get(key)
            if before is not None and before.flying:
                self.violated(f"{worker} sends {key} v{version} while v{before.version} is in flight")
            elif before is not None and before.version != version and self._now() < before.held_until - ROUNDING:
                self.violated(
                    f"{worker} sends {key} v{version}, but v{before.version} may still arrive until "
                    f"{before.held_until:.3f}"
                )
            held = before.held_until if before is not None else 0.0
            flights[key] = Flight(version, held_until=held)

    def answered(self, worker: str, records: Sequence[tuple[Key, int]], what: str, *, held_until: float) -> None:
        """`worker` got its answer, or learnt that there is none: the request may be applied until `held_until`."""
        self.note("answer", f"{worker}: {what}: {_shown(records)}")
        for key, version in records:
            flight = self._flights[worker].get(key)
            if flight is not None and flight.version == version:
                flight.flying = False
                flight.held_until = max(flight.held_until, held_until)

    def applied(self, worker: str, key: Key, version: int) -> None:
        """A version reaches the index."""
        line = self._line(key)
        self.note("apply", f"{key} v{version} from {worker} (was v{line.index})")
        if version < line.floor:
            self.violated(f"stale: {key} goes back to v{version} by {worker}, but v{line.floor} was acknowledged")
        if not 0 < version <= line.enqueued:
            self.violated(f"{key} gets v{version}, which nobody enqueued")
        line.index = version
        line.applied.add(version)

    def settled(self, worker: str, settlement: Settlement, holder: str) -> None:
        """An entry left the queue; `holder` is whose lease it was."""
        filed = self._filed.get((settlement.shard, settlement.stream_id))
        self.note("settle", f"{worker}: {settlement}")
        if holder != worker:
            self.violated(f"{worker} settles {settlement.stream_id} under the lease of {holder or 'nobody'}")
        if filed is None or filed.settled:
            self.violated(f"{settlement.stream_id} is settled twice, or was never enqueued")
            return
        filed.settled = True
        told = (settlement.run, settlement.records, settlement.size)
        if told != (filed.run, len(filed.records), filed.size):
            self.violated(f"{settlement.stream_id} is settled as {told}, but it is {filed}")
        if settlement.acked + settlement.superseded + settlement.dead != len(filed.records):
            self.violated(f"{settlement} accounts for other than its {len(filed.records)} records")
        self._check_fates(settlement, filed)

    def booked(self, name: str, books: Books, records: int, size: int) -> None:
        """Books were written; `records` and `size` (bytes) is what a recount of the queue gives."""
        if books.drift or min(books.as_dict().values()) < 0:
            self.violated(f"the books of {name} do not balance: {books}")
        if (books.pending, books.bytes) != (records, size):
            self.violated(f"the books of {name} say {books}, but {records} records of {size} bytes are in the queue")

    def finished(self, left: int, books: Books) -> None:
        """The last worker says that the queue is empty: nothing may be missing in the index."""
        total = sum(len(filed.records) for filed in self._filed.values())
        if left or books.pending or books.enqueued != total:
            self.violated(f"{left} entries are left in the queue, its books say {books}, {total} were enqueued")
        if sum(not filed.settled for filed in self._filed.values()):
            self.violated("an entry was never settled")
        for key, line in sorted(self._lines.items()):
            if line.index != line.enqueued:
                self.violated(f"at the end {key} is v{line.index} in the index, but v{line.enqueued} was enqueued last")

    # what follows from it

    def _check_fates(self, settlement: Settlement, filed: Filed) -> None:
        """Records are acknowledged only if they were applied, superseded only if a newer version was."""
        never = without_newer = 0
        for key, version in filed.records:
            line = self._line(key)
            if line.index < version:
                self.violated(f"lost: {key} v{version} is settled, but the index has v{line.index}")
            never += version not in line.applied
            without_newer += not any(other > version for other in line.applied)
            line.floor = max(line.floor, version)
        if never > settlement.superseded + settlement.dead:
            self.violated(f"{settlement} counts records as acknowledged that never reached the index")
        if without_newer > settlement.acked + settlement.dead:
            self.violated(f"{settlement} counts records as superseded of which no newer version reached the index")

    def _line(self, key: Key) -> Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line()
        return line


def _shown(records: Sequence[tuple[Key, int]]) -> str:
    return " ".join(f"{namespace}/{record_id}@{version}" for (namespace, record_id), version in records)
