"""The HTTP edge and what strangers may make of it: secrets sent back, encodings, floods, proxies, old keys."""

from __future__ import annotations

import base64
import contextlib
import gzip
import zlib
from typing import TYPE_CHECKING

import pytest

from servers import closed_port
from sockets import BODY, KEY, OK_BODY, Socket, accept
from upsertq_worker.delivery.outcome import Accepted, ShortAck, judge
from upsertq_worker.delivery.response import BODY_MAX, Answer, Sent, TransportFailure, TransportKind
from upsertq_worker.edge.http_index import HttpIndex, IndexAddress

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

LOGIN = "svc%2Fetl:p%40ss-w0rd"
SECRETS = (KEY, "svc/etl", "p@ss-w0rd", "p%40ss-w0rd", base64.b64encode(b"svc/etl:p@ss-w0rd").decode())
SENT = Sent(("a",), "")


async def reply_of(url: str, seconds: float = 5.0) -> Answer | TransportFailure:
    """What one upsert there comes back with."""
    async with HttpIndex(IndexAddress(url, "2025-10", KEY), timeout=seconds, connections=2) as edge:
        return await edge.upsert(BODY)


def saying(raw: bytes) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    """A script that writes this."""

    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        writer.close()

    return say


def texts(reply: Answer | TransportFailure) -> str:
    """All that is kept of a reply."""
    if isinstance(reply, TransportFailure):
        return repr(reply)
    return repr((reply.status, dict(reply.headers), reply.body, judge(reply, SENT, 0.0)))


async def test_the_path_is_a_prefix() -> None:
    """As a gateway has it."""
    async with Socket(accept) as server:
        await reply_of(f"{server.url}/pinecone/a%20b")
        async with HttpIndex(IndexAddress(f"{server.url}/x", "v"), timeout=5, connections=1) as edge:
            await edge.stats()
    assert [request.line.split()[1] for request in server.requests] == [
        "/pinecone/a%20b/vectors/upsert", "/x/describe_index_stats"
    ]  # fmt: skip


async def test_nothing_is_asked_to_be_encoded() -> None:
    """Identity alone."""
    async with Socket(accept) as server:
        await reply_of(server.url)
    assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("encoding", "body", "outcome"),
    [
        ("gzip", gzip.compress(OK_BODY, mtime=0), Accepted),
        ("deflate", zlib.compress(OK_BODY), Accepted),
        ("identity", OK_BODY, Accepted),
        ("gzip", OK_BODY, ShortAck),
        ("gzip", gzip.compress(OK_BODY, mtime=0)[:-9], ShortAck),
        ("gzip", gzip.compress(b" " * 100_000_000, 1, mtime=0), ShortAck),
        ("deflate", OK_BODY, ShortAck),
        ("br", OK_BODY, ShortAck),
        ("zstd", b"\x28\xb5\x2f\xfd\0", ShortAck),
        ("gzip, br", OK_BODY, ShortAck),
        ("x" * 300, OK_BODY, ShortAck),
    ],
    ids=range(11),
)
async def test_a_success_that_cannot_be_decoded_is_unreadable(encoding: str, body: bytes, outcome: type) -> None:
    """It is no failure to be tried for ever, and never more than a body's bound in memory."""
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with Socket(saying(head + body)) as server:
        reply = await reply_of(server.url)
    assert isinstance(reply, Answer)
    assert len(reply.body) <= BODY_MAX
    found = judge(reply, SENT, 0.0)
    assert isinstance(found, outcome)
    if isinstance(found, ShortAck):
        assert found.reported is None
        assert found.refusal.message


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 401 No\r\nX-Request-Id: %s\r\nContent-Length: 50\r\n\r\n" + b"Invalid API Key %s" * 9,
        b"HTTP/1.1 302 No\r\nLocation: https://x/%s?%s\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: 16\r\n\r\n%s",
        b"HTTP/1.1 200 %s\x01\r\nBad %s\r\n\r\n",
        b"%s %s\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 8_170 + b"%s%s\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n%s" + b"y" * 9_000 + b": %s\r\n\r\n",
    ],
)  # fmt: skip
async def test_no_key_comes_back(raw: bytes) -> None:
    """Neither in an answer nor in an error, whole or in part."""
    key = KEY.encode()
    async with Socket(saying(raw.replace(b"%s", key))) as server:
        assert KEY[:10] not in texts(await reply_of(server.url))


