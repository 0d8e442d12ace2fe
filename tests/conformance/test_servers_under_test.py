"""The servers that the tests run on: real, empty, apart from the user's, and gone when the tests are."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import servers
from waiting import wait_until, wait_until_async

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Backend
    from servers import RealServer

TESTS = Path(servers.__file__).parent


def alive(pid: int) -> bool:
    """Tell whether the process `pid` exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_each_kind_is_the_server_it_says(any_server: RealServer) -> None:
    """A server of every kind answers with the version in the test's id."""
    with any_server.client() as client:
        info = client.info("server")
    told = info.get("valkey_version") or info["redis_version"]
    assert any_server.kind.id == f"{any_server.kind.name}-{told}"


@pytest.mark.parametrize("turn", [1, 2])
def test_every_test_gets_an_empty_server(redis_server: RealServer, turn: int) -> None:
    """What one test wrote is gone in the next."""
    with redis_server.client() as client:
        assert client.dbsize() == 0
        client.set("left over", turn)


def test_restart_keeps_data_and_address(make_server: Callable[..., RealServer]) -> None:
    """After SIGKILL the same address serves the same data."""
    server = make_server(appendonly="always", port=0)
    with server.client() as client:
        client.set("kept", "yes")
    address = server.url
    server.kill()
    assert not server.alive
    server.start()
    assert server.url == address
    with server.client() as client:
        assert client.get("kept") == b"yes"


def test_a_port_that_is_taken_meanwhile(
    make_server: Callable[..., RealServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server takes another one, and keeps it."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken = stranger.getsockname()[1]
        ports = iter([taken, taken, servers.free_port()])
        monkeypatch.setattr(servers, "free_port", lambda: next(ports))
        server = make_server(port=0)
        first = server.port
        server.restart()
        assert first == server.port != taken
        with server.client() as client:
            assert client.ping()


def test_a_closed_port_refuses() -> None:
    """And nothing else can have it while the tests run."""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", servers.closed_port()))
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", servers.closed_port()))


def test_password_and_memory_limit(make_server: Callable[..., RealServer]) -> None:
    """The options reach the server, and the password is not on its command line."""
    server = make_server(password="pass word@1", maxmemory="20mb")  # noqa: S106
    with server.client() as client:
        assert client.config_get("maxmemory")["maxmemory"] == str(20 * 1024 * 1024)
    stranger = redis.Redis(unix_socket_path=str(server.socket_path), retry=Retry(NoBackoff(), 0))
    with stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    assert "pass word@1" not in str(server.process.args)


def test_long_directory(make_server: Callable[..., RealServer], tmp_path: Path) -> None:
    """A directory too long for a socket path works all the same."""
    with make_server(directory=tmp_path / ("long" * 30)).client() as client:
        assert client.ping()


def test_a_killed_test_process_leaves_no_server(tmp_path: Path) -> None:
    """A server dies with its test process, even when that is killed."""
    program = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(TESTS)!r})
        from pathlib import Path
        from servers import RealServer, available_kinds
        server = RealServer(available_kinds()[0], Path({str(tmp_path)!r})).start()
        print(server.process.pid, flush=True)
        sys.stdin.read()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as tester:
        assert tester.stdout is not None
        pid = int(tester.stdout.readline())
        assert alive(pid)
        tester.send_signal(signal.SIGKILL)
    wait_until(lambda: not alive(pid), 30, "the orphaned server is gone")


async def test_backend_serves_both_clients_and_scripts(backend: Backend) -> None:
    """On every backend the synchronous and asynchronous client see one database and may run Lua."""
    backend.sync.set("a", 1)
    client = backend.make_async()
    assert await client.get("a") == b"1"
    assert await client.eval("return redis.call('INCRBY', KEYS[1], ARGV[1])", 1, "a", 2) == 3
    assert backend.sync.get("a") == b"3"


def test_backend_works_in_synchronous_tests(backend: Backend) -> None:
    """A test without an event loop may use a backend, and finds it empty."""
    assert backend.sync.dbsize() == 0


def test_environment_is_hidden() -> None:
    """No address, key or proxy of the user's reaches a test."""
    hidden = {"redis_url", "upsertq_redis_url", "pinecone_api_key", "http_proxy", "https_proxy", "all_proxy"}
    assert hidden.isdisjoint({name.lower() for name in os.environ})


async def test_waiting_fails_by_name() -> None:
    """A wait in vain fails and names what it waited for."""
    assert wait_until(lambda: 7, 1, "seven") == 7
    with pytest.raises(pytest.fail.Exception, match="until pigs fly"):
        wait_until(lambda: 0, 0, "pigs fly")

    async def never() -> bool:
        return False

    with pytest.raises(pytest.fail.Exception, match="until pigs fly"):
        await wait_until_async(never, 0.01, "pigs fly")
