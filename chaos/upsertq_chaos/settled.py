"""Owns what is known of settled versions in a chaos run: which one was out of its stream, and by when. Pure.

It never guesses: what no look at the streams has shown to be settled counts as unsettled.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf

from upsertq.contract.keys import shard_of
from upsertq_chaos.cast import namespace_of, producer_of

Batch = tuple[int, int]
"""Producer and number; the number is the version of its records."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the whole stream of a shard, at an instant between `before` and `after` (seconds since 1970).

    `pending` are the batches of which something is there.
    """

    shard: int
    before: float
    after: float
    pending: AbstractSet[Batch]


class Looks:
    """The looks at all streams, in the order of time; kept is only when they were, and when each batch was last seen.

    An entry enters its stream before its batch is confirmed, and leaves it only by being settled. So what was
    confirmed before a look began and is not there is settled, and was so when the look had ended. Only this machine's
    clock counts, which must not go back.
    """

    def __init__(self) -> None:
        self._before: dict[int, list[float]] = defaultdict(list)
        self._after: dict[int, list[float]] = defaultdict(list)
        self._last_seen: dict[tuple[int, Batch], float] = {}

    def __len__(self) -> int:
        return sum(map(len, self._before.values()))

    def note(self, look: Look) -> None:
        """Take note of the next look at a shard."""
        self._before[look.shard].append(look.before)
        self._after[look.shard].append(look.after)
        for batch in look.pending:
            self._last_seen[look.shard, batch] = look.before

    def settled_by(self, shard: int, batch: Batch, confirmed: float) -> float:
        """A moment at which a shard's part of a batch that was confirmed at `confirmed` was settled; inf: unknown."""
        since = max(confirmed, self._last_seen.get((shard, batch), -inf))
        place = bisect_right(self._before[shard], since)
        return self._after[shard][place] if place < len(self._after[shard]) else inf

    def gaps(self) -> list[float]:
        """From the begin of each look to the end of the next: so long may something be settled and not be known so."""
        return [
            after - before
            for shard, begins in self._before.items()
            for (before, _), (_, after) in pairwise(zip(begins, self._after[shard], strict=True))
        ]


@dataclass(frozen=True, slots=True)
class Settled:
    """Which versions of an id were settled before a moment.

    Attributes:
        looks: what the streams showed.
        shards: of the queue.
        confirmed_at: to the batch the moment when its flush had returned, in seconds since 1970.
    """

    looks: Looks = field(default_factory=Looks)
    shards: int = 1
    confirmed_at: Mapping[Batch, float] = field(default_factory=dict)

    def newest(self, name: str, versions: Sequence[int], at: float) -> int | None:
        """The newest of these versions of an id (in ascending order) that certainly was settled before `at`."""
        shard, producer = shard_of(namespace_of(name), name, self.shards), producer_of(name)
        for version in reversed(versions):
            confirmed = self.confirmed_at.get((producer, version), inf)
            if self.looks.settled_by(shard, (producer, version), confirmed) < at:
                return version
        return None
