"""Owns which version of a record may be sent, and when an entry may be settled: the rules behind "last write wins".

Pure: it keeps what was read and not yet settled, decides, and does no I/O. Three invariants hold after every call:

1. At most one version of a key (namespace and id) is in flight.
2. Two entries that share a key are given out for settling in the order of the stream. So a version that may reach the
   index after a crash always finds its successors still in the queue behind it, and they are sent after it.
3. While an answer for a version may still take effect (it was lost, or its worker died), no other version of that key
   is sent until the quarantine is over.
"""

import heapq
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from upsertq.letter import Verdict, place_of
from upsertq.wire import FLOAT32, Entry, one_record
from upsertq_worker.encode import Encoder

Order = tuple[int, int, int]
"""Where a version stands among all versions of its id: stream id (milliseconds, number), then row in the entry."""


RECORD_WEIGHT = 1_000
"""Bytes of memory that the bookkeeping of one record takes: measured with tracemalloc, rounded up."""


class Fate(Enum):
    """How a record ends."""

    ACKED = "acked"
    SUPERSEDED = "superseded"
    DEAD = "dead"


@dataclass(eq=False, slots=True)
class Held:
    """An entry that was read and is not yet given out for settling."""

    shard: int
    stream_id: str
    entry: Entry
    size: int
    open: int
    """Records without a fate."""
    acked: int = 0
    superseded: int = 0
    graves: list["Grave"] = field(default_factory=list)
    """Its dead records."""
    dropped: bool = False
    """The shard's lease is gone: whatever comes of the records in flight no longer counts."""
    versions: list["Version"] = field(default_factory=list)
    older: int = 0
    """Entries that share a key with this one and must be given out first."""
    newer: list["Held"] = field(default_factory=list)
    encoder: Encoder | None = None
    """Made when the first of its records is about to be sent."""

    @property
    def weight(self) -> int:
        """Bytes of memory it takes here, about: its payload and what is kept for each of its records."""
        return self.size + RECORD_WEIGHT * len(self.entry.ids)


@dataclass(frozen=True, slots=True)
class Grave:
    """A record that is given up: its row, itself as an entry of one record, and why."""

    row: int
    entry: Entry
    verdict: Verdict


@dataclass(eq=False, slots=True)
class Version:
    """One record of an entry, as one version of its key."""

    held: Held
    row: int
    order: Order
    chain: "Chain"
    body: bytes = b""
    """The record's JSON, once it was made."""

    @property
    def id(self) -> str:
        """The record's id."""
        return self.held.entry.ids[self.row]

    @property
    def sequence(self) -> str:
        """Its place among all versions of its id, as it is written down."""
        return "-".join(map(str, self.order))

    def encode(self) -> bytes:
        """The record's JSON; made once."""
        if not self.body:
            held = self.held
            if held.encoder is None:
                held.encoder = Encoder(held.entry)
            self.body = held.encoder.record(self.row)
        return self.body

    @property
    def namespace(self) -> str:
        """The record's namespace."""
        return self.held.entry.namespace


@dataclass(eq=False, slots=True)
class Chain:
    """All versions of one key that are known here."""

    shard: int
    key: tuple[str, str]
    waiting: list[Version] = field(default_factory=list)
    flying: Version | None = None
    queued: bool = False
    """It stands in its lane's line."""
    estimate: int = 0
    """What it adds to the lane's estimate while it stands there."""
    since: float = 0.0
    """When its oldest waiting version became known."""
    last: Held | None = None
    """The newest entry in which the key occurs."""
    entries: int = 0
    """Versions in entries that are not yet given out."""
    acked: Order | None = None
    """The newest version acknowledged: an older one that is read later (a replay) is superseded by it."""
    quarantined_until: float = 0.0
    suspect: Version | None = None
    """The one version that may be sent during the quarantine, for only it can still be travelling."""


@dataclass(eq=False, slots=True)
class Lane:
    """The line of keys of one namespace that may be sent."""

    namespace: str
    line: deque[Chain] = field(default_factory=deque)
    estimate: int = 0
    """About how many bytes of JSON the line will make."""
    stirred: bool = False
    """It got something to send since the batcher last looked."""
    full: bool = False
    """It stands among the batcher's full lanes."""
    due: float | None = None
    """When the batcher means to look at it again."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What becomes of one entry: given out once, to be carried out in the order given within a shard."""

    shard: int
    stream_id: str
    run: str
    records: int
    size: int
    acked: int
    superseded: int
    sequence: str = ""
    """The entry's place in order: its stream id, or of a replayed one its original sequence."""
    graves: tuple[Grave, ...] = ()
    entry: Entry | None = field(default=None, compare=False, repr=False)

    def outdates(self, shard: int, replayed: Entry) -> bool:
        """Whether it acknowledges, or supersedes, a newer version of the one record of a replayed entry."""
        entry = self.entry
        if entry is None or shard != self.shard or entry.namespace != replayed.namespace:
            return False
        milliseconds, number, first_row = place_of(self.sequence)
        dead = {grave.row for grave in self.graves}
        rows = [row for row, name in enumerate(entry.ids) if name == replayed.ids[0] and row not in dead]
        return any((milliseconds, number, first_row + row) > place_of(replayed.seq) for row in rows)

    @property
    def dead(self) -> int:
        """Records given up."""
        return len(self.graves)


