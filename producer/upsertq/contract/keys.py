"""Owns the name of every Redis key of upsertq; no other module may spell one.

All keys of a shard share the hash tag `{queue:shard}`, so that each transition is one script in one slot of a cluster.
"""

import re
import zlib
from dataclasses import dataclass
from functools import cached_property

from upsertq.contract.errors import UsageError, shown
from upsertq.contract.figures import whole

PREFIX = "upsertq"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}")
MAX_SHARDS = 1024
EVERY_META = f"{PREFIX}:{{*}}:meta"
"""The pattern (as SCAN takes it) of the key by which each queue is known; see `queue_of`."""
OF_THE_QUEUE = -1
"""What `QueueKeys.shard_in` says of a key that is the queue's and no shard's."""
_META = re.compile(rf"{PREFIX}:\{{({_NAME.pattern})\}}:meta")


def is_name(name: str) -> bool:
    """Whether this can name a queue or a run."""
    return _NAME.fullmatch(name) is not None


def checked_name(kind: str, name: str) -> str:
    """`name` if it can name a queue or a run, else `UsageError`; braces would break the hash tag, spaces the shell."""
    if not is_name(name):
        raise UsageError(
            f"{kind} name {shown(name)} is not allowed: use 1 to 100 letters, digits, '_', '.' or '-', "
            "starting with a letter or digit"
        )
    return name


def queue_of(key: str) -> str | None:
    """The queue of which `key` is the meta key, `None` where it is no such key."""
    found = _META.fullmatch(key)
    return found[1] if found else None


def queue_option(queue: str) -> str:
    """What a command shown to a person needs to be about this queue, with a space before it."""
    return "" if queue == "default" else f" --queue {queue}"


def shard_of(namespace: str, record_id: str, shards: int) -> int:
    """The shard of a record: CRC-32 of namespace, NUL and id (both ASCII), modulo the number of shards.

    It must never change: two versions of one id have to meet in one stream.
    """
    return zlib.crc32(f"{namespace}\0{record_id}".encode("ascii")) % shards


@dataclass(frozen=True)
class ShardKeys:
    """The keys of shard `shard` of queue `queue`."""

    queue: str
    shard: int

    @cached_property
    def tag(self) -> str:
        """What every key of the shard begins with."""
        return f"{PREFIX}:{{{self.queue}:{self.shard}}}:"

    def _key(self, name: str) -> str:
        return self.tag + name

    def stream(self, namespace: str) -> str:
        """Stream of the pending entries of one lane; it is there while it has any."""
        return self._key(f"stream:{namespace}")

    @cached_property
    def lanes(self) -> str:
        """Set of the namespaces that have a stream now."""
        return self._key("lanes")

    @cached_property
    def bell(self) -> str:
        """Stream of the last 100 namespaces that entered `lanes`, for a reader to wait on."""
        return self._key("bell")

    @cached_property
    def books(self) -> str:
        """Hash of the shard's counters, its incarnation, its clock and what is known of its holders."""
        return self._key("books")

    @cached_property
    def lease(self) -> str:
        """Expiring string: `epoch:holder` of the worker that may drain the shard."""
        return self._key("lease")

    @cached_property
    def dead(self) -> str:
        """Stream of dead letters."""
        return self._key("dead")

    @cached_property
    def dead_ids(self) -> str:
        """Hash: namespace NUL id to the sequence of its newest dead or replaying version."""
        return self._key("dead:ids")

    def run(self, run: str) -> str:
        """Hash of the counters of one run in this shard."""
        return self._key(f"run:{run}")

    def ledger(self, token: str) -> str:
        """Expiring hash: namespace to the last ordinal that producer `token` had confirmed here."""
        return self._key(f"from:{token}")


@dataclass(frozen=True)
class QueueKeys:
    """The keys of a queue that belong to no shard."""

    queue: str

    def _key(self, name: str) -> str:
        return f"{PREFIX}:{{{self.queue}}}:{name}"

    @cached_property
    def pattern(self) -> str:
        """The pattern (as SCAN takes it) that every key of the queue matches, and others may: see `shard_in`."""
        return f"{PREFIX}:{{{self.queue}[:}}]*"

    def shard_in(self, key: str) -> int | None:
        """The shard of one of the queue's keys, `OF_THE_QUEUE` for one of no shard; `None` for another queue's."""
        head, _, rest = key.removeprefix(f"{PREFIX}:{{").partition("}:")
        queue, colon, shard = head.partition(":")
        if not key.startswith(f"{PREFIX}:{{") or queue != self.queue or not rest:
            return None
        return whole(shard, 0, MAX_SHARDS - 1) if colon else OF_THE_QUEUE

    @cached_property
    def _shards(self) -> dict[int, ShardKeys]:
        return {}

    def shard(self, shard: int) -> ShardKeys:
        """The keys of one shard, which are made once."""
        known = self._shards.get(shard)
        return known if known is not None else self._shards.setdefault(shard, ShardKeys(self.queue, shard))

    @cached_property
    def meta(self) -> str:
        """Hash: format version, incarnation, state, shard count, dimension once known, creation time."""
        return self._key("meta")

    @cached_property
    def runs(self) -> str:
        """Hash: run name to when it began and was sealed, as JSON with times in milliseconds."""
        return self._key("runs")

    @cached_property
    def workers(self) -> str:
        """Hash: worker name to its latest heartbeat as JSON."""
        return self._key("workers")

    @cached_property
    def paused(self) -> str:
        """Hash: paused lanes with reasons."""
        return self._key("paused")

    @cached_property
    def pace(self) -> str:
        """Hash: the pace that the workers share."""
        return self._key("pace")

    @cached_property
    def loads(self) -> str:
        """Hash: fingerprint of a load's sources to its ledger token, run and progress as JSON."""
        return self._key("loads")
