"""Owns one worker as a process: its event loop, its signals, its logs. What it does is in `upsertq_worker.worker`."""

import asyncio
import math
import os
import random
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

from upsertq.contract import fitness
from upsertq.contract.books import Books
from upsertq.contract.connect import CredentialProvider
from upsertq.contract.errors import NotFound, QueueLost, QueueMismatch, ServerUnavailable
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Conversation, Patience, Pause
from upsertq.contract.queue import QueueShape, find_queue, open_queue
from upsertq.contract.server import AsyncServer
from upsertq_worker import logs
from upsertq_worker.context import Tally
from upsertq_worker.edge import preflight
from upsertq_worker.edge.http_index import HttpIndex, IndexAddress
from upsertq_worker.events import Event, Events
from upsertq_worker.queue.redis_queue import RedisQueue
from upsertq_worker.settings import Settings
from upsertq_worker.worker import Worker

T = TypeVar("T")
Watch: TypeAlias = Callable[[Worker], Coroutine[Any, Any, None]]
Heed: TypeAlias = Callable[[Worker], None]
PARENT = "UPSERTQ_PARENT_PID"
"""Environment variable: a worker that is started with it ends with the process of that number."""
NUMBER = "UPSERTQ_WORKER_NUMBER"
"""Environment variable: which worker of its command this one is, from 1, for its log."""
PARENT_SECONDS = 0.5
KEY_SECONDS = 1.0
ANEW_SECONDS = 1.0
"""Between two looks for another creation of a queue that was lost."""
BOOKS_SECONDS = 10.0
"""How long a worker that has ended waits for the books, when the server is away."""
OPEN_SECONDS = 10.0
"""How long a worker that starts bears with a server that does not answer at all, as at a wrong address."""


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run on the fastest event loop there is."""
    try:
        import uvloop  # noqa: PLC0415 - absent on some platforms
    except ModuleNotFoundError:
        return asyncio.run(work)
    return uvloop.run(work)


def _worker_name() -> str:
    """A name for this worker that no other one has, and that says where it runs."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


def log_to_stderr(log_format: str = logs.TEXT) -> None:
    """Send the worker's log to stderr, one line an event; `UPSERTQ_LOG_LEVEL` says from which level on."""
    number = os.environ.get(NUMBER, "") if PARENT in os.environ else ""
    logs.log_to_stderr(os.environ.get("UPSERTQ_LOG_LEVEL", "INFO"), log_format, int(number) if number.isdigit() else 0)


async def work(
    url: str,
    queue: str,
    address: IndexAddress,
    settings: Settings,
    *,
    timeout: float,  # noqa: ASYNC109 - of each request
    allow_eviction: bool = False,
    watch: Watch | None = None,
    heed: Heed | None = None,
    credential_provider: CredentialProvider | None = None,
) -> tuple[Tally, Books]:
    """Drain `queue` on the server at `url` until told to stop; returns what was done, and the queue's books.

    `timeout` is that of each request, in seconds; `watch` shows the progress; `heed` sees to the signals in its own
    way, where it is not left to this module; `credential_provider`, one of redis-py, gives user and password for each
    connection in place of the URL.

    Raises:
        ServerUnavailable: the server could not be reached at the start.
        ServerUnfit: what answers cannot keep a queue.
        NotFound: there is no queue, and it was to be drained to its end.
        QueueLost: the server lost the queue, which was to be drained to its end, or for a while. Without an end,
            another creation of it is waited for, and drained.
        WorldError: the index or the server refuses. The records stay in the queue.
    """
    quiet = PARENT in os.environ  # the command that started us is on the server, and warns of it
    server = AsyncServer.at(url, quiet=quiet, credential_provider=credential_provider)
    events = Events()
    try:
        opening = _opening(QueueKeys(queue), events, make=not settings.until_empty, allow_eviction=allow_eviction)
        shape = await _beside_command(server.hold(opening), ServerUnavailable("the command that started it is gone"))
        async with HttpIndex(address, timeout=timeout, connections=settings.concurrency, events=events) as index:
            await preflight.check(index, address.url, shape, time.time(), events)
            return await _drain(server, shape, index, address.url, settings, events, watch, heed)
    finally:
        await server.close()


async def open_first(url: str, queue: str, *, make: bool, allow_eviction: bool) -> None:
    """Find or `make` the queue as `work` does, and leave it; for a command that starts workers. Raises as `work`."""
    server = AsyncServer.at(url)
    try:
        await server.hold(_opening(QueueKeys(queue), Events(), make=make, allow_eviction=allow_eviction))
    finally:
        await server.close()


async def _drain(
    server: AsyncServer,
    shape: QueueShape,
    index: HttpIndex,
    where: str,
    settings: Settings,
    events: Events,
    watch: Watch | None,
    heed: Heed | None,
) -> tuple[Tally, Books]:
    """Run one worker, or where there is no end to drain to, one for each creation of the queue."""
    while True:
        seam = RedisQueue(server, shape, _worker_name(), settings.lease)
        worker = Worker(seam.name, shape.shards, seam, index, settings, events=events)
        if heed:
            heed(worker)
        else:
            _heed_signals(worker, index)
        events.tell(Event.STARTED, worker=seam.name, queue=shape.name, index=where)
        try:
            tally = await _attended(worker, index, watch)
        except QueueLost as error:
            if settings.until_empty or settings.stop_after is not None:
                raise
            events.tell(Event.QUEUE_LOST, error=error)
            lost = error
        else:
            return tally, await _books(seam)
        shape = await _beside_command(server.hold(_created_anew(shape)), lost)
        events.tell(Event.QUEUE_ANEW, queue=shape.name)


