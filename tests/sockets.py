"""Owns a server that speaks raw HTTP as a script tells it, for the tests of the edge."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Self

from upsertq_worker.delivery.encoder import Body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

KEY = "pcsk_very-secret"
BODY = Body([b'{"id":"a","values":[1.0]}'], "")
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Pinecone-Request-LSN: 7\r\nContent-Length: 19\r\n\r\n"
OK_BODY = b'{"upsertedCount":1}'


class Request:
    """A request as it arrived."""

    def __init__(self, head: bytes, body: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.line = lines[0]
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        self.body = body


class Socket:
    """A server that reads requests and answers as its script says; one call of the script a request."""

    def __init__(
        self, script: Callable[[asyncio.StreamWriter], Awaitable[None]], tls: ssl.SSLContext | None = None
    ) -> None:
        self._script = script
        self._tls = tls
        self.requests: list[Request] = []
        self.connections = 0
        self.arrived = asyncio.Event()
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Its address."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                request = Request(head, b"")
                request.body = await reader.readexactly(int(request.headers.get("content-length", "0")))
                self.requests.append(request)
                self.arrived.set()
                await self._script(writer)
                await writer.drain()
                if writer.is_closing():
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()


async def accept(writer: asyncio.StreamWriter) -> None:
    """Answer with success."""
    writer.write(OK + OK_BODY)
