"""Owns the promises as the simulation checks them (design §1), against a model that is too plain to be wrong.

It is told what the world saw (enqueued, posted, applied, settled) and never asks a worker what it thinks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import orjson

from upsertq.contract.books import COUNTERS
from upsertq.contract.dead_letter import Reason
from upsertq.contract.keys import shard_of
from upsertq_worker.recovery.suspects import ALONE
from upsertq_worker.settings import MOST_CULPRITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from upsertq.contract.books import Books
    from upsertq.contract.wire import Entry
    from upsertq_worker.ordering.model import DeadRecord, Settlement

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
    """The newest version that was settled and is not dead: nothing older may reach the index any more."""
    applied: set[int] = field(default_factory=set)
    letters: dict[int, str] = field(default_factory=dict)
    """The versions that are dead letters, with their runs."""
    faults: dict[int, Counter[str]] = field(default_factory=dict)
    """By version: what the service held against this very record, and how often its requests failed."""


@dataclass(slots=True)
class Filed:
    """One entry of the queue."""

    run: str
    size: int
    records: tuple[tuple[Key, int], ...]
    replayed: bool = False
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
        self._alone: Counter[tuple[int, str, int | None]] = Counter()
        """By shard, entry and row: holders that were gone while the mark named it."""
        self._flights: dict[str, dict[Key, Flight]] = {}
        self.shards = 1
        self.patience: dict[str, int] = {}
        """Failures after which a worker gives a record up."""
        self._letters: Counter[tuple[int, str]] = Counter()
        """Dead letters by shard and run (`""`: all of the shard)."""
        self._mistaken: Counter[tuple[str, str]] = Counter()
        """Records that died while the service refused everything, by worker and namespace."""
        self._belated: Counter[tuple[str, str]] = Counter()
        """Times that a worker, while it was refused, learnt of one accepted before: it begins to count anew then."""
        self._refused: set[tuple[str, str]] = set()

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

    def replayed(self, shard: int, stream_id: str, entry: Entry) -> None:
        """A dead letter went to the tail of its stream."""
        key, version = (entry.namespace, entry.ids[0]), version_of(entry)
        self._filed[shard, stream_id] = Filed(entry.run, entry.size, ((key, version),), replayed=True)
        self.note("replay", f"shard {shard} {stream_id} (first {entry.seq}): {_shown([(key, version)])}")
        if self._line(key).letters.pop(version, None) is None:
            self.violated(f"{key} v{version} is replayed, but it is no dead letter")
        # which one it killed before its death says nothing about a second death
        self._faults(key, version)[Reason.CRASH_LOOP] = 0
        self._count_letter(key, entry.run, -1)

    def blamed(self, records: Sequence[tuple[Key, int]], what: str) -> None:
        """The service has something against a request. Only what was held against a record alone is held against it."""
        self.note("blame", f"{what}: {_shown(records)}")
        if len(records) == 1:
            ((key, version),) = records
            self._faults(key, version)[what] += 1

    def taken_over(self, shard: int, mark: str) -> None:
        """A shard has another holder; the one before did not release it, and has left this mark."""
        alone = orjson.loads(mark)[0] if mark else None
        if alone is not None:
            self._alone[shard, *alone] += 1

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
        lanes = {(worker, key[0]) for key, _ in records}
        if what == "200":
            self._belated.update(lanes & self._refused)
        self._refused = self._refused - lanes if what == "200" else self._refused | (lanes if what == "400" else set())
        for key, version in records:
            if what not in {"200", "400"}:
                self._faults(key, version)["failed"] += 1
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
            self.violated(f"{key} gets v{version}, which was never enqueued")
        line.index = version
        line.applied.add(version)

    def settled(self, worker: str, settlement: Settlement, holder: str) -> None:
        """An entry left the queue; `holder` is whose lease it was."""
        filed = self._filed.get((settlement.shard, settlement.stream_id))
        self.note("settle", f"{worker}: {settlement}")
        if holder != worker:
            self.violated(f"{worker} settles {settlement.stream_id} under the lease of {holder or 'no worker'}")
        if filed is None or filed.settled:
            self.violated(f"{settlement.stream_id} is settled twice, or was never enqueued")
            return
        filed.settled = True
        told = (settlement.run, settlement.records, settlement.size)
        if told != (filed.run, len(filed.records), filed.size):
            self.violated(f"{settlement.stream_id} is settled as {told}, but it is {filed}")
        if settlement.acked + settlement.superseded + len(settlement.dead) != len(filed.records):
            self.violated(f"{settlement} accounts for other than its {len(filed.records)} records")
        self._check_fates(settlement, filed)

    def undone(self, entries: Iterable[tuple[int, str]]) -> None:
        """The server lost the settlements of these entries, if there were any."""
        for one in entries:
            self._filed[one].settled = False

    def booked(self, whose: tuple[int, str], books: Books, *, records: int, size: int, dead: int) -> None:
        """Books of a shard and run were written.

        `records`, `size` (bytes) and `dead` (letters) are what a recount of the queue gives.
        """
        if books.drift or min(getattr(books, name) for name in COUNTERS) < 0:
            self.violated(f"the books of {whose} do not balance: {books}")
        if (books.pending, books.bytes) != (records, size):
            self.violated(f"the books of {whose} say {books}, but {records} records of {size} bytes are in the queue")
        if not books.dead == dead == self._letters[whose]:
            self.violated(f"the books of {whose} say {books}, but {dead} letters are there of {self._letters[whose]}")

    def finished(self, left: int, books: Books, marks: int) -> None:
        """All is drained and all letters were replayed: nothing may be missing in the index."""
        total = sum(len(filed.records) for filed in self._filed.values() if not filed.replayed)
        if left or books.pending or books.dead or books.enqueued != total:
            self.violated(f"{left} entries are left in the queue, its books say {books}, {total} were enqueued")
        if marks:
            self.violated(f"{marks} ids are marked although no letter of theirs is left")
        if sum(not filed.settled for filed in self._filed.values()):
            self.violated("an entry was never settled")
        for key, line in sorted(self._lines.items()):
            if line.index != line.enqueued:
                self.violated(f"at the end {key} is v{line.index} in the index, but v{line.enqueued} was enqueued last")

    def shared_out(self, held: Mapping[str, Sequence[int]], shards: int) -> None:
        """All is calm, and has been for long: these are the workers alive, and what each holds."""
        self.note("shared", f"{ {name: len(ones) for name, ones in held.items()} }")
        counts = [len(ones) for ones in held.values()]
        if held and (sum(counts) != shards or max(counts) - min(counts) > 1):
            self.violated(f"{shards} shards are not shared out: {held}")

    # what follows from it

    def _check_fates(self, settlement: Settlement, filed: Filed) -> None:
        """Records are acknowledged only if they were applied, superseded only if a newer version was."""
        never = without_newer = 0
        dead = {record.row for record in settlement.dead}
        if len(dead) < len(settlement.dead):
            self.violated(f"{settlement} gives a record up twice")
        for record in settlement.dead:
            self._check_dead(settlement, record, *filed.records[record.row])
        for row, (key, version) in enumerate(filed.records):
            if row in dead:
                continue
            line = self._line(key)
            if line.index < version:
                self.violated(f"lost: {key} v{version} is settled, but the index has v{line.index}")
            never += version not in line.applied
            without_newer += not any(other > version for other in line.applied)
            line.floor = max(line.floor, version)
            for older in [older for older in line.letters if older < version]:
                self._count_letter(key, line.letters.pop(older), -1)
                self.note("outdated", f"letter {key} v{older} by v{version}")
        if never > settlement.superseded:
            self.violated(f"{settlement} counts records as acknowledged that never reached the index")
        if without_newer > settlement.acked:
            self.violated(f"{settlement} counts records as superseded of which no newer version reached the index")

    def _check_dead(self, settlement: Settlement, record: DeadRecord, key: Key, version: int) -> None:
        """A record is dead only if the service refused it alone, or if it kept failing."""
        entry, verdict, faults = record.entry, record.verdict, self._faults(key, version)
        self.note("dead", f"{key} v{version}: {verdict.reason}")
        if ((entry.namespace, entry.ids), version_of(entry), entry.run) != (
            (key[0], (key[1],)),
            version,
            settlement.run,
        ):
            self.violated(f"the letter of {key} v{version} holds {entry}")
        match verdict.reason:
            case Reason.MAX_ATTEMPTS:
                guilty = faults["failed"] >= self.patience[verdict.worker]
            case Reason.REFUSED if not faults[verdict.reason] and faults["systemic"]:
                self._mistaken[verdict.worker, key[0]] += 1
                lane = verdict.worker, key[0]
                guilty = self._mistaken[lane] <= MOST_CULPRITS * (1 + self._belated[lane])
            case Reason.CRASH_LOOP:
                # a frozen holder leaves its mark as a dead one does; what killed alone twice needs no mark
                marked = self._alone[settlement.shard, settlement.stream_id, record.row]
                guilty = marked >= ALONE or faults[verdict.reason] >= ALONE
                self.note("crash_loop" if faults[verdict.reason] else "unlucky", f"{key} v{version}")
            case _:
                guilty = bool(faults[verdict.reason])
        if not guilty:
            self.violated(f"innocent: {key} v{version} is dead of {verdict}, but of it is known only {dict(faults)}")
        line = self._line(key)
        if version < line.floor:
            self.violated(f"{key} v{version} is dead although v{line.floor} was acknowledged")
        line.letters[version] = entry.run
        self._count_letter(key, entry.run, 1)

    def _count_letter(self, key: Key, run: str, by: int) -> None:
        shard = shard_of(*key, self.shards)
        for name in {"", run}:
            self._letters[shard, name] += by

    def _faults(self, key: Key, version: int) -> Counter[str]:
        return self._line(key).faults.setdefault(version, Counter())

    def _line(self, key: Key) -> Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line()
        return line


def _shown(records: Sequence[tuple[Key, int]]) -> str:
    return " ".join(f"{namespace}/{record_id}@{version}" for (namespace, record_id), version in records)


def version_of(entry: Entry) -> int:
    """The version of the one record of an entry."""
    return int(orjson.loads(entry.metadata)[0]["version"])
