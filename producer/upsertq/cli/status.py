"""Owns `upsertq status`: show how a queue stands, once or again and again."""

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby

import click

from upsertq.admin.health import only_paused, problems
from upsertq.admin.status import Rates, Standing, look
from upsertq.admin.workers import Lease, Worker
from upsertq.cli import options
from upsertq.cli.exit_code import ExitCode
from upsertq.cli.reach import Reached, existing_queue, print_json
from upsertq.client.receipt import DEFAULT_NAMESPACE
from upsertq.contract import pauses
from upsertq.contract.books import Books
from upsertq.contract.fitness import ServerFacts
from upsertq.contract.keys import queue_option
from upsertq.contract.printable import printable

WATCH_PATIENCE = 30.0


@click.command()
@options.common
@options.run
@click.option("--watch", is_flag=True, help="Look again and again until interrupted, and show rates.")
@click.option(
    "--interval",
    type=options.Number(0.1, 86_400),
    default=2.0,
    show_default=True,
    metavar="S",
    help="Seconds between two looks of --watch.",
)
@click.option("--check", is_flag=True, help="Check the queue once; the exit code tells what is wrong.")
@click.option(
    "--max-age",
    type=options.Duration(),
    metavar="TIME",
    help="With --check: how old the oldest pending entry may be, in seconds or as 45s, 30m, 2h, 3d.",
)
def status(
    *,
    redis_url: str | None,
    queue_name: str,
    as_json: bool,
    run_name: str | None,
    watch: bool,
    interval: float,
    check: bool,
    max_age: float | None,
) -> int:
    """Show the books, the backlog, leases, workers, paused lanes and the newest runs.

    With --run the books are those of the run. --watch redraws on a terminal and prints a line for each look in a pipe.

    Exit codes: 0 shown; 1 failed. With --check: 0 nothing is wrong; 5 paused, and nothing else is wrong; 1 no worker
    drains the queue, a worker has an alarm, or an entry is older than --max-age.
    """
    if max_age is not None and not check:
        raise click.UsageError("--max-age is for --check: give both")
    if check and watch:
        raise click.UsageError("--check looks once and --watch for ever: give one of them")
    with existing_queue(redis_url, queue_name) as queue:
        queue.check_run(run_name)
        if watch:
            return _watch(queue, run_name or "", interval, as_json=as_json)
        now = queue.server.hold(look(queue.keys, queue.shape, run_name or "", queue.patience()))
    if check:
        return _check(now, max_age, as_json=as_json)
    if as_json:
        print_json(now.as_dict())
    else:
        click.echo(picture(now, None))
    return ExitCode.DONE


def _check(now: Standing, max_age: float | None, *, as_json: bool) -> int:
    """Say on one line of stderr all that is wrong, and return the exit code of it."""
    found = problems(now, max_age)
    if as_json:
        print_json({**now.as_dict(), "problems": [asdict(problem) for problem in found]})
    if found:
        click.echo(f"upsertq: queue '{now.shape.name}': {'; '.join(one.message for one in found)}", err=True)
        return ExitCode.PAUSED if only_paused(found) else ExitCode.FAILED
    if not as_json:
        alive = sum(not worker.gone for worker in now.workers)
        workers = f"{alive} worker{'' if alive == 1 else 's'}"
        click.echo(f"queue {now.shape.name}: nothing is wrong: {workers}; {_backlog(now)}")
    return ExitCode.DONE


def _watch(queue: Reached, run: str, interval: float, *, as_json: bool) -> int:
    looks = _looks(queue, run, interval)
    try:
        if sys.stdout.isatty() and not as_json:
            _redraw(looks)
        for now, rates in looks:
            if as_json:
                print_json({**now.as_dict(), "rates": asdict(rates) if rates else None})
            else:
                click.echo(line(now, rates))
    except KeyboardInterrupt:  # the way to end a watch
        pass
    return ExitCode.DONE


def _redraw(looks: Iterable[tuple[Standing, Rates | None]]) -> None:
    from upsertq.cli.terminal import redrawn  # noqa: PLC0415 - slow to import, and of no use in a pipe

    with redrawn() as draw:
        for now, rates in looks:
            draw(picture(now, rates))


def _looks(queue: Reached, run: str, interval: float) -> Iterator[tuple[Standing, Rates | None]]:
    """Look every `interval` seconds for ever, with the rates since the look before."""
    before: Standing | None = None
    while True:
        now = queue.server.hold(look(queue.keys, queue.shape, run, queue.patience(WATCH_PATIENCE)))
        yield now, Rates.between(before, now) if before else None
        before = now
        time.sleep(interval)


def line(now: Standing, rates: Rates | None) -> str:
    """One look as one line of `name=value`, for logs and pipes."""
    parts = [f"{name}={count}" for name, count in now.books.as_dict().items()]
    parts.append(f"oldest={'-' if now.oldest_age is None else f'{now.oldest_age:.1f}s'}")
    parts += [f"paused={len(now.paused)}"] if now.paused else []
    if rates:
        parts += [f"enqueued/s={rates.enqueued}", f"acked/s={rates.acked}", f"settled/s={rates.settled}"]
    return f"{_time(now.at)} {' '.join(parts)}"


