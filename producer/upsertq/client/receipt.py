"""Owns the receipt of a run or of a queue: its books, why records are dead, what posting took, and when it was.

It reads alone, and leaves out figures and times that are none; a damaged counter it refuses. What posting took comes
with settlements that were carried out, so it is what is known for certain: a worker that died took the figures of its
last requests with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from upsertq.contract import books
from upsertq.contract.books import COUNTERS, Books
from upsertq.contract.figures import LAST_MS, counter, whole
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Conversation, Patience, ask_all, named, persistently
from upsertq.contract.queue import QueueShape, missing, presence
from upsertq.contract.runs import decode_run

DEFAULT_NAMESPACE: Final = "__default__"
LSN: Final = "lsn:"
"""What the names of the highest LSN of each namespace begin with, in the books."""
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a run, or of a queue where `run` is empty.

    Attributes:
        queue: its name.
        run: the run's name.
        books: counts of records by state.
        reasons: how many records are dead now by reason, the most frequent first; adds up to `books.dead`.
        requests: requests that carried records of it, at least.
        retries: how many of these carried records that were sent before.
        posted_bytes: bytes of the requests' bodies; of one that several runs share, those of its own records.
        lsn: by namespace (the default one is `__default__`) the highest log sequence number that the index named.
        first_enqueued_at: when the run was first used, or the queue created; `None` where that is not known.
        last_settled_at: when a record of it was settled last, by the worker's clock; `None` before the first.
    """

    queue: str
    run: str
    books: Books
    reasons: Mapping[str, int]
    requests: int
    retries: int
    posted_bytes: int
    lsn: Mapping[str, int]
    first_enqueued_at: datetime | None
    last_settled_at: datetime | None

    @property
    def seconds(self) -> float | None:
        """Seconds from the first time to the last; `None` while one of them is not known."""
        if self.first_enqueued_at is None or self.last_settled_at is None:
            return None
        return max(0.0, (self.last_settled_at - self.first_enqueued_at) / timedelta(seconds=1))

    def as_dict(self) -> dict[str, Any]:
        """The receipt as one JSON document, the books at its top level; times are ISO 8601 in UTC."""
        return {
            "queue": self.queue,
            **({"run": self.run} if self.run else {}),
            **self.books.as_dict(),
            "reasons": dict(self.reasons),
            "requests": self.requests,
            "retries": self.retries,
            "posted_bytes": self.posted_bytes,
            "lsn": dict(self.lsn),
            "first_enqueued_at": spoken(self.first_enqueued_at),
            "last_settled_at": spoken(self.last_settled_at),
            "seconds": self.seconds,
        }


def read(keys: QueueKeys, shape: QueueShape, run: str, patience: Patience) -> Conversation[Receipt]:
    """The receipt of `run`, or of the whole queue where it is empty, as of now.

    Raises:
        QueueLost: the queue, or a shard of it, is not there any more.
        NotFound: the queue does not know the run (any more).
    """
    there = presence(keys, run)
    hashes = [keys.shard(k).run(run) if run else keys.shard(k).books for k in range(shape.shards)]
    held = [["HGET", keys.shard(k).books, "incarnation"] for k in range(shape.shards)]
    commands = [*there, *held, *(["HGETALL", name] for name in hashes)]
    replies = yield from persistently(ask_all(commands), patience, "read the receipt")
    error = missing(keys, shape, run, replies)
    if error is not None:
        raise error
    found = {shard: reply or b"" for shard, reply in enumerate(replies[len(there) : len(there) + shape.shards])}
    books.check_incarnations(keys, found, shape.incarnation)
    first = replies[1] if run else replies[0][1]
    parts = [named(reply) for reply in replies[len(there) + shape.shards :]]
    return Receipt(
        queue=keys.queue,
        run=run,
        books=books.total(
            books.of_reply([part.get(name) for name in COUNTERS], key) for part, key in zip(parts, hashes, strict=True)
        ),
        reasons=books.reasons_of(parts),
        requests=_sum(parts, "requests"),
        retries=_sum(parts, "retries"),
        posted_bytes=_sum(parts, "posted"),
        lsn=_lsn_of(parts),
        first_enqueued_at=time_of((_begun(first) if run else whole(first, most=LAST_MS)) or 0),
        last_settled_at=time_of(max(whole(part.get("settled_at"), most=LAST_MS) or 0 for part in parts)),
    )


def spoken(time: datetime | None) -> str | None:
    """A time as ISO 8601 with milliseconds, `2026-01-31T23:59:59.123Z`."""
    return None if time is None else time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _begun(noted: bytes) -> int | None:
    try:
        return decode_run(noted).begun
    except ValueError:  # a time that cannot be read is no reason to hide the books
        return None


def _sum(parts: list[dict[str, bytes]], name: str) -> int:
    return sum(counter(part.get(name)) or 0 for part in parts)


def _lsn_of(parts: list[dict[str, bytes]]) -> dict[str, int]:
    """The highest LSN of each namespace over the shards, by name; one namespace's records are in many of them."""
    found: dict[str, int] = {}
    for part in parts:
        for name, value in part.items():
            if name.startswith(LSN):
                namespace = name.removeprefix(LSN) or DEFAULT_NAMESPACE
                # an LSN is the index's: any 64-bit number
                found[namespace] = max(whole(value, most=2**63 - 1) or 0, found.get(namespace, 0))
    return dict(sorted(found.items()))


def time_of(milliseconds: int) -> datetime | None:
    """A time in milliseconds since 1970; `None` where it is 0."""
    return _EPOCH + timedelta(milliseconds=milliseconds) if milliseconds else None
