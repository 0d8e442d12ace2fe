"""Owns what the hold keeps: entries that were read, versions of ids, lanes, and what becomes of an entry.

Pure, and it decides nothing: the rules that change them are in `upsertq_worker.hold`.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from upsertq.letter import Verdict, place_of
from upsertq.wire import FLOAT32, Entry
from upsertq_worker.encode import Encoder
from upsertq_worker.postage import Postage

Order = tuple[int, int, int]
"""Where a version stands among all versions of its id: stream id (milliseconds, number), then row in the entry."""


RECORD_WEIGHT = 1_000
"""Bytes of memory that one record takes beside its payload.

About 500 of bookkeeping (tracemalloc, 25 records an entry), doubled for parsed metadata and what the allocator adds.
"""


class Unsendable(Exception):  # noqa: N818 - as its siblings in `upsertq.errors`
    """No JSON can be made of a record, though its entry was decoded: a bug of ours, and its shard's affair alone.

    Attributes:
        shard: where the entry stands.
    """

    def __init__(self, held: "Held", error: Exception) -> None:
        self.shard = held.shard
        super().__init__(f"entry {held.stream_id} cannot be sent ({error!r}); it stays in the queue: report this bug")


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
    barred: bool = False
    """It waits to be let go: a worker may have died of it."""
    resting: bool = False
    """It was sent and killed nobody: it waits to be sent again, or its answer is long in coming."""

    @property
    def id(self) -> str:
        """The record's id."""
        return self.held.entry.ids[self.row]

    @property
    def open(self) -> bool:
        """Whether it has no fate yet, and is still here."""
        return not self.held.dropped and (self.chain.flying is self or self in self.chain.waiting)

    @property
    def sequence(self) -> str:
        """Its place among all versions of its id, as it is written down."""
        return "-".join(map(str, self.order))

    def encode(self) -> bytes:
        """The record's JSON; made once. `Unsendable` where it cannot be made: no entry may end a worker."""
        if not self.body:
            held = self.held
            try:
                if held.encoder is None:
                    held.encoder = Encoder(held.entry)
                self.body = held.encoder.record(self.row)
            except Exception as error:
                raise Unsendable(held, error) from error
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
    settled_ms: int = 0
    """When it was first to be carried out, in milliseconds since 1970; 0 where nobody looked."""
    postage: Postage | None = field(default=None, compare=False)
    """What requests for its run took, to be counted for the run together with it."""
    queue_postage: Postage | None = field(default=None, compare=False)
    """What requests took, to be counted for the queue together with it."""

    @classmethod
    def of(cls, held: Held) -> "Settlement":
        """That of an entry all of whose records have their fate."""
        return cls(
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


def estimate(version: Version) -> int:
    """About the bytes that the record's JSON will have: 11 characters a value, and its share of the rest."""
    if version.body:
        return len(version.body)
    entry = version.held.entry
    rest = (len(entry.sparse) + len(entry.metadata)) // len(entry.ids)
    return 11 * (len(entry.values) // (FLOAT32 * len(entry.ids))) + rest + 40
