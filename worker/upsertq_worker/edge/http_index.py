"""Owns HTTP to the index, with aiohttp's client. It sends and reports, and judges nothing.

The API key is kept in the session's headers alone and appears in no message, log or repr.
"""

import ipaddress
import os
import re
import ssl
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from upsertq import __version__
from upsertq_worker.delivery.encoder import Body
from upsertq_worker.delivery.response import BODY_MAX, INDEX_HOST, Answer, TransportFailure, TransportKind
from upsertq_worker.edge.credential import Credential
from upsertq_worker.edge.proxies import Proxy, proxy_for
from upsertq_worker.edge.redact import Redactor
from upsertq_worker.events import Event, Events

CONNECT_SECONDS: Final = 10.0
KEEP_ALIVE_SECONDS: Final = 30.0
USER_AGENT: Final = f"upsertq/{__version__}"
HEADERS_MAX: Final = 100
HEADER_BYTES_MAX: Final = 8_190
_HEADERS: Final = frozenset(
    {
        *("content-type", "content-encoding", "location", "retry-after"),
        *("x-pinecone-request-id", "x-request-id", "x-pinecone-request-lsn"),
    }
)
"""The headers that are read; no other one is kept."""
JOINED_BYTES: Final = 256_000
"""Up to here a body is sent in one piece: a copy is cheaper than many small writes."""
_NOTHING: Final = b"{}"
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_OF_THE_KEY: Final = re.compile(rb"api[ _-]?key", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class IndexAddress:
    """Where the index is and how to be let in; `url` is scheme, host, port and the prefix of all paths.

    `read_key` reads the key anew, where it may be exchanged meanwhile; it raises UsageError where it cannot.
    """

    url: str
    api_version: str
    api_key: str = field(repr=False, default="")
    read_key: Callable[[], str] | None = field(repr=False, compare=False, default=None)

    def proxy(self, environment: Mapping[str, str] = os.environ) -> Proxy | None:
        """The proxy on the way there that the environment names; none to this machine itself. Raises UsageError."""
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        return None if is_loopback(host) else proxy_for(parts.scheme, host, parts.port, environment)


class _Pieces(aiohttp.Payload):
    """A body that is sent piece by piece: joined it would be copied twice, here and with the headers."""

    def __init__(self, body: Body) -> None:
        super().__init__(body, content_type="application/json")
        self._size = len(body)

    async def write(self, writer: aiohttp.abc.AbstractStreamWriter) -> None:
        """Send it."""
        for piece in self._value.pieces:
            await writer.write(piece)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """As text; nothing here asks for it."""
        return bytes(self._value).decode(encoding, errors)


class HttpIndex:
    """An index's data plane over HTTP, with kept-alive connections.

    Everything that comes back passes the redactor here, and nowhere else.

    Args:
        address: where it is.
        timeout: seconds from the start of a request to the end of its answer.
        connections: open at once at most.
        events: told when the key is exchanged.

    Raises:
        UsageError: the environment names a proxy that cannot be used.
    """

    def __init__(
        self, address: IndexAddress, *, timeout: float, connections: int, events: Events | None = None
    ) -> None:
        self._address = address
        self._timeout = timeout
        self._connections = connections
        self._proxy = address.proxy()
        self._events = events or Events()
        self._credential = Credential(address.api_key, address.read_key, self._events)
        self._redactor = Redactor((address.api_key, *(self._proxy.secrets if self._proxy else ())))
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the session; connections are made when they are needed."""
        self._session = aiohttp.ClientSession(
            headers={
                "Content-Type": "application/json",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": USER_AGENT,
                "X-Pinecone-Api-Version": self._address.api_version,
            },
            connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=KEEP_ALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=self._timeout, connect=None, sock_connect=CONNECT_SECONDS),
            proxy=None if self._proxy is None else _with_login(self._proxy),
            trust_env=False,  # it would send logins of a .netrc as well
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # a few bytes would become gigabytes
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            max_headers=HEADERS_MAX,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    async def upsert(self, body: Body) -> Answer | TransportFailure:
        """As `upsertq_worker.delivery.sender.Index.upsert`."""
        began = time.monotonic()
        reply: Answer | TransportFailure | None = None
        try:
            reply = await self._ask("/vectors/upsert", bytes(body) if len(body) < JOINED_BYTES else _Pieces(body))
        finally:  # cancelled as well: it was sent
            seconds = time.monotonic() - began
            self._events.tell(Event.REQUEST_ENDED, bytes=len(body), seconds=seconds, answered=reply is not None)
        return reply

    async def stats(self) -> Answer | TransportFailure:
        """Ask for the index's statistics: shows that the address and the key are right, and names the dimension."""
        return await self._ask("/describe_index_stats", _NOTHING)

    def renew_key(self) -> bool:
        """Read the API key anew; returns whether it is another one, with which requests go from now on."""
        if not self._credential.renew():
            return False
        self._redactor.learn([self._credential.key])
        return True

    async def _ask(self, path: str, body: bytes | _Pieces) -> Answer | TransportFailure:
        """Post; where the key is refused and there is another one by now, once more with that."""
        key = self._credential.key
        reply = await self._post(path, body, key)
        if isinstance(reply, Answer) and _refuses_key(reply):
            self.renew_key()
            if self._credential.key != key:
                return await self._post(path, body, self._credential.key)
        return reply

    async def _post(self, path: str, body: bytes | _Pieces, key: str) -> Answer | TransportFailure:
        assert self._session is not None  # noqa: S101 - used inside `async with` only
        url = URL(self._address.url + path, encoded=True)
        headers = {"Api-Key": key} if key else {}
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                text, truncated = await _read_bounded(response)
                return self._clean(response, text, truncated=truncated)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            by_proxy = isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError)
            proxy = self._proxy if by_proxy else None
            message = self._redactor.text(_shown(error, proxy))
            return TransportFailure(_kind(error), message, proxy.variable if proxy else INDEX_HOST)

    def _clean(self, response: aiohttp.ClientResponse, body: bytes, *, truncated: bool) -> Answer:
        """The answer without any secret, and with the few headers that are read."""
        given = response.headers
        headers = {name: self._redactor.text(given[name]) for name in _HEADERS if name in given}
        plain, more = decoded(body, headers.get("content-encoding", ""))
        return Answer(response.status, headers, self._redactor.body(plain), truncated or more)


