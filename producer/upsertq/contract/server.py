"""Owns the connection to Redis or Valkey for producers and commands: the only module here that names redis-py.

It performs conversations and turns every error of redis-py into a value; it never decides to retry. After a failure
that passes it keeps no idle connection: behind the same address another server may be the primary now.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar, cast
from urllib.parse import urlsplit

import hiredis
import redis
import redis.asyncio
from redis import exceptions
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from upsertq.contract.errors import UsageError
from upsertq.contract.keys import PREFIX
from upsertq.contract.probe import what_answers
from upsertq.contract.protocol import Argument, Ask, Command, Conversation, Effect, Failed, Pause, Probe, Trouble, Warn
from upsertq.contract.said import Said

T = TypeVar("T")

MALFORMED = "(malformed)"
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 20.0
TOLD_AFTER = 1.0
"""Seconds of waiting for the server after which the log has a line about it."""


class Server:
    """A blocking connection pool to one server; safe to share between threads.

    `Server.at(url)` connects; `Server(client)` adopts a client made elsewhere, which must use RESP2 and raw bytes.
    """

    def __init__(self, client: redis.Redis, *, told_after: float = TOLD_AFTER) -> None:
        self._client = client
        self._said = Said(told_after)

    @classmethod
    def at(cls, url: str, *, told_after: float = TOLD_AFTER) -> Self:
        """A server by its URL (`redis://`, `rediss://` or `unix://`); nothing is sent yet.

        A wait for it is told in the log of `upsertq` once it has lasted `told_after` seconds.
        """
        options = {**_options(url), "retry": Retry(NoBackoff(), 0)}
        try:
            client = redis.Redis.from_url(url, **options)
            _try_options(client.connection_pool)
        except (ValueError, TypeError) as error:
            raise _bad_url(url, error) from None
        return cls(client, told_after=told_after)

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
        self._client.close()

    def _perform(self, effect: Effect, sleep: Callable[[float], None]) -> list[Any]:
        match effect:
            case Ask(commands=commands):
                return self._ask(commands)
            case Pause():
                self._said.pause(effect)
                sleep(effect.seconds)
            case Warn(text=text):
                self._said.warn(text)
            case Probe():
                return [_speaker(self._client.connection_pool)]
        return []

    def _ask(self, commands: Sequence[Command]) -> list[Any]:
        try:
            replies = self._replies(commands)
        except (*_MAPPED, OSError) as error:
            replies = [_failed(error)] * len(commands)
        if _passes(replies):
            with suppress(exceptions.RedisError, OSError):
                self._client.connection_pool.disconnect(inuse_connections=False)
        else:
            self._said.answered()
        return replies

    def _replies(self, commands: Sequence[Command]) -> list[Any]:
        if len(commands) == 1:
            return [self._client.execute_command(*_sent(commands[0]), **_parsing(commands[0]))]  # type: ignore[no-untyped-call]
        with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*_sent(command), **_parsing(command))  # type: ignore[no-untyped-call]
            replies = pipeline.execute(raise_on_error=False)
        return [_failed(reply) if isinstance(reply, Exception) else reply for reply in replies]


class AsyncServer:
    """The same as `Server` for asyncio; belongs to one event loop."""

    def __init__(self, client: redis.asyncio.Redis, *, quiet: bool = False) -> None:
        self._client = client
        self._said = Said(TOLD_AFTER, quiet=quiet)

    @classmethod
    def at(cls, url: str, *, answer_seconds: float = ANSWER_SECONDS, quiet: bool = False) -> Self:
        """A server by its URL; `answer_seconds` bounds how long one answer may take, `quiet` keeps warnings back."""
        options = {**_options(url), "retry": AsyncRetry(NoBackoff(), 0), "socket_timeout": answer_seconds}
        try:
            client = redis.asyncio.Redis.from_url(url, **options)
            _try_options(client.connection_pool)
        except (ValueError, TypeError) as error:
            raise _bad_url(url, error) from None
        client.connection_pool.connection_class = _packing(client.connection_pool.connection_class)
        return cls(client, quiet=quiet)

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
            case Ask(commands=commands):
                return await self.ask(commands)
            case Pause():
                self._said.pause(effect)
                await sleep(effect.seconds)
            case Warn(text=text):
                self._said.warn(text)
            case Probe():
                return [await asyncio.to_thread(_speaker, self._client.connection_pool)]
        return []

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to `commands`, sent in one round trip; errors come back as `Failed`."""
        try:
            replies = await self._replies(commands)
        except (*_MAPPED, OSError) as error:
            replies = [_failed(error)] * len(commands)
        if _passes(replies):
            with suppress(exceptions.RedisError, OSError):
                await self._client.connection_pool.disconnect(inuse_connections=False)
        else:
            self._said.answered()
        return replies

    async def _replies(self, commands: Sequence[Command]) -> list[Any]:
        if len(commands) == 1:
            return [await self._client.execute_command(*_sent(commands[0]), **_parsing(commands[0]))]  # type: ignore[no-untyped-call]
        async with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*_sent(command), **_parsing(command))
            replies = await pipeline.execute(raise_on_error=False)
        return [_failed(reply) if isinstance(reply, Exception) else reply for reply in replies]

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()


