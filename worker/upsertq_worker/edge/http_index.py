"""Owns HTTP to the index: the only module of the worker that names aiohttp. It sends and reports, and judges nothing.

The API key is kept in the session's headers alone and appears in no message, log or repr.
"""

import ipaddress
import os
import ssl
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import aiohttp

from upsertq import __version__
from upsertq_worker.delivery.response import BODY_MAX, Answer, TransportFailure, TransportKind

CONNECT_SECONDS: Final = 10.0
KEEP_ALIVE_SECONDS: Final = 30.0
USER_AGENT: Final = f"upsertq/{__version__}"


@dataclass(frozen=True, slots=True)
class IndexAddress:
    """Where the index is and how to be let in; `url` is scheme, host and port."""

    url: str
    api_version: str
    api_key: str = field(repr=False, default="")


class HttpIndex:
    """An index's data plane over HTTP, with kept-alive connections.

    Args:
        address: where it is.
        timeout: seconds from the start of a request to the end of its answer.
        connections: open at once at most.
    """

    def __init__(self, address: IndexAddress, *, timeout: float, connections: int) -> None:
        self._address = address
        self._timeout = timeout
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the session; connections are made when they are needed."""
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": USER_AGENT,
            "X-Pinecone-Api-Version": self._address.api_version,
        }
        if self._address.api_key:
            headers["Api-Key"] = self._address.api_key
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=KEEP_ALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=self._timeout, connect=None, sock_connect=CONNECT_SECONDS),
            # the proxies that the environment names, but none between a worker and this machine itself
            trust_env=not is_loopback(urlsplit(self._address.url).hostname or ""),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    async def upsert(self, body: bytes) -> Answer | TransportFailure:
        """As `IndexSeam.upsert`."""
        return await self._post("/vectors/upsert", body)

    async def stats(self) -> Answer | TransportFailure:
        """Ask for the index's statistics: shows that the address and the key are right, and names the dimension."""
        return await self._post("/describe_index_stats", b"{}")

    async def _post(self, path: str, body: bytes) -> Answer | TransportFailure:
        assert self._session is not None  # noqa: S101 - used inside `async with` only
        try:
            async with self._session.post(self._address.url + path, data=body, allow_redirects=False) as response:
                text, truncated = await _read_bounded(response)
                headers = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status, headers, text, truncated)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return TransportFailure(_kind(error), _shown(error))


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


def _shown(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, ssl.SSLError):  # its number is OpenSSL's, not the system's
            why = getattr(error.os_error, "verify_message", "") or error.os_error.reason or error.os_error
            return f"cannot connect to {error.host}:{error.port}: TLS: {why}"
        number = error.os_error.errno or 0
        # asyncio puts the address where the reason belongs; a failed name look-up has a negative number of its own
        reason = os.strerror(number) if number > 0 else error.os_error.strerror or error.os_error
        return f"cannot connect to {error.host}:{error.port}: {reason}"
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