def _with_login(proxy: Proxy) -> URL:
    url = URL(proxy.url)
    return url.with_user(proxy.user).with_password(proxy.password) if proxy.secrets else url


def _refuses_key(reply: Answer) -> bool:
    return reply.status == _UNAUTHORIZED or (reply.status == _FORBIDDEN and bool(_OF_THE_KEY.search(reply.body)))


async def _read_bounded(response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    """The body up to `BODY_MAX`, and whether there was more; the connection of a longer one is not used again."""
    parts: list[bytes] = []
    size = 0
    while size <= BODY_MAX:
        part = await response.content.read(BODY_MAX + 1 - size)
        if not part:
            return b"".join(parts), False
        parts.append(part)
        size += len(part)
    response.close()
    return b"".join(parts)[:BODY_MAX], True


def decoded(body: bytes, encoding: str) -> tuple[bytes, bool]:
    """The body behind a Content-Encoding, up to `BODY_MAX` bytes, and whether there is more.

    None was asked for. Nothing of a body in one that is not known, or that is not what it says.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return body, False
        case "gzip" | "x-gzip" | "deflate":
            unpacking = zlib.decompressobj(zlib.MAX_WBITS | 32)  # either of the two headers
            try:
                plain = unpacking.decompress(body, BODY_MAX + 1)
            except zlib.error:
                return b"", False
            return plain[:BODY_MAX], len(plain) > BODY_MAX or not unpacking.eof
        case _:
            return b"", False


def _kind(error: Exception) -> TransportKind:
    match error:
        case aiohttp.ConnectionTimeoutError() | aiohttp.ClientConnectorError() | aiohttp.InvalidURL():
            return TransportKind.CONNECT
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return TransportKind.CONNECT
        case TimeoutError():
            return TransportKind.TIMEOUT
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | aiohttp.ClientPayloadError() | OSError():
            return TransportKind.RESET
        case _:
            return TransportKind.PROTOCOL


def _shown(error: Exception, proxy: Proxy | None) -> str:
    if proxy is not None and isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy {proxy.place} ({proxy.variable}) answers {error.status} {' '.join(error.message.split())}"
    if isinstance(error, aiohttp.ClientConnectorError):
        through = f"the proxy {proxy.place} ({proxy.variable})" if proxy is not None else f"{error.host}:{error.port}"
        if isinstance(error.os_error, ssl.SSLError):  # its number is OpenSSL's, not the system's
            why = getattr(error.os_error, "verify_message", "") or error.os_error.reason or error.os_error
            return f"cannot connect to {through}: TLS: {why}"
        number = error.os_error.errno or 0
        # asyncio puts the address where the reason belongs; a failed name look-up has a negative number of its own
        reason = os.strerror(number) if number > 0 else error.os_error.strerror or error.os_error
        return f"cannot connect to {through}: {reason}"
    text = " ".join(str(error).split())
    return text or ("timed out" if isinstance(error, TimeoutError) else type(error).__name__)


def is_loopback(host: str) -> bool:
    """Whether the host is this machine, by name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
