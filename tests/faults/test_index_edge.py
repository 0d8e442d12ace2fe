"""The HTTP edge against a raw socket server: what it sends, and how each way of failing is told apart."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from servers import closed_port
from sockets import BODY, KEY, OK, OK_BODY, Socket, accept
from upsertq import __version__
from upsertq_worker.delivery.response import BODY_MAX, Answer, TransportFailure, TransportKind
from upsertq_worker.edge.http_index import HttpIndex, IndexAddress

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


def index(url: str, seconds: float = 5.0, connections: int = 4) -> HttpIndex:
    """An index at an address."""
    return HttpIndex(IndexAddress(url, "2025-10", KEY), timeout=seconds, connections=connections)


async def failure_at(url: str, seconds: float = 5.0) -> TransportFailure:
    """The failure of one upsert there; it is told in one line and never shows the key."""
    async with index(url, seconds) as edge:
        reply = await edge.upsert(BODY)
    assert isinstance(reply, TransportFailure)
    assert KEY not in repr(reply)
    assert reply.message
    assert "\n" not in reply.message
    return reply


async def failure_of(script: Callable[[asyncio.StreamWriter], Awaitable[None]], seconds: float = 5.0) -> TransportKind:
    """The kind of failure that a script makes."""
    async with Socket(script) as server:
        return (await failure_at(server.url, seconds)).kind


async def test_what_is_sent_and_what_comes_back() -> None:
    """The path, the headers and the body, byte for byte; the answer with lower-case header names."""
    async with Socket(accept) as server, index(server.url) as edge:
        reply = await edge.upsert(BODY)
    assert isinstance(reply, Answer)
    assert (reply.status, reply.body, reply.truncated) == (200, OK_BODY, False)
    assert reply.headers["x-pinecone-request-lsn"] == "7"
    (request,) = server.requests
    assert request.line == "POST /vectors/upsert HTTP/1.1"
    assert request.body == bytes(BODY)
    headers = request.headers
    assert headers["api-key"] == KEY
    assert headers["x-pinecone-api-version"] == "2025-10"
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"] == f"upsertq/{__version__}"
    assert headers["content-length"] == str(len(BODY))


async def test_statistics_are_asked_for_at_their_path() -> None:
    """With an empty object."""
    async with Socket(accept) as server, index(server.url) as edge:
        await edge.stats()
    assert (server.requests[0].line, server.requests[0].body) == ("POST /describe_index_stats HTTP/1.1", b"{}")


async def test_no_key_no_header() -> None:
    """An emulator on this machine needs none."""
    async with Socket(accept) as server, HttpIndex(IndexAddress(server.url, "x"), timeout=5, connections=1) as edge:
        await edge.upsert(BODY)
    assert "api-key" not in server.requests[0].headers


async def test_connections_are_kept_and_bounded() -> None:
    """Requests one after another share one connection, many at once use as many as allowed."""
    async with Socket(accept) as server, index(server.url, connections=3) as edge:
        for _ in range(5):
            await edge.upsert(BODY)
        assert server.connections == 1
        await asyncio.gather(*(edge.upsert(BODY) for _ in range(20)))
        assert 1 <= server.connections <= 3
    assert len(server.requests) == 25


async def test_a_refused_port_means_nothing_was_sent() -> None:
    """CONNECT."""
    assert (await failure_at(f"http://127.0.0.1:{closed_port()}")).kind is TransportKind.CONNECT


async def test_an_unknown_name_means_nothing_was_sent() -> None:
    """CONNECT; the name is reserved to exist nowhere (RFC 6761)."""
    failure = await failure_at("http://index.invalid", 20)
    assert failure.kind is TransportKind.CONNECT
    assert "index.invalid" in failure.message


async def test_silence_is_a_timeout() -> None:
    """Before the answer, and in the middle of it."""

    async def stall(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async def stall_halfway(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + OK_BODY[:5])
        await asyncio.Event().wait()

    assert await failure_of(stall, 0.1) is TransportKind.TIMEOUT
    assert await failure_of(stall_halfway, 0.1) is TransportKind.TIMEOUT


async def test_a_broken_connection_may_have_carried_the_request() -> None:
    """RESET, whether it broke before or after an answer began, hard or softly."""

    async def reset(writer: asyncio.StreamWriter) -> None:
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    async def close(writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def truncate(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + OK_BODY[:5])
        await writer.drain()
        writer.close()

    for script in (reset, close, truncate):
        assert await failure_of(script) is TransportKind.RESET, script.__name__


async def test_a_connection_reset_before_the_request_was_read() -> None:
    """RESET too: from here it cannot be told what arrived."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert (await failure_at(f"http://127.0.0.1:{port}")).kind is TransportKind.RESET


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"HTTP/1.1 banana\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_http(garbage: bytes) -> None:
    """PROTOCOL, or a broken answer: never an acknowledgement, and the request may have been applied."""

    async def babble(writer: asyncio.StreamWriter) -> None:
        writer.write(garbage)

    async with Socket(babble) as server:
        failure = await failure_at(server.url)
    assert failure.kind in {TransportKind.PROTOCOL, TransportKind.RESET}
    assert failure.answer_lost


