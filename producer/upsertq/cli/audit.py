"""Owns `upsertq audit`: recount the queue and say what does not agree with its books."""

import click

from upsertq.admin.audit import Drift, Report
from upsertq.admin.audit import audit as recount
from upsertq.cli import options
from upsertq.cli.exit_code import ExitCode
from upsertq.cli.reach import existing_queue, print_json
from upsertq.contract.printable import printable
from upsertq.contract.wire import legible

PATIENCE_SECONDS = 30.0


@click.command()
@options.common
def audit(*, redis_url: str | None, queue_name: str, as_json: bool) -> int:
    """Recount the queue from its entries; exit code 1 when its books drift.

    Compares records and bytes pending and dead letters with the books of every shard and run, and checks that
    enqueued = acked + superseded + discarded + dead + pending. Traffic may go on meanwhile.
    """
    with existing_queue(redis_url, queue_name) as queue:
        report = queue.server.hold(recount(queue.keys, queue.shape, queue.patience(PATIENCE_SECONDS)))
    if as_json:
        print_json(report.as_dict())
    else:
        click.echo("\n".join(map(printable, lines_of(report))))
    return ExitCode.DONE if report.ok else ExitCode.FAILED


def lines_of(report: Report) -> list[str]:
    """The report as lines: what was counted, each drift, what could not be counted, the verdict."""
    counted = (
        f"queue {report.queue}: {report.records:,} records pending in {report.entries:,} entries "
        f"({report.bytes:,} bytes), {report.dead:,} dead letters, {report.shards} shards, {report.runs:,} runs"
    )
    lines = [counted, *(f"drift: {_line_of(drift)}" for drift in report.drifts)]
    lines += [
        f"inconclusive: shard {shard} changed during every recount and is too long to recount at once; try again "
        "when there is less traffic"
        for shard in report.inconclusive
    ]
    if report.drifts:
        lines.append(f"{len(report.drifts):,} counters drift")
    else:
        lines.append("the books balance" if not report.inconclusive else "the books balance in every other shard")
    return lines


def _line_of(drift: Drift) -> str:
    where = f"shard {drift.shard}" + (f", run {drift.run}" if drift.run else "")
    found = f"{legible(drift.told)}, which is no counter," if drift.told else f"{drift.found:,}"
    return f"{where}: {drift.counter}: expected {drift.expected:,}, found {found} in the books"
