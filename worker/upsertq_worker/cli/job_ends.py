"""Owns how a job that is over is told: its receipt and its exit code, whatever stands in Redis in their place."""

from typing import Any, Final

import click

from upsertq.cli.exit_code import ExitCode
from upsertq.cli.reach import print_json
from upsertq.contract.printable import printable
from upsertq_worker.rq_queue import NAME, Seen

MOST_TOLD: Final = 1_000
"""Characters of what a job says of its failure that are shown."""
CODES: Final = {code.value for code in ExitCode} - {ExitCode.INTERRUPTED.value}
"""What a job may end with."""


def say(text: str) -> None:
    """Tell the user something, on stderr."""
    click.echo(printable(f"upsertq: {text}"), err=True)


def report(job_id: str, seen: Seen, *, as_json: bool) -> int:
    """Print the receipt of a job that is over, or say why there is none; returns its exit code."""
    if seen.receipt is not None:
        return _print(job_id, seen.receipt, as_json=as_json)
    if seen.status == "failed":
        why = str(seen.notes.get("error") or seen.error or "RQ does not know why")
        say(f"job {job_id} failed: {why[:MOST_TOLD]}")
        return _code(seen.notes.get("exit_code")) or ExitCode.FAILED
    if seen.status == "finished":
        say(f"job {job_id} is finished, but its receipt is gone")
    else:
        say(f"job {job_id} was {seen.status}: `rq requeue --queue {NAME} {job_id}` has it go on")
    return ExitCode.FAILED


def _print(job_id: str, receipt: dict[str, Any], *, as_json: bool) -> int:
    code = _code(receipt.get("exit_code"))
    try:
        if code is not None and as_json:
            print_json({"job": job_id} | receipt | {"job": job_id})
    except TypeError:  # numbers, depths and texts that JSON of ours has not
        code = None
    if code is None:
        say(f"job {job_id} is finished, but what stands in Redis for it is no receipt")
        return ExitCode.FAILED
    if not as_json:
        told = {name: value for name, value in receipt.items() if name not in {"exit_code", "drifts"}}
        click.echo(printable(f"job {job_id}: " + ", ".join(f"{name} {value}" for name, value in told.items())))
    return code


def _code(noted: Any) -> int | None:
    """What a job has noted as its exit code, if it is one."""
    return noted if type(noted) is int and noted in CODES else None
