"""Owns one worker as a process: its event loop, its signals, its logs. What it does is in `upsertq_worker.drain`."""

import asyncio
import logging
import math
import os
import random
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from upsertq import fitness
from upsertq.books import Books
from upsertq.errors import NotFound
from upsertq.exchange import Conversation, Patience
from upsertq.keys import QueueKeys
from upsertq.queue import QueueShape, find_queue, open_queue
from upsertq.server import AsyncServer
from upsertq_worker import logs, preflight
from upsertq_worker.desk import Settings, Tally
from upsertq_worker.drain import Drain
from upsertq_worker.index import HttpIndex, IndexAddress
from upsertq_worker.stream import RedisQueue

log = logging.getLogger("upsertq.worker")

T = TypeVar("T")
PARENT = "UPSERTQ_PARENT_PID"
"""Environment variable: a worker that is started with it ends with the process of that number."""
PARENT_SECONDS = 0.5
KEY_SECONDS = 1.0
OPEN_SECONDS = 10.0
"""How long a worker that starts bears with a server that does not answer at all, as at a wrong address."""


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run on the fastest event loop there is."""
    try:
        import uvloop  # noqa: PLC0415 - absent on some platforms
    except ModuleNotFoundError:
        return asyncio.run(work)
    return uvloop.run(work)


def worker_name() -> str:
    """A name for this worker that no other one has, and that says where it runs."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


def log_to_stderr() -> None:
    """Send the worker's log to stderr, one line an event; `UPSERTQ_LOG_LEVEL` says from which level on."""
    logs.log_to_stderr(os.environ.get("UPSERTQ_LOG_LEVEL", "INFO"))


async def work(
    url: str,
    queue: str,
    address: IndexAddress,
    settings: Settings,
    *,
    timeout: float,  # noqa: ASYNC109 - of each request
    allow_eviction: bool = False,
    watch: Callable[[Drain], Coroutine[Any, Any, None]] | None = None,
) -> tuple[Tally, Books]:
    """Drain `queue` on the server at `url` until told to stop; returns what was done, and the queue's books.

    Raises:
        ServerUnavailable: the server could not be reached at the start.
        ServerUnfit: what answers cannot keep a queue.
        NotFound: there is no queue, and it was to be drained to its end; or it is not there any more.
        WorldError: the index or the server refuses. The records stay in the queue.
    """
    server = AsyncServer.at(url, quiet=PARENT in os.environ)  # the command that started us is on it, and warns of it
    try:
        # one that answers that it is not ready is at the right address
        patience = Patience(math.inf, time.monotonic, random.Random(), silent=OPEN_SECONDS)
        make = not settings.until_empty
        shape = await server.hold(_opening(QueueKeys(queue), patience, make=make, allow_eviction=allow_eviction))
        async with HttpIndex(address, timeout=timeout, connections=settings.concurrency) as index:
            await preflight.check(index, address.url, shape, time.time())
            seam = RedisQueue(server, shape, worker_name(), settings.lease)
            drain = Drain(seam.name, shape.shards, seam, index, settings)
            _heed_signals(drain, index)
            log.info("worker %s drains queue %s into %s", seam.name, queue, address.url)
            beside = [asyncio.create_task(_await_key(drain, index))]
            beside += [asyncio.create_task(watch(drain))] if watch else []
            if parent := os.environ.get(PARENT):
                beside.append(asyncio.create_task(_end_with(int(parent), drain)))
            try:
                tally = await drain.run()
            finally:
                for task in beside:
                    task.cancel()
                ignore_hangup()
        return tally, await seam.books()
    finally:
        await server.close()


async def _await_key(drain: Drain, index: HttpIndex) -> None:
    """Go on at once when the key was exchanged, while the service refuses the one there was."""
    while True:
        await asyncio.sleep(KEY_SECONDS)
        reasons = {paused.reason for paused in drain.desk.lanes.paused.values()}
        if reasons & {"unauthorized", "forbidden"} and index.renew_key():
            drain.probe_now()


def _opening(keys: QueueKeys, patience: Patience, *, make: bool, allow_eviction: bool) -> Conversation[QueueShape]:
    """Find the queue, or with `make` create it, on a server that is fit for it."""
    yield from fitness.check(patience, f"open the queue '{keys.queue}'", allow_eviction=allow_eviction)
    try:
        return (yield from find_queue(keys, patience))
    except NotFound:
        if not make:
            raise
    shape = yield from open_queue(keys, None, int(time.time() * 1000), patience)
    log.info("queue %s is new: nothing was ever loaded into it", keys.queue)
    return shape


async def _end_with(parent: int, drain: Drain) -> None:
    """Stop when the process that started this one is gone: nobody is left who would."""
    while os.getppid() == parent:  # noqa: ASYNC110 - nobody announces a death
        await asyncio.sleep(PARENT_SECONDS)
    log.warning("stopping: the command that started this worker is gone")
    drain.stop()


def ignore_hangup() -> None:
    """Let SIGHUP, which asks for the key to be read anew, do no harm where nothing heeds it."""
    if hangup := getattr(signal, "SIGHUP", None):
        signal.signal(hangup, signal.SIG_IGN)


def pass_on_hangup(worker: subprocess.Popen[bytes]) -> None:
    """Let SIGHUP reach the worker beside: it is the one that uses the key."""
    if hangup := getattr(signal, "SIGHUP", None):
        signal.signal(hangup, lambda *_: worker.send_signal(hangup))


def _heed_signals(drain: Drain, index: HttpIndex) -> None:
    """Stop in good order on the first SIGTERM or SIGINT, at once on the second; nothing is lost either way.

    On SIGHUP the API key is read anew; pauses are probed at once with another one.
    """
    loop = asyncio.get_running_loop()

    def heed() -> None:
        if drain.desk.stopping.is_set():
            os._exit(130)
        log.info("stopping: %d requests in flight may finish; a second signal stops at once", drain.desk.in_flight)
        drain.stop()

    def renew() -> None:
        if index.renew_key():
            drain.probe_now()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, heed)
    if hangup := getattr(signal, "SIGHUP", None):
        loop.add_signal_handler(hangup, renew)
