"""Owns `upsertq wait`: block until nothing of a run or queue is pending, then print its receipt."""

from functools import partial

import click

from upsertq.cli import options
from upsertq.cli.exit_code import ExitCode
from upsertq.cli.progress import progress_bar
from upsertq.cli.reach import existing_queue, print_json
from upsertq.cli.receipt_shown import page
from upsertq.client import receipt
from upsertq.client.waiting import OPEN_TIMEOUT, Wait, wait_until_settled
from upsertq.contract.errors import LanePaused, WaitTimeout


@click.command()
@options.common
@options.run
@click.option("--timeout", type=options.Number(min=0), metavar="S", help="Give up after so many seconds (exit code 4).")
@options.pause_timeout
@click.option(
    "--open-timeout",
    type=options.Number(min=0),
    default=OPEN_TIMEOUT,
    show_default=True,
    metavar="S",
    help="Exit with 1 when an unsealed run has nothing pending and gets no record for so many seconds.",
)
def wait(
    *,
    redis_url: str | None,
    queue_name: str,
    as_json: bool,
    run_name: str | None,
    timeout: float | None,
    pause_timeout: float,
    open_timeout: float,
) -> int:
    """Wait until every record is settled, then print the receipt.

    Waits for the run's records, or without --run for the queue's. A run is done when its load (or program) has come to
    its end, and nothing of it is pending. Exit code 3 says that some of them are dead: see
    `upsertq dead list`; 4 that --timeout is over, 5 that it is stuck on a pause: with --json the receipt so far is
    printed all the same.
    """
    run = run_name or ""
    with existing_queue(redis_url, queue_name) as queue:
        queue.check_run(run_name)
        read = partial(receipt.read, queue.keys, queue.shape, run)
        wanted = Wait(
            queue.keys, queue.shape, run, timeout=timeout, pause_timeout=pause_timeout, open_timeout=open_timeout
        )
        try:
            with progress_bar(f"run {run}" if run else f"queue {queue_name}") as set_to:
                settled = wait_until_settled(
                    wanted, queue.world, lambda books: set_to(books.enqueued - books.pending, books.enqueued)
                )
                queue.server.hold(settled)
        except (WaitTimeout, LanePaused):
            if as_json:
                print_json(queue.server.hold(read(queue.patience())).as_dict())
            raise
        found = queue.server.hold(read(queue.patience()))
        queue.check_run(run_name)
    if as_json:
        print_json(found.as_dict())
    else:
        click.echo(page(found))
    return ExitCode.REJECTED_OR_DEAD if found.books.dead else ExitCode.DONE
