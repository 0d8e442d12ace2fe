"""Owns how clients of redis-py are made: options, logins, TLS, Sentinels; and what is found out where none connects.

Nothing is sent when a client is made.
"""

from typing import Any, Final, TypeAlias

import hiredis
import redis
import redis.asyncio
import redis.asyncio.connection
import redis.asyncio.sentinel
import redis.connection
import redis.sentinel
from redis import exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.retry import Retry

from upsertq.contract.address import Address, Node
from upsertq.contract.errors import UsageError
from upsertq.contract.probe import what_answers
from upsertq.contract.protocol import Argument
from upsertq.contract.reply_errors import MAPPED, failed

Client: TypeAlias = redis.Redis
AsyncClient: TypeAlias = redis.asyncio.Redis
Pool: TypeAlias = redis.ConnectionPool | redis.asyncio.ConnectionPool

__all__ = ["AsyncClient", "Client", "CredentialProvider", "Pool", "async_client", "client", "speaker"]

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 20.0
READ_BYTES: Final = 1_000_000
"""Bytes that are taken from a connection at once: replies have many megabytes."""
GREETING_SECONDS: Final = 3.0
"""For each word with which a connection begins (TLS, login): something else that listens there may never answer."""
SENTINEL_SECONDS: Final = 2.0
"""For each Sentinel to connect, and to answer."""
MOST_CONNECTIONS: Final = 10_000
_LOGIN: Final = ("username", "password", "credential_provider")
_OF_SENTINEL: Final = ("sentinel_username", "sentinel_password")
"""Options of the URL that are the Sentinels' own login."""


def client(address: Address, credentials: CredentialProvider | None) -> Client:
    """A blocking client of the server at `address`; `UsageError` where that holds options that there are not."""
    more = {"retry": Retry(NoBackoff(), 0), "socket_timeout": ANSWER_SECONDS}
    try:
        of_url = redis.connection.parse_url(address.url)  # type: ignore[no-untyped-call]
        options = _options(address, of_url, more, credentials)
        made: Client
        if address.sentinels:
            own = _of_sentinel(options, more)
            sentinel = redis.sentinel.Sentinel(address.sentinels, sentinel_kwargs=own, **options)  # type: ignore[no-untyped-call]
            made = sentinel.master_for(address.service)  # type: ignore[no-untyped-call]
        else:
            made = redis.Redis.from_pool(redis.ConnectionPool(**options))
        _try_options(made.connection_pool)
    except (ValueError, TypeError) as error:
        raise _bad_url(address, error) from None
    kind = _Named if address.sentinels else _Greeted
    made.connection_pool.connection_class = _of_kind(kind, made.connection_pool.connection_class)
    return made


def async_client(address: Address, credentials: CredentialProvider | None, answer_seconds: float) -> AsyncClient:
    """The same for asyncio; `answer_seconds` bounds how long one answer may take."""
    more = {"retry": AsyncRetry(NoBackoff(), 0), "socket_timeout": answer_seconds}
    try:
        of_url = dict(redis.asyncio.connection.parse_url(address.url))
        options = _options(address, of_url, more, credentials)
        made: AsyncClient
        if address.sentinels:
            own = _of_sentinel(options, more)
            sentinel = redis.asyncio.sentinel.Sentinel(address.sentinels, sentinel_kwargs=own, **options)  # type: ignore[no-untyped-call]
            made = sentinel.master_for(address.service)
        else:
            made = redis.asyncio.Redis.from_pool(redis.asyncio.ConnectionPool(**options))
        _try_options(made.connection_pool)
    except (ValueError, TypeError) as error:
        raise _bad_url(address, error) from None
    made.connection_pool.connection_class = _of_kind(_AsyncGreeted, made.connection_pool.connection_class)
    return made


def at_node(of: Client, node: Node) -> Client:
    """A client as `of`, of the server at another address."""
    return redis.Redis.from_pool(redis.ConnectionPool(**_elsewhere(of.connection_pool, node)))


