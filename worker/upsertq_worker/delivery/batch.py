"""Owns what is known of one batch: its items, and what became of it so far. Pure."""

from dataclasses import dataclass

from upsertq.letter import Verdict
from upsertq_worker.delivery.bisect import Search
from upsertq_worker.delivery.encoder import encode, join
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import Held, Item, Version, entry_of, ids_of


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
            path=(*self.path, len(versions)),
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
    def ids(self) -> tuple[str, ...]:
        """The ids of its records."""
        return tuple(record_id for item in self.items for record_id in ids_of(item))

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

    def body(self) -> bytes:
        """The request's body, of the live items."""
        return join([encode(item) for item in self.live], self.namespace)
