"""Owns how a command that only reads reaches an existing queue, and how it prints one JSON document."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import click
import orjson

from upsertq.cli.options import server_url
from upsertq.contract import fitness, queue, runs
from upsertq.contract.circumstances import Circumstances
from upsertq.contract.errors import ServerUnavailable
from upsertq.contract.keys import QueueKeys
from upsertq.contract.printable import printable
from upsertq.contract.protocol import Patience
from upsertq.contract.queue import QueueShape
from upsertq.contract.server import Server

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
            self.server.hold(runs.find_run(self.keys, self.shape, run, self.patience()))


@dataclass(frozen=True, slots=True)
class There:
    """A connection to a server, and what that tells of itself."""

    server: Server
    world: Circumstances
    facts: fitness.ServerFacts

    def patience(self, seconds: float = ANSWER_SECONDS) -> Patience:
        """A patience from now."""
        return self.world.patience(seconds)


@contextmanager
def existing_server(url: str | None, what: str) -> Iterator[There]:
    """Reach the server, of a kind that can have queues; `what` names the purpose in errors."""
    world = Circumstances(time.monotonic, time.time, random.Random())
    with server_url(url) as address:
        server = Server.at(address, told_after=ANSWER_SECONDS)
        try:
            facts = server.hold(fitness.check_kind(world.patience(ANSWER_SECONDS), what))
            yield There(server, world, facts)
        finally:
            server.close()


@contextmanager
def existing_queue(url: str | None, name: str) -> Iterator[Reached]:
    """Reach the queue `name`; `NotFound` when there is none, so that a mistyped name creates nothing.

    `NotFound` also at the end, when it is not there any more: what a command found in its place means nothing.
    """
    with existing_server(url, f"read the queue '{name}'") as there:
        keys = QueueKeys(name)
        shape = there.server.hold(queue.find_queue(keys, there.patience()))
        yield Reached(there.server, keys, shape, there.world)
        with suppress(ServerUnavailable):
            there.server.hold(queue.check_present(keys, shape, "", there.patience(0)))


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document on one line, and flush it."""
    click.echo(printable(orjson.dumps(document).decode()))