def async_at_node(of: AsyncClient, node: Node) -> AsyncClient:
    """The same for asyncio."""
    return redis.asyncio.Redis.from_pool(redis.asyncio.ConnectionPool(**_elsewhere(of.connection_pool, node)))


def node_of(pool: Pool) -> Node:
    """Where `pool` connects to; an empty host for a socket file, and where Sentinels name it."""
    to = pool.connection_kwargs
    by_address = "path" not in to and not getattr(pool, "sentinel_manager", None)
    return str(to.get("host", "localhost")) if by_address else "", int(to.get("port", 6379))


def sentinels_of(pool: Pool) -> list[Any]:
    """The clients of the Sentinels that are asked where to connect to."""
    manager = getattr(pool, "sentinel_manager", None)
    return list(manager.sentinels) if manager else []


def speaker(pool: Pool) -> str:
    """What answers in place of a Redis server where `pool` connects to, empty where that is not known."""
    if getattr(pool, "sentinel_manager", None):
        return _sentinels_say(pool)
    to = pool.connection_kwargs
    if "port" not in to:
        return ""
    tls = issubclass(pool.connection_class, (redis.SSLConnection, redis.asyncio.SSLConnection))
    return _in_place(to, tls=tls)


def _in_place(to: dict[str, Any], *, tls: bool, sentinel: bool = False) -> str:
    host, port, certified = str(to.get("host", "localhost")), int(to["port"]), bool(to.get("ssl_certfile"))
    return what_answers(host, port, tls=tls, certified=certified, sentinel=sentinel)


def _options(
    address: Address, of_url: dict[str, Any], more: dict[str, Any], credentials: CredentialProvider | None
) -> dict[str, Any]:
    options = {
        "protocol": 2,  # one shape of replies, whatever the server and the version of redis-py
        "decode_responses": False,
        "socket_connect_timeout": CONNECT_SECONDS,
        "client_name": "upsertq",
        "max_connections": MOST_CONNECTIONS,
        "socket_read_size": READ_BYTES,
        **more,
        **of_url,
    }
    if credentials is not None:
        if options.keys() & {"username", "password"}:
            raise UsageError(f"'{address.shown}' has a login, and there is a credential provider: give one of them")
        options["credential_provider"] = credentials
    if address.sentinels:
        del options["host"]
        options["ssl"] = options.pop("connection_class", None) is not None
    return options


