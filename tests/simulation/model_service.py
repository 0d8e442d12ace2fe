"""Owns the service as a model: it applies upserts in the order in which they arrive, loses answers and is late.

It is never later than the bound that the contract names (design §1, promise 7), and never looks into a worker.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import orjson

from faults import Trouble
from upsertq.contract.keys import shard_of
from upsertq_worker.delivery.response import Answer, TransportFailure, TransportKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from checker import Checker, Key
    from faults import Faults
    from model_queue import ModelQueue
    from service_policy import ServicePolicy
    from upsertq_worker.delivery.encoder import Body
    from virtual_time import Process, VirtualLoop

Reply = Answer | TransportFailure
_OK: Final = 200
_GATEWAY: Final = (500, 502, 503, 504)


@dataclass(eq=False, slots=True)
class Request:
    """One upsert on its way."""

    worker: str
    records: tuple[tuple[Key, int], ...]
    taken: tuple[tuple[Key, int], ...]
    """Those of its records that the service takes, if it carries the request out."""
    answer: asyncio.Future[Reply]
    travelling: list[tuple[asyncio.TimerHandle, tuple[tuple[Key, int], ...]]] = field(default_factory=list)
    """What is still to be applied, and the timer that will do so."""
    over: bool = False
    """The worker has its answer, or gave up."""
    lost: bool = False
    """A part of it will never be applied."""
    latest: float = math.inf
    """Nothing of it is applied later: the end of its quarantine, once it was given up."""


class ModelService:
    """The index and all requests on their way to it."""

    def __init__(
        self, loop: VirtualLoop, queue: ModelQueue, faults: Faults, policy: ServicePolicy, checker: Checker
    ) -> None:
        self._loop = loop
        self._queue = queue
        self._faults = faults
        self._policy = policy
        self._checker = checker
        self._open: dict[Request, None] = {}
        self.kill: Callable[[str], None] = lambda _worker: None
        """Kills a worker that sent what kills."""

    def receive(self, worker: str, body: Body, timeout: float) -> Request:
        """Take a request as it leaves the worker, and decide what will become of it."""
        records = records_of(body)
        shards = sorted({shard_of(*key, len(self._queue.shards)) for key, _ in records})
        strangers = [shard for shard in shards if self._queue.holder(shard) != worker]
        self._checker.posted(worker, records, strangers)
        request = Request(worker, records, self._taken(records), self._loop.create_future())
        self._open[request] = None
        self._loop.later(timeout, self._reply, request, TransportFailure(TransportKind.TIMEOUT, "timed out"))
        if self._policy.deadly(records):
            self._checker.blamed(records, "crash_loop")
            self._apply_perhaps(request, 0.0)
            self._loop.later(self._faults.delay(), self.kill, worker)
            return request
        trouble = self._faults.trouble(worker)
        refusal = self._policy.refusal(records, len(body))
        if refusal is not None:
            # nothing of it is applied, whatever becomes of the answer
            request.taken = ()
        if trouble is None and refusal is not None:
            reply, why = refusal
            self._checker.blamed(records, why)
            self._loop.later(self._faults.delay() + self._faults.delay(), self._reply, request, reply)
        elif trouble is None:
            self._succeed(request)
        else:
            self._checker.note("trouble", f"{worker}: {trouble.value}")
            self._go_wrong(request, trouble)
        return request

    def give_up(self, request: Request) -> None:
        """The worker waits no more: what travels arrives within the quarantine, or never."""
        if not request.over:
            request.over = True
            del self._open[request]
            self._hurry(request)
            self._checker.answered(request.worker, request.records, "given up", held_until=request.latest)

    def cut(self, worker: str, *, dead: bool) -> None:
        """The worker was killed, or stopped for a while: its requests arrive within the quarantine, or never."""
        for request in [request for request in self._open if request.worker == worker]:
            if dead:
                self.give_up(request)
            else:
                self._hurry(request)

    def _taken(self, records: tuple[tuple[Key, int], ...]) -> tuple[tuple[Key, int], ...]:
        silent = set(self._policy.silent(records))
        return tuple(record for record in records if record not in silent)

    def _succeed(self, request: Request) -> None:
        faults = self._faults
        way = faults.delay() + faults.delay()
        self._arrive(request, request.taken, way)
        if faults.rng.random() < 0.05:  # a proxy sends it twice
            self._arrive(request, request.taken, way * faults.rng.random())
        if len(request.taken) < len(request.records):
            self._checker.blamed(request.records, "short_ack")
        self._loop.later(way + faults.delay(), self._reply, request, _accepted(len(request.taken)))

    def _go_wrong(self, request: Request, trouble: Trouble) -> None:
        faults = self._faults
        rng, way = faults.rng, faults.delay() + faults.delay()
        reply: Reply
        match trouble:
            case Trouble.UNSENT:
                reply = TransportFailure(TransportKind.CONNECT, "connection refused")
            case Trouble.RATE:
                reply = _error(429, "Rate limit exceeded", rng.choice(("", "", "1", "4")))
            case Trouble.REQUEST_TIMEOUT:
                reply = _error(408, "Request timeout", "")
            case Trouble.SHORT | Trouble.PAGE:
                reply = self._miscount(request, way, page=trouble is Trouble.PAGE)
            case Trouble.SLOW:
                self._arrive(request, request.taken, rng.random() * 4 * faults.lease)
                self._loop.later(4 * faults.lease, self._reply, request, _accepted(len(request.taken)))
                return
            case Trouble.LOST:
                self._apply_perhaps(request, way)
                reply = TransportFailure(TransportKind.RESET, "connection reset")
            case Trouble.GARBLED:
                self._apply_perhaps(request, way)
                reply = TransportFailure(TransportKind.PROTOCOL, "not HTTP")
            case Trouble.GATEWAY:
                self._apply_perhaps(request, way)
                reply = _error(rng.choice(_GATEWAY), "Service unavailable", "")
        self._loop.later(way, self._reply, request, reply)

    def _miscount(self, request: Request, way: float, *, page: bool) -> Reply:
        """Carry all of it out, or a part; returns a success that counts a part, or a page that counts nothing."""
        rng = self._faults.rng
        kept = request.taken[: rng.randrange(len(request.records))]
        self._arrive(request, kept if rng.random() < 0.5 else request.taken, way * rng.random())
        self._checker.blamed(request.records, "short_ack")
        if page:
            return Answer(_OK, {"content-type": "text/html"}, b"<html><title>Welcome</title></html>")
        return _accepted(len(kept))

    def _apply_perhaps(self, request: Request, way: float) -> None:
        """The answer is lost after `way` seconds: the records are applied before, later, in part, twice or never."""
        rng = self._faults.rng
        for _ in range(rng.choice((0, 1, 1, 1, 2))):
            kept = request.taken if rng.random() < 0.7 else request.taken[: rng.randrange(len(request.records))]
            late = way + self._faults.straggle() if rng.random() < 0.6 else way * rng.random()
            self._arrive(request, kept, late)

    def _arrive(self, request: Request, records: tuple[tuple[Key, int], ...], delay: float) -> None:
        if not records:
            return

        def apply() -> None:
            request.travelling.remove(item)
            for key, version in records:
                self._checker.applied(request.worker, key, version)

        item = (self._loop.later(delay, apply), records)
        request.travelling.append(item)

    def _reply(self, request: Request, reply: Reply) -> None:
        if request.over:
            return
        request.over = True
        del self._open[request]
        if isinstance(reply, Answer) and reply.status == _OK and (request.travelling or request.lost):
            reply = TransportFailure(TransportKind.RESET, "connection reset")  # it was not carried out in time
        lost = isinstance(reply, TransportFailure) and reply.answer_lost
        lost = lost or (isinstance(reply, Answer) and reply.status in _GATEWAY)
        what = reply.kind.value if isinstance(reply, TransportFailure) else str(reply.status)
        self._hurry(request)
        self._checker.answered(request.worker, request.records, what, held_until=request.latest if lost else 0.0)
        if not request.answer.done():
            request.answer.set_result(reply)

    def _hurry(self, request: Request) -> None:
        """From now on what travels has the quarantine at most: nothing that would be later is applied any more."""
        request.latest = min(request.latest, self._loop.now + self._faults.quarantine)
        late = [item for item in request.travelling if item[0].when() > request.latest]
        for item in late:
            item[0].cancel()
            request.travelling.remove(item)
            if self._faults.rng.random() < 0.8:
                self._arrive(request, item[1], self._faults.straggle())
            else:
                request.lost = True


class IndexLink:
    """One worker's way to the index (an `IndexSeam`), with the worker's own timeout in seconds."""

    def __init__(self, service: ModelService, process: Process, timeout: float) -> None:
        self._service = service
        self._process = process
        self._timeout = timeout

    async def upsert(self, body: Body) -> Reply:
        """As `IndexSeam.upsert`."""
        if self._process.ended:
            raise asyncio.CancelledError
        request = self._service.receive(self._process.name, body, self._timeout)
        try:
            return await request.answer
        except asyncio.CancelledError:
            self._service.give_up(request)
            raise


def records_of(body: Body) -> tuple[tuple[Key, int], ...]:
    """Return what a request's JSON carries: key and version of each record."""
    parsed = orjson.loads(bytes(body))
    namespace = parsed.get("namespace", "")
    return tuple(((namespace, vector["id"]), vector["metadata"]["version"]) for vector in parsed["vectors"])


def _accepted(count: int) -> Answer:
    return Answer(_OK, {"content-type": "application/json"}, orjson.dumps({"upsertedCount": count}))


def _error(status: int, message: str, retry_after: str) -> Answer:
    headers = {"retry-after": retry_after} if retry_after else {}
    return Answer(status, headers, orjson.dumps({"code": 8, "message": message, "details": []}))
