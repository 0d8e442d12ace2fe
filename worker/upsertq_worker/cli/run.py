"""Owns `upsertq run`: load, drain and wait in one command; the worker is a process of its own beside the load."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import click

from upsertq.cli import options
from upsertq.cli.exit_code import ExitCode
from upsertq.cli.load import load_and_report
from upsertq.cli.load_options import LoadOptions, load_options
from upsertq.contract.errors import LoadStopped, WorldError
from upsertq.contract.printable import printable
from upsertq.contract.server import Server
from upsertq_worker.cli.config import WorkConfig
from upsertq_worker.cli.options import api_key, index_options, log_format
from upsertq_worker.edge.process import ignore_hangup, pass_on_hangup
from upsertq_worker.processes import work_command, work_environment

STOP_SECONDS = 10.0


class WorkerEnded(WorldError):  # noqa: N818 - as its siblings in `upsertq.contract.errors`
    """The worker beside the load has ended before its time; it has said why."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"the worker has ended (exit code {code})")


@click.command(short_help="Load, drain and wait in one command.")
@load_options
@index_options("--request-timeout")
@log_format
@options.common
@click.option(
    "--wait-timeout", type=options.Number(min=0), metavar="S", help="Give up waiting after so many seconds (code 4)."
)
def run(
    *,
    load_options: LoadOptions,
    redis_url: str | None,
    queue_name: str,
    as_json: bool,
    wait_timeout: float | None,
    log_format: str,
    **given: Any,
) -> int:
    """Load SOURCE into the queue, drain it into an index, and wait until nothing of the run is pending.

    The same as `upsertq load --wait` beside `upsertq work`, with the options of both. Interrupted, it leaves the
    records in the queue: `upsertq work` drains them, and --resume goes on with the load.

    Exit codes: 0 done; 1 failed; 3 done, but records were rejected or are dead; 4 timed out; 5 the service refuses.
    """
    ignore_hangup()
    WorkConfig(api_key=api_key(), **given).checked()
    plan = load_options.plan(queue_name)
    sent = {**given, "allow_eviction": load_options.allow_eviction, "log_format": log_format}
    pause_timeout = given["pause_timeout"]
    with (
        options.server_url(redis_url) as url,
        _worker(url, queue_name, sent) as worker,
        closing(Server.at(url)) as server,
    ):
        load = partial(load_and_report, plan, server, wait_timeout, as_json=as_json, pause_timeout=pause_timeout)
        return _load_beside(worker, load)


def _load_beside(worker: subprocess.Popen[bytes], load: Callable[..., int]) -> int:
    """Load and wait while the worker lives; returns the exit code."""

    def guard() -> None:
        if (code := worker.poll()) is not None:
            raise WorkerEnded(code)

    try:
        return load(wait_too=True, guard=guard)
    except WorkerEnded as ended:
        return ended.code or ExitCode.FAILED  # it has said why
    except LoadStopped as error:
        click.echo(printable(f"upsertq: {error}"), err=True)
        return worker.poll() or ExitCode.FAILED


@contextmanager
def _worker(url: str, queue: str, given: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process on the queue; the key and the server's address reach it by the environment alone."""
    command, environment = work_command(queue, given), work_environment(url, UPSERTQ_LOG_LEVEL="WARNING")
    # a session of its own: Ctrl-C is ours to pass on, after the load has stopped in good order
    worker = subprocess.Popen(  # noqa: S603 - our own command
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    pass_on_hangup(worker)
    try:
        yield worker
    finally:
        ignore_hangup()
        _stop(worker)


def _stop(worker: subprocess.Popen[bytes]) -> None:
    if worker.poll() is not None:
        return
    worker.send_signal(signal.SIGTERM)
    try:
        worker.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        # nothing is lost: what it held stays pending
        worker.kill()
        worker.wait()
