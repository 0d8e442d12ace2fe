"""Owns the looks at a queue that scrapes and probes ask for: one at a time, each used for a while, none for ever.

A look is cheap, for it sees only some of the streams. Where there are more, all are walked over beside the looks.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self

from upsertq.admin.status import MOST_STREAMS, Standing, look
from upsertq.contract.errors import UpsertqError
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Conversation, Patience
from upsertq.contract.queue import find_queue
from upsertq.contract.server import AsyncServer

if TYPE_CHECKING:
    from upsertq.admin.status import Backlog

FRESH_SECONDS: Final = 1.0
"""How long a look is used, at least; one that took longer is used for as long as it took."""
SHARE: Final = 20
"""A walk is used for so many times as long as it took: walking takes 5 % of the time, however many the streams."""
PATIENCE_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 4.0


class QueueReader:
    """Looks at one queue, over a connection of its own, so that a scrape neither waits for the worker nor delays it.

    Args:
        url: of the server.
        queue: its name; it need not exist yet.
        sample: streams of the backlog that one look looks at, about.
        thorough: walk over all streams now and then, where these are more.
        clock: seconds from any origin.
    """

    def __init__(
        self, url: str, queue: str, *, sample: int, thorough: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.queue = queue
        self._server = AsyncServer.at(url, answer_seconds=ANSWER_SECONDS, quiet=True)
        self._sample = sample
        self._thorough = thorough
        self._clock = clock
        self._rng = random.Random()
        self._one = asyncio.Lock()
        self._found: Standing | UpsertqError | None = None
        self._until = -math.inf
        self._walk: asyncio.Task[None] | None = None
        self._walk_from = -math.inf
        self._walked: Backlog | None = None
        """The backlog as the latest walk saw it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give a walk up, and close the connections."""
        if self._walk is not None:
            self._walk.cancel()
            await asyncio.gather(self._walk, return_exceptions=True)
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
                    self._found = await self._server.hold(self._looking(self._sample))
                except UpsertqError as error:
                    self._found = error
                ended = self._clock()
                self._until = ended + max(FRESH_SECONDS, ended - began)
            if isinstance(self._found, UpsertqError):
                raise self._found
            return self._completed(self._found)

    def _completed(self, now: Standing) -> Standing:
        """With the backlog of the latest walk, where the look saw but a part of it; begins the next walk."""
        if not (self._thorough and now.backlog.sampled):
            return now
        if self._clock() >= self._walk_from and (self._walk is None or self._walk.done()):
            self._walk = asyncio.create_task(self._walk_over())
        return replace(now, backlog=self._walked or now.backlog)

    async def _walk_over(self) -> None:
        began = self._clock()
        with suppress(UpsertqError):  # the looks tell of it
            self._walked = (await self._server.hold(self._looking(MOST_STREAMS))).backlog
        ended = self._clock()
        self._walk_from = ended + max(FRESH_SECONDS, SHARE * (ended - began))

    def _looking(self, streams: int) -> Conversation[Standing]:
        """The shape is read each time: the queue may have been made anew since."""
        keys = QueueKeys(self.queue)
        patience = Patience(PATIENCE_SECONDS, self._clock, self._rng)
        shape = yield from find_queue(keys, patience)
        return (yield from look(keys, shape, "", patience, most_runs=0, most_streams=streams))