def _of_sentinel(options: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """The options for Sentinels: as the server's, with a login of their own, which are taken out of these."""
    own = {name: options.pop(f"sentinel_{name}") for name in ("username", "password") if f"sentinel_{name}" in options}
    same = {name: value for name, value in options.items() if name.startswith("ssl") or name in {"protocol", "retry"}}
    times = {"socket_connect_timeout": SENTINEL_SECONDS, "socket_timeout": SENTINEL_SECONDS}
    return {**more, **same, **own, **times}


def _elsewhere(pool: Pool, node: Node) -> dict[str, Any]:
    host, port = node
    of_pool = {"connection_class": pool.connection_class, "max_connections": MOST_CONNECTIONS}
    return {**pool.connection_kwargs, **of_pool, "host": host, "port": port, "db": 0}


def _sentinels_say(pool: Any) -> str:
    """Why Sentinels name no primary, by the first of them that answers; it is asked over a connection of its own."""
    tls = issubclass(pool.connection_class, (redis.SSLConnection, redis.asyncio.SSLConnection))
    for one in pool.sentinel_manager.sentinels:
        options = {**one.connection_pool.connection_kwargs, "retry": Retry(NoBackoff(), 0)}
        where = f"{options['host']}:{options['port']}"
        kind = redis.SSLConnection if tls else redis.Connection
        options = {name: value for name, value in options.items() if name != "connection_pool"}
        with redis.Redis.from_pool(redis.ConnectionPool(connection_class=kind, **options)) as asked:
            try:
                known = [name.decode("ascii", "replace") for name in _services(asked)]
            except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as error:
                if isinstance(error, exceptions.AuthenticationError):
                    return f"the Sentinel at {where} refuses: {failed(error).message}: sentinel_password=… in the URL?"
                if wrong := _in_place(options, tls=tls, sentinel=True):
                    return wrong
                continue
            except MAPPED as error:
                return f"the Sentinel at {where} refuses: {failed(error).message}"
        if pool.service_name not in known:
            watched = ", ".join(f"'{name}'" for name in known) or "none"
            return f"the Sentinel at {where} knows no service '{pool.service_name}', but {watched}: name one of these"
        return ""
    return ""


def _services(asked: Client) -> list[bytes]:
    told: Any = asked.execute_command("SENTINEL", "MASTERS")  # type: ignore[no-untyped-call]
    if isinstance(told, dict):
        return [str(name).encode() for name in told]
    return [dict(zip(one[::2], one[1::2], strict=False)).get(b"name", b"") for one in told]


class _Greeted:
    """A connection that gives up what does not greet it in time; an answer may take longer."""

    socket_timeout: Any
    _sock: Any

    def connect(self) -> None:
        """Connect, unless that is done."""
        if self._sock is not None:
            return
        patient: Any = self.socket_timeout
        self.socket_timeout = min(patient, GREETING_SECONDS)
        try:
            super().connect()  # type: ignore[misc]  # of redis-py's connection
        finally:
            self.socket_timeout = patient
        self.update_current_socket_timeout(patient)  # type: ignore[attr-defined]


class _Named(_Greeted):
    """A connection to the primary that Sentinels name."""

    def connect(self) -> None:
        """As `_Greeted.connect`; the error does not show the Sentinels' clients, which it would with their logins."""
        try:
            super().connect()
        except redis.sentinel.MasterNotFoundError as error:
            raise redis.sentinel.MasterNotFoundError(str(error).partition(" : ")[0]) from None

    def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:  # noqa: FBT001, FBT002 - as redis-py's
        """Ask the Sentinels also where a broken connection is used again: redis-py goes to the address of before."""
        if retry_socket_connect:
            self.connect()
        else:  # they were asked
            super().connect_check_health(check_health, retry_socket_connect=False)  # type: ignore[misc]

    def read_response(self, *given: Any, **more: Any) -> Any:
        """The next reply; an interrupted read ends the connection, as everywhere in redis-py but here."""
        return super().read_response(*given, **{"disconnect_on_error": True, **more})  # type: ignore[misc]


class _AsyncGreeted:
    """The same for asyncio.

    It packs commands in C, as blocking connections do: redis-py's do it argument by argument, in Python.
    """

    socket_timeout: Any

    async def connect(self) -> None:
        """As `_Greeted.connect`."""
        patient: Any = self.socket_timeout
        self.socket_timeout = min(patient, GREETING_SECONDS)
        try:
            await super().connect()  # type: ignore[misc]
        finally:
            self.socket_timeout = patient

    def pack_command(self, *arguments: Argument) -> list[bytes]:
        """As redis-py's, which may send the parts one after the other."""
        return [hiredis.pack_command(arguments)]  # type: ignore[arg-type]  # a tuple of any of these


def _of_kind(first: type, kind: Any) -> Any:
    """This kind of connection, which does as `first` where that does something."""
    return type(kind.__name__, (first, kind), {})


def _try_options(pool: Pool) -> None:
    """Raise `TypeError` for a query of the URL that no connection takes, now and not at the first command."""
    pool.connection_class(**pool.connection_kwargs)  # made, not connected


def _bad_url(address: Address, error: Exception) -> UsageError:
    return UsageError(f"'{address.shown}' is no Redis URL ({type(error).__name__}): use redis://HOST:PORT/0")
