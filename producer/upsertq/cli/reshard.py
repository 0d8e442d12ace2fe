"""Owns `upsertq reshard`: give a drained queue twice its shards."""

from functools import partial

import click

from upsertq.admin.reshard import reshard as double
from upsertq.cli import options
from upsertq.cli.exit_code import ExitCode
from upsertq.cli.reach import existing_server, print_json
from upsertq.contract.keys import QueueKeys

PATIENCE_SECONDS = 30.0


@click.command(short_help="Double the shards of a drained queue.")
@options.common
@click.option(
    "--shards",
    type=click.IntRange(min=1),
    required=True,
    metavar="N",
    help="Twice the present number of shards.",
)
def reshard(*, redis_url: str | None, queue_name: str, as_json: bool, shards: int) -> int:
    """Give a queue twice its shards: the most workers that can drain it at a time.

    The queue has to be drained, without dead letters, and its workers stopped. Its books, runs and interrupted loads
    stay. Producers and workers that had it open are told to open it again. Interrupted, it leaves the queue as it was.

    \b
      upsertq work --until-empty
      upsertq reshard --shards 32
    """  # noqa: D301 - click wants a real backspace before lines that it shall not wrap
    with existing_server(redis_url, f"read the queue '{queue_name}'") as there:
        ask = double(QueueKeys(queue_name), shards, partial(there.patience, PATIENCE_SECONDS))
        before = there.server.hold(ask)
    if as_json:
        print_json({"queue": queue_name, "before": before, "shards": shards, "changed": before != shards})
    elif before == shards:
        click.echo(f"queue {queue_name} has {shards:,} shards: nothing to do")
    else:
        click.echo(
            f"queue {queue_name} has {shards:,} shards now, {before:,} before: start its producers and workers anew"
        )
    return ExitCode.DONE
