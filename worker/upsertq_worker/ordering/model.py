"""Owns what the hold keeps: entries that were read, versions of ids, and what becomes of an entry.

Pure, and it decides nothing: the rules that change them are in `upsertq_worker.ordering.hold`.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeAlias

from upsertq.contract.dead_letter import Verdict
from upsertq.contract.wire import FLOAT32, Entry

Order: TypeAlias = tuple[int, int, int]
"""Where a version stands among all versions of its id: sequence (milliseconds, number), then row in the entry."""

Text: TypeAlias = bytes | memoryview
"""JSON."""

RECORD_WEIGHT = 300
"""Bytes of memory that one record of a whole entry takes beside its payload: its id, its place among the keys."""


class Fate(Enum):
    """How a record ends."""

    ACKED = "acked"
    SUPERSEDED = "superseded"
    DEAD = "dead"


class RecordEncoder(Protocol):
    """Makes the JSON of single records of an entry."""

    def record(self, row: int) -> bytes:
        """The JSON object of the record at `row`."""


@dataclass(eq=False, slots=True)
class Held:
    """An entry that was read and is not yet settled. It is whole until one of its records needs a fate of its own."""

    shard: int
    stream_id: str
    entry: Entry
    size: int
    since: float
    """When it was read."""
    open: int
    """Records without a fate."""
    inherited: bool = False
    """It stood in its stream when the shard was taken over."""
    acked: int = 0
    superseded: int = 0
    dead: "list[DeadRecord]" = field(default_factory=list)
    dropped: bool = False
    """The shard's lease is gone: whatever comes of the records in flight no longer counts."""
    settled: bool = False
    """The server confirmed its settlement."""
    queued: bool = False
    """As a whole it stands in its lane's line."""
    in_flight: bool = False
    """As a whole it was taken to be sent, and has no fate yet."""
    lost_until: float = 0.0
    """As a whole: until then an earlier copy of it may still take effect."""
    versions: "list[Version] | None" = None
    """Its records, each by itself; `None` while it is whole."""
    finishing: bool = False
    """It was begun when its shard was closed: the rest of it may be sent all the same."""
    older: int = 0
    """Entries that share a key with this one and must be given out first."""
    newer: "list[Held]" = field(default_factory=list)
    body: Text = b""
    """The JSON of all its records, once it was made and while it is whole."""
    refused_at: float | None = None
    """As a whole: when it was first refused together with its lane."""
    encoder: RecordEncoder | None = None
    """Made when the first of its records is about to be sent by itself."""
    estimate: int = field(init=False)
    """About the bytes of JSON of all its records."""

    def __post_init__(self) -> None:
        entry = self.entry
        self.estimate = 11 * len(entry.values) // FLOAT32 + len(entry.sparse) + len(entry.metadata) + 40 * self.open

    @property
    def weight(self) -> int:
        """Bytes of memory it takes here, about: its payload and what is kept for each of its records."""
        return self.size + RECORD_WEIGHT * len(self.entry.ids)

    @property
    def namespace(self) -> str:
        """The namespace of its records."""
        return self.entry.namespace

    @property
    def order(self) -> Order:
        """The place of its first record among all versions of its id."""
        milliseconds, number, *row = map(int, (self.entry.seq or self.stream_id).split("-"))
        return milliseconds, number, row[0] if row else 0

    def order_of(self, record_id: str) -> Order:
        """The place of this record of a whole entry among all versions of its id."""
        milliseconds, number, first = self.order
        return milliseconds, number, first + self.entry.ids.index(record_id)

    def shrink(self) -> None:
        """Let go of the payload, and keep the ids."""
        self.entry = self.entry._replace(values=b"", sparse=b"", metadata=b"")
        self.body = b""
        self.encoder = None


@dataclass(frozen=True, slots=True)
class DeadRecord:
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
    body: Text = b""
    """The record's JSON, once it was made."""
    refused_at: float | None = None
    """When it was first refused together with its lane."""
    barred: bool = False
    """It was replayed, and it is not known yet whether a newer version was acknowledged since."""

    @property
    def id(self) -> str:
        """The record's id."""
        return self.held.entry.ids[self.row]

    @property
    def sequence(self) -> str:
        """Its place among all versions of its id, as it is written down."""
        return "-".join(map(str, self.order))

    @property
    def namespace(self) -> str:
        """The record's namespace."""
        return self.held.entry.namespace


@dataclass(eq=False, slots=True)
class Chain:
    """All versions of one key that are known here."""

    shard: int
    key: tuple[str, str]
    since: float
    """When its oldest waiting version became known."""
    waiting: list[Version] = field(default_factory=list)
    flying: Version | None = None
    queued: bool = False
    """It stands in its lane's line."""
    estimate: int = 0
    """What it adds to the lane's estimate while it stands there."""
    last: Held | None = None
    """The newest entry, not yet given out, in which the key occurs."""
    entries: int = 0
    """Versions in entries whose settlement is not confirmed."""
    acked: Order | None = None
    """The newest version acknowledged: an older one that is read later (a replay) is superseded by it."""
    quarantined_until: float = 0.0
    lost: Order | None = None
    """Which one version may be sent during the quarantine, for only it can still be travelling."""


Item: TypeAlias = Held | Version
"""What a batch is made of: whole entries, and records that are treated by themselves."""


def records_of(item: Item) -> int:
    """Records that an item stands for."""
    return len(item.entry.ids) if isinstance(item, Held) else 1


def ids_of(item: Item) -> tuple[str, ...]:
    """Their ids."""
    return item.entry.ids if isinstance(item, Held) else (item.id,)


def entry_of(item: Item) -> Held:
    """The entry of an item."""
    return item if isinstance(item, Held) else item.held


@dataclass(slots=True)  # frozen ones take five times as long to make
class Settlement:
    """What becomes of one entry: given out once, to be carried out in the order given within a shard."""

    shard: int
    stream_id: str
    namespace: str
    run: str
    records: int
    size: int
    acked: int
    superseded: int
    sequence: str
    """The entry's place in order: its stream id, or of a replayed one its original sequence."""
    dead: tuple[DeadRecord, ...] = ()
    ids: tuple[str, ...] = ()
    held: Held | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, held: Held) -> "Settlement":
        """That of an entry all of whose records have their fate."""
        entry = held.entry
        return cls(
            held.shard,
            held.stream_id,
            entry.namespace,
            entry.run,
            len(entry.ids),
            held.size,
            held.acked,
            held.superseded,
            entry.seq or held.stream_id,
            tuple(held.dead),
            entry.ids,
            held,
        )


def estimate(version: Version) -> int:
    """About the bytes that the record's JSON will have: 11 characters a value, and its share of the rest."""
    if version.body:
        return len(version.body)
    held = version.held
    return held.estimate // len(held.entry.ids)