async def _books(queue: RedisQueue) -> Books:
    """The queue's books; a server that is away for a moment makes no failure of a worker that has ended well."""
    until = time.monotonic() + BOOKS_SECONDS
    while True:
        try:
            return await queue.books()
        except ServerUnavailable:
            if time.monotonic() >= until:
                raise
            await asyncio.sleep(PARENT_SECONDS)


async def _attended(worker: Worker, index: HttpIndex, watch: Watch | None) -> Tally:
    """Run the worker to its end, beside what looks after its key, its parent and its display."""
    beside = [asyncio.create_task(_await_key(worker, index))]
    if watch:
        beside.append(asyncio.create_task(watch(worker)))
    if parent := os.environ.get(PARENT):
        beside.append(asyncio.create_task(_end_with(int(parent), worker)))
    try:
        return await worker.run()
    finally:
        for task in beside:
            task.cancel()
        ignore_hangup()


async def _await_key(worker: Worker, index: HttpIndex) -> None:
    """Go on at once when the key was exchanged, while the service refuses the one there was."""
    while True:
        await asyncio.sleep(KEY_SECONDS)
        reasons = {paused.reason for paused in worker.pauses.paused.values()}
        if reasons & {"unauthorized", "forbidden"} and index.renew_key():
            worker.probe_now()


def _opening(keys: QueueKeys, events: Events, *, make: bool, allow_eviction: bool) -> Conversation[QueueShape]:
    """Find the queue, or with `make` create it, on a server that is fit for it."""
    # one that answers that it is not ready is at the right address
    patience = Patience(math.inf, time.monotonic, random.Random(), silent=OPEN_SECONDS)
    yield from fitness.check(patience, f"open the queue '{keys.queue}'", allow_eviction=allow_eviction)
    try:
        return (yield from find_queue(keys, patience))
    except NotFound:
        if not make:
            raise
    shape = yield from open_queue(keys, None, int(time.time() * 1000), patience)
    events.tell(Event.QUEUE_NEW, queue=keys.queue)
    return shape


def _created_anew(lost: QueueShape) -> Conversation[QueueShape]:
    """Wait for as long as it takes until there is another creation of the queue; none is made here."""
    keys = QueueKeys(lost.name)
    while True:
        patience = Patience(math.inf, time.monotonic, random.Random())
        with suppress(NotFound, QueueLost, QueueMismatch):
            found = yield from find_queue(keys, patience)
            if found.incarnation != lost.incarnation:
                return found
        yield Pause(ANEW_SECONDS)


async def _beside_command(work: Coroutine[Any, Any, T], gone: Exception) -> T:
    """Do what may take for ever; raises `gone` when the command that started this process is gone."""
    waiting = asyncio.create_task(work)
    parent = os.environ.get(PARENT)
    while not waiting.done():
        await asyncio.wait({waiting}, timeout=PARENT_SECONDS)
        if parent and os.getppid() != int(parent):
            waiting.cancel()
            raise gone
    return waiting.result()


async def _end_with(parent: int, worker: Worker) -> None:
    """Stop when the process that started this one is gone: nothing else would stop it."""
    while os.getppid() == parent:  # noqa: ASYNC110 - a death is not announced
        await asyncio.sleep(PARENT_SECONDS)
    worker.context.events.tell(Event.COMMAND_GONE)
    worker.stop()


def ignore_hangup() -> None:
    """Let SIGHUP, which asks for the key to be read anew, do no harm where nothing heeds it."""
    if hangup := getattr(signal, "SIGHUP", None):
        signal.signal(hangup, signal.SIG_IGN)


def pass_on_hangup(worker: subprocess.Popen[bytes]) -> None:
    """Let SIGHUP reach the worker beside: it is the one that uses the key."""
    if hangup := getattr(signal, "SIGHUP", None):
        signal.signal(hangup, lambda *_: worker.send_signal(hangup))


def _heed_signals(worker: Worker, index: HttpIndex) -> None:
    """Stop in good order on the first SIGTERM or SIGINT, at once on the second; nothing is lost either way.

    On SIGHUP the API key is read anew; pauses are probed at once with another one.
    """
    loop = asyncio.get_running_loop()

    def heed() -> None:
        if worker.signals.done.is_set():  # its queue was lost, and another creation of it is waited for
            os._exit(0)
        if worker.signals.stopping.is_set():
            os._exit(130)
        worker.context.events.tell(Event.STOPPING, in_flight=worker.sender.in_flight)
        worker.stop()

    def renew() -> None:
        if index.renew_key():
            worker.probe_now()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, heed)
    if hangup := getattr(signal, "SIGHUP", None):
        loop.add_signal_handler(hangup, renew)
