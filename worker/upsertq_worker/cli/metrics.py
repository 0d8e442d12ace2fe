"""Owns `upsertq metrics`: the figures of a queue over HTTP, without a worker."""

import asyncio
import signal
import sys
from typing import Final

import click

from upsertq.cli import options
from upsertq.cli.exit_code import ExitCode
from upsertq.cli.reach import print_json
from upsertq_worker.cli.http_options import HttpAddress, http_address, http_options
from upsertq_worker.edge.http_server import serving
from upsertq_worker.edge.monitor import QueueMonitor
from upsertq_worker.edge.process import log_to_stderr, run_loop
from upsertq_worker.edge.queue_reader import QueueReader
from upsertq_worker.events import Event, Events

STREAMS: Final = 2_000
"""Streams that one look looks at."""


@click.command(short_help="Serve a queue's metrics, without a worker.")
@http_options(required=True)
@options.common
def metrics(
    *,
    redis_url: str | None,
    queue_name: str,
    as_json: bool,
    http: str,
    http_token_file: str | None,
    scale_records: int,
) -> int:
    """Serve the books, the backlog, workers, pauses and dead letters of the queue to Prometheus, until stopped.

    One of these a queue is enough. It answers for a queue without any worker, so that an autoscaler can start the first
    one. The queue need not exist yet; until then, and while the server is away, /metrics and /scale answer 503.

    Exit codes: 0 stopped; 1 the address is taken; 2 wrong options.
    """
    address = http_address(http, http_token_file)
    assert address is not None  # noqa: S101 - the option is required
    log_to_stderr()
    with options.server_url(redis_url) as url:
        run_loop(_serve(url, queue_name, address, scale_records, as_json=as_json))
    return ExitCode.DONE


async def _serve(url: str, queue: str, address: HttpAddress, scale_records: int, *, as_json: bool) -> None:
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with QueueReader(url, queue, sample=STREAMS, thorough=True) as reader:
        routes = QueueMonitor(reader, scale_records).routes
        async with serving(address.host, address.port, address.token, routes) as at:
            Events().tell(Event.LISTENING, url=at)
            if as_json:
                print_json({"queue": queue, "url": at})
                sys.stdout.flush()
            await stopped.wait()
