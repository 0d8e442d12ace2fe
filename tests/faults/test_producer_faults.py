"""Whatever happens to the server or the line, each record that a producer took is enqueued exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

import numpy as np
import orjson
import pytest

from servers import available_kinds, closed_port
from upsertq import (
    AsyncProducer,
    InvalidRecord,
    Limits,
    Producer,
    QueueFull,
    Server,
    ServerRefused,
    ServerUnavailable,
    UpsertqError,
    UsageError,
)
from upsertq.admin.audit import audit
from upsertq.contract import queue
from upsertq.contract.circumstances import Circumstances
from upsertq.contract.keys import QueueKeys
from upsertq.contract.server import AsyncServer
from waiting import wait_until, wait_until_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from servers import RealServer, ServerKind

KEYS: Final = QueueKeys("q")
SHARDS: Final = 2
NO_LIMIT: Final = Limits(None, None)
DIMENSION: Final = 64
SECRET: Final = "sesame-27"  # noqa: S105 - the test's own
every_kind = pytest.mark.parametrize("kind", available_kinds(), ids=lambda kind: kind.id)


def producer_at(url: str, **options: Any) -> Producer:
    """Return a producer of the queue."""
    return Producer("q", url=url, **{"shards": SHARDS, "limits": NO_LIMIT, "timeout": 0, **options})


def numbered(count: int, first: int = 0) -> tuple[list[str], Any]:
    """Return ids and their vectors."""
    return [f"id{i:06}" for i in range(first, first + count)], np.ones((count, DIMENSION), np.float32)


def check(server: RealServer, expected: list[str]) -> None:
    """Assert that the queue holds each expected id once, and that its books balance."""
    with server.client() as client:
        found: list[str] = []
        for k in range(SHARDS):
            entries: Any = client.xrange(KEYS.shard(k).stream(""))
            for _, fields in entries:
                found += orjson.loads(fields[b"ids"])
        assert sorted(found) == sorted(expected)
        world = Circumstances(time.monotonic, time.time)
        reader = Server(client)
        shape = reader.hold(queue.find_queue(KEYS, world.patience(5)))
        report = reader.hold(audit(KEYS, shape, world.patience(5)))
        assert report.drifts == ()
        assert report.records == len(expected)


def in_background(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Start `work` in a thread; return it, and where its result or error goes."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(work())
        except UpsertqError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


@every_kind
def test_out_of_memory_is_a_full_queue(make_server: Callable[..., RealServer], kind: ServerKind) -> None:
    """When the server is out of memory a producer raises `QueueFull`; once there is memory all arrives once."""
    server = make_server(kind, maxmemory="8mb")
    producer = producer_at(server.url)
    taken: list[str] = []
    first_error = ""
    for first in range(0, 10**6, 500):
        try:
            producer.put_many(*numbered(500, first))
        except QueueFull as error:
            first_error = str(error)
            break
        taken += numbered(500, first)[0]
    assert "nothing was lost" in first_error
    assert 0 < producer.buffered < len(taken)
    with pytest.raises(QueueFull):
        producer.flush()
    with server.client() as client:
        client.config_set("maxmemory", 0)
    producer.flush()
    producer.close()
    check(server, taken)


@every_kind
def test_memory_is_waited_for(make_server: Callable[..., RealServer], kind: ServerKind) -> None:
    """With a timeout a producer waits until there is memory again."""
    server = make_server(kind)
    producer = producer_at(server.url, timeout=60)
    names, matrix = numbered(200)
    producer.put_many(names, matrix)
    with server.client() as client:
        client.config_set("maxmemory", 1)
        before = _refusals(client)
        thread, results = in_background(producer.flush)
        wait_until(lambda: _refusals(client) > before, 30, "the server refuses")
        assert thread.is_alive()
        client.config_set("maxmemory", 0)
        thread.join(60)
    assert results == [200]
    producer.close()
    check(server, names)


def _refusals(client: Any) -> int:
    return int(sum(item["count"] for item in client.info("errorstats").values()))


def test_a_queue_is_not_opened_without_memory(make_server: Callable[..., RealServer]) -> None:
    """A server that is out of memory from the beginning is said to be full."""
    server = make_server()
    with server.client() as client:
        client.config_set("maxmemory", 1)
    with pytest.raises(QueueFull, match="cannot open the queue 'q'"):
        producer_at(server.url).put("a", [1.0])


@every_kind
def test_a_killed_server(make_server: Callable[..., RealServer], kind: ServerKind) -> None:
    """A server that is killed and restarted again and again meanwhile costs no record and doubles none."""
    server = make_server(kind, appendonly="always", port=0)
    producer = producer_at(server.url, timeout=60)
    done = threading.Event()
    taken: list[str] = []

    def produce() -> int:
        for first in range(0, 10**6, 250):
            producer.put_many(*numbered(250, first))
            taken.extend(numbered(250, first)[0])
            if done.is_set():
                break
        return producer.flush()

    thread, results = in_background(produce)
    for _ in range(3):
        length = _length(server)
        wait_until(lambda length=length: _length(server) > length + 5, 30, "the producer goes on")  # type: ignore[misc]
        server.kill()
        server.start()
    done.set()
    thread.join(90)
    assert len(results) == 1
    assert isinstance(results[0], int), results
    producer.close()
    check(server, taken)


def _length(server: RealServer) -> int:
    with server.client() as client:
        return sum(client.xlen(KEYS.shard(k).stream("")) for k in range(SHARDS))


def test_a_server_that_stays_away(make_server: Callable[..., RealServer]) -> None:
    """A flush that finds no server raises `ServerUnavailable` and keeps everything for the next."""
    server = make_server(appendonly="always", port=0)
    producer = producer_at(server.url)
    names, matrix = numbered(300)
    producer.put_many(names, matrix)
    server.kill()
    for _ in range(2):
        with pytest.raises(ServerUnavailable, match="cannot enqueue"):
            producer.flush()
        assert producer.buffered == 300
    server.start()
    assert producer.flush() == 300
    producer.close()
    check(server, names)


def test_a_server_that_stands_still(make_server: Callable[..., RealServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that got no answer in time may be carried out later: repeating it enqueues nothing twice."""
    monkeypatch.setattr("upsertq.contract.server.ANSWER_SECONDS", 0.2)
    server = make_server()
    producer = producer_at(server.url)
    producer.put_many(*numbered(10))
    producer.flush()
    producer.put_many(*numbered(100, 10))
    server.process.send_signal(signal.SIGSTOP)
    with pytest.raises(ServerUnavailable):
        producer.flush()
    server.process.send_signal(signal.SIGCONT)
    producer.flush()
    producer.close()
    check(server, numbered(110)[0])


