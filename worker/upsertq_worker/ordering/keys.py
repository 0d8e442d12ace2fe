"""Owns what is known of each key (namespace and id) of a shard, and until when its quarantine is. Pure.

A key is known by the whole entry that has it, or by the chain of its versions; as long as a settlement of one is not
confirmed, or an answer may still take effect. What follows is for `upsertq_worker.ordering.hold` to decide.
"""

import heapq
from collections.abc import Iterator
from typing import TypeAlias

from upsertq_worker.ordering.model import Chain, Held, Version

Known: TypeAlias = dict[str, Held | Chain]
"""By id: the whole entry that has it, or its versions."""


class Keys:
    """The keys of each lane in each shard, and the quarantines that run."""

    def __init__(self) -> None:
        self.lanes: dict[int, dict[str, Known]] = {}
        """By shard and namespace."""
        self.timers: list[tuple[float, int, Held | Chain]] = []
        """A heap of quarantines by their end; one that was prolonged stands there again."""
        self._ticket = 0

    def of(self, held: Held) -> Known:
        """Those of an entry's lane; they may be added to."""
        return self.lanes.setdefault(held.shard, {}).setdefault(held.entry.namespace, {})

    def forget_entry(self, held: Held) -> None:
        """Forget those that are known by this whole entry."""
        known = self.of(held)
        for record_id in held.entry.ids:
            if known.get(record_id) is held:
                del known[record_id]
        self._tidy(held.shard, held.entry.namespace)

    def forget_if_done(self, chain: Chain) -> None:
        """Forget one without versions, unless its quarantine must be remembered: its timer comes back to it."""
        if chain.entries == 0 and chain.quarantined_until == 0.0:
            namespace, record_id = chain.key
            known = self.lanes.get(chain.shard, {}).get(namespace, {})
            if known.get(record_id) is chain:
                del known[record_id]
                self._tidy(chain.shard, namespace)

    def take_out(self, shard: int, namespace: str | None) -> list[tuple[tuple[str, str], Held | Chain]]:
        """The keys of a shard, or of one lane of it, and all that is known of them and is not any more."""
        lanes = self.lanes.get(shard, {})
        if namespace is None:
            self.lanes.pop(shard, None)
            self.timers = [timer for timer in self.timers if timer[2].shard != shard]
            heapq.heapify(self.timers)
        else:
            lanes = {namespace: lanes.pop(namespace, {})}
        return [((space, name), one) for space, known in lanes.items() for name, one in known.items()]

    def remember(self, chain: Chain, until: float) -> None:
        """Know a key by this chain, which has no versions: until then a former one of it may take effect."""
        namespace, record_id = chain.key
        self.lanes.setdefault(chain.shard, {}).setdefault(namespace, {})[record_id] = chain
        self.quarantine(chain, until)

    def lose_entry(self, held: Held, until: float) -> None:
        """Until then an earlier copy of this whole entry may take effect."""
        held.lost_until = max(held.lost_until, until)
        self._time(held.lost_until, held)

    def lose_version(self, version: Version, now: float, until: float) -> None:
        """Until then an earlier copy of this version may take effect, and no other one of its key may be sent."""
        chain = version.chain
        still = now < chain.quarantined_until
        chain.lost = None if still and chain.lost != version.order else version.order
        self.quarantine(chain, until)

    def quarantine(self, chain: Chain, until: float) -> None:
        """Until then at least, what of this key is lost may take effect."""
        chain.quarantined_until = max(chain.quarantined_until, until)
        self._time(chain.quarantined_until, chain)

    def over(self, now: float) -> Iterator[Held | Chain]:
        """What had a quarantine that ended; it may have another one by now."""
        while self.timers and self.timers[0][0] <= now:
            yield heapq.heappop(self.timers)[2]

    def quarantine_end(self, shard: int, now: float) -> float:
        """When the last quarantine of this shard ends; `now` when there is none."""
        return max((when for when, _, target in self.timers if target.shard == shard), default=now)

    def _time(self, until: float, target: Held | Chain) -> None:
        self._ticket += 1
        heapq.heappush(self.timers, (until, self._ticket, target))

    def _tidy(self, shard: int, namespace: str) -> None:
        lanes = self.lanes.get(shard, {})
        if not lanes.get(namespace, True):
            del lanes[namespace]
