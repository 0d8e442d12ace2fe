"""What strangers can do to the port of health and metrics: nothing that the worker would notice."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from upsertq.contract.errors import WorldError
from upsertq_worker.edge import http_server
from upsertq_worker.edge.http_server import Page, Route, serving
from upsertq_worker.edge.process import run_loop
from waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TOKEN = "token-of-the-test-0123"  # noqa: S105 - no secret
HOST = b"Host: localhost\r\n"
ASKED: list[str] = []


async def page(accept: str) -> Page:
    """Say something."""
    ASKED.append(accept)
    return Page(200, b"said\n")


async def broken(_: str) -> Page:
    """Fail as a bug would."""
    raise ZeroDivisionError("a bug, with TENANT in it")


ROUTES = {"/open": Route(page, open=True), "/figures": Route(page), "/broken": Route(broken, open=True)}


@asynccontextmanager
async def listening(token: str = "", host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Serve, and give the port."""
    ASKED.clear()
    async with serving(host, 0, token, ROUTES) as url:
        yield int(url.rpartition(":")[2])


async def said(port: int, *parts: bytes) -> bytes:
    """What comes back for these bytes until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def get(port: int, path: str = "/figures", *headers: bytes, host: bytes = HOST) -> bytes:
    """The answer to a GET."""
    head = b"GET " + path.encode() + b" HTTP/1.1\r\n" + host + b"".join(line + b"\r\n" for line in headers)
    return await said(port, head + b"\r\n")


def status(answer: bytes) -> int:
    """The status of an answer."""
    return int(answer.split()[1])


async def test_pages_are_served_once_a_connection() -> None:
    """With their type, no hint at what serves them, and the end of the connection."""
    async with listening() as port:
        answer = await get(port, "/figures", b"Accept: a/b")
        assert answer.endswith(b"\r\n\r\nsaid\n")
        assert ASKED == ["a/b"]
        for line in (b"Connection: close", b"Content-Type: text/plain; charset=utf-8", b"Server: upsertq\r\n"):
            assert line in answer
        assert b"aiohttp" not in answer
        head = await said(port, b"HEAD /figures HTTP/1.1\r\n" + HOST + b"\r\n")
        assert status(head) == 200
        assert head.endswith(b"\r\n\r\n")
        assert status(await get(port, "/nothing")) == 404
        one = b"GET /open HTTP/1.1\r\n" + HOST + b"\r\n"
        assert (await said(port, one * 40)).count(b"HTTP/1.1 200") == 1


async def test_a_token_is_asked_for_but_by_probes() -> None:
    """None, another one, a part of it, another scheme, junk: 401; the right one, and what is open: 200."""
    async with listening(TOKEN) as port:
        wrong: tuple[tuple[bytes, ...], ...] = (
            (),
            (b"Authorization: Bearer",),
            (b"Authorization: Bearer " + TOKEN[:-1].encode(),),
            (b"Authorization: Bearer " + TOKEN.encode() + b"x",),
            (b"Authorization: Basic " + TOKEN.encode(),),
            (b"Authorization: Bearer \xff\xfe\x80",),
        )
        for headers in wrong:
            answer = await get(port, "/figures", *headers)
            assert status(answer) == 401
            assert b"WWW-Authenticate: Bearer" in answer
        assert ASKED == []
        assert status(await get(port, "/figures", b"Authorization: Bearer " + TOKEN.encode())) == 200
        assert status(await get(port, "/figures", b"authorization: bearer  " + TOKEN.encode())) == 200
        assert status(await get(port, "/open")) == 200


async def test_a_web_page_cannot_reach_this_machine() -> None:
    """A name that leads here since a moment ago (DNS rebinding) is no name of this machine."""
    async with listening() as port:
        for host in (b"evil.example", b"127.0.0.1.evil.example", b"evil.example:80", b"[::2]", b"", b"a b"):
            assert status(await get(port, host=b"Host: " + host + b"\r\n")) in {400, 403}, host
        assert status(await get(port, host=b"Host: localhost\r\nHost: evil.example\r\n")) in {400, 403}
        assert ASKED == []
        for host in (b"localhost:9400", b"127.0.0.1", b"[::1]:1"):
            assert status(await get(port, host=b"Host: " + host + b"\r\n")) == 200
        assert status(await said(port, b"GET /open HTTP/1.0\r\n\r\n")) == 200  # a probe; a browser names the host
    async with listening(TOKEN) as port:
        header = b"Authorization: Bearer " + TOKEN.encode()
        assert status(await get(port, "/figures", header, host=b"Host: a.name.of.ours\r\n")) == 200


@pytest.mark.parametrize(
    "junk",
    [
        b"GET /" + b"a" * 3_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /open HTTP/1.1\r\n" + HOST + b"A: " + b"a" * 3_000 + b"\r\n\r\n",
        b"GET /open HTTP/1.1\r\n" + HOST + b"".join(b"A%d: b\r\n" % number for number in range(100)) + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n",
        b"GET /open HTTP/9.9\r\n" + HOST + b"\r\n",
        b"\r\n" * 50 + b"nonsense\r\n\r\n",
        b"GET http://[::1/open HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /open HTTP/1.1\r\n" + HOST + b"Content-Length: x\r\n\r\n",
    ],
)
async def test_junk_is_refused(junk: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A line, a header or headers that are too many; what is no HTTP. No page is asked for, and nothing is logged."""
    caplog.set_level(logging.DEBUG)
    async with listening() as port:
        answer = await said(port, junk)
        assert not answer or status(answer) in {400, 404, 431, 505}
        assert ASKED == []
        assert len(answer) < 1_000
        assert status(await get(port)) == 200
    assert [record for record in caplog.records if record.name != "asyncio"] == []


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"OPTIONS", b"BREW"])
async def test_a_body_is_not_read(method: bytes) -> None:
    """Nothing but GET and HEAD is answered, before a byte of the body has come."""
    async with listening() as port:
        head = method + b" /figures HTTP/1.1\r\n" + HOST + b"Content-Length: 10000000000\r\n\r\n"
        answer = await said(port, head)
        assert status(answer) in {400, 405}
        assert ASKED == []
        head = b"GET /figures HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        assert (await said(port, head)).endswith(b"said\n")