class _Packing:
    """Packs commands in C, as blocking connections do: the ones for asyncio do it argument by argument, in Python."""

    def pack_command(self, *arguments: Argument) -> list[bytes]:
        """As redis-py's, which may send the parts one after the other."""
        return [hiredis.pack_command(arguments)]  # type: ignore[arg-type]  # a tuple of any of these


def _packing(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """This kind of connection with that way of packing."""
    return type(kind.__name__, (_Packing, kind), {})


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


def _sent(command: Command) -> Command:
    """The command, in which a name goes out as it was read, also where it is no UTF-8: hiredis takes no such text."""
    return [part if not isinstance(part, str) or part.isascii() else part.encode(*_AS_READ) for part in command]


def _passes(replies: Sequence[Any]) -> bool:
    return any(isinstance(reply, Failed) and reply.passes for reply in replies)


def _speaker(pool: redis.ConnectionPool | redis.asyncio.ConnectionPool) -> str:
    """What answers in place of a Redis server where `pool` connects to, empty where that is not known."""
    to = pool.connection_kwargs
    if "port" not in to:
        return ""
    tls = issubclass(pool.connection_class, (redis.SSLConnection, redis.asyncio.SSLConnection))
    return what_answers(str(to.get("host", "localhost")), int(to["port"]), tls=tls)


@dataclass(frozen=True, slots=True)
class _Sign:
    """By what one kind of failure is known: its class in a direct reply, its words in the error of a script.

    redis-py takes the first word off a direct reply that has a class; inside a script each server wraps it differently.
    """

    trouble: Trouble
    words: str
    cure: str = ""
    kinds: tuple[type[Exception], ...] = ()
    foreign: bool = False


_LOGIN = "give the right user and password in the URL (redis://USER:PASSWORD@HOST:PORT/0)"
_PERMIT = f"let the user of the URL run this command on the keys {PREFIX}:* (ACL SETUSER)"
_CLUSTER = "it is a node of a Redis Cluster, which upsertq cannot use yet: name a server that is none"
_TYPE = "a key of this name holds something else: choose another queue name, or another database"
_COMMAND = "upsertq needs Redis from 6.2 on or Valkey itself: no Sentinel, and no proxy that lacks commands"
_REPLICA = "it is a replica: does the URL name the primary?"
_TLS = "check the certificates (ssl_ca_certs=FILE, ssl_certfile, ssl_keyfile in the query of the URL)"
_NO_WORDS = r"(?!)"
_AS_READ = "utf-8", "surrogateescape"
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError)  # where an answer has not the form it expects
_LOGINS = (
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
    exceptions.AuthenticationWrongNumberOfArgsError,
)
_SLOTS = (exceptions.AskError, exceptions.ClusterCrossSlotError)  # MOVED is a kind of ASK
_LINE = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)
_MAYBE = (exceptions.ClusterDownError, exceptions.TryAgainError)