def picture(now: Standing, rates: Rates | None) -> str:
    """One look as a page of text."""
    dimension = f"{now.shape.dimension:,} dimensions" if now.shape.dimension else "dimension not known yet"
    lines = [f"queue {now.shape.name}: {now.shape.shards} shards, {dimension}"]
    lines += [f"run {now.run}"] if now.run else []
    lines += ["", *_table(now.books), ""]
    lines.append(_backlog(now))
    lines += _lanes(now)
    lines += _dead_letters(now)
    if rates:
        lines.append(
            f"rates: {rates.enqueued:,} enqueued/s, {rates.acked:,} acked/s, {rates.settled:,} settled/s "
            f"(over {rates.seconds:.1f} s)"
        )
    lines += _leases(now)
    lines += _workers(now.workers)
    lines += _server(now.server)
    lines += [f"paused: {pauses.describe(scope, paused)}" for scope, paused in now.paused.items()]
    if now.runs:
        lines += ["", f"runs (the newest {len(now.runs)} of {now.runs_known:,}):"]
        lines += [
            f"  {run.run}  since {_time(run.since)}: {run.books.enqueued:,} enqueued, {run.books.acked:,} acked, "
            f"{run.books.dead:,} dead, {run.books.pending:,} pending{'' if run.sealed else ', open'}"
            for run in now.runs
        ]
    return "\n".join(map(printable, lines))


def _server(facts: ServerFacts) -> list[str]:
    if not facts.told:
        return ["server: it does not tell its eviction policy and persistence (INFO is not allowed)"]
    role = {"slave": "replica", "master": "primary"}.get(facts.role, "")
    append_only = {True: "append-only file", False: "no append-only file"}.get(facts.append_only)  # type: ignore[arg-type]
    policy = f"maxmemory-policy {facts.policy}" if facts.policy else ""
    replicas = "" if facts.replicas is None else f"{facts.replicas} replica{'s' * (facts.replicas != 1)}"
    told = ", ".join(filter(None, (f"{facts.product} {facts.version}".strip(), role, policy, append_only, replicas)))
    return [f"server: {told}", *(f"warning: {warning}" for warning in facts.warnings)]


def _table(books: Books) -> list[str]:
    columns = {name: f"{count:,}" for name, count in books.as_dict().items() if name != "bytes"}
    widths = [max(len(name), len(count)) for name, count in columns.items()]
    rows = (columns, columns.values())
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _backlog(now: Standing) -> str:
    if now.oldest_age is None:
        return "backlog of the queue: empty"
    about = "at least " if now.backlog.sampled else ""
    return f"backlog of the queue: {about}{now.entries:,} entries, the oldest {_duration(now.oldest_age)} old"


def _lanes(now: Standing) -> list[str]:
    """The lanes that have the most pending, where there are several."""
    backlog = now.backlog
    if backlog.lanes < 2:  # noqa: PLR2004 - several
        return []
    largest = ", ".join(f"{name or DEFAULT_NAMESPACE} {count:,}" for name, count in backlog.largest[:3])
    about = "at least " if backlog.sampled else ""
    return [f"lanes: {about}{backlog.lanes:,} namespaces have a backlog, the largest (entries): {largest}"]


def _dead_letters(now: Standing) -> list[str]:
    if not now.books.dead:
        return []
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in now.reasons.items())
    queue = queue_option(now.shape.name)
    run = f" --run {now.run}" if now.run else ""
    why = f" ({reasons})" if reasons else ""
    return [f"dead letters: {now.books.dead:,}{why}: see `upsertq dead list{queue}{run}`"]


def _leases(now: Standing) -> list[str]:
    if not now.leases:
        return ["leases: none: no worker drains this queue"]
    by_worker: dict[str, list[Lease]] = {}
    for lease in now.leases:
        by_worker.setdefault(lease.worker, []).append(lease)
    beating = {worker.name for worker in now.workers}
    careful = [
        f"shard {shard}: its last {deaths} holders ended without releasing it: it is drained one entry at a time until "
        "what they had in work is settled"
        for shard, deaths in now.careful.items()
    ]
    held = ", ".join(_holder(name, leases, left=name not in beating) for name, leases in sorted(by_worker.items()))
    return [f"leases: {len(now.leases)} of {now.shape.shards} held: {held}", *careful]


def _holder(name: str, leases: list[Lease], *, left: bool) -> str:
    """The holder of leases; they outlive one that has left for as long as its last requests may take effect."""
    free = max(lease.expires_in or 0.0 for lease in leases)
    ended = f"; it has ended, they are free in {_duration(free)} at most" if left and free else ""
    return f"{name} (shards {_ranges(lease.shard for lease in leases)}{ended})"


def _workers(workers: Iterable[Worker]) -> list[str]:
    lines = []
    for worker in workers:
        beat = f"last beat {_duration(worker.age)} ago" if worker.age or not worker.gone else "its beat is unreadable"
        doing = (
            f"{'standing by' if worker.standby else f'{worker.in_flight:,} in flight'}, {worker.posted:,} records "
            f"posted in {worker.requests:,} requests, {beat}"
        )
        place = f" ({worker.host}, process {worker.pid})" if worker.pid else ""
        lines.append(f"worker {worker.name}{place}: {f'gone, {beat}' if worker.gone else doing}")
        if not worker.gone:
            lines += [f"alarm of {worker.name}: {name}: {alarm}" for name, alarm in sorted(worker.alarms.items())]
    return lines


def _ranges(numbers: Iterable[int]) -> str:
    """`0-2, 5` for 0, 1, 2, 5."""
    runs = [[n for _, n in group] for _, group in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
