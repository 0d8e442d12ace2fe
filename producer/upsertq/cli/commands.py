"""Owns the list of this package's subcommands."""

from typing import Final

import click

from upsertq.cli.audit import audit
from upsertq.cli.dead import dead
from upsertq.cli.delete_queue import delete_queue
from upsertq.cli.load import load
from upsertq.cli.pause import pause, resume
from upsertq.cli.queues import queues
from upsertq.cli.reshard import reshard
from upsertq.cli.runs import runs
from upsertq.cli.status import status
from upsertq.cli.wait import wait

ALL: Final[tuple[click.Command, ...]] = (
    load,
    status,
    wait,
    audit,
    dead,
    pause,
    resume,
    queues,
    runs,
    reshard,
    delete_queue,
)