class Line:
    """A TCP line to a server that can be cut, before the next answer or in the middle of the next request.

    It can also hold back the next answer until it is closed; `armed` is empty once what it says has happened.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.port: int = self._listener.getsockname()[1]
        self.armed: Literal["", "answer", "request", "hold"] = ""
        self.cuts = 0
        self._closed = threading.Event()
        self._threads[0].start()

    def close(self) -> None:
        """Cut every connection, and take no more."""
        self._closed.set()
        for end in self._sockets:
            _shut(end)
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._sockets += [near, far]
                for target in (self._requests, self._answers):
                    thread = threading.Thread(target=target, args=(near, far), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _requests(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := near.recv(65536):
                if self.armed == "request" and b"EVAL" in part:
                    far.sendall(part[: len(part) // 2])
                    self._cut(near, far)
                    return
                far.sendall(part)
        _shut(near)
        _shut(far)

    def _answers(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := far.recv(65536):
                if self.armed == "answer":
                    self._cut(near, far)
                    return
                if self.armed == "hold":
                    self.armed = ""
                    self._closed.wait()
                near.sendall(part)
        _shut(near)
        _shut(far)

    def _cut(self, near: socket.socket, far: socket.socket) -> None:
        self.armed = ""
        self.cuts += 1
        _shut(near)
        _shut(far)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@pytest.fixture
def wired(make_server: Callable[..., RealServer]) -> Iterator[tuple[RealServer, Line]]:
    """Provide a server and a line to it."""
    server = make_server(port=0)
    line = Line(urlsplit(server.url).port or 0)
    yield server, line
    line.close()


@pytest.mark.parametrize("cut", ["answer", "request"])
def test_a_cut_line(wired: tuple[RealServer, Line], cut: Literal["answer", "request"]) -> None:
    """An enqueue whose answer is lost, or that is cut in the middle, is repeated and counts once."""
    server, line = wired
    producer = producer_at(f"redis://127.0.0.1:{line.port}/0", timeout=30)
    names, matrix = numbered(400)
    for turn in range(4):
        producer.put_many(names[turn * 100 : turn * 100 + 100], matrix[:100], run="r")
        line.armed = cut
        assert producer.flush() == 100
    assert line.cuts == 4
    producer.close()
    check(server, names)


def test_a_cut_line_without_patience(wired: tuple[RealServer, Line]) -> None:
    """With timeout 0 the lost answer is an error, and the next flush settles what happened."""
    server, line = wired
    producer = producer_at(f"redis://127.0.0.1:{line.port}/0")
    names, matrix = numbered(100)
    producer.put_many(names, matrix)
    line.armed = "answer"
    with pytest.raises(ServerUnavailable):
        producer.flush()
    assert producer.buffered == 100
    assert producer.flush() == 100
    producer.close()
    check(server, names)


async def test_a_cut_line_under_asyncio(wired: tuple[RealServer, Line]) -> None:
    """The asynchronous producer carries on in the same way, and a cancelled flush as well."""
    server, line = wired
    producer = AsyncProducer("q", url=f"redis://127.0.0.1:{line.port}/0", shards=SHARDS, limits=NO_LIMIT, timeout=30)
    names, matrix = numbered(300)
    await producer.put_many(names[:200], matrix[:200])
    line.armed = "answer"
    assert await producer.flush() == 200
    await producer.put_many(names[200:], matrix[200:])
    line.armed = "hold"
    flushing = asyncio.create_task(producer.flush())
    await wait_until_async(lambda: not line.armed, 30, "the answer is on its way")
    flushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flushing
    await producer.flush()
    await producer.close()
    assert line.cuts == 1
    check(server, names)


def test_a_wrong_password(make_server: Callable[..., RealServer]) -> None:
    """A wrong or missing password is refused at once, however patient the producer, and shown nowhere."""
    server = make_server(port=0, password=SECRET)
    for login in (f":{SECRET}x@", f"user:{SECRET}x@", ""):
        url = f"redis://{login}127.0.0.1:{server.port}/0"
        producer = producer_at(url, timeout=600)
        with pytest.raises(ServerRefused, match="cannot read the queue 'q'") as raised:
            producer.put("a", [1.0])
        _no_secret(raised.value, producer)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix"])
def test_an_unreachable_server(scheme: str, tmp_path: Any) -> None:
    """A server that is not there is `ServerUnavailable`, says what to check, and shows no secret."""
    place = f"127.0.0.1:{closed_port()}/0" if scheme != "unix" else f"{tmp_path}/none.sock"
    producer = producer_at(f"{scheme}://user:{SECRET}@{place}")
    with pytest.raises(ServerUnavailable, match="is the server running and the URL right") as raised:
        producer.put("a", [1.0])
    _no_secret(raised.value, producer)


async def test_an_unreachable_server_under_asyncio() -> None:
    """The asynchronous producer says the same."""
    server = AsyncServer.at(f"redis://:{SECRET}@127.0.0.1:{closed_port()}/0")
    producer = AsyncProducer("q", url=server, timeout=0)
    with pytest.raises(ServerUnavailable) as raised:
        await producer.put("a", [1.0])
    _no_secret(raised.value, producer)


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@host/0",
        f"user:{SECRET}@host:6379",
        f"redis://:{SECRET}@[::1",
        f"redis://:{SECRET}@host:port/0",
        f"redis://:{SECRET}@host:99999/0",
        f"redis://host/0?password={SECRET}&nonsense=1",
        f"redis://:{SECRET}@host/0?db=x",
        f"redis://user:12/{SECRET}@host/0",
        f"//user:{SECRET}@host/0",
        f"redis:{SECRET}@host",
        "",
    ],
)
def test_a_malformed_url(url: str) -> None:
    """A URL that is none is the caller's mistake, and is shown without its secret."""
    for make in (Server.at, AsyncServer.at):
        with pytest.raises(UsageError, match="no Redis URL") as raised:
            make(url)
        _no_secret(raised.value, None)


