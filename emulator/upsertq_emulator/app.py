"""The emulator's HTTP edge: keeps the server, reads what the gate lets in, writes answers; it judges nothing."""

import asyncio
from collections.abc import Mapping
from itertools import count
from typing import Any, Self

from aiohttp import web

from upsertq_emulator.admin import PREFIX, answer_admin, journal_lines
from upsertq_emulator.answer import Answer
from upsertq_emulator.counters import Counters
from upsertq_emulator.gate import LARGEST_BODY, Gate
from upsertq_emulator.journal import Journal
from upsertq_emulator.plane import Plane
from upsertq_emulator.routes import Call, is_loopback
from upsertq_emulator.service import Service
from upsertq_emulator.sockets import Connection
from upsertq_emulator.spec import FaultSpec

_READ_BUFFER = 4 * 1024 * 1024
# for the rest of a body that is refused unread: a client that still sends shall read the answer
_LINGER_SECONDS = 1.0
# aiohttp takes 0 for `no limit`, and waits this long for connections that are only kept alive
_SHUTDOWN_SECONDS = 0.05


class Emulator:
    """A Pinecone data plane listening on a socket of the running event loop.

    Args:
        host: the address to listen on; beyond loopback a key is needed.
        port: 0 takes any free one; `url` and `port` tell which.
        api_key: required in the header `Api-Key` of every request; None requires none.
        dimension: of every dense vector; None lets the first upsert fix it. Ignored when `plane` is given.
        faults: a fault spec, compact text or a document; `set_faults` replaces it.
        journal: note every applied version in `plane.journal`. Ignored when `plane` is given.
        plane: the index to serve, for every further option.

    Raises:
        FaultSpecError: `faults` cannot be used.
        ValueError: other machines could reach it, and there is no key.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        dimension: int | None = None,
        faults: FaultSpec | str | Mapping[str, Any] | None = None,
        journal: bool = False,
        plane: Plane | None = None,
    ) -> None:
        local = is_loopback(host)
        if not local and not api_key:
            raise ValueError(f"host {host} is reachable from other machines: give an api_key, or use 127.0.0.1")
        if plane is None:
            plane = Plane(dimension=dimension, journal=Journal() if journal else None)
        self._service = Service(plane)
        self._service.set_faults(faults)
        self.host = host
        self.port = port
        self._gate = Gate(local, None if api_key is None else api_key.encode())
        self._numbers = count(1)
        self._handling: set[asyncio.Task[Any]] = set()
        self._http: web.Server | None = None
        self._listener: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The base URL, known once started."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def plane(self) -> Plane:
        """The index being served."""
        return self._service.plane

    @property
    def counters(self) -> Counters:
        """What was seen and done so far."""
        return self._service.counters

    @property
    def requests(self) -> int:
        """How many data plane requests have come."""
        return self.counters.requests

    def set_faults(self, faults: FaultSpec | str | Mapping[str, Any] | None) -> None:
        """Replace the faults from the next request on, and start their clock; None ends them.

        Raises:
            FaultSpecError: the spec cannot be used, and the faults stay as they were.
        """
        self._service.set_faults(faults)

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
        self._http = web.Server(
            self._handle,
            request_factory=_request,
            access_log=None,
            read_bufsize=_READ_BUFFER,
            lingering_time=_LINGER_SECONDS,
        )
        self._listener = await asyncio.get_running_loop().create_server(self._http, self.host, self.port)
        self.host, self.port = self._listener.sockets[0].getsockname()[:2]

    async def close(self) -> None:
        """Stop at once; requests being handled and writes to be applied late are given up."""
        if self._listener is None or self._http is None:
            return
        self._listener.close()
        self._service.close()
        for task in self._handling:
            task.cancel()
        await asyncio.gather(*self._handling, return_exceptions=True)
        await self._http.shutdown(_SHUTDOWN_SECONDS)
        self._listener = self._http = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        if task is not None:
            self._handling.add(task)
            task.add_done_callback(self._handling.discard)
        refusal = self._gate.refusal(
            request.method, request.headers, has_body=request.body_exists, length=request.content_length
        )
        try:
            body = b"" if refusal is not None else await request.read()
        except web.HTTPRequestEntityTooLarge:
            return self._response(Answer(413, b"", "text/plain"))
        call = Call(request.method, request.path, request.query, body)
        if refusal is None and call.path.startswith(PREFIX):
            return await self._administer(request, call)
        if refusal is not None and call.path.startswith(PREFIX):
            return self._refuse(refusal)
        connection = Connection(request.transport)
        answer = await self._service.serve(call, connection, refusal=refusal)
        return self._response(answer) if refusal is None else self._refuse(answer)

    def _refuse(self, refusal: Answer) -> web.Response:
        """The answer, after which the connection closes: the body that may follow is not waited for."""
        response = self._response(refusal)
        response.force_close()
        return response

    async def _administer(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        if not is_loopback(request.remote or ""):
            return self._response(Answer(404, b""))
        lines = journal_lines(call, self.plane.journal)
        if lines is None:
            return self._response(answer_admin(call, self._service))
        stream = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
        await stream.prepare(request)
        for some in lines:
            await stream.write(some)
        await stream.write_eof()
        return stream

    def _response(self, answer: Answer) -> web.Response:
        headers = {
            **answer.headers,
            "Content-Type": answer.content_type,
            "x-pinecone-request-id": f"emulator-{next(self._numbers)}",
        }
        return web.Response(status=answer.status, body=answer.body, headers=headers)


def _request(*arguments: Any) -> web.BaseRequest:
    message, payload, protocol, writer, task = arguments
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=LARGEST_BODY)
