"""Owns `upsertq dead`: list, show, replay, discard and export the records that were given up."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from upsertq.cli import options
from upsertq.cli.dead_acts import Act, Canary, carry_out, check_runs, foretell, planned
from upsertq.cli.dead_options import Selection, selection
from upsertq.cli.dead_shown import counted, document_of, dumped, export_line, item_of, page_of, table
from upsertq.cli.exit_code import ExitCode
from upsertq.cli.reach import Reached, existing_queue, print_json
from upsertq.cli.strict import StrictGroup
from upsertq.client.new_file import NewFile
from upsertq.contract.dead_letter import Head
from upsertq.contract.printable import printable
from upsertq.contract.protocol import Patience
from upsertq.dead.finding import Count, Plan, count, find_letters, walk
from upsertq.dead.moves import discard as discard_letters
from upsertq.dead.moves import replay as replay_letters

Found = TypeVar("Found", Plan, Count)

if TYPE_CHECKING:
    from upsertq.contract.wire import UnknownEntry

PATIENCE_SECONDS: Final = 30.0
UNLIMITED_WIDTH: Final = 1_000_000
EXPORT_BATCH: Final = 50
FIRST_TIMEOUT: Final = 300.0

_dry_run = click.option("--dry-run", is_flag=True, help="Only count what would be chosen, by reason.")
_yes = click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
_named = click.argument("dead_ids", nargs=-1, metavar="[DEAD_ID]...")


@click.group(cls=StrictGroup)
def dead() -> None:
    """List, show, replay, discard or export the records that were given up.

    A dead letter is one record that is not sent again unless it is replayed. Its dead id is shown by `upsertq dead
    list`.
    """


@dead.command("list")
@options.common
@selection
def list_(*, redis_url: str | None, queue_name: str, as_json: bool, selection: Selection) -> int:
    """List dead letters, the newest last; --json is one array."""
    with existing_queue(redis_url, queue_name) as queue, _chosen(queue, selection) as heads:
        if as_json:
            _print_array(map(item_of, heads))
            return ExitCode.DONE
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else UNLIMITED_WIDTH
        lines = 0
        for line in table(heads, width):
            lines += 1
            click.echo(line)
        click.echo(f"{max(0, lines - 1):,} dead letters" if lines != 2 else "1 dead letter")  # noqa: PLR2004 - its title
    return ExitCode.DONE


@dead.command()
@click.argument("dead_ids", nargs=-1, required=True, metavar="DEAD_ID...")
@options.common
def show(*, dead_ids: tuple[str, ...], redis_url: str | None, queue_name: str, as_json: bool) -> int:
    """Show everything about the letters DEAD_ID, of the values only the first few; --json is one array."""
    damaged: list[UnknownEntry] = []
    with existing_queue(redis_url, queue_name) as queue:
        conversation = find_letters(queue.keys, queue.shape.shards, dead_ids, _patience(queue), damaged=damaged)
        letters = queue.server.hold(conversation)
    if as_json:
        _print_array(map(document_of, letters))
    else:
        click.echo("\n\n".join(map(page_of, letters)))
    if damaged:
        raise damaged[0]
    return ExitCode.DONE


@dead.command()
@_named
@options.common
@selection
@_dry_run
@_yes
@click.option(
    "--first",
    type=click.IntRange(min=1),
    metavar="N",
    help="Replay N, wait until they are settled, and go on only if none of them died again for the same reason (else: "
    "exit code 3).",
)
@click.option(
    "--timeout",
    type=options.Number(min=0),
    metavar="S",
    default=FIRST_TIMEOUT,
    show_default=True,
    help="With --first: wait so many seconds for them (else: exit code 4).",
)
def replay(
    *,
    dead_ids: tuple[str, ...],
    redis_url: str | None,
    queue_name: str,
    as_json: bool,
    selection: Selection,
    dry_run: bool,
    yes: bool,
    first: int | None,
    timeout: float,
) -> int:
    """Put dead letters back into the queue: those chosen, or those named, or all.

    An older version of a record never overwrites a newer one that landed: such a letter ends as superseded.
    """
    act = Act("replay", "replayed", replay_letters, as_json=as_json, dry_run=dry_run, yes=yes)
    canary = None if first is None else Canary(first, timeout)
    return _act(act, redis_url, queue_name, dead_ids, selection, canary)


@dead.command()
@_named
@options.common
@selection
@_dry_run
@_yes
def discard(
    *,
    dead_ids: tuple[str, ...],
    redis_url: str | None,
    queue_name: str,
    as_json: bool,
    selection: Selection,
    dry_run: bool,
    yes: bool,
) -> int:
    """Remove dead letters for good: those chosen, or those named, or all."""
    act = Act("discard", "discarded", discard_letters, as_json=as_json, dry_run=dry_run, yes=yes)
    return _act(act, redis_url, queue_name, dead_ids, selection, None)


@dead.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), metavar="FILE")
@options.common
@selection
def export(*, file: Path, redis_url: str | None, queue_name: str, as_json: bool, selection: Selection) -> int:
    """Write dead letters to FILE (- is stdout) as JSON lines, to be corrected and loaded by `upsertq load`.

    They stay where they are. Once a corrected record has landed, its dead letter counts as superseded and goes away.
    """
    if as_json and str(file) == "-":
        raise click.UsageError("--json and FILE - both want stdout: give a file, or leave out --json")
    by_reason: dict[str, int] = {}
    damaged: list[UnknownEntry] = []
    with existing_queue(redis_url, queue_name) as queue, _chosen(queue, selection) as heads, _written(file) as write:
        while some := list(islice(heads, EXPORT_BATCH)):
            wanted = [head.dead_id for head in some]
            conversation = find_letters(
                queue.keys, queue.shape.shards, wanted, _patience(queue), missing_ok=True, damaged=damaged
            )
            for letter in queue.server.hold(conversation):
                write(export_line(letter))
                reason = letter.verdict.reason.value
                by_reason[reason] = by_reason.get(reason, 0) + 1
    _warn(len(damaged))
    count = sum(by_reason.values())
    if as_json:
        print_json({"queue": queue_name, "exported": count, "by_reason": by_reason})
    else:
        detail = f" ({counted(by_reason)})" if by_reason else ""
        click.echo(f"exported {count:,} dead letters{detail} to {file}", err=str(file) == "-")
    return ExitCode.DONE


def _act(
    act: Act, url: str | None, name: str, dead_ids: tuple[str, ...], chosen: Selection, canary: Canary | None
) -> int:
    if dead_ids and not chosen.everything:
        raise click.UsageError("name dead letters or choose them by options, not both")
    act.check_terminal()
    with existing_queue(url, name) as queue:
        if act.dry_run and not dead_ids:
            check_runs(queue, chosen)
            keys, shards = queue.keys, queue.shape.shards
            would = count(keys, shards, chosen.selector, chosen.limit, lambda: _patience(queue))
            return foretell(act, queue, _warned(queue.server.hold(would)))
        plan = _warned(planned(queue, dead_ids, chosen))
        return carry_out(act, queue, plan, canary, everything=chosen.everything and not dead_ids)


def _patience(queue: Reached) -> Patience:
    return queue.patience(PATIENCE_SECONDS)


@contextmanager
def _chosen(queue: Reached, chosen: Selection) -> Iterator[Iterator[Head]]:
    """The letters chosen, as they are read; says afterwards how many could not be."""
    check_runs(queue, chosen)
    yield walk(
        queue.server.hold,
        queue.keys,
        queue.shape.shards,
        lambda: _patience(queue),
        _warn,
        selector=chosen.selector,
        limit=chosen.limit,
    )


def _warned(found: Found) -> Found:
    _warn(found.unreadable)
    return found


def _warn(unreadable: int) -> None:
    if unreadable:
        click.echo(
            f"upsertq: {unreadable:,} dead letters cannot be read and were left as they are: they are damaged, or of a "
            "newer version: upgrade upsertq",
            err=True,
        )


def _print_array(items: Iterator[dict[str, object]]) -> None:
    """Print one JSON array, an item a line, each as soon as it is there."""
    separator = "[\n"
    for item in items:
        sys.stdout.write(separator + printable(dumped(item).decode()))
        separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[\n" else "\n]\n")
    sys.stdout.flush()


@contextmanager
def _written(file: Path) -> Iterator[Callable[[bytes], object]]:
    """Yield what writes to the file; it takes its name when it is whole: no part is loaded for the whole."""
    if str(file) == "-":
        yield lambda line: sys.stdout.write(f"{printable(line.decode()[:-1])}\n")
        sys.stdout.flush()
        return
    with NewFile(file) as content:
        yield content.write
        content.keep()
