"""Owns `upsertq load`: put files into the queue, say what became of them, and wait for the run where asked."""

import sys
import time
from collections.abc import Callable

import click

from upsertq.cli import options
from upsertq.cli.exit_code import ExitCode
from upsertq.cli.load_options import LoadOptions, load_options
from upsertq.cli.reach import print_json
from upsertq.cli.receipt_shown import details, one_line
from upsertq.cli.watching import Shown, watching
from upsertq.client import receipt
from upsertq.client.load import Interrupted, Loaded, Plan
from upsertq.client.load import load as load_plan
from upsertq.client.receipt import Receipt
from upsertq.client.waiting import PATIENCE_SECONDS, Wait, wait_until_settled
from upsertq.contract.books import Books
from upsertq.contract.circumstances import Circumstances
from upsertq.contract.errors import LanePaused, WaitTimeout
from upsertq.contract.keys import QueueKeys, queue_option
from upsertq.contract.printable import printable
from upsertq.contract.server import Server

SIGNALLED = 128
"""A command that a signal ended exits with this and the signal's number: 130 for SIGINT, 143 for SIGTERM."""


@click.command(short_help="Enqueue the records of files or of stdin.")
@load_options
@options.common
@click.option("--wait", "wait_too", is_flag=True, help="Then wait until nothing of the run is pending.")
@click.option(
    "--wait-timeout", type=options.Number(min=0), metavar="S", help="Give up waiting after so many seconds (code 4)."
)
@options.pause_timeout
def load(
    *,
    load_options: LoadOptions,
    redis_url: str | None,
    queue_name: str,
    as_json: bool,
    wait_too: bool,
    wait_timeout: float | None,
    pause_timeout: float,
) -> int:
    """Enqueue the records of SOURCE: JSONL, JSON, CSV (also .gz, .zst), Parquet, Arrow, NPY; - is JSONL on stdin.

    A folder stands for the files in it, and so does a quoted pattern such as 'data/*.parquet'.

    Pinecone's import layout (id, values, sparse_values, metadata) needs no options. Every source is checked before the
    first record is enqueued. The first bad record stops the load, unless --rejects takes them; an interrupted load goes
    on with --resume, and enqueues nothing twice.
    """
    plan = load_options.plan(queue_name)
    with options.server_url(redis_url) as url:
        server = Server.at(url)
        try:
            return load_and_report(
                plan, server, wait_timeout, wait_too=wait_too, as_json=as_json, pause_timeout=pause_timeout
            )
        finally:
            server.close()


def load_and_report(
    plan: Plan,
    server: Server,
    timeout: float | None,
    *,
    wait_too: bool,
    as_json: bool,
    guard: Callable[[], None] = lambda: None,
    pause_timeout: float = options.PAUSE_TIMEOUT,
) -> int:
    """Load, wait where asked (for `timeout` seconds, or on a pause for `pause_timeout` at most), and report.

    A signal or `guard` ends either.
    """
    with watching(guard) as watch:
        try:
            loaded = load_plan(plan, server, watch)
        except Interrupted as interrupted:
            told = str(interrupted) or "interrupted; nothing was enqueued"
            click.echo(printable(f"upsertq: {told}"), err=True)
            return SIGNALLED + watch.signal
        try:
            if wait_too:
                _wait(plan, server, loaded, (timeout, pause_timeout), watch)
        except Interrupted:
            click.echo(
                f"upsertq: interrupted; everything is loaded: wait on with {_wait_command(plan, loaded)}", err=True
            )
            return SIGNALLED + watch.signal
        except (WaitTimeout, LanePaused):
            _report(plan, loaded, receipt_of(plan, server, loaded), as_json=as_json, wait_too=wait_too)
            raise
    found = receipt_of(plan, server, loaded)
    _report(plan, loaded, found, as_json=as_json, wait_too=wait_too, waited=wait_too)
    return ExitCode.REJECTED_OR_DEAD if loaded.rejected or (wait_too and found.books.dead) else ExitCode.DONE


def receipt_of(plan: Plan, server: Server, loaded: Loaded) -> Receipt:
    """The receipt of the run that was loaded, as it stands."""
    keys, world = QueueKeys(plan.queue), Circumstances(time.monotonic, time.time)
    return server.hold(receipt.read(keys, loaded.shape, loaded.run, world.patience(PATIENCE_SECONDS)))


def _wait(plan: Plan, server: Server, loaded: Loaded, limits: tuple[float | None, float], watch: Shown) -> None:
    world = Circumstances(time.monotonic, time.time)
    wait = Wait(
        QueueKeys(plan.queue),
        loaded.shape,
        loaded.run,
        timeout=limits[0],
        pause_timeout=limits[1],
        enqueued=loaded.loaded,
    )
    settled = wait_until_settled(
        wait, world, lambda found: watch.waits(f"{found.pending:,} of run {loaded.run} are pending")
    )
    server.hold(settled, sleep=watch.sleep)


def _report(plan: Plan, loaded: Loaded, found: Receipt, *, as_json: bool, wait_too: bool, waited: bool = False) -> None:
    if as_json:
        own = {name: getattr(loaded, name) for name in ("run", "loaded", "rejected", "skipped", "seconds")}
        own["load_seconds"] = loaded.seconds  # a receipt has seconds of its own
        print_json({"queue": plan.queue, **own, **(found if wait_too else found.books).as_dict()})
        return
    click.echo(printable(summary(plan, loaded, found.books, waited=waited)))
    if waited:
        click.echo("\n".join(details(found)))
    sys.stdout.flush()


def summary(plan: Plan, loaded: Loaded, found: Books, *, waited: bool) -> str:
    """What became of the load, as one line, with what to do next."""
    if loaded.finished:
        parts = [f"run '{loaded.run}' has loaded these files already: nothing was left to resume"]
    else:
        rate = loaded.loaded / max(0.001, loaded.seconds)
        took = f"in {loaded.seconds:.1f} s ({rate:,.0f} rec/s)"
        parts = [f"loaded {loaded.loaded:,} records into queue '{plan.queue}' as run '{loaded.run}' {took}"]
    if plan.resume and not loaded.resumed:
        parts.append("there was nothing to resume, so it began at the start")
    if loaded.skipped:
        parts.append(f"{loaded.skipped:,} had been loaded before")
    if loaded.rejected:
        parts.append(f"{loaded.rejected:,} rejected: correct them in {plan.rejects} and load that file")
    parts.append(one_line(found) if waited else f"next: {_wait_command(plan, loaded)}")
    return "; ".join(parts)


def _wait_command(plan: Plan, loaded: Loaded) -> str:
    where = queue_option(plan.queue)
    return f"upsertq wait{where} --run {loaded.run}"
