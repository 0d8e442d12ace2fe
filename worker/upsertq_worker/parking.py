"""Owns which namespaces must not fill the memory for records read ahead, and what is put aside of them.

A namespace in trouble (paused, held to its rate, failing) keeps a share; what is beyond stays on the server, so
that the others' records are reached. It never decides what to send.
"""

from collections.abc import Mapping
from typing import Final

from upsertq.pauses import QUEUE
from upsertq_worker.desk import Desk
from upsertq_worker.places import Place
from upsertq_worker.seams import NEW

TROUBLED_SECONDS: Final = 15.0
"""How long after it was called too fast a namespace is taken to be slow; how long it must have failed to be so."""


class Parking:
    """What is parked, and for whom."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._known: set[str] = set()

    def troubled(self) -> set[str]:
        """The namespaces of what is held that keep others waiting.

        When the whole queue is paused nobody does. Nobody waits for a namespace that is merely too fast where no other
        one is known: the stream is not searched for one.
        """
        weights = self._desk.hold.weights
        if QUEUE in self._desk.lanes.paused:
            return set()
        return {namespace for namespace in self._slow() | self._desk.paused_namespaces() if namespace in weights}

    def has_room(self, place: Place, namespace: str) -> bool:
        """Whether an entry of this namespace, which comes next in this shard, may be taken in."""
        if len(self._known) < 2:  # noqa: PLR2004 - one, and another one
            self._known.add(namespace)
        if place.waits(namespace):
            return False
        if not self._is_troubled(namespace):
            return True
        taken, troubled = self._desk.hold.weights.get(namespace, 0), self.troubled()
        if taken:
            return taken < self._share(troubled)
        # one of each, to probe with; those beyond wait for these
        return self._together(troubled) < max(1, self._desk.settings.read_ahead * 3 // 4)

    def make_room(self, places: Mapping[int, Place]) -> None:
        """Put aside what troubled namespaces have beyond their share."""
        desk = self._desk
        troubled = self.troubled()
        share = self._share(troubled)
        for namespace in troubled:
            if desk.hold.weights.get(namespace, 0) <= share:
                continue
            for shard, stream_ids in desk.hold.shed(namespace, share, desk.clock()).items():
                if shard in places:
                    places[shard].shed(namespace, stream_ids[0], len(stream_ids))

    def bring_back(self, place: Place) -> None:
        """Have what is parked read again where there is room for it."""
        if place.cursor != NEW or not place.parked or not place.looked:
            return
        troubled = self.troubled()
        place.go_back(name for name in place.parked if self._may_return(name, troubled))

    def _may_return(self, namespace: str, troubled: set[str]) -> bool:
        if not self._is_troubled(namespace):
            return True
        taken = self._desk.hold.weights.get(namespace, 0)
        room = self._together(troubled) < max(1, self._desk.settings.read_ahead // 4)
        return room and taken <= self._share(troubled) // 2

    def is_stuck(self, namespace: str) -> bool:
        """Whether nothing of this namespace passes: it is paused, or fails."""
        return self._desk.lanes.holds(namespace) or namespace in self._failing()

    def _is_troubled(self, namespace: str) -> bool:
        if QUEUE in self._desk.lanes.paused:
            return False
        return self._desk.lanes.holds(namespace) or namespace in self._slow()

    def _slow(self) -> set[str]:
        """Those that are too fast for the service, and those that nothing passes of."""
        since = self._desk.clock() - TROUBLED_SECONDS
        return self._failing() | (self._desk.gates.rated(since) if len(self._known) > 1 else set())

    def _failing(self) -> set[str]:
        return self._desk.gates.failing(self._desk.clock() - TROUBLED_SECONDS)

    def _share(self, troubled: set[str]) -> int:
        """Bytes that each of these may keep: half of all together."""
        return self._desk.settings.read_ahead // (2 * max(1, len(troubled)))

    def _together(self, troubled: set[str]) -> int:
        return sum(self._desk.hold.weights.get(namespace, 0) for namespace in troubled)
