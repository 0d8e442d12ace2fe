"""Owns what is known of the requests behind the records of each run: how many, how large, how far the index's log came.

Pure. It gathers until a settlement of the run takes the figures along, so that what is counted is what was settled; it
never counts anything on the server, and never keeps more than a bounded number of runs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from upsertq_worker.ordering.model import Item, Settlement, entry_of

MOST_RUNS: Final = 1_000
"""Runs of which figures wait for a settlement; only one that is never settled here again can wait for long."""


@dataclass(slots=True)
class Usage:
    """What some requests took: their number, those that were retries, bytes of bodies, highest LSN by namespace."""

    requests: int = 0
    retries: int = 0
    bytes: int = 0
    lsn: dict[str, int] = field(default_factory=dict)

    def figures(self) -> dict[str, int]:
        """The counters by their names in the books, without zeros; those of `lsn:` are maxima, the others sums."""
        counts = {"requests": self.requests, "retries": self.retries, "posted": self.bytes}
        return {name: count for name, count in counts.items() if count} | {
            f"lsn:{namespace}": lsn for namespace, lsn in self.lsn.items()
        }


class Metered(NamedTuple):
    """A settlement with its time in milliseconds since 1970, and what requests took since the last one."""

    settlement: Settlement
    settled_ms: int
    usage: Usage | None = None
    """For its run."""
    queue_usage: Usage | None = None
    """For the queue."""


class Meter:
    """Gathers usage for the queue and for each run until settlements take it along."""

    def __init__(self) -> None:
        self._queue = Usage()
        self._runs: dict[str, Usage] = {}

    def posted(self, items: Sequence[Item], size: int, *, again: bool) -> None:
        """A request with these records left, `size` bytes of body; `again` when it was not the first with them.

        It counts once for the queue and once for each run in it. A run that is alone in it bears the whole body, else
        each bears its records.
        """
        self._queue.requests += 1
        self._queue.retries += again
        self._queue.bytes += size
        runs = _runs(items)
        for run in runs:
            usage = self._of(run)
            usage.requests += 1
            usage.retries += again
            if len(runs) == 1:
                usage.bytes += size
        if len(runs) > 1:
            for item in items:
                if run := entry_of(item).entry.run:
                    self._of(run).bytes += len(item.body)

    def landed(self, items: Sequence[Item], lsn: int) -> None:
        """The index took these records, of one namespace, and its log was at `lsn` then."""
        if not items:
            return
        namespace = items[0].namespace
        for usage in (self._queue, *(self._of(run) for run in _runs(items) if run)):
            usage.lsn[namespace] = max(lsn, usage.lsn.get(namespace, lsn))

    def metered(self, settlements: Sequence[Settlement], now_ms: int) -> list[Metered]:
        """The settlements with the time, each run's usage with one of its own and the queue's with the first."""
        metered: list[Metered] = []
        for one in settlements:
            queue = self._queue if not metered and self._queue.figures() else None
            metered.append(Metered(one, now_ms, self._runs.pop(one.run, None), queue))
            if queue is not None:
                self._queue = Usage()
        return metered

    def _of(self, run: str) -> Usage:
        if not run:
            return Usage()  # for the queue alone
        usage = self._runs.get(run)
        if usage is None:
            usage = self._runs[run] = Usage()
            if len(self._runs) > MOST_RUNS:
                del self._runs[next(iter(self._runs))]
        return usage


def _runs(items: Iterable[Item]) -> set[str]:
    return {entry_of(item).entry.run for item in items}
