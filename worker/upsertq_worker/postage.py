"""Owns what is known of the requests behind the records of each run: how many, how large, how far the index's log came.

Pure. It gathers until a settlement of the run takes the figures along, so that what is counted is what was settled; it
never counts anything on the server, and never keeps more than a bounded number of runs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from upsertq_worker.versions import Settlement, Version

MOST_RUNS: Final = 1_000
"""Runs of which figures wait for a settlement; only one that is never settled here again can wait for long."""


@dataclass(slots=True)
class Postage:
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


class Meter:
    """Gathers postage for the queue and for each run until settlements take it along."""

    def __init__(self) -> None:
        self._queue = Postage()
        self._runs: dict[str, Postage] = {}

    def posted(self, versions: Sequence["Version"], size: int, *, again: bool) -> None:
        """A request with these records left, `size` bytes of body; `again` when it was not the first with them.

        It counts once for the queue and once for each run in it. A run that is alone in it bears the whole body, else
        each bears its records.
        """
        self._queue.requests += 1
        self._queue.retries += again
        self._queue.bytes += size
        runs = _runs(versions)
        for run in runs:
            postage = self._of(run)
            postage.requests += 1
            postage.retries += again
            if len(runs) == 1:
                postage.bytes += size
        if len(runs) > 1:
            for version in versions:
                if run := version.held.entry.run:
                    self._of(run).bytes += len(version.body)

    def landed(self, versions: Sequence["Version"], lsn: int) -> None:
        """The index took these records, of one namespace, and its log was at `lsn` then."""
        if not versions:
            return
        namespace = versions[0].namespace
        for postage in (self._queue, *(self._of(run) for run in _runs(versions) if run)):
            postage.lsn[namespace] = max(lsn, postage.lsn.get(namespace, lsn))

    def stamped(self, settlements: Sequence["Settlement"], now_ms: int) -> list["Settlement"]:
        """The settlements with the time, each run's postage with one of its own and the queue's with the first."""
        stamped: list[Settlement] = []
        for one in settlements:
            queue = self._queue if not stamped and self._queue.figures() else None
            stamped.append(replace(one, settled_ms=now_ms, postage=self._runs.pop(one.run, None), queue_postage=queue))
            if queue is not None:
                self._queue = Postage()
        return stamped

    def _of(self, run: str) -> Postage:
        if not run:
            return Postage()  # for the queue alone
        postage = self._runs.get(run)
        if postage is None:
            postage = self._runs[run] = Postage()
            if len(self._runs) > MOST_RUNS:
                del self._runs[next(iter(self._runs))]
        return postage


def _runs(versions: Iterable["Version"]) -> set[str]:
    return {version.held.entry.run for version in versions}
