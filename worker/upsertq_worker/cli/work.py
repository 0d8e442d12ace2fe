"""Owns `upsertq work`: one worker, from its options to its exit code."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeAlias

import click

from upsertq.cli import options
from upsertq.cli.exit_code import ExitCode
from upsertq.cli.reach import print_json
from upsertq.cli.receipt_shown import one_line
from upsertq.contract.books import Books
from upsertq.contract.errors import UsageError
from upsertq.contract.printable import printable
from upsertq_worker.cli.config import WorkConfig
from upsertq_worker.cli.http_options import HttpAddress, http_address, http_options
from upsertq_worker.cli.options import api_key, index_options, log_format
from upsertq_worker.context import Tally
from upsertq_worker.delivery.sender import Refused
from upsertq_worker.edge.process import Watch, ignore_hangup, log_to_stderr, open_first, run_loop
from upsertq_worker.edge.process import work as work_until_stopped
from upsertq_worker.events import Event, Events
from upsertq_worker.worker import Worker

Done: TypeAlias = tuple[Tally, Books]
MOST_PROCESSES: Final = 256
STREAMS: Final = 200
"""Streams that a scrape of a worker looks at, of which there are many; `upsertq metrics` walks over all of them."""
HTTP_OF_ONE: Final = (
    "--http is for one worker, and --processes starts several: leave one of them out. `upsertq metrics --http` beside "
    "them serves the figures of the queue"
)


@click.command()
@index_options("--timeout")
@click.option(
    "--processes",
    type=click.IntRange(1, MOST_PROCESSES),
    default=1,
    show_default=True,
    metavar="N",
    help="Run so many workers, each a process of its own, and replace those that die.",
)
@click.option("--until-empty", is_flag=True, help="Stop when nothing is pending any more.")
@click.option("--seconds", type=float, metavar="S", help="Stop after so many seconds.")
@http_options(required=False)
@log_format
@options.allow_eviction
@options.common
def work(
    *,
    redis_url: str | None,
    queue_name: str,
    as_json: bool,
    allow_eviction: bool,
    log_format: str,
    http: str | None,
    http_token_file: str | None,
    scale_records: int,
    processes: int,
    **given: Any,
) -> int:
    """Drain the queue into an index, beside any other worker: all workers of a queue share its shards.

    Runs until it is told to stop by SIGTERM or Ctrl-C (exit code 0), or as --until-empty and --seconds say.

    Exit codes: 0 stopped or empty; 1 failed; 3 empty, but records are dead; 5 the service refuses.
    """
    ignore_hangup()
    config = WorkConfig(api_key=api_key(), read_key=api_key, **given)
    address, settings = config.checked()
    listening = http_address(http, http_token_file)
    log_to_stderr(log_format)
    if processes > 1:
        each = {**given, "log_format": log_format, "allow_eviction": allow_eviction, "http": listening}
        return _work_as_processes(redis_url, queue_name, processes, each, as_json=as_json)
    with options.server_url(redis_url) as url:
        where = (url, queue_name, address, settings)
        drain = partial(work_until_stopped, *where, timeout=config.request_timeout, allow_eviction=allow_eviction)
        if listening is not None:
            drain = partial(_served, drain, listening, url, queue_name, scale_records)
        try:
            tally, books = run_loop(drain(watch=None if as_json else _watch()))
        except Refused as error:
            click.echo(printable(f"upsertq: {error}"), err=True)
            return ExitCode.PAUSED
    return _report(queue_name, tally, books, as_json=as_json, ended=settings.until_empty)


async def _served(
    drain: Callable[..., Coroutine[Any, Any, Done]],
    address: HttpAddress,
    url: str,
    queue: str,
    scale_records: int,
    *,
    watch: Watch | None,
) -> Done:
    """Drain, and serve health and metrics from before the queue's server is asked for anything."""
    from upsertq_worker.edge import http_server, monitor, queue_reader  # noqa: PLC0415 - slow, and often not asked for

    async with queue_reader.QueueReader(url, queue, sample=STREAMS) as reader:
        shown = monitor.WorkerMonitor(reader, scale_records)

        async def watch_too(worker: Worker) -> None:
            await shown.watch(worker)
            if watch is not None:
                await watch(worker)

        async with http_server.serving(address.host, address.port, address.token, shown.routes) as at:
            Events().tell(Event.LISTENING, url=at)
            return await drain(watch=watch_too)


def _work_as_processes(redis_url: str | None, queue: str, count: int, given: dict[str, Any], *, as_json: bool) -> int:
    """Drain with `count` worker processes; returns the exit code."""
    from upsertq_worker.processes import Crew  # noqa: PLC0415 - often not asked for

    if given.pop("http") is not None:
        raise UsageError(HTTP_OF_ONE)
    with options.server_url(redis_url) as url:
        # what fails for all is told once
        asyncio.run(open_first(url, queue, make=not given["until_empty"], allow_eviction=given["allow_eviction"]))
        crew = Crew(queue, url, given, count)
        code = asyncio.run(crew.run())
    if as_json:
        print_json({"queue": queue, **crew.books, "worker": dict(crew.tally), "processes": count})
    else:
        posted = f"{crew.tally['acked']:,} records acknowledged in {crew.tally['requests']:,} requests"
        click.echo(f"{count} workers: {posted}, by those that ended in good order")
    return code


def _report(queue: str, tally: Tally, books: Books, *, as_json: bool, ended: bool) -> ExitCode:
    """Say what was done; returns the exit code of a worker that `ended` with nothing pending, or was stopped."""
    if as_json:
        print_json({"queue": queue, **books.as_dict(), "worker": tally.as_dict()})
    else:
        click.echo(f"this worker: {tally.acked:,} records acknowledged in {tally.requests:,} requests")
        click.echo(f"queue {queue}: {one_line(books)}")
    return ExitCode.REJECTED_OR_DEAD if ended and books.dead else ExitCode.DONE


def _watch() -> Watch | None:
    """What shows the progress on a terminal; nothing in a pipe."""
    if not sys.stderr.isatty():
        return None
    from upsertq.cli.terminal import rate_line  # noqa: PLC0415 - slow to import, and of no use in a pipe

    async def watch(worker: Worker) -> None:
        with rate_line("draining") as show:
            while True:
                show(worker.tally.acked, f"{worker.sender.in_flight} requests in flight")
                await asyncio.sleep(0.2)

    return watch
