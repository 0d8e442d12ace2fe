"""Owns `upsertq runs`: list the runs of a queue, or remove the books of old, finished ones."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from upsertq.admin import purge as purging
from upsertq.admin import run_list
from upsertq.admin.purge import Candidates
from upsertq.admin.run_list import Listed
from upsertq.cli import asking, options
from upsertq.cli.columns import table
from upsertq.cli.exit_code import ExitCode
from upsertq.cli.progress import progress_bar
from upsertq.cli.reach import Reached, existing_queue, print_json
from upsertq.client.receipt import spoken, time_of
from upsertq.contract.keys import queue_option

PATIENCE_SECONDS = 30.0


@click.command(short_help="List the runs of a queue; remove the books of old ones.")
@options.common
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="N",
    help="Show so many, the newest.",
)
@click.option("--purge", is_flag=True, help="Remove the books of runs that were finished long ago; see --older-than.")
@click.option(
    "--older-than",
    type=options.Duration(),
    metavar="AGE",
    help="With --purge: how long ago they were finished at least, as 12h or 30d.",
)
@click.option("--dry-run", is_flag=True, help="With --purge: say what would be removed, and remove nothing.")
@asking.yes
def runs(
    *,
    redis_url: str | None,
    queue_name: str,
    as_json: bool,
    limit: int,
    purge: bool,
    older_than: float | None,
    dry_run: bool,
    yes: bool,
) -> int:
    """List the newest runs of a queue: open, sealed (something is pending) or done, with their books.

    --purge removes the books of runs that were sealed and settled at least --older-than ago. A run with dead letters,
    with something pending, or that was never completed stays. What the runs counted stays in the books of the queue. A
    purge that is interrupted is completed by the next one.

    \b
      upsertq runs --limit 5
      upsertq runs --purge --older-than 30d --dry-run
      upsertq runs --purge --older-than 30d --yes
    """  # noqa: D301 - click wants a real backspace before lines that it shall not wrap
    if not purge and (older_than is not None or dry_run or yes):
        raise click.UsageError("--older-than, --dry-run and --yes are for --purge: give it too")
    if purge and older_than is None:
        raise click.UsageError("--purge needs an age: give --older-than, as 30d")
    asking.check_terminal(
        asks=purge and not (yes or dry_run), otherwise="give --yes to purge without asking, or --dry-run to count"
    )
    with existing_queue(redis_url, queue_name) as queue:
        if older_than is not None:
            return _purge(queue, older_than, as_json=as_json, dry_run=dry_run, yes=yes)
        ask = run_list.runs(queue.keys, queue.shape, limit, partial(queue.patience, PATIENCE_SECONDS))
        found, known = queue.server.hold(ask)
    if as_json:
        print_json({"queue": queue_name, "runs": [one.as_dict() for one in found], "known": known})
    else:
        click.echo(page(queue_name, found, known))
    return ExitCode.DONE


def page(queue: str, found: Sequence[Listed], known: int) -> str:
    """The runs as a table, and how many there are."""
    if not known:
        return f"queue {queue} has no runs"
    rows = [("run", "state", "begun", "enqueued", "acked", "superseded", "discarded", "dead", "pending", "")]
    for one in found:
        begun = spoken(time_of(one.state.begun if one.state else 0)) or "?"
        books = one.books
        counts = (books.enqueued, books.acked, books.superseded, books.discarded, books.dead) if books else (None,) * 5
        numbers = ["?" if count is None else f"{count:,}" for count in (*counts, books.pending if books else None)]
        rows.append((one.run, one.stage, begun, *numbers, one.problem))  # type: ignore[arg-type]
    lines = [table(rows, left={0, 1, 2, 9})]
    if known > len(found):
        lines.append(f"the newest {len(found):,} of {known:,} runs: --limit shows more")
    return "\n".join(lines)


def _purge(queue: Reached, age: float, *, as_json: bool, dry_run: bool, yes: bool) -> int:
    patience = partial(queue.patience, PATIENCE_SECONDS)
    chosen = queue.server.hold(purging.candidates(queue.keys, queue.shape, age, patience))
    many = len(chosen.notes)
    if many and not (yes or dry_run):
        question = f"remove the books of {_counted(many)} of queue '{queue.keys.queue}'"
        if not click.confirm(f"{question} ({chosen.records:,} records, counted in the queue's books)?", err=True):
            click.echo("nothing was removed", err=True)
            return ExitCode.FAILED
    purged = 0
    if many and not dry_run:
        with progress_bar("purge") as set_to:
            purge = purging.purge(queue.keys, queue.shape, chosen.notes, patience, lambda done: set_to(done, many))
            purged = queue.server.hold(purge)
    if as_json:
        print_json(_document(queue, chosen, purged, dry_run=dry_run))
    else:
        click.echo(_line(queue, chosen, purged, dry_run=dry_run))
    return ExitCode.DONE


def _document(queue: Reached, chosen: Candidates, purged: int, *, dry_run: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"queue": queue.keys.queue, "selected": len(chosen.notes), "purged": purged}
    document |= {"records": chosen.records, "kept": dict(chosen.kept)}
    return {**document, "dry_run": True} if dry_run else document


def _line(queue: Reached, chosen: Candidates, purged: int, *, dry_run: bool) -> str:
    many = len(chosen.notes)
    done = f"would remove the books of {_counted(many)}" if dry_run else f"removed the books of {_counted(purged)}"
    parts = [f"queue {queue.keys.queue}: {done}"]
    if not dry_run and purged < many:
        parts.append(f"{_counted(many - purged)} were added to meanwhile and stay")
    if chosen.interrupted:
        parts.append(f"{chosen.interrupted:,} of them were left by a purge that was interrupted")
    words = {"unfinished": "unfinished", "dead": "with dead letters", "damaged": "damaged"}
    kept = [f"{count:,} {words[why]}" for why, count in sorted(chosen.kept.items())]
    if kept:
        parts.append(f"as old, but kept: {', '.join(kept)} (see `upsertq runs{queue_option(queue.keys.queue)}`)")
    return "; ".join(parts)


def _counted(many: int) -> str:
    return f"{many:,} run{'' if many == 1 else 's'}"
