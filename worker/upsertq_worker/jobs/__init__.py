"""The background jobs that rq workers run: bounded, with plain arguments, and a receipt as their result.

    rq worker -w upsertq_worker.jobs.Worker upsertq

`upsertq submit` enqueues them; so does `Queue("upsertq", connection=…).enqueue(ingest, …)`. Vectors never travel in
arguments, nor do secrets: the API key and the hosts that may get it come from the environment of the rq worker.
A receipt has the `exit_code` that the same command would have had.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from upsertq_worker.jobs import drains, loads, upkeep
from upsertq_worker.jobs.rq_job import Job
from upsertq_worker.jobs.rq_worker import Connection, Queue, Worker

__all__ = ["Connection", "Job", "Queue", "Worker", "audit", "drain", "ingest", "replay"]


def ingest(
    sources: Sequence[str], queue: str = "default", run: str | None = None, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Load files of the worker's machine, as `upsertq load` does; returns what became of them.

    A job that is begun again, since its worker was shut down or died, goes on where it was.

    Args:
        sources: absolute paths of files or folders, or patterns.
        queue: the queue's name.
        run: the run's name; a new one unless given.
        options: as those of `upsertq load`, by the names of `upsertq.cli.load_options.LoadOptions`.
    """
    return loads.ingest(sources, queue, run, options or {})


def drain(
    queue: str = "default",
    index_host: str = "",
    seconds: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Drain a queue until nothing is pending, or for so many seconds; returns its books and what this worker did.

    Args:
        queue: the queue's name.
        index_host: one of those in UPSERTQ_INDEX_HOST of the rq worker; the only one of them unless given.
        seconds: for how long; `None` is no limit.
        options: as those of `upsertq work`, by the names of `upsertq_worker.cli.config.WorkConfig`.
    """
    return drains.drain(queue, index_host, seconds, options or {})


def replay(
    queue: str = "default", selector: Mapping[str, Any] | None = None, plan: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Put dead letters back into the queue, as `upsertq dead replay` does; returns how many.

    Args:
        queue: the queue's name.
        selector: which, by the names of `upsertq.cli.dead_options.Selection`; all where it is empty.
        plan: how: `first`, so many before the others, waiting `timeout` seconds for them; `dead_ids` instead of a
            selector.
    """
    return upkeep.replay(queue, selector or {}, plan or {})


def audit(queue: str = "default") -> dict[str, Any]:
    """Recount a queue, as `upsertq audit` does; returns the report, with exit code 1 where the books drift."""
    return upkeep.audit(queue)


Job.calls = {f"{__name__}.{call.__name__}": call for call in (ingest, drain, replay, audit)}
