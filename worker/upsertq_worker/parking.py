"""Owns which namespaces must not fill the memory for records read ahead, and what is put aside of them.

A namespace in trouble of its own (paused, or held to its rate) keeps a share; what is beyond stays on the server, so
that the others' records are reached. It never decides what to send.
"""

from collections.abc import Mapping
from typing import Final

from upsertq.pauses import QUEUE
from upsertq_worker.desk import Desk
from upsertq_worker.places import Place
from upsertq_worker.seams import NEW

RATED_SECONDS: Final = 15.0
"""How long after it was told to slow down a namespace is taken to be slow."""


class Parking:
    """What is parked, and for whom."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._known: set[str] = set()

    def troubled(self) -> set[str]:
        """The namespaces that keep others waiting.

        When the whole queue is paused, or nobody else is known beside a slow namespace, nobody waits for it: then the
        stream is not searched for others.
        """
        desk = self._desk
        if QUEUE in desk.lanes.paused:
            return set()
        slow = desk.gates.rated(desk.clock() - RATED_SECONDS) if len(self._known) > 1 else set()
        return slow | {namespace for namespace in desk.hold.weights if desk.lanes.holds(namespace)}

    def has_room(self, place: Place, namespace: str) -> bool:
        """Whether an entry of this namespace, which comes next in this shard, may be taken in."""
        if len(self._known) < 2:  # noqa: PLR2004 - one, and another one
            self._known.add(namespace)
        if place.waits(namespace):
            return False
        taken = self._desk.hold.weights.get(namespace, 0)
        if not taken:
            return True
        troubled = self.troubled()
        return namespace not in troubled or taken < self._share(troubled)

    def make_room(self, places: Mapping[int, Place]) -> None:
        """Put aside what troubled namespaces have beyond their share."""
        desk = self._desk
        troubled = self.troubled()
        share = self._share(troubled)
        for namespace in troubled:
            if desk.hold.weights.get(namespace, 0) <= share:
                continue
            for shard, stream_ids in desk.hold.shed(namespace, share).items():
                if shard in places:
                    places[shard].shed(namespace, stream_ids[0], len(stream_ids))

    def bring_back(self, place: Place) -> None:
        """Have what is parked read again where there is room for it."""
        if place.cursor != NEW or not place.parked:
            return
        troubled, weights = self.troubled(), self._desk.hold.weights
        low = self._share(troubled) // 2
        place.go_back(name for name in place.parked if name not in troubled or weights.get(name, 0) <= low)

    def _share(self, troubled: set[str]) -> int:
        """Bytes that each of these may keep: half of all together, but an entry for each shard in any case."""
        hold = self._desk.hold
        least = len(self._desk.leases.epochs) * (hold.weight // hold.entries) if hold.entries else 0
        return max(least, self._desk.settings.read_ahead // (2 * max(1, len(troubled))))
