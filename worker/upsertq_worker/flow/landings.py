"""Owns what landed lately, by when it was sent: the evidence that a refusal concerns some records and not the lane.

Pure. It keeps the lanes that landed last, at most `MOST_LANES`: evidence that was forgotten only delays a verdict.
"""

from dataclasses import dataclass, field
from math import inf
from typing import Final

MOST_LANES: Final = 10_000


@dataclass(slots=True)
class Landings:
    """When the latest batches that landed had been sent: of all, and of each namespace."""

    at: float = -inf
    """When the last one landed."""
    _latest: float = -inf
    _by_lane: dict[str, float] = field(default_factory=dict)

    def note(self, namespace: str, started: float, now: float) -> None:
        """A batch that was sent at `started` landed."""
        self.at = now
        self._latest = max(self._latest, started)
        self._by_lane[namespace] = max(started, self._by_lane.pop(namespace, started))
        if len(self._by_lane) > MOST_LANES:
            del self._by_lane[next(iter(self._by_lane))]

    def in_lane(self, namespace: str, since: float | None) -> bool:
        """Whether something of this namespace landed that was sent at `since` or later; `False` for no time."""
        return since is not None and self._by_lane.get(namespace, -inf) >= since

    def anywhere(self, since: float | None) -> bool:
        """Whether anything landed that was sent at `since` or later; `False` for no time."""
        return since is not None and self._latest >= since
