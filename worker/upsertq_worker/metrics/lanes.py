"""Owns which lanes are shown by name: the busiest, for namespaces are tenants' text and can be 100,000. Pure."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from heapq import nlargest
from operator import itemgetter
from typing import Final

from upsertq.contract.printable import printable

SHOWN: Final = 50
"""Lanes with a label of their own; the rest are `OTHER`."""
KEPT: Final = 1_000
"""Lanes that are remembered; up to twice as many for a moment."""
SECONDS: Final = 30.0
"""Time constant of the averages."""
DEFAULT: Final = "__default__"
OTHER: Final = "other"
QUEUE_ITSELF: Final = "*"
_LONGEST: Final = 100.0
"""Time constants after which weights are written anew: e to the power of 700 is no float any more."""


class Busiest:
    """How busy lanes were lately, as averages that decay over `SECONDS`; lanes that are not busy are forgotten."""

    def __init__(self, now: float) -> None:
        self._origin = now
        self._weights: dict[str, float] = {}
        """As of the origin: what is noted later weighs more, so that what was noted before need not be touched."""

    def note(self, namespace: str, now: float) -> None:
        """A request of this namespace ended."""
        if now - self._origin > _LONGEST * SECONDS:
            factor = math.exp(-(now - self._origin) / SECONDS)
            self._weights = {name: weight * factor for name, weight in self._weights.items() if weight * factor > 0}
            self._origin = now
        self._weights[namespace] = self._weights.get(namespace, 0.0) + math.exp((now - self._origin) / SECONDS)
        if len(self._weights) > 2 * KEPT:
            self._weights = dict(self._heaviest(KEPT))

    def names(self) -> list[str]:
        """The namespaces of the `SHOWN` busiest lanes, the busiest first."""
        return [namespace for namespace, _ in self._heaviest(SHOWN)]

    def _heaviest(self, count: int) -> list[tuple[str, float]]:
        return nlargest(count, self._weights.items(), key=itemgetter(1))


def label(namespace: str) -> str:
    """A namespace as a label's value; those that are called as we call something else are among the others."""
    text = printable(namespace) or DEFAULT
    return OTHER if text == QUEUE_ITSELF else text


def labelled(values: Mapping[str, float], shown: Iterable[str]) -> dict[str, float]:
    """The values by label: those of the namespaces `shown`, and the sum of all others."""
    by_name = set(shown)
    found = defaultdict[str, float](float, {OTHER: 0.0})
    for namespace, value in values.items():
        found[label(namespace) if namespace in by_name else OTHER] += value
    return dict(found)
