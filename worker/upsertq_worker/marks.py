"""Owns the marks: what is held against entries of the shards that this worker holds, and what it says of them itself.

What a mark means is decided in `upsertq_worker.suspicion`; who is marked, in `caution` and `company`.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from upsertq.errors import ServerUnavailable
from upsertq_worker.desk import Desk
from upsertq_worker.places import place_of
from upsertq_worker.seams import QueueSeam
from upsertq_worker.suspicion import Mark
from upsertq_worker.versions import Held

log = logging.getLogger("upsertq.worker")

Key = tuple[int, str]
"""Shard and stream id of an entry."""
_STREAM_ID: Final = re.compile(r"\d{1,20}-\d{1,20}")


@dataclass(slots=True)
class _Shard:
    """What is known of a shard that is held.

    Args:
        settled_at: from this time on nothing of an earlier holder can still be on its way to the index.
        found: what is held against its entries, by stream id; `None` until it was asked for.
    """

    settled_at: float
    found: dict[str, Mark] | None = None
    final: bool = False
    """Nobody who lives changes them any more."""


class Marks:
    """The marks of one worker's shards."""

    def __init__(self, desk: Desk, queue: QueueSeam) -> None:
        self._desk = desk
        self._queue = queue
        self._shards: dict[int, _Shard] = {}
        self._before: dict[int, dict[str, Mark | None]] = {}
        """What was held against the entries that this worker marked, by shard and stream id."""
        self._owed: dict[Key, str] = {}
        """What is to be put in the place of marks of ours as soon as the server answers."""

    async def follow(self) -> bool:
        """Follow the leases; returns whether a shard was gained, and its marks read.

        Of what we had in work in shards that we lost, and of what was put aside, we say that nobody died of it.
        """
        await self._pay()
        desk = self._desk
        over_at = desk.clock() + desk.settings.quarantine
        self._shards = {shard: self._shards.get(shard) or _Shard(over_at) for shard in desk.leases.epochs}
        for shard in self._before.keys() - self._shards.keys():
            await self._clear([(shard, stream_id) for stream_id in self._before[shard]])
        if not desk.unsettled and not desk.hold.settlements:  # else it is not known which of it is settled
            marked = [(shard, stream_id) for shard, befores in self._before.items() for stream_id in befores]
            await self._clear([key for key in marked if desk.hold.find(*key) is None])
        return await self._learn()

    def forget(self, shards: Sequence[int]) -> None:
        """These shards were lost, or gained anew: what is held against their entries is to be read again."""
        for shard in shards:
            self._shards.pop(shard, None)

    def known(self, shard: int) -> bool:
        """Whether the marks of this shard were read."""
        return shard in self._shards and self._shards[shard].found is not None

    def suspects(self) -> Iterable[tuple[Held, Mark]]:
        """The entries held that were in work when a worker died, in the order of each shard."""
        for shard, known in self._shards.items():
            for stream_id, mark in (known.found or {}).items():
                held = self._desk.hold.find(shard, stream_id)
                if held is not None:
                    yield held, mark

    def settled_at(self, shards: Iterable[int]) -> float:
        """When nothing of the earlier holders of these shards can travel any more; 0 for those that were lost."""
        return max((self._shards[shard].settled_at for shard in shards if shard in self._shards), default=0.0)

    def exonerate(self, held: Held) -> None:
        """Hold nothing against this entry any more, or not now: whoever comes after this worker decides anew."""
        known = self._shards.get(held.shard)
        mark = known.found.pop(held.stream_id, None) if known is not None and known.found is not None else None
        if mark is not None:
            self._before.setdefault(held.shard, {}).setdefault(held.stream_id, mark)

    def convicted(self, held: Held) -> tuple[int, ...]:
        """Rows of an entry that earlier deaths have convicted: they stay so until it is settled."""
        before = self._before.get(held.shard, {}).get(held.stream_id)
        return () if before is None else before.after_death().dead

    async def acquit(self, held: Held) -> None:
        """Hold nothing against this entry any more: it went alone, and nobody died of it."""
        self.exonerate(held)
        self._before.get(held.shard, {})[held.stream_id] = None
        await self.take_back([(held.shard, held.stream_id)])

    async def write(self, marks: Mapping[Key, Mark]) -> None:
        """Mark these entries, which are about to be worked on."""
        for shard, stream_id in marks:
            found = self._shards[shard].found if shard in self._shards else None
            self._before.setdefault(shard, {}).setdefault(stream_id, (found or {}).get(stream_id))
        await self._queue.mark(self._desk.leases.epochs, {key: str(mark) for key, mark in marks.items()})

    async def take_back(self, keys: Iterable[Key]) -> None:
        """Say of these entries that they are not in work: against them is held what was before this worker's marks."""
        for shard, stream_id in keys:
            befores = self._before.get(shard, {})
            if stream_id in befores:
                before = befores[stream_id]
                self._owed[shard, stream_id] = "" if before is None else str(before)
        await self._pay()

    async def end(self) -> None:
        """Take back the marks of what is not settled: this worker ends without being killed by it."""
        try:
            for shard in self._before.keys() & self._desk.leases.epochs.keys():
                await self.take_back([(shard, stream_id) for stream_id in self._before[shard]])
        except ServerUnavailable as error:
            log.warning("%s; what is pending may go alone at first", error)

    async def _clear(self, keys: Sequence[Key]) -> None:
        await self.take_back(keys)
        for shard, stream_id in keys:
            self._before[shard].pop(stream_id, None)
            if not self._before[shard]:
                del self._before[shard]

    async def _pay(self) -> None:
        if self._owed:
            await self._queue.mark(self._desk.leases.epochs, self._owed)
            self._owed.clear()

    async def _learn(self) -> bool:
        now = self._desk.clock()
        gained = any(known.found is None for known in self._shards.values())
        unknown = {
            shard: known
            for shard, known in self._shards.items()
            # once more when whoever lost the shard and lives must have said that it does
            if known.found is None or (known.found and not known.final and now >= known.settled_at)
        }
        if not unknown:
            return False
        texts = await self._queue.marks(list(unknown))
        for shard, known in unknown.items():
            noted = [(stream_id, text) for stream_id, text in texts[shard].items() if _STREAM_ID.fullmatch(stream_id)]
            noted.sort(key=lambda one: place_of(one[0]))
            found = {stream_id: Mark.parse(text) for stream_id, text in noted}
            for stream_id, before in self._before.get(shard, {}).items():
                # this worker made it and lives: it says nothing
                if before is None:
                    found.pop(stream_id, None)
                elif stream_id in found:
                    found[stream_id] = before
            if found and known.found is None:
                log.warning("shard %d: %d entries were in work when a worker died: they go alone", shard, len(found))
            known.found, known.final = found, now >= known.settled_at
        return gained
