"""Owns how a command that only reads reaches an existing queue, and how it prints one JSON document."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click
import orjson

from upsertq import queue
from upsertq.cli.options import server_url
from upsertq.exchange import Patience
from upsertq.intake import Circumstances
from upsertq.keys import QueueKeys
from upsertq.printable import printable
from upsertq.queue import QueueShape
from upsertq.server import Server

ANSWER_SECONDS = 5.0
"""How long a command bears with a server that is away: a person waits for the answer."""


@dataclass(frozen=True, slots=True)
class Reached:
    """An existing queue and the connection to its server."""

    server: Server
    keys: QueueKeys
    shape: QueueShape
    world: Circumstances

    def patience(self, seconds: float = ANSWER_SECONDS) -> Patience:
        """A patience from now."""
        return self.world.patience(seconds)

    def check_run(self, run: str | None) -> None:
        """Raise `NotFound` for a run that the queue does not know."""
        if run is not None:
            self.server.hold(queue.find_run(self.keys, run, self.patience()))


@contextmanager
def existing_queue(url: str | None, name: str) -> Iterator[Reached]:
    """Reach the queue `name`; `NotFound` when there is none, so that a mistyped name creates nothing."""
    world = Circumstances(time.monotonic, time.time, random.Random())
    with server_url(url) as address:
        server = Server.at(address)
        try:
            keys = QueueKeys(name)
            shape = server.hold(queue.find_queue(keys, world.patience(ANSWER_SECONDS)))
            yield Reached(server, keys, shape, world)
        finally:
            server.close()


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document on one line, and flush it."""
    click.echo(printable(orjson.dumps(document).decode()))
