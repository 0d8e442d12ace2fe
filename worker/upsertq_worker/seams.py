"""Owns what the draining shell needs of a queue and of an index, and nothing of how they do it.

The real ones are `upsertq_worker.stream` and `upsertq_worker.index`; the simulation brings its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from upsertq.books import Books
from upsertq.errors import QueueDamaged
from upsertq.pauses import Paused
from upsertq.wire import Entry
from upsertq_worker.answer import Answer, TransportFailure
from upsertq_worker.versions import Settlement

NEW: Final = ">"
"""The cursor for entries that nobody has read yet."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What came of asking for a shard's lease: our epoch (0 when it is not ours), and who holds it.

    `fault` says why nobody can have it: a key of the shard is damaged.
    """

    shard: int
    epoch: int
    holder: str
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One stream entry as read; `fields` is `None` when the entry is gone and only its mark as pending is left."""

    shard: int
    stream_id: str
    fields: Mapping[bytes, bytes] | None

    @property
    def namespace(self) -> str:
        """The entry's namespace, without looking at more of it."""
        return (self.fields or {}).get(b"ns", b"").decode("ascii", "replace")

    @property
    def records(self) -> int:
        """How many records it says that it holds."""
        said = (self.fields or {}).get(b"n", b"")
        return int(said) if said.isdigit() and len(said) < 6 else 0  # noqa: PLR2004 - more is no number of ours


class ShardsDamaged(QueueDamaged):
    """Keys of some shards are damaged: `faults` says what is wrong, by shard. The other shards are well."""

    def __init__(self, faults: Mapping[int, str]) -> None:
        self.faults = faults
        super().__init__("; ".join(f"shard {shard}: {fault}" for shard, fault in faults.items()))


class QueueSeam(Protocol):
    """What a worker needs of a queue."""

    async def lease(self, wanted: Mapping[int, int], *, take: bool) -> list[Grant]:
        """Prolong leases (shard to epoch held) and, with `take`, take the free ones among them (epoch 0)."""

    async def release(self, held: Mapping[int, int], keep: Mapping[int, float]) -> None:
        """Give leases up; `keep` says for how many seconds a shard's must stay taken first."""

    async def read(self, cursors: Mapping[int, str], count: int, wait: float) -> list[Delivery]:
        """Read up to `count` entries a shard after each cursor; wait up to `wait` seconds for new ones."""

    async def oldest_pending(self, after: Mapping[int, str]) -> dict[int, str]:
        """The oldest entry behind each id that was read and is not settled; shards without one are left out."""

    async def marks(self, shards: Sequence[int]) -> dict[int, dict[str, str]]:
        """The marks of each shard's entries that were in work when they were marked, by stream id."""

    async def mark(self, held: Mapping[int, int], marks: Mapping[tuple[int, str], str]) -> None:
        """Mark entries (shard, stream id) that are pending, `""` to take a mark away.

        Where the lease is not ours, only marks that we made are changed.
        """

    async def settle(self, held: Mapping[int, int], settlements: Sequence[Settlement]) -> frozenset[int]:
        """Carry settlements out, in order within each shard; returns the shards whose lease is not ours.

        Raises:
            ShardsDamaged: those of all other shards are carried out, of these shards perhaps some.
        """

    async def backlog(self, shards: Sequence[int]) -> dict[int, int]:
        """Entries in the stream of each shard."""

    async def books(self) -> Books:
        """The books of the queue."""

    async def superseded(self, replayed: Sequence[tuple[int, Entry]]) -> list[bool]:
        """For each replayed entry (and its shard), whether a newer version of its record was acknowledged since."""

    async def note(self, changes: Mapping[str, Paused | None]) -> None:
        """Note pauses that began (`None`: that ended), by scope; those by hand are left alone."""

    async def pauses(self) -> dict[str, Paused]:
        """Every pause that is noted, by scope."""

    async def beat(self, report: Mapping[str, Any]) -> None:
        """Write this worker's heartbeat."""

    async def leave(self) -> None:
        """Take this worker's heartbeat away."""


class IndexSeam(Protocol):
    """What a worker needs of an index."""

    async def upsert(self, body: bytes) -> Answer | TransportFailure:
        """Post one request's body to `/vectors/upsert` and return what came back."""
