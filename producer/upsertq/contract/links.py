"""Owns sending commands to one server and giving back replies, errors among them as values; it never retries.

After a failure that passes it keeps no idle connection: behind the same address another server may be the primary now.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from upsertq.contract.address import Node
from upsertq.contract.connect import AsyncClient, Client, async_at_node, at_node, node_of, sentinels_of, speaker
from upsertq.contract.protocol import Command
from upsertq.contract.reply_errors import MAPPED, failed, passes

_AS_READ: Final = "utf-8", "surrogateescape"


class Link:
    """Blocking connections to one server; safe to share between threads."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def node(self) -> Node:
        """Where it connects to; an empty host where that is a socket file, or for Sentinels to say."""
        return node_of(self._client.connection_pool)

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to `commands`, sent in one round trip; errors come back as `Failed`."""
        try:
            replies = self._replies(commands)
        except (*MAPPED, OSError) as error:
            replies = [failed(error)] * len(commands)
        if passes(replies):
            with suppress(*MAPPED, OSError):
                self._client.connection_pool.disconnect(inuse_connections=False)
        return replies

    def _replies(self, commands: Sequence[Command]) -> list[Any]:
        if len(commands) == 1:
            return [self._client.execute_command(*_sent(commands[0]))]  # type: ignore[no-untyped-call]
        with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*_sent(command))  # type: ignore[no-untyped-call]
            replies = pipeline.execute(raise_on_error=False)
        return [failed(reply) if isinstance(reply, Exception) else reply for reply in replies]

    def to(self, node: Node) -> "Link":
        """The same with another server: login, TLS and timeouts."""
        return Link(at_node(self._client, node))

    def speaker(self) -> str:
        """What answers in place of a Redis server, empty where that is not known."""
        return speaker(self._client.connection_pool)

    def close(self) -> None:
        """Close every connection."""
        for one in sentinels_of(self._client.connection_pool):
            one.close()
        self._client.close()


class AsyncLink:
    """The same as `Link` for asyncio; belongs to one event loop."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    @property
    def node(self) -> Node:
        """Where it connects to; an empty host where that is a socket file, or for Sentinels to say."""
        return node_of(self._client.connection_pool)

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """As `Link.ask`."""
        before = _cancellations()
        try:
            replies = await self._replies(commands)
        except (*MAPPED, OSError) as error:
            replies = [failed(error)] * len(commands)
        if _cancellations() > before:
            # Python 3.11: `asyncio.wait_for`, within the client, drops one that comes as the command has just gone out
            raise asyncio.CancelledError
        if passes(replies):
            with suppress(*MAPPED, OSError):
                await self._client.connection_pool.disconnect(inuse_connections=False)
        return replies

    async def _replies(self, commands: Sequence[Command]) -> list[Any]:
        if len(commands) == 1:
            return [await self._client.execute_command(*_sent(commands[0]))]  # type: ignore[no-untyped-call]
        async with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*_sent(command))
            replies = await pipeline.execute(raise_on_error=False)
        return [failed(reply) if isinstance(reply, Exception) else reply for reply in replies]

    def to(self, node: Node) -> "AsyncLink":
        """As `Link.to`."""
        return AsyncLink(async_at_node(self._client, node))

    def speaker(self) -> str:
        """As `Link.speaker`; it blocks."""
        return speaker(self._client.connection_pool)

    async def close(self) -> None:
        """Close every connection."""
        for one in sentinels_of(self._client.connection_pool):
            await one.aclose()
        await self._client.aclose()


def _cancellations() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def _sent(command: Command) -> Command:
    """The command, in which a name goes out as it was read, also where it is no UTF-8: hiredis takes no such text."""
    return [part if not isinstance(part, str) or part.isascii() else part.encode(*_AS_READ) for part in command]
