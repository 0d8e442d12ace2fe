"""Owns what the books are: the counters of a shard, a run or a queue, and the identity that they must meet."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final

from upsertq.contract.errors import QueueDamaged, QueueLost, QueueReopened
from upsertq.contract.figures import counter
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Conversation, Patience, ask_all, persistently


@dataclass(frozen=True, slots=True)
class Books:
    """Counters of records; `bytes` is the payload of the pending ones.

    At every instant `enqueued = acked + superseded + discarded + dead + pending`.
    """

    enqueued: int = 0
    acked: int = 0
    superseded: int = 0
    discarded: int = 0
    dead: int = 0
    pending: int = 0
    bytes: int = 0

    @property
    def drift(self) -> int:
        """Records by which the identity fails: 0 when the books balance."""
        return self.enqueued - (self.acked + self.superseded + self.discarded + self.dead + self.pending)

    @property
    def settled(self) -> int:
        """Records that left the queue, in whatever way."""
        return self.acked + self.superseded + self.discarded + self.dead

    def as_dict(self) -> dict[str, int]:
        """The counters by name."""
        return {name: getattr(self, name) for name in COUNTERS}

    def __add__(self, other: "Books") -> "Books":
        return Books(*(getattr(self, name) + getattr(other, name) for name in COUNTERS))


COUNTERS: tuple[str, ...] = tuple(field.name for field in fields(Books))


_RESHAPED: Final = re.compile("([0-9a-f]{32})r[0-9a-f]+")
REASON: Final = "reason:"
"""What the counters of dead letters by reason begin with; those of a shard, or of a run in it, add up to its `dead`."""


def of_reply(reply: Sequence[bytes | None], key: str = "the books") -> Books:
    """The books out of an HMGET of `COUNTERS` of the hash `key`; a missing counter is 0.

    Raises:
        QueueDamaged: one of them is no counter: what it counts is not known, and 0 would be taken for done.
    """
    counts = [counter(value) for value in reply]
    if None in counts:
        raise damaged(key, COUNTERS[counts.index(None)])
    return Books(*(count or 0 for count in counts))


def damaged(key: str, name: str) -> QueueDamaged:
    """The error to raise for a counter that is none."""
    return QueueDamaged(
        f"the queue is damaged: {key} holds as '{name}' what is no counter; `upsertq audit` tells what it ought to be, "
        f"`HSET` puts it there"
    )


def reasons_of(parts: Iterable[Mapping[str, bytes]]) -> dict[str, int]:
    """Dead letters by reason out of the books of all shards, the most frequent first, without what is none."""
    found: Counter[str] = Counter()
    for part in parts:
        for name, count in part.items():
            if name.startswith(REASON):
                found[name.removeprefix(REASON)] += counter(count) or 0
    return {reason: found[reason] for reason in sorted(found, key=lambda name: (-found[name], name)) if found[reason]}


def total(parts: Iterable[Books]) -> Books:
    """The books of several shards together; the identity of each makes the identity of the sum."""
    whole = Books()
    for part in parts:
        whole += part
    return whole


def read_shards(
    keys: QueueKeys, shards: int, run: str, patience: Patience, incarnation: str | None = None
) -> Conversation[list[Books]]:
    """The books of every shard, of one run where `run` is not empty.

    Raises:
        QueueLost: a shard does not hold `incarnation`, where it is given: the absence of counters is no zero then.
    """
    hashes = [keys.shard(k).run(run) if run else keys.shard(k).books for k in range(shards)]
    commands = [["HMGET", name, *COUNTERS] for name in hashes]
    if incarnation is not None:
        commands += [["HGET", keys.shard(k).books, "incarnation"] for k in range(shards)]
    replies = yield from persistently(ask_all(commands), patience, "read the books")
    check_incarnations(keys, {shard: found or b"" for shard, found in enumerate(replies[shards:])}, incarnation or "")
    return [of_reply(reply, name) for reply, name in zip(replies[:shards], hashes, strict=True)]


def read(
    keys: QueueKeys, shards: int, run: str, patience: Patience, incarnation: str | None = None
) -> Conversation[Books]:
    """The books of the whole queue, or of one run where `run` is not empty; raises as `read_shards`."""
    parts = yield from read_shards(keys, shards, run, patience, incarnation)
    return total(parts)


def check_incarnations(keys: QueueKeys, found: Mapping[int, bytes], expected: str, pending: int | None = None) -> None:
    """Raise `QueueLost` where the books of shards hold another incarnation than the queue's, or none.

    `found` is what they hold, by shard; `pending` is how many confirmed records of the caller were pending at most.
    It is a `QueueReopened` where all that they hold descends from what was expected.
    """
    gone = [shard for shard, held in found.items() if not held]
    others = [shard for shard, held in found.items() if held and held != expected.encode()]
    check_reopened(keys, found.values(), expected, pending)
    told = [_shards(gone, "gone")] if gone else []
    told += [_shards(others, "of another creation of the queue")] if others else []
    if told:
        anew = f"to begin anew `upsertq delete-queue {keys.queue} --force`, or choose another name"
        raise QueueLost(keys.queue, f"{'; '.join(told)} ({anew})", pending)


def check_reopened(keys: QueueKeys, found: Iterable[bytes], expected: str, pending: int | None = None) -> None:
    """Raise `QueueReopened` where all that hold another incarnation than `expected` hold one that descends from it."""
    others = [held for held in found if held != expected.encode()]
    if others and all(descends(held, expected) for held in others):
        raise QueueReopened(keys.queue, pending)


def descendant(incarnation: str, word: str) -> str:
    """The incarnation that a queue of `incarnation` gets with another shape; `word` is a new hexadecimal number."""
    return f"{_stem(incarnation)}r{word}"


def descends(found: bytes, incarnation: str) -> bool:
    """Whether `found` is the same creation of a queue as `incarnation`, before or after it was given another shape."""
    return _stem(found.decode("ascii", "replace")) == _stem(incarnation)


def _stem(incarnation: str) -> str:
    """What all incarnations of one creation of a queue begin with."""
    found = _RESHAPED.fullmatch(incarnation)
    return found[1] if found else incarnation


def _shards(numbers: Sequence[int], what: str) -> str:
    several = len(numbers) > 1
    return f"shard{'s' * several} {', '.join(map(str, numbers))} {'are' if several else 'is'} {what}"