class Hold:
    """Everything read and not yet settled.

    Args:
        quarantine: seconds for which a version whose answer was lost keeps other versions of its id waiting.
    """

    def __init__(self, quarantine: float) -> None:
        self._quarantine = quarantine
        self._chains: dict[int, dict[tuple[str, str], Chain]] = {}
        self._held: dict[int, dict[str, Held]] = {}
        self._timers: list[tuple[float, int, Chain]] = []
        self._ticket = 0
        self.lanes: dict[str, Lane] = {}
        self.stirred: list[Lane] = []
        """Lanes that got something to send since the owner last cleared this list."""
        self.settlements: list[Settlement] = []
        """Entries given out for settling since the owner last cleared this list."""
        self.weight = 0
        """Bytes of memory that the entries held take, about."""

    @property
    def entries(self) -> int:
        """Entries held."""
        return sum(len(held) for held in self._held.values())

    def count(self, shard: int) -> int:
        """Entries held of one shard."""
        return len(self._held.get(shard, ()))

    def knows(self, shard: int, stream_id: str) -> bool:
        """Whether this entry is held."""
        return stream_id in self._held.get(shard, ())

    def admit(
        self, shard: int, stream_id: str, entry: Entry, now: float, *, recovered: bool = False, stale: bool = False
    ) -> None:
        """Take an entry that was read.

        Args:
            shard: where it was read.
            stream_id: its place there.
            entry: itself.
            now: the time in seconds.
            recovered: an earlier holder may have sent parts of it.
            stale: it was replayed, and a newer version of its record was acknowledged since: it is superseded.
        """
        milliseconds, number, *replayed_row = map(int, (entry.seq or stream_id).split("-"))
        first_row = replayed_row[0] if replayed_row else 0
        held = Held(shard, stream_id, entry, entry.size, len(entry.ids))
        self.weight += held.weight
        chains = self._chains.setdefault(shard, {})
        self._held.setdefault(shard, {})[stream_id] = held
        for row, record_id in enumerate(entry.ids):
            key = (entry.namespace, record_id)
            chain = chains.get(key)
            if chain is None:
                chain = chains[key] = Chain(shard, key, since=now)
            version = Version(held, row, (milliseconds, number, first_row + row), chain)
            held.versions.append(version)
            self._link(chain, held)
            if recovered:
                self._suspect(chain, version, now)
        for version in held.versions:
            if stale:
                self._end(version, Fate.SUPERSEDED)
            else:
                self._enter(version, now)

    def take(self, lane: Lane, now: float) -> Version | None:
        """Take the next version to send in this lane: the newest of the key that waits longest; it flies from here."""
        while lane.line:
            chain = lane.line.popleft()
            chain.queued = False
            lane.estimate -= chain.estimate
            version = self._sendable(chain, now)
            if version is not None:
                chain.waiting.remove(version)
                chain.flying = version
                return version
        return None

    def put_back(self, version: Version, now: float, *, last: bool = False) -> None:
        """Let a version that was taken wait again, at the head of its lane's line, or with `last` at its end."""
        if version.held.dropped:
            return
        version.chain.flying = None
        version.chain.waiting.append(version)
        self._offer(version.chain, now, first=not last)

    def lost(self, version: Version, now: float) -> None:
        """The answer for a version in flight was lost: it may take effect during the quarantine."""
        self._suspect(version.chain, version, now)

    def finish(self, version: Version, fate: Fate, now: float, verdict: Verdict | None = None) -> None:
        """A version in flight has its fate. When acknowledged, every older one that waits is superseded by it.

        A dead one has a verdict.
        """
        if version.held.dropped:
            return
        chain = version.chain
        chain.flying = None
        if verdict is not None:
            single = one_record(version.held.entry, version.row, version.sequence)
            version.held.graves.append(Grave(version.row, single, verdict))
        self._end(version, fate)
        if fate is Fate.ACKED:
            chain.acked = version.order
            stale = [other for other in chain.waiting if other.order <= version.order]
            if stale:
                chain.waiting = [other for other in chain.waiting if other.order > version.order]
            for other in stale:
                self._end(other, Fate.SUPERSEDED)
        self._offer(chain, now)

    def wake(self, now: float) -> float | None:
        """Line up the keys whose quarantine is over; returns when the next one ends, `None` if there is none."""
        while self._timers and self._timers[0][0] <= now:
            chain = heapq.heappop(self._timers)[2]
            if chain.quarantined_until <= now:
                chain.quarantined_until, chain.suspect = 0.0, None
                self._offer(chain, now)
                self._forget_if_done(chain)
        return self._timers[0][0] if self._timers else None

    def quarantine_end(self, shard: int, now: float) -> float:
        """When the last quarantine of this shard ends; `now` when there is none."""
        return max((when for when, _, chain in self._timers if chain.shard == shard), default=now)

    def drop(self, shard: int) -> None:
        """Forget a shard whose lease is gone: another worker has its entries, or will."""
        for held in self._held.pop(shard, {}).values():
            held.dropped = True
            self.weight -= held.weight
        for chain in self._chains.pop(shard, {}).values():
            chain.waiting.clear()
        self._timers = [timer for timer in self._timers if timer[2].shard != shard]
        heapq.heapify(self._timers)
        self.settlements = [settlement for settlement in self.settlements if settlement.shard != shard]

    def _link(self, chain: Chain, held: Held) -> None:
        """Let `held` be given out after the entry that held the key before it."""
        chain.entries += 1
        before = chain.last
        if before is not held:
            if before is not None:
                before.newer.append(held)
                held.older += 1
            chain.last = held

    def _enter(self, version: Version, now: float) -> None:
        """Let a version wait, unless a newer one was acknowledged already."""
        chain = version.chain
        if chain.acked is not None and version.order <= chain.acked:
            self._end(version, Fate.SUPERSEDED)
            return
        if not chain.waiting:
            chain.since = now
        chain.waiting.append(version)
        self._offer(chain, now)

    def _suspect(self, chain: Chain, version: Version, now: float) -> None:
        still = now < chain.quarantined_until
        chain.suspect = None if still and chain.suspect is not version else version
        chain.quarantined_until = now + self._quarantine
        self._ticket += 1
        heapq.heappush(self._timers, (chain.quarantined_until, self._ticket, chain))

    def _sendable(self, chain: Chain, now: float) -> Version | None:
        if chain.flying is not None or not chain.waiting:
            return None
        waiting = chain.waiting
        newest = waiting[0] if len(waiting) == 1 else max(waiting, key=_order)
        if now < chain.quarantined_until and newest is not chain.suspect:
            return None
        return newest

    def _offer(self, chain: Chain, now: float, *, first: bool = False) -> None:
        if chain.queued:
            return
        version = self._sendable(chain, now)
        if version is None:
            return
        chain.queued = True
        lane = self._lane(version.namespace)
        if first:
            lane.line.appendleft(chain)
        else:
            lane.line.append(chain)
        chain.estimate = estimate(version)
        lane.estimate += chain.estimate
        if not lane.stirred:
            lane.stirred = True
            self.stirred.append(lane)

    def _lane(self, namespace: str) -> Lane:
        lane = self.lanes.get(namespace)
        if lane is None:
            lane = self.lanes[namespace] = Lane(namespace)
        return lane

    def _end(self, version: Version, fate: Fate) -> None:
        held = version.held
        held.open -= 1
        match fate:
            case Fate.ACKED:
                held.acked += 1
            case Fate.SUPERSEDED:
                held.superseded += 1
            case Fate.DEAD:
                pass  # its grave is dug
        version.body = b""
        if held.open == 0 and held.older == 0:
            self._give_out(held)

    def _give_out(self, first: Held) -> None:
        line = deque([first])
        while line:
            held = line.popleft()
            del self._held[held.shard][held.stream_id]
            self.weight -= held.weight
            self.settlements.append(_settlement(held))
            for version in held.versions:
                chain = version.chain
                chain.entries -= 1
                if chain.last is held:
                    chain.last = None
                self._forget_if_done(chain)
            for after in held.newer:
                after.older -= 1
                if after.older == 0 and after.open == 0:
                    line.append(after)

    def _forget_if_done(self, chain: Chain) -> None:
        """Forget a key without versions, unless its quarantine must be remembered: then its timer comes back here."""
        if chain.entries == 0 and chain.quarantined_until == 0.0:
            chains = self._chains.get(chain.shard, {})
            if chains.get(chain.key) is chain:
                del chains[chain.key]


def _order(version: Version) -> Order:
    return version.order


def _settlement(held: Held) -> Settlement:
    return Settlement(
        held.shard,
        held.stream_id,
        held.entry.run,
        len(held.entry.ids),
        held.size,
        held.acked,
        held.superseded,
        held.entry.seq or held.stream_id,
        tuple(held.graves),
        held.entry,
    )


def estimate(version: Version) -> int:
    """About the bytes that the record's JSON will have: 11 characters a value, and its share of the rest."""
    if version.body:
        return len(version.body)
    entry = version.held.entry
    rest = (len(entry.sparse) + len(entry.metadata)) // len(entry.ids)
    return 11 * (len(entry.values) // (FLOAT32 * len(entry.ids))) + rest + 40
