"""Owns `upsertq pause` and `upsertq resume`: workers leave a lane alone until it is resumed."""

import getpass
import os
import socket

import click

from upsertq.cli import options
from upsertq.cli.exit_code import ExitCode
from upsertq.cli.reach import existing_queue, print_json
from upsertq.contract import pauses
from upsertq.contract.errors import InvalidRecord, UsageError
from upsertq.contract.pauses import QUEUE, scope_of
from upsertq.contract.record import make_record

_namespace = click.option("--namespace", metavar="NS", help="This namespace alone ('' is the default one).")


@click.command(short_help="Send nothing of a queue or namespace until it is resumed.")
@options.common
@_namespace
@click.option("--reason", metavar="TEXT", default="", help="Reason, shown by `upsertq status`.")
def pause(*, redis_url: str | None, queue_name: str, as_json: bool, namespace: str | None, reason: str) -> int:
    """Let workers send nothing of the queue, or of one namespace, until `upsertq resume`.

    Requests that are out are finished. Loading goes on; the records wait. A pause by the service becomes one by hand,
    which no probe ends.
    """
    scope = _scope(namespace)
    with existing_queue(redis_url, queue_name) as queue:
        wanted = pauses.by_hand(reason, queue.world.wall(), _who())
        before, now = queue.server.hold(pauses.set_pause(queue.keys, scope, wanted, queue.patience()))
    if as_json:
        print_json({"queue": queue_name, "changed": now != before, "paused": pauses.as_dict(scope, now)})
        return ExitCode.DONE
    did = "was paused already" if now == before else "is paused" if before is None else "stays paused, now by hand"
    if before is not None and before.by_hand and now != before:
        did = "stays paused, for a new reason"
    end = f"end it with  {pauses.resuming(queue.keys, scope)}"
    click.echo(f"queue {queue_name} {did}: {pauses.describe(scope, now)}; {end}")
    return ExitCode.DONE


@click.command(short_help="End a pause, by hand or by the service.")
@options.common
@_namespace
@click.option("--all", "everything", is_flag=True, help="Every pause: of the queue and of its namespaces.")
def resume(*, redis_url: str | None, queue_name: str, as_json: bool, namespace: str | None, everything: bool) -> int:
    """End the pause of the whole queue, of one namespace, or every pause of the queue.

    Whatever began it, it ends: after a pause by the service workers try again at once, without waiting for their next
    probe. If the service still refuses, the lane is paused again.
    """
    if everything and namespace is not None:
        raise click.UsageError("--all and --namespace exclude each other")
    scope = None if everything else _scope(namespace)
    with existing_queue(redis_url, queue_name) as queue:
        ended, left = queue.server.hold(pauses.clear_pause(queue.keys, scope, queue.patience()))
    if as_json:
        lists = {"resumed": ended, "paused": left}
        told = {name: [pauses.as_dict(*item) for item in found.items()] for name, found in lists.items()}
        print_json({"queue": queue_name, **told})
        return ExitCode.DONE
    lines = [f"queue {queue_name}: resumed {pauses.describe(*item)}" for item in ended.items()]
    if not ended:
        what = "nothing was paused" if scope is None else f"{pauses.spoken(scope)} was not paused"
        lines.append(f"queue {queue_name}: {what}: nothing to do")
    lines += [f"still paused: {pauses.describe(*item)}" for item in left.items()]
    click.echo("\n".join(lines))
    return ExitCode.DONE


def _scope(namespace: str | None) -> str:
    if namespace is None:
        return QUEUE
    try:
        return scope_of(make_record("any", [1.0], namespace=namespace).namespace)
    except InvalidRecord as error:
        raise UsageError(f"--namespace {error.reason}") from None


def _who() -> str:
    """The user and the machine, as far as they are known: a container may have no name for its user."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        user = f"user {os.getuid()}" if hasattr(os, "getuid") else "somebody"
    return f"{user}@{socket.gethostname()}"
