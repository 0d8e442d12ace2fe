"""Owns the HTTP that a process serves about itself, with aiohttp's server: what is let in, and how much of it is read.

What is served stands in `upsertq_worker.edge.monitor`. A stranger costs at most some connections for a few seconds: a
connection carries one request, of which the body is not read.
"""

import asyncio
import hmac
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, cast

from aiohttp import web

from upsertq.contract.errors import WorldError
from upsertq.contract.printable import printable
from upsertq_worker.edge.http_index import is_loopback

LINE_MAX: Final = 2_048
"""Bytes of a request line, and of one header."""
HEADERS_MAX: Final = 50
CONNECTIONS_MAX: Final = 64
CONNECTION_SECONDS: Final = 10.0
"""From its beginning until a connection is cut, whatever happens on it."""
TEXT: Final = "text/plain; charset=utf-8"
_SHUTDOWN_SECONDS: Final = 0.05
_HOST: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+))(?::[0-9]{1,5})?")
_log = logging.getLogger("upsertq.http")
_silent = logging.getLogger("upsertq.http.protocol")
_silent.disabled = True  # it has a traceback for whatever a stranger sends


@dataclass(frozen=True, slots=True)
class Page:
    """An answer."""

    status: int
    body: bytes
    content_type: str = TEXT


@dataclass(frozen=True, slots=True)
class Route:
    """What answers a path, given the header Accept; `open` paths need no token: what they say is for strangers."""

    answer: Callable[[str], Awaitable[Page]]
    open: bool = False


@asynccontextmanager
async def serving(host: str, port: int, token: str, routes: Mapping[str, Route]) -> AsyncIterator[str]:
    """Serve `routes` meanwhile; yields the URL. Port 0 takes a free one, token "" asks for none.

    Raises:
        WorldError: the address cannot be listened on.
    """
    site = _Site(routes, token, local=is_loopback(host))
    loop = asyncio.get_running_loop()
    try:
        listener = await loop.create_server(site.connection, host, port)
    except OSError as error:
        number = error.errno or 0
        why = os.strerror(number) if number > 0 else error.strerror or error  # a failed look-up has its own numbers
        where = url_of(host, port).removeprefix("http://")
        raise WorldError(f"cannot listen on {where} (--http): {why}") from None
    try:
        yield url_of(host, listener.sockets[0].getsockname()[1])
    finally:
        listener.close()
        await site.close()


def url_of(host: str, port: int) -> str:
    """The URL of an address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Refused(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # what a server makes; uvloop's own is no subclass of asyncio's
        cast("asyncio.Transport", transport).abort()


class _Site:
    def __init__(self, routes: Mapping[str, Route], token: str, *, local: bool) -> None:
        self._token = token.encode()
        self._local = local
        self._routes = routes
        self._http = web.Server(
            self._handle,
            access_log=None,
            logger=_silent,
            max_line_size=LINE_MAX,
            max_field_size=LINE_MAX,
            max_headers=HEADERS_MAX,
            lingering_time=0.0,
            auto_decompress=False,
        )

    def connection(self) -> asyncio.BaseProtocol:
        """What speaks on a new connection."""
        if len(self._http.connections) >= CONNECTIONS_MAX:
            return _Refused()
        speaker = self._http()

        def cut() -> None:
            if speaker.transport is not None:
                speaker.transport.abort()

        asyncio.get_running_loop().call_later(CONNECTION_SECONDS, cut)
        return speaker

    async def close(self) -> None:
        await self._http.shutdown(_SHUTDOWN_SECONDS)

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        try:
            page, headers = await self._page(request)
        except Exception:  # noqa: BLE001 - the worker goes on
            _log.exception("cannot answer %s", printable(request.path))
            page, headers = Page(500, b"this is a bug of upsertq: see its log\n"), {}
        headers |= {"Content-Type": page.content_type, "X-Content-Type-Options": "nosniff", "Server": "upsertq"}
        response = web.Response(status=page.status, body=page.body, headers=headers)
        response.force_close()
        return response

    async def _page(self, request: web.BaseRequest) -> tuple[Page, dict[str, str]]:
        route = self._routes.get(request.path)
        if not self._named_rightly(request.headers.getall("Host", [])):
            return Page(403, b"the header Host must name this machine, like localhost\n"), {}
        if route is None:
            return Page(404, f"there is {', '.join(self._routes)}\n".encode()), {}
        if request.method not in {"GET", "HEAD"}:
            return Page(405, b"GET it\n"), {"Allow": "GET, HEAD"}
        if not route.open and not self._let_in(request.headers.get("Authorization", "")):
            return Page(401, b"a token is needed: Authorization: Bearer TOKEN\n"), {"WWW-Authenticate": "Bearer"}
        return await route.answer(request.headers.get("Accept", "")), {}

    def _named_rightly(self, hosts: list[str]) -> bool:
        """Whether it is not a web page that reaches this machine by a name of its own (DNS rebinding)."""
        if self._token or not self._local or not hosts:  # browsers always send it
            return True
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        return found is not None and is_loopback((found[1] or found[2]).lower())

    def _let_in(self, authorization: str) -> bool:
        if not self._token:
            return True
        scheme, _, given = authorization.partition(" ")
        right = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), self._token)
        return right and scheme.lower() == "bearer"
