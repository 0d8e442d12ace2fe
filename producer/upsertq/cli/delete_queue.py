"""Owns `upsertq delete-queue`: say what would be lost, ask, and remove every key of a queue."""

from functools import partial

import click

from upsertq.admin.removal import Stake, delete, stake
from upsertq.cli import asking, options
from upsertq.cli.exit_code import ExitCode
from upsertq.cli.progress import rate_line
from upsertq.cli.reach import existing_server, print_json
from upsertq.contract.errors import QueueInUse
from upsertq.contract.keys import QueueKeys

PATIENCE_SECONDS = 30.0


@click.command(name="delete-queue", short_help="Remove a queue with all that it holds.")
@click.argument("queue_name", metavar="QUEUE", type=options.Name("queue"))
@options.redis_url
@options.as_json
@click.option("--force", is_flag=True, help="Delete it also with pending records, dead letters or leases, or damaged.")
@asking.yes
def delete_queue(*, queue_name: str, redis_url: str | None, as_json: bool, force: bool, yes: bool) -> int:
    """Remove every key of QUEUE: its records, dead letters, books and runs. Nothing brings them back.

    Refused while something is pending, a lease is held or dead letters are there, unless --force. On a terminal the
    queue's name has to be typed. Producers and workers that still run say that the queue is lost. A removal that is
    interrupted is completed by the same command.

    \b
      upsertq delete-queue articles
      upsertq delete-queue articles --yes --force
    """  # noqa: D301 - click wants a real backspace before lines that it shall not wrap
    asking.check_terminal(asks=not yes, otherwise="give --yes to delete the queue without asking")
    keys = QueueKeys(queue_name)
    with existing_server(redis_url, f"read the queue '{queue_name}'") as there:
        patience = partial(there.patience, PATIENCE_SECONDS)
        found = there.server.hold(stake(keys, patience))
        if found.reasons and not force:
            raise QueueInUse(f"queue '{queue_name}' is not deleted: {', '.join(found.reasons)}: --force deletes it")
        if not yes and not _agreed(found):
            click.echo("nothing was deleted", err=True)
            return ExitCode.FAILED
        with rate_line("keys removed", "keys") as show:
            deletion = delete(keys, found, patience, lambda done: show(done, ""), force=force)
            removed = there.server.hold(deletion)
    if as_json:
        print_json({**found.as_dict(), "deleted": True, "keys": removed})
    else:
        click.echo(f"queue {queue_name} is deleted: {removed:,} keys were removed")
    return ExitCode.DONE


def _agreed(found: Stake) -> bool:
    click.echo(described(found), err=True)
    return asking.typed_name(found.queue, "type the queue's name to delete it")


def described(found: Stake) -> str:
    """What would be lost, on one line."""
    head = f"queue '{found.queue}'"
    if found.begun:
        return f"{head} is being deleted already, and not all of it is gone"
    if found.shape is None:
        return f"{head}: {', '.join(found.reasons)}"
    counts = (("pending", found.pending), ("dead letters", found.dead), ("runs", found.runs), ("leases", found.leases))
    told = ", ".join(f"{count:,} {what}" for what, count in counts)
    return f"{head}: {told}, and books of {found.enqueued:,} records enqueued would be gone for good"
