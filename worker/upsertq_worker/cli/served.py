"""Owns that a worker which runs serves its health and metrics meanwhile: the worker itself knows nothing of it."""

from collections.abc import Coroutine
from typing import Any, Final, Protocol

from upsertq.contract.books import Books
from upsertq_worker.cli.http_options import HttpAddress
from upsertq_worker.context import Tally
from upsertq_worker.edge.http_server import serving
from upsertq_worker.edge.monitor import WorkerMonitor
from upsertq_worker.edge.process import Watch
from upsertq_worker.edge.queue_reader import QueueReader
from upsertq_worker.events import Event, Events
from upsertq_worker.worker import Worker

STREAMS: Final = 200
"""Streams that a scrape of a worker looks at, of which there are many; `upsertq metrics` walks over all of them."""


class Work(Protocol):
    """Drains; calls `watch` with each worker that it makes."""

    def __call__(self, *, watch: Watch | None) -> Coroutine[Any, Any, tuple[Tally, Books]]:
        """Drain until told to stop."""


async def served(
    work: Work, address: HttpAddress, url: str, queue: str, scale_records: int, *, watch: Watch | None
) -> tuple[Tally, Books]:
    """Work, and serve from before the queue's server is asked for anything; returns and raises as `work`.

    Raises:
        WorldError: the address cannot be listened on; nothing was begun.
    """
    async with QueueReader(url, queue, sample=STREAMS) as reader:
        monitor = WorkerMonitor(reader, scale_records)

        async def watch_too(worker: Worker) -> None:
            await monitor.watch(worker)
            if watch is not None:
                await watch(worker)

        async with serving(address.host, address.port, address.token, monitor.routes) as at:
            Events().tell(Event.LISTENING, url=at)
            return await work(watch=watch_too)