@pytest.mark.parametrize("sent", [b"", b"GET /figures HTTP/1.1\r\n", b"GET /figures HTTP/1.1\r\nA:"])
async def test_a_slow_client_is_cut(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection ends after its time, whatever was sent on it by then."""
    monkeypatch.setattr(http_server, "CONNECTION_SECONDS", 0.2)
    async with listening() as port:
        began = time.monotonic()
        async with asyncio.timeout(10):
            assert await said(port, sent) == b""
        assert time.monotonic() - began >= 0.15


async def test_connections_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than so many at a time are closed at once; when some have ended there is room again."""
    monkeypatch.setattr(http_server, "CONNECTIONS_MAX", 5)
    async with listening() as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        async with asyncio.timeout(10):
            assert await get(port) == b""
            for _, writer in held:
                writer.close()
            for reader, _ in held:
                await reader.read()
        await wait_until_async(lambda: get(port), 10, "there is room again")
        assert ASKED


def test_strangers_cost_no_more_on_the_loop_of_a_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Silent connections are cut and more than so many are closed there too, whose transports are not asyncio's."""
    monkeypatch.setattr(http_server, "CONNECTIONS_MAX", 5)
    monkeypatch.setattr(http_server, "CONNECTION_SECONDS", 0.5)

    async def story() -> None:
        async with listening() as port, asyncio.timeout(10):
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
            assert await get(port) == b""
            for reader, writer in held:
                with suppress(ConnectionError):
                    assert await reader.read() == b""
                writer.close()
            await wait_until_async(lambda: get(port), 10, "there is room again")

    run_loop(story())
    assert caplog.messages == []


async def test_a_bug_is_a_500_and_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The stranger learns nothing of it."""
    async with listening() as port:
        answer = await get(port, "/broken")
        assert status(answer) == 500
        assert b"TENANT" not in answer
        assert b"ZeroDivision" not in answer
    assert [record.getMessage() for record in caplog.records] == ["cannot answer /broken"]


async def test_an_address_that_cannot_be_had_is_one_line() -> None:
    """Taken by another process, or of no machine: named, with the option."""
    async with listening() as port:
        with pytest.raises(
            WorldError, match=rf"^cannot listen on 127\.0\.0\.1:{port} \(--http\): Address already in use$"
        ):
            await serving("127.0.0.1", port, "", ROUTES).__aenter__()
    with pytest.raises(WorldError, match=r"^cannot listen on no-such-host\.invalid:0 \(--http\): \S.*$"):
        await serving("no-such-host.invalid", 0, "", ROUTES).__aenter__()
    with pytest.raises(WorldError, match=r"--http"):
        await serving("192.0.2.1", 0, "", ROUTES).__aenter__()


async def test_ipv6_is_spelled_as_a_url() -> None:
    """In brackets."""
    try:
        async with serving("::1", 0, "", ROUTES) as url:
            assert url.startswith("http://[::1]:")
    except WorldError as error:
        pytest.skip(f"no IPv6 here: {error}")
