"""Owns `upsertq submit`: hand jobs to rq workers, follow them, and end as the same command would have."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import click

from upsertq.cli import options
from upsertq.cli.dead_options import Selection, selection
from upsertq.cli.exit_code import ExitCode
from upsertq.cli.load_options import LoadOptions, load_options
from upsertq.cli.progress import rate_line
from upsertq.cli.reach import existing_server, print_json
from upsertq.cli.strict import StrictGroup
from upsertq.contract.errors import NotFound, ServerUnavailable, ServerUnfit, UsageError, WaitTimeout, WorldError
from upsertq_worker.cli.config import WorkConfig
from upsertq_worker.cli.job_ends import report, say
from upsertq_worker.cli.options import index_options
from upsertq_worker.rq_queue import NAME, NO_CLUSTER, Call, Jobs, Seen

POLL_SECONDS: Final = 0.2
PATIENCE_SECONDS: Final = 60.0
"""How long a wait bears with a server that is away."""
START: Final = f"rq worker -w upsertq_worker.jobs.Worker {NAME}"

_redis_url = click.option(
    "--redis-url",
    metavar="URL",
    envvar=("RQ_REDIS_URL", *options.URL_VARIABLES),
    help="Server of the rq jobs, as redis://, rediss://, unix:// or redis+sentinel://; give a password by the "
    "environment (RQ_REDIS_URL, UPSERTQ_REDIS_URL or REDIS_URL). It is no cluster, and embedded servers have no rq "
    "workers.",
)
_wait = click.option("--wait", is_flag=True, help="Follow the job; end with its receipt and its exit code.")
_timeout = click.option(
    "--wait-timeout",
    type=options.Number(min=0),
    metavar="S",
    help="Give up following after so many seconds (code 4).",
)
_common = options.several(_redis_url, options.queue, options.as_json, _wait, _timeout)
"""The options that every job has."""
_job = click.argument("job_id", metavar="JOB")


@click.group(cls=StrictGroup, short_help="Hand jobs to rq workers.")
def submit() -> None:
    """Hand jobs to the rq workers that listen on the RQ queue 'upsertq', and follow them.

    Without --wait the job's id is printed. The API key and the index's host that it may go to come from the environment
    of the rq workers (PINECONE_API_KEY or PINECONE_API_KEY_FILE, UPSERTQ_INDEX_HOST).
    """


@submit.command(short_help="Load files.")
@load_options
@_common
def ingest(*, load_options: LoadOptions, queue_name: str, **how: Any) -> int:
    """Load SOURCE, as `upsertq load` does: files, folders or patterns, as the rq worker's machine has them.

    A job whose worker is shut down or dies goes on where it was. --rejects needs UPSERTQ_REJECTS_DIR in the
    environment of the rq workers, a folder in which the file must be.
    """
    if "-" in load_options.sources:
        raise UsageError("a job cannot read stdin: give files that the rq workers can read")
    given = {name: _plain(value) for name, value in _chosen(load_options, "sources", "run_name")}
    if "ids" in given:
        given["ids"] = [_absolute(path) for path in load_options.ids]
    if load_options.rejects is not None:
        given["rejects"] = _absolute(str(load_options.rejects))
    sources = [_absolute(path) for path in load_options.sources]
    what = f"load {len(sources)} source{'s' if len(sources) > 1 else ''} into queue {queue_name}"
    return _submit([Call("ingest", (sources, queue_name, load_options.run_name, given), what)], **how)


@submit.command(short_help="Drain a queue into an index.")
@index_options("--request-timeout")
@click.option("--seconds", type=options.Number(min=1), metavar="S", help="Stop after so many seconds.")
@click.option(
    "--slots",
    type=click.IntRange(1, 256),
    metavar="N",
    help="One job for each of N slots; those whose job is not over yet get no other one (for cron).",
)
@_common
def drain(*, index_host: str, seconds: float | None, slots: int | None, queue_name: str, **given: Any) -> int:
    """Drain the queue until nothing is pending, as `upsertq work --until-empty` does.

    The index's host must be one of those in UPSERTQ_INDEX_HOST of the rq workers.
    """
    if "@" in index_host:
        raise UsageError("--index-host must not carry a user or password: the key is read by the rq worker")
    how = {name: given.pop(name) for name in ("redis_url", "as_json", "wait", "wait_timeout")}
    chosen = dict(_chosen(WorkConfig(index_host=index_host, **given), "index_host"))
    arguments = (queue_name, index_host, seconds, chosen)
    what = f"drain queue {queue_name}"
    if slots is None:
        return _submit([Call("drain", arguments, what)], **how)
    name = queue_name.replace("_", "__").replace(".", "_d")  # an id has no dots
    calls = [Call("drain", arguments, f"{what}, slot {slot}", f"drain-{name}-{slot}") for slot in range(1, slots + 1)]
    return _submit(calls, **how)


@submit.command(short_help="Put dead letters back into the queue.")
@click.argument("dead_ids", nargs=-1, metavar="[DEAD_ID]...")
@selection
@click.option("--first", type=click.IntRange(min=1), metavar="N", help="Replay N first, as `upsertq dead replay` does.")
@click.option("--timeout", type=options.Number(min=0), metavar="S", help="With --first: wait so many seconds for them.")
@_common
def replay(
    *,
    dead_ids: tuple[str, ...],
    selection: Selection,
    first: int | None,
    timeout: float | None,
    queue_name: str,
    **how: Any,
) -> int:
    """Put dead letters back into the queue, as `upsertq dead replay --yes` does: those chosen, or named, or all."""
    if dead_ids and not selection.everything:
        raise click.UsageError("name dead letters or choose them by options, not both")
    plan = {"first": first, "timeout": timeout, "dead_ids": list(dead_ids)}
    chosen = {name: _plain(value) for name, value in _chosen(selection)}
    arguments = (queue_name, chosen, {name: value for name, value in plan.items() if value})
    return _submit([Call("replay", arguments, f"replay dead letters of queue {queue_name}")], **how)


@submit.command(short_help="Recount a queue.")
@_common
def audit(*, queue_name: str, **how: Any) -> int:
    """Recount the queue, as `upsertq audit` does; with --wait the exit code is 1 when the books drift."""
    return _submit([Call("audit", (queue_name,), f"audit queue {queue_name}")], **how)


@submit.command(short_help="Follow a job.")
@_job
@_redis_url
@options.as_json
@_timeout
def wait(*, job_id: str, redis_url: str | None, as_json: bool, wait_timeout: float | None) -> int:
    """Follow JOB to its end, as --wait does."""
    with _reached(redis_url) as jobs:
        return _follow(jobs, [job_id], wait_timeout, as_json=as_json)


@submit.command(short_help="Stop a job.")
@_job
@_redis_url
def stop(*, job_id: str, redis_url: str | None) -> int:
    """Have JOB stopped in good order, or taken from the queue; an ingest can be gone on with by `rq requeue`."""
    with _reached(redis_url) as jobs:
        jobs.stop(job_id)
    click.echo(f"job {job_id} is told to stop")
    return ExitCode.DONE


def _chosen(given: Any, *without: str) -> Iterator[tuple[str, Any]]:
    """The options that differ from their defaults: only these travel."""
    for one in fields(given):
        value = getattr(given, one.name)
        if one.name not in without and value != one.default:
            yield one.name, value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def _absolute(path: str) -> str:
    if not path or "://" in path:
        raise UsageError(f"a job loads files of the rq worker's machine, {'not URLs' if path else 'and one is empty'}")
    return str(Path.cwd() / path)


@contextmanager
def _reached(url: str | None) -> Iterator[Jobs]:
    """The jobs on the server; its faults are told before rq speaks to it."""
    if not url:
        raise UsageError(
            "rq jobs need a server that rq workers can reach: give --redis-url or set UPSERTQ_REDIS_URL (an embedded "
            "server is for the commands of one machine)"
        )
    with existing_server(url, "reach the rq jobs") as there:
        if there.facts.primaries:
            raise ServerUnfit(f"cannot reach the rq jobs: {NO_CLUSTER}")
        jobs = Jobs(url)
    try:
        yield jobs
    finally:
        jobs.close()


def _submit(calls: list[Call], *, redis_url: str | None, as_json: bool, wait: bool, wait_timeout: float | None) -> int:
    with _reached(redis_url) as jobs:
        found = [(call, jobs.enqueue(call)) for call in calls]
        if not jobs.listening():
            say(f"no rq worker listens on '{NAME}': start one with `{START}`")
        for call, job_id in found:
            if job_id is None:
                say(f"job {call.slot} is not over yet: no other one was submitted")
        ids = [job_id or call.slot for call, job_id in found]
        if wait:
            return _follow(jobs, ids, wait_timeout, as_json=as_json)
        if as_json:
            print_json(
                {"jobs": [{"job": name, "new": new is not None} for name, (_, new) in zip(ids, found, strict=True)]}
            )
        else:
            click.echo("\n".join(job_id for _, job_id in found if job_id))
    return ExitCode.DONE


def _follow(jobs: Jobs, ids: list[str], timeout: float | None, *, as_json: bool) -> int:
    """Follow jobs to their ends and print the receipts; returns the worst exit code."""
    codes = []
    until = None if timeout is None else time.monotonic() + timeout
    for job_id in ids:
        try:
            seen = _to_the_end(jobs, job_id, until)
        except KeyboardInterrupt:
            say(f"interrupted; the job goes on: follow it with `upsertq submit wait {job_id}`")
            return ExitCode.INTERRUPTED
        codes.append(report(job_id, seen, as_json=as_json))
    return max(codes)


def _to_the_end(jobs: Jobs, job_id: str, until: float | None) -> Seen:
    seen = jobs.see(job_id)
    with rate_line("job") as show:
        while not seen.over:
            records = seen.notes.get("records")
            show(records if isinstance(records, int) else 0, seen.status)
            if until is not None and time.monotonic() >= until:
                raise WaitTimeout(
                    f"job {job_id} is {seen.status} and not over yet: it goes on; `upsertq submit wait {job_id}` "
                    "follows it"
                )
            time.sleep(POLL_SECONDS)
            seen = _seen_again(jobs, job_id, seen)
    return seen


def _seen_again(jobs: Jobs, job_id: str, before: Seen) -> Seen:
    """What is known of the job now, a server that is away being borne with for a while."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return jobs.see(job_id)
        except ServerUnavailable:
            if time.monotonic() >= until:
                raise
            time.sleep(POLL_SECONDS)
        except NotFound:
            was = f"it was {before.status}, and the server does not know it any more"
            raise WorldError(f"job {job_id} is lost: {was}; submit it again") from None
