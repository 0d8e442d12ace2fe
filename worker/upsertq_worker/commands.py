"""Owns the worker's subcommands: it reads the options and the environment, and nothing else decides on them."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from upsertq.books import Books
from upsertq.cli import options
from upsertq.cli.exit_code import ExitCode
from upsertq.cli.reach import print_json
from upsertq.cli.wait import one_line
from upsertq.errors import UsageError
from upsertq_worker.config import DEFAULT_API_VERSION, WorkConfig
from upsertq_worker.desk import Tally
from upsertq_worker.drain import Drain
from upsertq_worker.sender import Refused
from upsertq_worker.service import log_to_stderr, run_loop
from upsertq_worker.service import work as work_until_stopped

F = TypeVar("F", bound=Callable[..., Any])

_INDEX_OPTIONS = (
    click.option(
        "--index-host",
        metavar="URL",
        required=True,
        envvar="UPSERTQ_INDEX_HOST",
        help="Where the index is, as its console shows it; https:// unless a scheme is given. The key is read from "
        "PINECONE_API_KEY, or from the file that PINECONE_API_KEY_FILE names.",
    ),
    click.option("--api-version", default=DEFAULT_API_VERSION, show_default=True, help="Version of the service's API."),
    click.option("--allow-http", is_flag=True, help="Allow plain http beyond this machine (a proxy that adds TLS)."),
    click.option("--concurrency", default=16, show_default=True, help="Requests in flight at most."),
    click.option("--batch-size", default=100, show_default=True, help="Records in a request at most (up to 1,000)."),
    click.option("--batch-bytes", default=2_000_000, show_default=True, help="Bytes of JSON in a request at most."),
    click.option("--linger", default=0.2, show_default=True, metavar="S", help="Wait so long for a full batch."),
    click.option("--timeout", default=30.0, show_default=True, metavar="S", help="Give a request up after so long."),
    click.option(
        "--grace", default=30.0, show_default=True, metavar="S", help="After SIGTERM, let requests finish so long."
    ),
    click.option("--lease", default=10.0, show_default=True, metavar="S", help="When a dead worker's shards are free."),
    click.option(
        "--quarantine",
        default=5.0,
        show_default=True,
        metavar="S",
        help="Hold newer versions of an id back for so long after an answer about it was lost.",
    ),
    click.option(
        "--read-ahead", default=96_000_000, show_default=True, metavar="BYTES", help="Memory for records read ahead."
    ),
)


def index_options(function: F) -> F:
    """The options that say where the index is and how to post to it."""
    for option in reversed(_INDEX_OPTIONS):
        function = option(function)
    return function


def api_key() -> str:
    """The key from PINECONE_API_KEY, or from the file that PINECONE_API_KEY_FILE names; empty when there is none."""
    name = os.environ.get("PINECONE_API_KEY_FILE")
    if not name:
        return os.environ.get("PINECONE_API_KEY", "").strip()
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UsageError(f"cannot read the API key from {name} (PINECONE_API_KEY_FILE): {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{name} (PINECONE_API_KEY_FILE) is no text file: it must hold the key alone") from None


@click.command()
@index_options
@click.option("--until-empty", is_flag=True, help="Stop when nothing is pending any more.")
@click.option("--seconds", type=float, metavar="S", help="Stop after so many seconds.")
@options.common
def work(*, redis_url: str | None, queue_name: str, as_json: bool, timeout: float, **given: Any) -> int:
    """Drain the queue into an index.

    Runs until it is told to stop by SIGTERM or Ctrl-C (exit code 0), or as --until-empty and --seconds say. A second
    worker on the same queue stands by, and takes over when the first ends or dies.

    Exit codes: 0 stopped or empty; 1 failed; 3 empty, but records are dead; 5 the service refuses.
    """
    config = WorkConfig(api_key=api_key(), timeout=timeout, **given)
    address, settings = config.checked()
    log_to_stderr()
    with options.server_url(redis_url) as url:
        try:
            tally, books = run_loop(
                work_until_stopped(
                    url, queue_name, address, settings, timeout=timeout, watch=None if as_json else _watch()
                )
            )
        except Refused as error:
            click.echo(f"upsertq: {error}", err=True)
            return ExitCode.PAUSED if error.lane else ExitCode.FAILED
    _report(queue_name, tally, books, as_json=as_json)
    return ExitCode.REJECTED_OR_DEAD if config.until_empty and books.dead else ExitCode.DONE


def _report(queue: str, tally: Tally, books: Books, *, as_json: bool) -> None:
    if as_json:
        print_json({"queue": queue, **books.as_dict(), "worker": tally.as_dict()})
        return
    click.echo(f"this worker: {tally.acked:,} records acknowledged in {tally.requests:,} requests")
    click.echo(f"queue {queue}: {one_line(books)}")


def _watch() -> Callable[[Drain], Any] | None:
    """What shows the progress on a terminal; nothing in a pipe."""
    if not sys.stderr.isatty():
        return None
    from upsertq.cli.terminal import rate_line  # noqa: PLC0415 - slow to import, and of no use in a pipe

    async def watch(drain: Drain) -> None:
        with rate_line("draining") as show:
            while True:
                show(drain.tally.acked, f"{drain.desk.in_flight} requests in flight")
                await asyncio.sleep(0.2)

    return watch
