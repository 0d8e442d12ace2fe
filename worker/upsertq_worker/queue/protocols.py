"""Owns what the worker needs of a queue, and nothing of how it is done.

The real one is `upsertq_worker.queue.redis_queue`; the simulation brings its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from upsertq.admin.workers import Worker
from upsertq.contract.books import Books
from upsertq.contract.errors import QueueDamaged
from upsertq.contract.wire import Entry
from upsertq_worker.flow.pauses import PauseNotes
from upsertq_worker.flow.usage import Metered
from upsertq_worker.pace.lane import SharedPace

Stream = tuple[int, str]
"""A lane's stream in a shard: shard and namespace."""
START = "0-0"
"""The cursor before the first entry."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What came of asking for a shard's lease.

    Attributes:
        shard: the shard.
        epoch: ours; 0 when the lease is not ours.
        holder: the worker that holds it, where it is another one. What follows is known when it was taken just now.
        clean: the former holder, if there was one, gave it up in good order.
        deaths: unclean deaths of holders in a row.
        mark: what was noted of suspects; see `upsertq_worker.recovery.suspects`.
        clock: the last sequence given in the shard.
        fault: why no worker can have it: a key of the shard is damaged.
        silent: the node that has the shard gave no answer, others did: nothing is known, and `epoch` is that asked for.
    """

    shard: int
    epoch: int
    holder: str = ""
    clean: bool = True
    deaths: int = 0
    mark: str = ""
    clock: str = START
    fault: str = ""
    silent: bool = False


class Delivery(NamedTuple):
    """One stream entry as read."""

    shard: int
    namespace: str
    stream_id: str
    fields: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Ring:
    """Word that a namespace got a stream in a shard; `place` is its place in the shard's bell."""

    shard: int
    namespace: str | None
    """`None` for what stands in the bell and is no such word: its place is passed all the same."""
    place: str


@dataclass(frozen=True, slots=True)
class Read:
    """What one read brought."""

    deliveries: Sequence[Delivery] = ()
    rings: Sequence[Ring] = ()
    faults: Mapping[Stream, str] = field(default_factory=dict)
    """Why nothing was read: streams that are none. Nothing of the others was read either."""


@dataclass(frozen=True, slots=True)
class LaneList:
    """The namespaces that have a stream in a shard, and the place in its bell behind which others may follow."""

    place: str
    namespaces: Sequence[str]


@dataclass(frozen=True, slots=True)
class Counted:
    """What a shard's books say: its pending records, and its clock, which goes on with each entry that is added."""

    pending: int
    clock: str


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of settling.

    Attributes:
        foreign: shards whose lease is not ours: nothing was settled in them.
        emptied: streams that are gone with their last entry, and the shard's clock then.
        faults: what is damaged in shards in which perhaps not all was settled.
    """

    foreign: frozenset[int] = frozenset()
    emptied: Mapping[Stream, str] | None = None
    faults: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Beats:
    """The heartbeats of all workers of the queue, and why our own could not be written: "" where it was."""

    workers: Sequence[Worker]
    unwritten: str = ""


class ShardsDamaged(QueueDamaged):
    """Keys of some shards are damaged: `faults` says what is wrong, by shard. The other shards are well."""

    def __init__(self, faults: Mapping[int, str]) -> None:
        self.faults = faults
        super().__init__("; ".join(f"shard {shard}: {fault}" for shard, fault in faults.items()))


class Notes(PauseNotes, SharedPace, Protocol):
    """What workers note for one another. Each call may be repeated; one that fails raises `ServerUnavailable`."""

    async def books(self) -> Books:
        """The books of the queue."""

    async def beat(self, report: Mapping[str, Any]) -> Beats:
        """Write this worker's heartbeat, dated by the server's time, take away those of workers long gone; read all."""

    async def holders(self, shards: Sequence[int]) -> dict[int, str]:
        """Which worker holds each shard, "" where its lease is free, or is none that can be read.

        Shards whose node gives no answer, while others do, are left out.
        """

    async def leave(self) -> None:
        """Take this worker's heartbeat away."""


class Queue(Notes, Protocol):
    """What a worker needs of a queue. Each call may be repeated.

    One that fails raises `ServerUnavailable`; one that meets damage `ShardsDamaged`: in the other shards it was done.
    """

    async def lease(self, wanted: Mapping[int, int], *, take: bool) -> list[Grant]:
        """Prolong leases (shard to epoch held) and, with `take`, take the free ones among them (epoch 0)."""

    async def release(self, held: Mapping[int, int], keep: Mapping[int, float]) -> None:
        """Give leases up; `keep` says for how many seconds a shard's must stay taken first."""

    async def lanes(self, shards: Sequence[int]) -> dict[int, LaneList]:
        """The lanes of each shard."""

    async def read(self, cursors: Mapping[Stream, str], bells: Mapping[int, str], count: int, wait: float) -> Read:
        """Read up to `count` entries a stream, and as many rings a shard, behind each cursor.

        Wait up to `wait` seconds where there is nothing.
        """

    async def mark(
        self, held: Mapping[int, int], marks: Mapping[int, str], deaths: int | None = None
    ) -> frozenset[int]:
        """Write the marks of shards, and their count of deaths where it is given; returns those that are not ours."""

    async def settle(self, held: Mapping[int, int], settlements: Sequence[Metered]) -> Settled:
        """Carry settlements out, in order within each shard."""

    async def counted(self, shards: Sequence[int]) -> dict[int, Counted]:
        """What the books of these shards count as pending."""

    async def streams(self, shard: int) -> list[str]:
        """The namespaces that have a stream in a shard, searched for among all keys of the server: slow."""

    async def superseded(self, replayed: Sequence[tuple[int, Entry]]) -> list[bool]:
        """For each replayed entry (and its shard), whether a newer version of its record was acknowledged since."""
