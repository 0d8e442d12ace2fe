"""The emulator's HTTP edge: reads requests, lets the plane answer, writes the answer; it judges nothing."""

import asyncio
import hmac
import ipaddress
import time
from itertools import count
from typing import Any, Self

from aiohttp import web
from multidict import CIMultiDict

from upsertq_emulator import texts
from upsertq_emulator.answer import Answer
from upsertq_emulator.counters import Counters
from upsertq_emulator.plane import Plane
from upsertq_emulator.routes import Call, answer_to

_LARGEST_BODY = 64 * 1024 * 1024
_READ_BUFFER = 4 * 1024 * 1024


class Emulator:
    """A Pinecone data plane listening on a socket of this process's event loop.

    Args:
        host: the address to listen on.
        port: 0 takes any free one; `url` and `port` tell which.
        api_key: required in the header `Api-Key` of every request; None requires none.
        dimension: of every dense vector; None lets the first upsert fix it. Ignored when `plane` is given.
        plane: the index to serve, for every further option.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        dimension: int | None = None,
        plane: Plane | None = None,
    ) -> None:
        self.plane = Plane(dimension=dimension) if plane is None else plane
        self.counters = Counters()
        self.host = host
        self.port = port
        self._api_key = None if api_key is None else api_key.encode()
        self._request_numbers = count(1)
        self._handling: set[asyncio.Task[Any]] = set()
        self._http: web.Server | None = None
        self._listener: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The base URL, known once started."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is in use or not available.
        """
        self._http = web.Server(self._handle, request_factory=_request, access_log=None, read_bufsize=_READ_BUFFER)
        self._listener = await asyncio.get_running_loop().create_server(self._http, self.host, self.port)
        self.host, self.port = self._listener.sockets[0].getsockname()[:2]

    async def close(self) -> None:
        """Stop at once; requests being handled are given up."""
        if self._listener is None or self._http is None:
            return
        self._listener.close()
        for task in self._handling:
            task.cancel()
        await asyncio.gather(*self._handling, return_exceptions=True)
        await self._http.shutdown(0)
        self._listener = self._http = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        if task is not None:
            self._handling.add(task)
            task.add_done_callback(self._handling.discard)
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _response(Answer(413, b"", "text/plain"), next(self._request_numbers))
        return await self._serve(request, body)

    async def _serve(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        call = Call(request.method, request.path, request.query, body)
        now = time.time()
        self.counters.arrived(size=len(body), upsert=call.operation == "upsert", now=now)
        answer = self._unauthorized(request) or self._answer(call, now)
        self.counters.ended(str(answer.status))
        return _response(answer, next(self._request_numbers))

    def _answer(self, call: Call, now: float) -> Answer:
        answer = answer_to(self.plane, call, now)
        self.counters.applied(answer.records)
        return answer

    def _unauthorized(self, request: web.BaseRequest) -> Answer | None:
        if self._api_key is None:
            return None
        given = request.headers.get("Api-Key")
        if given is None:
            return Answer(401, texts.UNAUTHORIZED)
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), self._api_key):
            return Answer(401, texts.INVALID_KEY, "text/plain")
        return None


def is_loopback(host: str) -> bool:
    """Whether `host` is an address or name of this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _request(*arguments: Any) -> web.BaseRequest:
    message, payload, protocol, writer, task = arguments
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_LARGEST_BODY)


def _response(answer: Answer, number: int) -> web.Response:
    headers = CIMultiDict(answer.headers)
    headers["Content-Type"] = answer.content_type
    headers["x-pinecone-request-id"] = f"emulator-{number}"
    return web.Response(status=answer.status, body=answer.body, headers=headers)
