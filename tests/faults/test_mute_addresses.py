"""Addresses at which something listens that does not answer: each is told in a line, long before an answer is due."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from certificates import Certificates, tls_server
from sentinels import RealSentinel
from upsertq.contract import connect, fitness
from upsertq.contract.errors import ServerUnavailable, ServerUnfit
from upsertq.contract.protocol import Patience
from upsertq.contract.server import AsyncServer, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from servers import RealServer

LONG: Final = 3_600.0
SECONDS: Final = 60.0


def asked(url: str) -> Any:
    """What a blocking client says of a server."""
    server = Server.at(url)
    try:
        return server.hold(fitness.check_kind(Patience(0, time.monotonic, random.Random()), "look"))
    finally:
        server.close()


def asked_in_a_loop(url: str) -> Any:
    """The same for asyncio."""

    async def ask() -> Any:
        server = AsyncServer.at(url, answer_seconds=LONG)
        try:
            return await server.hold(fitness.check_kind(Patience(0, time.monotonic, random.Random()), "look"))
        finally:
            await server.close()

    return asyncio.run(ask())


@pytest.fixture(params=[asked, asked_in_a_loop], ids=["blocking", "asyncio"])
def refusal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Exception]:
    """Provide what comes of asking at an address, well before an answer's time is over."""
    monkeypatch.setattr(connect, "ANSWER_SECONDS", LONG)
    for short in ("GREETING_SECONDS", "CONNECT_SECONDS", "SENTINEL_SECONDS"):
        monkeypatch.setattr(connect, short, 0.5)

    def refused(url: str) -> Exception:
        raised: list[Exception] = []

        def ask() -> None:
            try:
                request.param(url)
            except Exception as error:  # noqa: BLE001 - told by the caller
                raised.append(error)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(SECONDS)
        assert not asking.is_alive(), "it still waits for an answer"
        return raised[0]

    return refused


@pytest.fixture
def mute() -> Iterator[int]:
    """Provide a port that takes connections, reads nothing and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()[1]


def test_tls_to_a_plain_port(refusal: Any, make_server: Callable[..., RealServer]) -> None:
    """The server waits for the end of a line, and so would we."""
    server = make_server(port=0)
    error = refusal(server.url.replace("redis://", "rediss://"))
    assert isinstance(error, ServerUnfit)
    assert f"127.0.0.1:{server.port} does not speak TLS: use redis:// in place of rediss://" in str(error)


def test_plain_to_a_tls_port(refusal: Any, tmp_path: Path) -> None:
    """It hangs up."""
    server, url = tls_server(tmp_path / "server", Certificates.made(tmp_path / "certificates"), "sesame")
    with server:
        error = refusal(url.replace("rediss://", "redis://"))
    assert isinstance(error, ServerUnfit)
    assert "speaks TLS: use rediss:// in place of redis://" in str(error)


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_what_never_answers(scheme: str, refusal: Any, mute: int) -> None:
    """It may be a server that is busy: it counts as one that is away."""
    error = refusal(f"{scheme}://127.0.0.1:{mute}/0")
    assert isinstance(error, ServerUnavailable)
    assert "is the server running and the URL right?" in str(error)


def test_tls_to_a_plain_sentinel(refusal: Any, tmp_path: Path, make_server: Callable[..., RealServer]) -> None:
    """A Sentinel is asked as the server would be, with TLS or without it."""
    primary = make_server(port=0)
    with RealSentinel(primary.kind, tmp_path / "sentinel", primary) as sentinel:
        error = refusal(sentinel.service_url.replace("redis+", "rediss+"))
    assert isinstance(error, ServerUnfit)
    assert f"127.0.0.1:{sentinel.port} does not speak TLS: use redis+sentinel://" in str(error)
