"""What a link to a server passes on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from upsertq.contract.links import AsyncLink

if TYPE_CHECKING:
    from upsertq.contract.connect import AsyncClient


class Deaf:
    """A client that answers when it is cancelled, as the `wait_for` of Python 3.11 does at one moment."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def execute_command(self, *_: Any) -> bytes:
        """Wait for the cancellation."""
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return b"answer"
        return b""


async def test_a_cancellation_that_the_client_drops_ends_the_call() -> None:
    """What cancels a flush, or a task of a worker, waits for its end: it must not go on."""
    client = Deaf()
    asking = asyncio.create_task(AsyncLink(cast("AsyncClient", client)).ask([["PING"]]))
    await client.asked.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