# In this order: a class stands before those that it derives from.
_REFUSED, _NOT_READY, _FULL, _AWAY = Trouble.REFUSED, Trouble.NOT_READY, Trouble.FULL, Trouble.AWAY
_SIGNS: Final = (
    _Sign(_REFUSED, r"without any password|no password is set", "the server has no password: leave it out of the URL"),
    _Sign(_REFUSED, r"\bDENIED\b", "it serves its own machine alone (protected mode): give it a password"),
    _Sign(_REFUSED, r"\bNOPERM\b|ACL failure|can't run this command", _PERMIT, kinds=(exceptions.NoPermissionError,)),
    _Sign(_REFUSED, r"\b(NOAUTH|WRONGPASS)\b", _LOGIN, kinds=_LOGINS),
    _Sign(_REFUSED, r"\b(MOVED|ASK|CROSSSLOT)\b|in a cluster node|cluster mode|same slot", _CLUSTER, kinds=_SLOTS),
    _Sign(_REFUSED, r"\bWRONGTYPE\b", _TYPE),
    _Sign(_REFUSED, r"(?i:unknown (sub)?command|unsupported command)|\bNOPROTO\b", _COMMAND),
    _Sign(_REFUSED, r"DB index|invalid DB", "name a database that it has, like redis://HOST:PORT/0"),
    _Sign(Trouble.NO_SCRIPT, r"\bNOSCRIPT\b", kinds=(exceptions.NoScriptError,)),
    _Sign(_FULL, r"\bOOM\b", kinds=(exceptions.OutOfMemoryError,)),
    _Sign(_FULL, r"\bMISCONF\b", "make room on the server's disk"),
    _Sign(_NOT_READY, r"\bREADONLY\b", _REPLICA, kinds=(exceptions.ReadOnlyError,)),
    _Sign(_NOT_READY, r"\bMASTERDOWN\b", _REPLICA, kinds=(exceptions.MasterDownError,)),
    _Sign(_NOT_READY, r"\b(CLUSTERDOWN|TRYAGAIN)\b", kinds=_MAYBE),
    _Sign(_NOT_READY, r"\bLOADING\b", "is it still loading its data?", kinds=(exceptions.BusyLoadingError,)),
    _Sign(_NOT_READY, r"\bNOREPLICAS\b", "are its replicas connected (min-replicas-to-write)?"),
    _Sign(_NOT_READY, r"\b(BUSY|UNKILLABLE)\b", "a script runs on it: SCRIPT KILL ends it"),
    _Sign(_NOT_READY, r"max (number of clients|concurrent connections)", "raise its limit (maxclients)"),
    # the consumer group went with its stream, or the server became a replica under a blocked read
    _Sign(_NOT_READY, r"\b(NOGROUP|UNBLOCKED)\b"),
    _Sign(_NOT_READY, r"no upstream host|upstream (failure|reset)"),  # of a proxy
    _Sign(_AWAY, r"\[(SSL|X509)\b", _TLS, foreign=True),
    _Sign(_AWAY, _NO_WORDS, kinds=(exceptions.InvalidResponse, *_UNREADABLE), foreign=True),
    _Sign(_AWAY, _NO_WORDS, kinds=_LINE),
)
_MAPPED: Final = (exceptions.RedisError, *_UNREADABLE)
"""What redis-py raises besides `OSError`."""
_LONGEST: Final = 300
"""Characters of an error of the server that are kept: it may hold whatever a stranger sent."""


def _failed(error: Exception) -> Failed:
    message = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))[:_LONGEST]
    message = message.rstrip(".") or type(error).__name__
    for sign in _SIGNS:
        if isinstance(error, sign.kinds) or re.search(sign.words, message):
            return Failed(sign.trouble, message, sign.cure, sign.foreign)
    return Failed(Trouble.REFUSED, message)
