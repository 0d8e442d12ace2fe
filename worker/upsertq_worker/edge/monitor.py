"""Owns what is served over HTTP about a worker, or about a queue without one: the pages, and where they come from."""

from collections.abc import Mapping
from time import monotonic

import orjson

from upsertq.contract.errors import UpsertqError
from upsertq.contract.printable import printable
from upsertq_worker.edge.exposition import Exposition
from upsertq_worker.edge.http_server import Page, Route
from upsertq_worker.edge.queue_reader import QueueReader
from upsertq_worker.metrics import books
from upsertq_worker.metrics.counts import Counts
from upsertq_worker.metrics.table import Family
from upsertq_worker.worker import Worker

JSON = "application/json"
_OK = 200
_UNAVAILABLE = 503


class QueueMonitor:
    """The pages about a queue.

    Args:
        reader: reads it.
        records_per_worker: pending records for which one worker is enough.
    """

    def __init__(self, reader: QueueReader, records_per_worker: int) -> None:
        self._reader = reader
        self._records_per_worker = records_per_worker
        self._exposition = Exposition()

    @property
    def routes(self) -> Mapping[str, Route]:
        """The paths."""
        return {
            "/healthz": Route(self.healthz, open=True),
            "/readyz": Route(self.readyz, open=True),
            "/metrics": Route(self.metrics),
            "/scale": Route(self.scale),
        }

    async def healthz(self, _: str) -> Page:
        """Alive: that the event loop turns is shown by the answer."""
        return Page(_OK, b"alive\n")

    async def readyz(self, _: str) -> Page:
        """Whether it does its work."""
        why = await self.unready()
        return Page(_UNAVAILABLE, f"not ready: {why}\n".encode()) if why else Page(_OK, b"ready\n")

    async def metrics(self, accept: str) -> Page:
        """All figures."""
        try:
            body, content_type = self._exposition.text(await self.families(), accept)
        except UpsertqError as error:
            return _failed(error)
        return Page(_OK, body, content_type)

    async def scale(self, _: str) -> Page:
        """How many workers the backlog is worth."""
        try:
            document = books.scale(await self._reader.look(), self._records_per_worker)
        except UpsertqError as error:
            return _failed(error)
        return Page(_OK, orjson.dumps(document), JSON)

    async def unready(self) -> str:
        """Why it is not ready, "" when it is."""
        try:
            await self._reader.look()
        except UpsertqError:
            return "the queue cannot be read"
        return ""

    async def families(self) -> list[Family]:
        """What is exported."""
        now = await self._reader.look()
        return [*books.families(now), *books.more_families(now)]


class WorkerMonitor(QueueMonitor):
    """The pages about a worker, and of the queue what every worker exports."""

    def __init__(self, reader: QueueReader, records_per_worker: int) -> None:
        super().__init__(reader, records_per_worker)
        self._counts = Counts(monotonic)
        self._worker: Worker | None = None
        self._heard: object = None

    async def watch(self, worker: Worker) -> None:
        """Count what this worker does from now on; a process may have one after the other."""
        events = worker.context.events
        if events is not self._heard:
            events.listen(self._counts.hear)
        self._heard = events
        self._worker = worker

    async def unready(self) -> str:
        """As the worker stands: the server is not asked."""
        return unready(self._worker)

    async def families(self) -> list[Family]:
        """The worker's own figures always, those of the queue where it can be read."""
        worker = self._worker
        leases, in_flight, paces = 0, dict[str, int](), dict[str, float]()
        if worker is not None:
            leases, in_flight, paces = len(worker.leases.epochs), worker.limiter.in_flight, worker.limiter.slots.paces
        own = self._counts.families(self._reader.queue, leases, in_flight, paces)
        try:
            return [*own, *books.families(await self._reader.look())]
        except UpsertqError:
            return own


def unready(worker: Worker | None) -> str:
    """Why a worker is not ready, in a few fixed words that a stranger may read; "" when it is ready.

    It must reach the server, have leases or stand by for shards that others hold, and not be stopping.
    """
    if worker is None:
        return "starting"
    leases = worker.leases
    if worker.signals.stopping.is_set():
        return "stopping"
    if worker.signals.away.lasts or worker.context.clock() >= leases.valid_until:
        return "the queue's server does not answer"
    return "" if leases.epochs or leases.holders else "no shard can be had"


def _failed(error: UpsertqError) -> Page:
    return Page(_UNAVAILABLE, f"{printable(str(error))}\n".encode())
