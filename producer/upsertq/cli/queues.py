"""Owns `upsertq queues`: list the queues on the server."""

from collections.abc import Sequence

import click

from upsertq.admin.queues import Listed
from upsertq.admin.queues import queues as find_queues
from upsertq.cli import options
from upsertq.cli.columns import table
from upsertq.cli.exit_code import ExitCode
from upsertq.cli.progress import progress_bar
from upsertq.cli.reach import existing_server, print_json


@click.command(short_help="List the queues on the server.")
@options.redis_url
@options.as_json
def queues(*, redis_url: str | None, as_json: bool) -> int:
    """List the queues on the server, with what is pending and dead and how many workers are alive.

    The keys of the whole server are looked through, in small steps that hold nothing up. A queue that is damaged, lost
    or of another format is listed with what is wrong with it.

    \b
      upsertq queues
      upsertq queues --json | jq -r '.queues[] | select(.dead > 0) | .queue'
    """  # noqa: D301 - click wants a real backspace before lines that it shall not wrap
    with existing_server(redis_url, "look for queues") as there, progress_bar("keys looked at") as show:
        found = there.server.hold(find_queues(there.patience, show))
    if as_json:
        print_json({"queues": [one.as_dict() for one in found]})
    else:
        click.echo(page(found))
    return ExitCode.DONE


def page(found: Sequence[Listed]) -> str:
    """The queues as a table; what is wrong with one stands below its line."""
    if not found:
        return "there is no queue on this server"
    rows: list[tuple[str, ...]] = [("queue", "pending", "dead", "workers", "shards", "format", "")]
    rows += [
        (one.queue, *map(_number, (one.pending, one.dead, one.workers, one.shards)), one.format or "?", one.problem)
        for one in found
    ]
    return table(rows, left={0, 6})


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"
