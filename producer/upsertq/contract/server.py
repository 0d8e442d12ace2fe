"""Owns the connection to Redis or Valkey for producers and commands: one server, or a cluster, which it recognises.

It performs conversations, in which every error is a value; it never decides to retry.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self, TypeVar, cast

from upsertq.contract.address import Address
from upsertq.contract.cluster import AsyncCluster, Cluster
from upsertq.contract.connect import ANSWER_SECONDS, AsyncClient, Client, CredentialProvider, async_client, client
from upsertq.contract.links import AsyncLink, Link
from upsertq.contract.protocol import Ask, Command, Conversation, Effect, Failed, Nodes, Pause, Probe, Warn
from upsertq.contract.reply_errors import kept_out, passes
from upsertq.contract.said import Said
from upsertq.contract.slots import TOPOLOGY

T = TypeVar("T")

TOLD_AFTER = 1.0
"""Seconds of waiting for the server after which the log has a line about it."""


class Server:
    """A blocking connection pool to one server or cluster; safe to share between threads.

    `Server.at(url)` connects; `Server(client)` adopts a client made elsewhere, which must use RESP2 and raw bytes.
    """

    def __init__(self, client: Client, *, told_after: float = TOLD_AFTER) -> None:
        self._link = Link(client)
        self._said = Said(told_after)
        self._cluster: Cluster | None = None
        self._unknown = bool(self._link.node[0])

    @classmethod
    def at(
        cls, url: str, *, told_after: float = TOLD_AFTER, credential_provider: CredentialProvider | None = None
    ) -> Self:
        """A server by its URL (`redis://`, `rediss://`, `unix://`, `redis+sentinel://`); nothing is sent yet.

        The URL of any node of a cluster stands for the cluster. A wait for the server is told in the log of `upsertq`
        once it has lasted `told_after` seconds. `credential_provider`, one of redis-py, gives the login in place of the
        URL, anew for each connection.
        """
        address = Address.of(url)
        made = client(address, credential_provider)
        return cls(made, told_after=told_after)

    def hold(self, conversation: Conversation[T], sleep: Callable[[float], None] = time.sleep) -> T:
        """Perform a conversation to its end and return its result."""
        try:
            effect = next(conversation)
            while True:
                effect = conversation.send(self._perform(effect, sleep))
        except StopIteration as stop:
            return cast("T", stop.value)

    def close(self) -> None:
        """Close every connection."""
        if self._cluster is not None:
            self._cluster.close()
        self._link.close()

    def _perform(self, effect: Effect, sleep: Callable[[float], None]) -> list[Any]:
        match effect:
            case Ask(commands=commands, node=node):
                return self._ask(commands, node)
            case Nodes():
                return self._nodes()
            case Pause():
                self._said.pause(effect)
                sleep(effect.seconds)
            case Warn(text=text):
                self._said.warn(text)
            case Probe():
                return [self._link.speaker()]
        return []

    def _ask(self, commands: Sequence[Command], node: str = "") -> list[Any]:
        failure = self._recognise() if self._unknown else None
        if failure is not None:
            return [failure] * len(commands)
        cluster = self._cluster
        return self._answered(self._link.ask(commands) if cluster is None else cluster.ask(Ask(commands, node)))

    def _nodes(self) -> list[Any]:
        failure = self._recognise() if self._unknown else None
        if failure is not None:
            return [failure]
        return [""] if self._cluster is None else self._cluster.nodes()

    def _recognise(self) -> Failed | None:
        """Find out whether it is a cluster; returns why it cannot be found out."""
        (told,) = self._link.ask([TOPOLOGY])
        if isinstance(told, Failed) and (told.passes or kept_out(told)):
            return told
        self._cluster = None if isinstance(told, Failed) else Cluster(self._link)
        self._unknown = False
        return None

    def _answered(self, replies: list[Any]) -> list[Any]:
        if not passes(replies):
            self._said.answered()
        return replies


class AsyncServer:
    """The same as `Server` for asyncio; belongs to one event loop."""

    def __init__(self, client: AsyncClient, *, quiet: bool = False) -> None:
        self._link = AsyncLink(client)
        self._said = Said(TOLD_AFTER, quiet=quiet)
        self._cluster: AsyncCluster | None = None
        self._unknown = bool(self._link.node[0])

    @classmethod
    def at(
        cls,
        url: str,
        *,
        answer_seconds: float = ANSWER_SECONDS,
        quiet: bool = False,
        credential_provider: CredentialProvider | None = None,
    ) -> Self:
        """As `Server.at`; `answer_seconds` bounds how long one answer may take, `quiet` keeps warnings back."""
        address = Address.of(url)
        made = async_client(address, credential_provider, answer_seconds)
        return cls(made, quiet=quiet)

    async def hold(self, conversation: Conversation[T], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> T:
        """Perform a conversation to its end and return its result."""
        try:
            effect = next(conversation)
            while True:
                effect = conversation.send(await self._perform(effect, sleep))
        except StopIteration as stop:
            return cast("T", stop.value)

    async def _perform(self, effect: Effect, sleep: Callable[[float], Awaitable[None]]) -> list[Any]:
        match effect:
            case Ask(commands=commands, node=node):
                return await self._ask(commands, node)
            case Nodes():
                return await self._nodes()
            case Pause():
                self._said.pause(effect)
                await sleep(effect.seconds)
            case Warn(text=text):
                self._said.warn(text)
            case Probe():
                return [await asyncio.to_thread(self._link.speaker)]
        return []

    async def _ask(self, commands: Sequence[Command], node: str = "") -> list[Any]:
        failure = await self._recognise() if self._unknown else None
        if failure is not None:
            return [failure] * len(commands)
        cluster = self._cluster
        replies = await (self._link.ask(commands) if cluster is None else cluster.ask(Ask(commands, node)))
        return self._answered(replies)

    async def _nodes(self) -> list[Any]:
        failure = await self._recognise() if self._unknown else None
        if failure is not None:
            return [failure]
        return [""] if self._cluster is None else await self._cluster.nodes()

    async def _recognise(self) -> Failed | None:
        """As `Server._recognise`."""
        (told,) = await self._link.ask([TOPOLOGY])
        if isinstance(told, Failed) and (told.passes or kept_out(told)):
            return told
        if self._unknown:  # else another conversation has found it out meanwhile
            self._cluster = None if isinstance(told, Failed) else AsyncCluster(self._link)
            self._unknown = False
        return None

    def _answered(self, replies: list[Any]) -> list[Any]:
        if not passes(replies):
            self._said.answered()
        return replies

    async def close(self) -> None:
        """Close every connection."""
        if self._cluster is not None:
            await self._cluster.close()
        await self._link.close()