async def test_a_huge_body_is_cut_and_marked() -> None:
    """One byte more than the bound is marked, the bound itself is not; the next request is unharmed."""
    sizes = [BODY_MAX, BODY_MAX + 1, 5_000_000]

    async def flood(writer: asyncio.StreamWriter) -> None:
        size = sizes[len(server.requests) - 1] if len(server.requests) <= len(sizes) else 2
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % size)
        with contextlib.suppress(ConnectionError):
            for start in range(0, size, 65_536):
                writer.write(b"x" * min(65_536, size - start))
                await writer.drain()

    found = []
    async with Socket(flood) as server, index(server.url) as edge:
        for _ in range(4):
            reply = await edge.upsert(BODY)
            assert isinstance(reply, Answer)
            found.append((len(reply.body), reply.truncated))
    assert found == [(BODY_MAX, False), (BODY_MAX, True), (BODY_MAX, True), (2, False)]


async def test_a_redirect_is_an_answer() -> None:
    """The key is not carried to where it points."""

    async def elsewhere(writer: asyncio.StreamWriter) -> None:
        writer.write(
            f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {other.url}/x\r\nContent-Length: 0\r\n\r\n".encode()
        )

    async with Socket(accept) as other, Socket(elsewhere) as server, index(server.url) as edge:
        reply = await edge.upsert(BODY)
        assert isinstance(reply, Answer)
        assert reply.status == 307
        assert other.connections == 0


async def test_cookies_are_not_kept() -> None:
    """A load balancer's stickiness would pin the fleet to one machine."""

    async def baker(writer: asyncio.StreamWriter) -> None:
        writer.write(OK.replace(b"\r\n", b"\r\nSet-Cookie: stick=1\r\n", 1) + OK_BODY)

    async with Socket(baker) as server, index(server.url) as edge:
        await edge.upsert(BODY)
        await edge.upsert(BODY)
    assert all("cookie" not in request.headers for request in server.requests)


async def test_a_stranger_with_a_certificate_gets_nothing(tmp_path: Path) -> None:
    """A certificate that nobody vouches for is CONNECT: no request, and no key, left."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)  # noqa: ASYNC221 - before anything is served
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    errors: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    async with Socket(accept, tls) as server:
        failure = await failure_at(server.url)
        assert failure.kind is TransportKind.CONNECT
        assert "self-signed certificate" in failure.message.replace("self signed", "self-signed")
        assert server.requests == []


async def test_a_proxy_of_the_environment_is_used_beyond_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request for another host goes through it whole; one for this machine never does."""
    async with Socket(accept) as proxy, Socket(accept) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        async with index("http://index.invalid") as edge:
            reply = await edge.upsert(BODY)
        assert isinstance(reply, Answer)
        (request,) = proxy.requests
        assert request.line == "POST http://index.invalid/vectors/upsert HTTP/1.1"
        assert request.headers["host"] == "index.invalid"
        assert request.headers["api-key"] == KEY
        async with index(server.url) as edge:
            assert isinstance(await edge.upsert(BODY), Answer)
        assert (len(proxy.requests), len(server.requests)) == (1, 1)


async def test_an_absent_proxy_means_nothing_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """CONNECT."""
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert (await failure_at("http://index.invalid")).kind is TransportKind.CONNECT


async def test_giving_a_request_up_closes_its_connection() -> None:
    """What was cancelled leaves nothing behind that a later request could get as its answer."""
    release = asyncio.Event()

    async def late(writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:
            await release.wait()
        writer.write(OK + OK_BODY)

    async with Socket(late) as server, index(server.url, connections=1) as edge:
        task = asyncio.create_task(edge.upsert(BODY))
        await server.arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()
        reply = await edge.upsert(BODY)
        assert isinstance(reply, Answer)
        assert server.connections == 2


def test_the_key_is_in_no_repr() -> None:
    """Of the address or the index."""
    address = IndexAddress("https://x", "2025-10", KEY)
    assert KEY not in repr(address) + repr(HttpIndex(address, timeout=1, connections=1))
