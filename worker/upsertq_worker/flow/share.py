"""Owns how much may be read: each namespace has its share of a worker's memory, and none is shut out. Pure."""

from typing import Final

from upsertq.contract.pauses import scope_of
from upsertq_worker.flow.pauses import Pauses
from upsertq_worker.ordering.entries import Entries
from upsertq_worker.ordering.ready import Ready
from upsertq_worker.settings import Settings

READ_ENTRIES: Final = 16
"""Entries a stream in one read at most."""
READ_BYTES: Final = 16_000_000
"""Bytes that one read should bring at most, about."""
BATCHES_AHEAD: Final = 4
"""Batches a lane may have here for each request that may be in flight: what is more only costs memory."""


class Share:
    """What may be read beside the entries held."""

    def __init__(self, settings: Settings, entries: Entries, ready: Ready, pauses: Pauses) -> None:
        self._settings = settings
        self._entries = entries
        self._ready = ready
        self._pauses = pauses

    def wants(self, namespace: str) -> bool:
        """Whether more of this namespace may be read now."""
        entries, settings = self._entries, self._settings
        weight = entries.weights.get(namespace, 0)
        if self._pauses.holds(namespace):
            if not weight:
                return self._pauses.probes(namespace)  # something is needed to probe with
            lane = self._ready.lanes.get(namespace)
            if lane is None or not lane.records or lane.entries or self._pauses.reason(scope_of(namespace)) is None:
                return False
            # a record of each entry here was refused as a probe: there may be better ones behind
        elif not weight:
            return entries.weight < 2 * settings.read_ahead
        share = settings.read_ahead // (1 + len(entries.weights))
        if entries.weight >= settings.read_ahead or weight >= share * 3 // 4:
            return False
        return entries.records[namespace] < BATCHES_AHEAD * settings.concurrency * settings.batch.records * 3 // 4

    def of_each(self, streams: int) -> int:
        """Entries to read of each of so many streams; few where nothing is here, so that sending begins soon."""
        entries = self._entries
        if not entries.weight:
            return 1
        room = min(READ_BYTES, self._settings.read_ahead - entries.weight)
        mean = max(1, entries.weight // len(entries))
        return max(1, min(READ_ENTRIES, room // (mean * max(1, streams))))
