"""Owns the question whether what the books count as pending is held by any stream. It reads alone.

What is asked for in one look may change within it: only what the books said before and after alike is believed.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from upsertq.contract.books import Books
from upsertq.contract.errors import QueueLost
from upsertq.contract.figures import counter
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Conversation, Patience, ask_all, persistently
from upsertq.contract.queue import QueueShape

STILL_SECONDS: Final = 2.0
"""Seconds without a change in the books after which, again and again, it is asked whether the pending is there."""
LANES: Final = 100
"""Lanes of a shard that are looked at: where it has so many, some of them hold something."""


class Standstill:
    """What one wait sees of progress: while there is none, every now and then it is asked whether the pending is there.

    Args:
        keys: the queue's.
        shape: what the queue is.
        begun: when the wait began, in seconds from any origin.
    """

    def __init__(self, keys: QueueKeys, shape: QueueShape, begun: float) -> None:
        self._keys = keys
        self._shape = shape
        self._before = Books()
        self._look_at = begun

    def check(self, found: Books, now: float, patience: Patience) -> Conversation[None]:
        """Look at the queue where the books stood still; raises as `check_held`."""
        still = found == self._before and found.pending > 0
        if still and now < self._look_at:
            return
        self._before, self._look_at = found, now + STILL_SECONDS
        if still:
            yield from check_held(self._keys, self._shape, patience)


def check_held(keys: QueueKeys, shape: QueueShape, patience: Patience) -> Conversation[None]:
    """Look once at every shard.

    Raises:
        QueueLost: a shard counts records as pending, and there is no stream that could hold them.
    """
    counted = yield from _counted(keys, range(shape.shards), patience)
    bare = yield from _without_entries(keys, [shard for shard, (pending, _) in counted.items() if pending], patience)
    if not bare:
        return
    # the set of the lanes may be what was lost: a worker finds the streams, so they are searched for here, too
    nowhere = []
    for shard in bare:
        if not (yield from _has_stream(keys, shard, patience)):
            nowhere.append(shard)  # noqa: PERF401 - a comprehension cannot yield
    again = yield from _counted(keys, nowhere, patience)
    lost = {shard: pending for shard, (pending, clock) in again.items() if counted[shard] == (pending, clock)}
    if lost:
        shards = f"shard{'s' * (len(lost) > 1)} {', '.join(map(str, lost))}"
        raise QueueLost(keys.queue, f"{shards}: {sum(lost.values()):,} records are pending that no stream holds")


def _counted(keys: QueueKeys, shards: Iterable[int], patience: Patience) -> Conversation[Mapping[int, tuple[int, Any]]]:
    """Pending records and clock of each shard."""
    asked = list(shards)
    ask = ask_all([["HMGET", keys.shard(shard).books, "pending", "clock"] for shard in asked])
    replies = (yield from persistently(ask, patience, "read the books")) if asked else []
    return {shard: (counter(pending) or 0, clock) for shard, (pending, clock) in zip(asked, replies, strict=True)}


def _without_entries(keys: QueueKeys, shards: list[int], patience: Patience) -> Conversation[list[int]]:
    """Those of the shards whose lanes, of which there are few, hold nothing."""
    if not shards:
        return []
    ask = ask_all([["SRANDMEMBER", keys.shard(shard).lanes, LANES] for shard in shards])
    lanes = dict(zip(shards, (yield from persistently(ask, patience, "read the lanes")), strict=True))
    names = [
        (shard, keys.shard(shard).stream(lane.decode("utf-8", "surrogateescape")))
        for shard, of_shard in lanes.items()
        for lane in of_shard
    ]
    held = {shard for shard, of_shard in lanes.items() if len(of_shard) == LANES}
    if names:
        ask = ask_all([["XLEN", name] for _, name in names])
        lengths = yield from persistently(ask, patience, "read the lanes")
        held |= {shard for (shard, _), length in zip(names, lengths, strict=True) if length}
    return [shard for shard in shards if shard not in held]


def _has_stream(keys: QueueKeys, shard: int, patience: Patience) -> Conversation[bool]:
    cursor: Any = b"0"
    while True:
        scan = ask_all([["SCAN", cursor, "MATCH", f"{keys.shard(shard).stream('')}*", "COUNT", 1_000]])
        ((cursor, found),) = yield from persistently(scan, patience, f"search for the streams of shard {shard}")
        if found or int(cursor) == 0:
            return bool(found)
