"""Owns the job that drains a queue. It sends the key only to hosts that the environment of the rq worker names."""

import asyncio
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from upsertq.cli.exit_code import ExitCode
from upsertq.contract.errors import LanePaused, UsageError, shown
from upsertq_worker.cli.config import WorkConfig
from upsertq_worker.cli.options import api_key
from upsertq_worker.delivery.sender import Refused
from upsertq_worker.edge.process import run_loop, work
from upsertq_worker.job_arguments import fitted, named
from upsertq_worker.jobs.job_context import JobContext, this_job
from upsertq_worker.jobs.stopping import STOP
from upsertq_worker.worker import Worker

HOSTS: Final = "UPSERTQ_INDEX_HOST"
"""Environment variable: the hosts, with spaces between, to which the jobs of this rq worker may send the key."""
NOTED_SECONDS: Final = 1.0
BEFORE: Final = "seconds_before"
"""The note of how long the job has drained in all, before its worker was shut down."""


def drain(queue: str, index_host: str, seconds: float | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """As `upsertq_worker.jobs.drain`."""
    context = this_job()
    config = _config(index_host, seconds, options)
    before = float(context.notes.get(BEFORE, 0.0))
    if config.seconds is not None:
        config = replace(config, seconds=max(1.0, config.seconds - before))
    address, settings = config.checked()
    where = (context.url, named("queue", queue), address, settings)
    draining = work(*where, timeout=config.request_timeout, watch=lambda worker: _note(context, worker), heed=_heed)
    try:
        tally, books = run_loop(draining)
    except Refused as error:
        raise LanePaused(str(error)) from None
    finally:
        STOP.take()
        context.notes[BEFORE] = before + context.seconds
    STOP.check()
    code = ExitCode.REJECTED_OR_DEAD if books.dead else ExitCode.DONE
    return {"queue": queue, **books.as_dict(), "worker": tally.as_dict(), "exit_code": code}


def _config(index_host: str, seconds: float | None, options: Mapping[str, Any]) -> WorkConfig:
    """The configuration of the worker; `UsageError` where the host is none that the environment names."""
    allowed = os.environ.get(HOSTS, "").split()
    if not allowed:
        raise UsageError(
            f"this rq worker drains into no index: set {HOSTS} in its environment to the hosts that may be"
        )
    if not index_host and len(allowed) > 1:
        raise UsageError(f"the job names no index, and this rq worker knows {len(allowed)} ({HOSTS}): name one of them")
    given = {**options, "index_host": index_host or allowed[0], "seconds": seconds}
    config = fitted(WorkConfig, given, api_key=api_key(), read_key=api_key, until_empty=True)
    if config.url not in {replace(config, index_host=host).url for host in allowed}:
        raise UsageError(
            f"--index-host {shown(index_host)} is none of those to which this rq worker sends its key: {HOSTS} in its "
            "environment names them"
        )
    return config


async def _note(context: JobContext, worker: Worker) -> None:
    while True:
        tally = worker.tally
        context.notes |= {"requests": tally.requests, "in_flight": worker.sender.in_flight, "dead": tally.dead}
        await asyncio.to_thread(context.progress, tally.acked)
        await asyncio.sleep(NOTED_SECONDS)


def _heed(worker: Worker) -> None:
    """Stop the worker in good order at the word, also where that came before it was there."""
    loop = asyncio.get_running_loop()
    STOP.wake = worker.stop
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, STOP.ask, number)
    if STOP.asked is not None:
        worker.stop()
