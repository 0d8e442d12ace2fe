"""Owns how settlements of one shard are written down as one call of the settle script, whose header lists its parts."""

from collections.abc import Sequence
from typing import Final

import orjson

from upsertq.contract.dead_letter import encode_letter
from upsertq.contract.keys import ShardKeys
from upsertq.contract.protocol import Argument
from upsertq_worker.flow.usage import Metered, Usage
from upsertq_worker.ordering.model import DeadRecord
from upsertq_worker.queue.redis_calls import Call

BOOKS_PLACE: Final = 2
"""Place of the shard's books among the keys of the settle script."""


class SettleCall:
    """The keys and arguments of one call.

    Args:
        keys: of the shard.
        head: incarnation, holder, and entries settled in the shard that the holder was told of.
    """

    def __init__(self, keys: ShardKeys, head: Sequence[Argument]) -> None:
        self._keys = keys
        self._head = head
        self._names = [keys.lease, keys.books, keys.lanes, keys.dead, keys.dead_ids]
        self._streams: dict[str, int] = {}
        self._runs: dict[str, int] = {"": 0}

    def of(self, settlements: Sequence[Metered], also: Sequence[str]) -> Call:
        """The call; `also` are runs of superseded letters, whose books are concerned."""
        at = max(one.settled_ms for one in settlements)
        arguments: list[Argument] = [*self._head, at, len(settlements)]
        for metered in settlements:
            self._add(metered, arguments)
        if all(one.settlement.ids for one in settlements):
            arguments += ["ids", *(orjson.dumps(one.settlement.ids) for one in settlements)]
        if also:
            arguments += ["also", *(part for run in also for part in (self._run(run), run))]
        return self._names, arguments

    def _add(self, metered: Metered, arguments: list[Argument]) -> None:
        one, run = metered.settlement, self._run(metered.settlement.run)
        figures: list[Argument] = []
        if metered.usage is not None or metered.queue_usage is not None:
            figures = [*_figures(BOOKS_PLACE, metered.queue_usage), *_figures(run, metered.usage)]
        arguments += (one.stream_id, self._stream(one.namespace), one.namespace, run, one.run, one.records, one.size)
        arguments += (one.acked, one.superseded, one.sequence, len(one.dead), len(figures) // 3)
        for dead in one.dead:
            arguments += _dead(dead)
        arguments += figures

    def _stream(self, namespace: str) -> int:
        """The place of the lane's stream among the keys."""
        place = self._streams.get(namespace)
        if place is None:
            place = self._streams[namespace] = self._key(self._keys.stream(namespace))
        return place

    def _run(self, run: str) -> int:
        """The place of the run's books among the keys; 0 for none."""
        place = self._runs.get(run)
        if place is None:
            place = self._runs[run] = self._key(self._keys.run(run))
        return place

    def _key(self, name: str) -> int:
        self._names.append(name)
        return len(self._names)


def _dead(dead: DeadRecord) -> list[Argument]:
    fields = encode_letter(dead.entry, dead.verdict)
    return [dead.row, dead.entry.seq, dead.verdict.reason, len(fields), *fields]


def _figures(place: int, usage: Usage | None) -> list[Argument]:
    """What requests took: place of the books among the keys, name and value of each figure."""
    return [part for name, value in (usage.figures() if usage else {}).items() for part in (place, name, value)]
