"""Owns what waits to be sent again, by when it is due. Pure: it is told the time."""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar


class Retried(Protocol):
    """What is needed of a batch here."""

    namespace: str


T = TypeVar("T", bound=Retried)


class Retries(Generic[T]):
    """Batches that wait, in the order in which they fall due."""

    def __init__(self) -> None:
        self._line: list[tuple[float, int, T]] = []
        self._by_lane: Counter[str] = Counter()
        self._ticket = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._line)

    def __iter__(self) -> Iterator[tuple[float, T]]:
        """When each is due, and the batch."""
        return ((due, batch) for due, _, batch in self._line)

    def waits(self, namespace: str) -> int:
        """How many batches of this namespace wait."""
        return self._by_lane[namespace]

    def add(self, batch: T, due: float) -> None:
        """Let `batch` wait until `due`."""
        self._ticket += 1
        heapq.heappush(self._line, (due, self._ticket, batch))
        self._by_lane[batch.namespace] += 1

    def take(self, now: float, wanted: Callable[[T], bool]) -> T | None:
        """Take the first one that is due and wanted; those that are not wanted stay, in their places."""
        passed_over = []
        found = None
        while self._line and self._line[0][0] <= now and found is None:
            waiting = heapq.heappop(self._line)
            if wanted(waiting[2]):
                found = waiting[2]
            else:
                passed_over.append(waiting)
        for waiting in passed_over:
            heapq.heappush(self._line, waiting)
        if found is not None:
            self._by_lane[found.namespace] -= 1
            self._by_lane = +self._by_lane  # without the namespaces that have none left
        return found
