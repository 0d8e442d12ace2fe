"""Owns the looks at a queue that scrapes and probes ask for: one at a time, each used for a while, none for ever."""

import asyncio
import random
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from upsertq.admin.status import MOST_STREAMS, Standing, look
from upsertq.contract.errors import UpsertqError
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Conversation, Patience
from upsertq.contract.queue import find_queue
from upsertq.contract.server import AsyncServer

FRESH_SECONDS: Final = 1.0
"""How long a look is used, at least."""
SHARE: Final = 20
"""A look is used for so many times as long as it took: looking takes 5 % of the time, whatever the queue's size."""
PATIENCE_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 4.0


class QueueReader:
    """Looks at one queue, over a connection of its own, so that a scrape neither waits for the worker nor delays it.

    Args:
        url: of the server.
        queue: its name; it need not exist yet.
        most_streams: of the backlog that one look looks at, about.
        clock: seconds from any origin.
    """

    def __init__(
        self, url: str, queue: str, *, most_streams: int = MOST_STREAMS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.queue = queue
        self._server = AsyncServer.at(url, answer_seconds=ANSWER_SECONDS, quiet=True)
        self._most_streams = most_streams
        self._clock = clock
        self._rng = random.Random()
        self._one = asyncio.Lock()
        self._found: Standing | UpsertqError | None = None
        self._until = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        await self._server.close()

    async def look(self) -> Standing:
        """How the queue stands, now or a moment ago.

        Raises:
            UpsertqError: there is no such queue, or the server does not answer; told again without asking for a moment.
        """
        async with self._one:
            if self._found is None or self._clock() >= self._until:
                began = self._clock()
                try:
                    self._found = await self._server.hold(self._looking())
                except UpsertqError as error:
                    self._found = error
                ended = self._clock()
                self._until = ended + max(FRESH_SECONDS, SHARE * (ended - began))
            if isinstance(self._found, UpsertqError):
                raise self._found
            return self._found

    def _looking(self) -> Conversation[Standing]:
        """The shape is read each time: the queue may have been made anew since."""
        keys = QueueKeys(self.queue)
        patience = Patience(PATIENCE_SECONDS, self._clock, self._rng)
        shape = yield from find_queue(keys, patience)
        return (yield from look(keys, shape, "", patience, most_runs=0, most_streams=self._most_streams))
