"""Owns the connection to Redis or Valkey for producers and commands: the only module here that names redis-py.

It performs conversations and turns every error of redis-py into a value; it never decides to retry.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self, TypeVar, cast
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from upsertq.errors import UsageError
from upsertq.exchange import Command, Conversation, Failed, Pause, Trouble

T = TypeVar("T")

MALFORMED = "(malformed)"
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 20.0


class Server:
    """A blocking connection pool to one server; safe to share between threads.

    `Server.at(url)` connects; `Server(client)` adopts a client made elsewhere, which must use RESP2 and raw bytes.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    @classmethod
    def at(cls, url: str) -> Self:
        """A server by its URL (`redis://`, `rediss://` or `unix://`); nothing is sent yet."""
        options = {**_options(url), "retry": Retry(NoBackoff(), 0)}
        try:
            client = redis.Redis.from_url(url, **options)
            _try_options(client.connection_pool)
        except (ValueError, TypeError) as error:
            raise _bad_url(url, error) from None
        return cls(client)

    def hold(self, conversation: Conversation[T], sleep: Callable[[float], None] = time.sleep) -> T:
        """Perform a conversation to its end and return its result."""
        try:
            effect = next(conversation)
            while True:
                if isinstance(effect, Pause):
                    sleep(effect.seconds)
                    effect = conversation.send([])
                else:
                    effect = conversation.send(self._ask(effect.commands))
        except StopIteration as stop:
            return cast("T", stop.value)

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    def _ask(self, commands: Sequence[Command]) -> list[Any]:
        try:
            if len(commands) == 1:
                return [self._client.execute_command(*commands[0], **_parsing(commands[0]))]  # type: ignore[no-untyped-call]
            with self._client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command, **_parsing(command))  # type: ignore[no-untyped-call]
                replies = pipeline.execute(raise_on_error=False)
        except (exceptions.RedisError, OSError) as error:
            return [_failed(error)] * len(commands)
        return [_failed(reply) if isinstance(reply, Exception) else reply for reply in replies]


class AsyncServer:
    """The same as `Server` for asyncio; belongs to one event loop."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client

    @classmethod
    def at(cls, url: str, *, answer_seconds: float = ANSWER_SECONDS) -> Self:
        """A server by its URL; `answer_seconds` bounds how long one answer may take."""
        options = {**_options(url), "retry": AsyncRetry(NoBackoff(), 0), "socket_timeout": answer_seconds}
        try:
            client = redis.asyncio.Redis.from_url(url, **options)
            _try_options(client.connection_pool)
        except (ValueError, TypeError) as error:
            raise _bad_url(url, error) from None
        return cls(client)

    async def hold(self, conversation: Conversation[T], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> T:
        """Perform a conversation to its end and return its result."""
        try:
            effect = next(conversation)
            while True:
                if isinstance(effect, Pause):
                    await sleep(effect.seconds)
                    effect = conversation.send([])
                else:
                    effect = conversation.send(await self.ask(effect.commands))
        except StopIteration as stop:
            return cast("T", stop.value)

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to `commands`, sent in one round trip; errors come back as `Failed`."""
        try:
            if len(commands) == 1:
                return [await self._client.execute_command(*commands[0], **_parsing(commands[0]))]  # type: ignore[no-untyped-call]
            async with self._client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command, **_parsing(command))
                replies = await pipeline.execute(raise_on_error=False)
        except (exceptions.RedisError, OSError) as error:
            return [_failed(error)] * len(commands)
        return [_failed(reply) if isinstance(reply, Exception) else reply for reply in replies]

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()


def _try_options(pool: redis.ConnectionPool | redis.asyncio.ConnectionPool) -> None:
    """Raise `TypeError` for a query of the URL that no connection takes, now and not at the first command."""
    pool.connection_class(**pool.connection_kwargs)  # made, not connected


def _parsing(command: Command) -> dict[str, Any]:
    """What redis-py must be told to parse the reply to this command: its own method would tell it so itself."""
    return {"parse_detail": True} if command[0] == "XPENDING" else {}


def _options(url: str) -> dict[str, Any]:
    shown = shown_url(url)
    if shown == MALFORMED or shown.split(":")[0] not in {"redis", "rediss", "unix"}:
        raise UsageError(f"'{shown}' is no Redis URL: use redis://HOST:PORT/0, rediss://… or unix:///PATH")
    return {
        "protocol": 2,  # one shape of replies, whatever the server and the version of redis-py
        "decode_responses": False,
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": ANSWER_SECONDS,
        "client_name": "upsertq",
    }


def _bad_url(url: str, error: Exception) -> UsageError:
    return UsageError(f"'{shown_url(url)}' is no Redis URL ({type(error).__name__}): use redis://HOST:PORT/0")


def shown_url(url: str) -> str:
    """The URL without user name, password and query, fit for a message."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return MALFORMED
    # without `//`, or with a slash in the password, a part of the login is taken for the path
    if "@" in parts.path or not url.lower().startswith(f"{parts.scheme}://"):
        return MALFORMED
    return f"{parts.scheme}://{host}{port}{parts.path}"


_KINDS: tuple[tuple[type[Exception], Trouble], ...] = (
    (exceptions.AuthenticationError, Trouble.REFUSED),
    (exceptions.AuthenticationWrongNumberOfArgsError, Trouble.REFUSED),
    (exceptions.NoPermissionError, Trouble.REFUSED),
    (exceptions.BusyLoadingError, Trouble.NOT_READY),
    (exceptions.ReadOnlyError, Trouble.NOT_READY),
    (exceptions.OutOfMemoryError, Trouble.FULL),
    (exceptions.NoScriptError, Trouble.NO_SCRIPT),
    (exceptions.ConnectionError, Trouble.AWAY),
    (exceptions.TimeoutError, Trouble.AWAY),
    (OSError, Trouble.AWAY),
)
_WORDS: tuple[tuple[str, Trouble], ...] = (
    ("OOM command not allowed", Trouble.FULL),
    ("MISCONF", Trouble.FULL),
    ("READONLY", Trouble.NOT_READY),
    ("CLUSTERDOWN", Trouble.NOT_READY),
    ("TRYAGAIN", Trouble.NOT_READY),
    ("MASTERDOWN", Trouble.NOT_READY),
    ("BUSY ", Trouble.NOT_READY),
)


def _failed(error: Exception) -> Failed:
    message = " ".join(str(error).split()) or type(error).__name__
    for kind, trouble in _KINDS:
        if isinstance(error, kind):
            return Failed(trouble, message)
    # an error inside a script keeps its word only in its text, and each server wraps that differently
    for word, trouble in _WORDS:
        if word in message:
            return Failed(trouble, message)
    return Failed(Trouble.REFUSED, message)
