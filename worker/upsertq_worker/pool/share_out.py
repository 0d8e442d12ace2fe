"""Owns how the shards of a queue are shared out among its workers: without a leader, by giving back. Pure.

Every worker decides for itself, by what it holds and what the heartbeats of the others say. Whatever a stale view
leads to is harmless, since a lease is held by one worker at a time, and is put right in the rounds that follow.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final

from upsertq.admin.workers import Worker

LIVE_SECONDS: Final = 15.0
"""A worker whose heartbeat has not changed for so long is not counted, whatever the heartbeat says of its age."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one worker is to do.

    Attributes:
        target: shards that it is to hold.
        drain: of those that it holds, the ones to give back.
        take: free shards that it may take at most.
        line: its place among the workers without a shard that have none to expect, 0 for the first; -1 for all others.
    """

    target: int
    drain: frozenset[int] = frozenset()
    take: int = 0
    line: int = -1


@dataclass(eq=False, slots=True)
class Others:
    """The other workers, as their heartbeats tell.

    The age that a heartbeat seems to have is not believed for long: where the server's clock was set back, that of a
    worker which died before seems to be of a time to come, and its share would wait for no worker.
    """

    _changed: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By name the time of the latest heartbeat, and when it was seen first."""

    def live(self, workers: Iterable[Worker], now: float) -> list[Worker]:
        """Those that live and are to go on."""
        workers = list(workers)
        seen = {one.name: self._changed.get(one.name, (one.at, now)) for one in workers}
        self._changed = {one.name: seen[one.name] if seen[one.name][0] == one.at else (one.at, now) for one in workers}
        return [
            one for one in workers if not (one.gone or one.leaving) and now < self._changed[one.name][1] + LIVE_SECONDS
        ]


def targets(held: Mapping[str, int], shards: int) -> dict[str, int]:
    """How many of the `shards` each worker is to hold, given how many it holds; in the order of their rank."""
    each, more = divmod(shards, len(held))
    ranked = sorted(held, key=lambda name: (-held[name], name))
    return {name: each + (rank < more) for rank, name in enumerate(ranked)}


def share_out(
    name: str,
    held: Collection[int],
    draining: Collection[int],
    pinned: Collection[int],
    others: Mapping[str, int],
    shards: int,
    rng: Random,
) -> Plan:
    """What worker `name` is to do.

    Args:
        name: its name.
        held: the shards that it holds, those that it gives back among them.
        draining: those that it gives back already.
        pinned: those that it must not give back now.
        others: by name, how many shards the other live workers hold.
        shards: of the queue.
        rng: says which shards go.
    """
    ours = {**others, name: len(held)}
    wanted = targets(ours, shards)
    target = wanted[name]
    surplus = max(0, len(held) - target)
    drain = sorted(set(draining) & set(held))
    if len(drain) > surplus:
        drain = rng.sample(drain, surplus)
    elif len(drain) < surplus:
        free = sorted(set(held) - set(drain) - set(pinned))
        drain += rng.sample(free, min(len(free), surplus - len(drain)))
    line = list(wanted).index(name) - shards if not held else -1
    return Plan(target, frozenset(drain), max(0, target - len(held)), max(-1, line))