def test_a_missing_permission(make_server: Callable[..., RealServer]) -> None:
    """A user who may not run scripts is told so at once."""
    server = make_server(port=0)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", f">{SECRET}", "~*", "+@read")
    producer = producer_at(f"redis://reader:{SECRET}@127.0.0.1:{server.port}/0", timeout=600)
    with pytest.raises(ServerRefused, match="permission") as raised:
        producer.put("a", [1.0])
    _no_secret(raised.value, producer)


def _no_secret(error: BaseException, thing: object) -> None:
    shown = "".join(traceback.format_exception(error)) + repr(error) + repr(thing) + repr(vars(error))
    shown += repr(getattr(thing, "_server", ""))
    assert SECRET not in shown, shown


def test_an_invalid_record_needs_no_server_twice(make_server: Callable[..., RealServer]) -> None:
    """The caller's fault stays the caller's fault when the server goes away: nothing is taken, nothing is lost."""
    server = make_server(appendonly="always", port=0)
    producer = producer_at(server.url)
    producer.put("a", [1.0] * DIMENSION)
    server.kill()
    with pytest.raises(InvalidRecord):
        producer.put("é", [1.0] * DIMENSION)
    producer.put("b", [1.0] * DIMENSION)
    server.start()
    producer.close()
    check(server, ["a", "b"])


FORKS: Final = """
import os, sys, upsertq

producer = upsertq.Producer("q", url=sys.argv[1], shards=2)
if sys.argv[2] == "opened":
    producer.put("id000000", [1.0])
    producer.flush()
children = []
for child in range(3):
    children.append(os.fork())
    if not children[-1]:
        producer.put_many([f"id{n:06}" for n in range(100 + 100 * child, 200 + 100 * child)], [[1.0]] * 100)
        os._exit(producer.flush() != 100)
codes = [os.waitpid(child, 0)[1] for child in children]
producer.put_many([f"id{n:06}" for n in range(1, 100)], [[1.0]] * 99)
producer.flush()
sys.exit(max(codes))
"""


@pytest.mark.parametrize("state", ["new", "opened"])
def test_a_forked_producer_loses_nothing(redis_server: RealServer, state: str) -> None:
    """What each of the processes confirms is in the queue, though all of them have the same producer."""
    done = subprocess.run([sys.executable, "-c", FORKS, redis_server.url, state], check=False, timeout=60)
    assert done.returncode == 0
    check(redis_server, numbered(400)[0][state == "new" :])