@pytest.mark.parametrize("count", [101, 200_000])
async def test_a_flood_of_headers_is_no_answer(count: int) -> None:
    """It is read no further than the bound."""

    async def flood(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(count // 100 + 1):
                writer.write(b"a: b\r\n" * 100)
                await writer.drain()
            writer.write(b"\r\n")
        writer.close()

    async with Socket(flood) as server:
        reply = await reply_of(server.url)
    assert isinstance(reply, TransportFailure)


async def test_a_login_of_a_proxy_comes_back_from_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """It travels to the proxy, which may send it back; a scheme that is missing is added."""

    async def echo(writer: asyncio.StreamWriter) -> None:
        login = proxy.requests[0].headers["proxy-authorization"]
        body = f"{login} p@ss-w0rd svc/etl p%40ss-w0rd".encode()
        head = f"HTTP/1.1 407 No\r\nX-Request-Id: {login}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        writer.write(head + body)

    async with Socket(echo) as proxy:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"{LOGIN}@127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        reply = await reply_of("http://index.invalid/p")
    assert isinstance(reply, Answer)
    assert reply.status == 407
    assert proxy.requests[0].line == "POST http://index.invalid/p/vectors/upsert HTTP/1.1"
    assert base64.b64decode(proxy.requests[0].headers["proxy-authorization"].split()[1]) == b"svc/etl:p@ss-w0rd"
    assert not [secret for secret in SECRETS if secret in texts(reply)]


async def test_the_proxy_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that nobody runs, and one that lets nothing through: by its variable, without its login."""
    monkeypatch.delenv("no_proxy", raising=False)
    async with Socket(saying(b"HTTP/1.1 502 " + KEY.encode() + b"\r\n\r\n")) as refusing:
        for port in (closed_port(), refusing.port):
            monkeypatch.setenv("https_proxy", f"http://{LOGIN}@127.0.0.1:{port}")
            reply = await reply_of("https://index.invalid")
            assert isinstance(reply, TransportFailure)
            assert (reply.kind, reply.check) == (TransportKind.CONNECT, "https_proxy")
            assert f"proxy 127.0.0.1:{port} (https_proxy)" in reply.message
            assert not [secret for secret in SECRETS if secret in texts(reply)]


async def test_a_refused_key_is_read_anew_and_tried_once() -> None:
    """Where there is another one; the old one stays a secret."""
    keys = iter(["the-new-key", "the-new-key", "the-last-key", "the-last-key"])

    async def judge_key(writer: asyncio.StreamWriter) -> None:
        good = server.requests[-1].headers["api-key"] == "the-new-key"
        body = OK_BODY if good else f"Invalid API key {KEY} the-new-key the-last-key".encode()
        status = b"200 OK" if good else b"403 No"
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))

    async with Socket(judge_key) as server:
        address = IndexAddress(server.url, "x", KEY, lambda: next(keys))
        async with HttpIndex(address, timeout=5, connections=1) as edge:
            first = await edge.upsert(BODY)
            assert not edge.renew_key()
            assert edge.renew_key()
            last = await edge.upsert(BODY)
    assert isinstance(first, Answer)
    assert isinstance(last, Answer)
    assert [request.headers["api-key"] for request in server.requests] == [KEY, "the-new-key", "the-last-key"]
    assert not any(key in texts(last) for key in (KEY, "the-new-key", "the-last-key"))
