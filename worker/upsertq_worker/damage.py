"""Owns the shards in which something is damaged, as one task meets it: told once, tried again, told when mended."""

from collections.abc import Iterable, Mapping
from typing import Final

from upsertq_worker.context import Context, Signals
from upsertq_worker.events import Event

AGAIN_SECONDS: Final = 5.0
"""Between two attempts at what is damaged."""


class Damage:
    """The damaged shards of one task."""

    def __init__(self, context: Context, signals: Signals) -> None:
        self._context = context
        self._alarms = signals.alarms
        self._again_at: dict[int, float] = {}

    def __contains__(self, shard: int) -> bool:
        return shard in self._again_at

    def waits(self, shard: int) -> bool:
        """Whether this shard is to be left alone for now."""
        return self._again_at.get(shard, 0.0) > self._context.clock()

    def found(self, faults: Mapping[int, str]) -> None:
        """These shards are damaged."""
        for shard, fault in faults.items():
            if shard not in self._again_at:
                self._context.events.tell(Event.SHARD_DAMAGED, shard=shard, error=fault)
            self._again_at[shard] = self._context.clock() + AGAIN_SECONDS
            self._alarms[f"shard {shard}"] = fault

    def sound(self, shards: Iterable[int]) -> None:
        """What was tried in these shards went well."""
        for shard in self._again_at.keys() & set(shards):
            del self._again_at[shard]
            self._alarms.pop(f"shard {shard}", None)
            self._context.events.tell(Event.SHARD_MENDED, shard=shard)

    def forget(self, shards: Iterable[int]) -> None:
        """These shards are not ours any more, or anew."""
        for shard in shards:
            self._again_at.pop(shard, None)
