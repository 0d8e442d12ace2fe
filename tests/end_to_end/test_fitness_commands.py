"""A server that cannot keep a queue is refused in one line; one that may lose it is told of."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from processes import call, complaint, document, emulated
from servers import available_kinds
from upsertq import AsyncProducer, Producer, ServerUnavailable, ServerUnfit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from servers import RealServer, ServerKind

Q: Final = ("--queue", "q")
every_kind = pytest.mark.parametrize("kind", available_kinds(), ids=lambda kind: kind.id)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Provide a file of one record."""
    file = tmp_path / "r.jsonl"
    file.write_text('{"id": "a", "values": [1, 2]}\n')
    return file


@every_kind
def test_producers_look_at_the_settings_of_every_server(
    kind: ServerKind, make_server: Callable[..., RealServer], caplog: pytest.LogCaptureFixture
) -> None:
    """Refused, warned of once, or nothing said."""
    server = make_server(kind)
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(ServerUnfit, match=r"allkeys-lru.*noeviction.*--allow-eviction"):
            Producer("q", url=server.url).put("a", [1.0])
        assert not client.keys("*")
        with Producer("q", url=server.url, allow_eviction=True) as producer:
            producer.put("b", [1.0, 2.0])
        assert [one.getMessage().count("allkeys-lru") for one in caplog.records] == [1, 0]
        caplog.clear()
        client.config_set("maxmemory-policy", "volatile-ttl")
        for _ in range(2):
            with producer:
                producer.put("b", [1.0, 2.0])
        assert "".join(caplog.messages).count("volatile-ttl") == 0  # it looked when it opened the queue
        Producer("q", url=server.url).put("c", [1.0, 2.0])
        said = caplog.messages
        assert sum("volatile-ttl" in one for one in said) == sum("no append-only file" in one for one in said) == 1
        caplog.clear()
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "yes")
        Producer("q", url=server.url).put("c", [1.0, 2.0])
        assert caplog.messages == []


def test_a_server_that_evicts_is_refused_until_told(make_server: Callable[..., RealServer], records: Path) -> None:
    """By load, run and work; nothing is written. `status` shows it always."""
    server = make_server()
    with server.client() as client, emulated() as index:
        client.config_set("maxmemory-policy", "allkeys-lru")
        host = ("--index-host", index.url)
        for command in (("load", records, *Q), ("work", *Q, *host), ("run", records, *Q, *host)):
            said = complaint(*command, url=server.url, expect=1)
            assert "allkeys-lru" in said
            assert "--allow-eviction" in said
            assert "noeviction" in said
        assert not client.keys("*")
        call("load", records, *Q, "--allow-eviction", url=server.url)
        call("run", records, *Q, *host, "--allow-eviction", url=server.url)
        assert "warning: the server evicts keys" in call("status", *Q, url=server.url).stdout
    told = document("status", *Q, url=server.url)["server"]
    assert told["policy"] == "allkeys-lru"
    assert any("allkeys-lru" in warning for warning in told["warnings"])


async def test_an_asyncio_producer_refuses_too(make_server: Callable[..., RealServer]) -> None:
    """The same for asyncio."""
    server = make_server()
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-random")
    with pytest.raises(ServerUnfit, match="allkeys-random"):
        async with AsyncProducer("q", url=server.url):
            pass  # its connection is closed with the refusal: warnings are errors here
    async with AsyncProducer("q", url=server.url, allow_eviction=True) as producer:
        await producer.put("a", [1.0])


def test_what_may_be_lost_is_warned_of_once(make_server: Callable[..., RealServer], records: Path) -> None:
    """No append-only file and no replica; keys that expire may go. With an append-only file nothing is said."""
    server = make_server()
    with server.client() as client:
        client.config_set("maxmemory-policy", "volatile-lru")
        done = call("load", records, *Q, url=server.url)
        assert done.stderr.count("volatile-lru") == 1, done.stderr
        assert done.stderr.count("no append-only file") == 1, done.stderr
        shown = call("status", *Q, url=server.url).stdout
        assert "warning: the server keeps no append-only file and has no replica" in shown
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "yes")
        assert call("load", records, *Q, url=server.url).stderr == ""
        shown = call("status", *Q, url=server.url).stdout
    assert "warning" not in shown
    assert "maxmemory-policy noeviction, append-only file, 0 replicas" in shown


def test_run_warns_once_for_both_of_its_processes(make_server: Callable[..., RealServer], records: Path) -> None:
    """Its worker is on the same server."""
    server = make_server()
    with emulated() as index:
        done = call("run", records, *Q, "--index-host", index.url, url=server.url)
    assert done.stderr.count("no append-only file") == 1, done.stderr


def test_the_embedded_server_does_not_warn_of_itself(records: Path) -> None:
    """Its settings are ours."""
    assert call("load", records, *Q, url=None).stderr == ""
    assert "warning" not in call("status", *Q, url=None).stdout


def test_where_info_is_not_allowed_nothing_is_said(make_server: Callable[..., RealServer], records: Path) -> None:
    """But for one line of `status`."""
    server = make_server(port=0, password="sesame")  # noqa: S106 - the test's own
    with server.client() as client:
        command: Any = client.execute_command
        command("ACL", "SETUSER", "etl", "on", ">open", "~*", "+@all", "-info", "-config")
    url = f"redis://etl:open@127.0.0.1:{server.port}/0"
    assert call("load", records, *Q, url=url).stderr == ""
    shown = call("status", *Q, url=url).stdout
    assert shown.count("server: it does not tell") == 1
    assert "warning" not in shown


def refused_everywhere(url: str, records: Path) -> list[str]:
    """What commands and a producer say, one line each."""
    with emulated() as index:
        commands = (("load", records, *Q), ("status", *Q), ("work", *Q, "--index-host", index.url))
        return [refused(url), *(complaint(*command, url=url, expect=1) for command in commands)]


def refused(url: str) -> str:
    """What a producer says."""
    with pytest.raises(ServerUnfit) as raised:
        Producer("q", url=url).put("a", [1.0])
    return str(raised.value)


def test_a_node_of_a_cluster_without_slots(make_server: Callable[..., RealServer], records: Path) -> None:
    """The cluster may be made just now: it is waited for, and the last line says what is missing."""
    url, words = make_server(port=0, arguments=("--cluster-enabled", "yes")).url, "are all slots of the cluster served"
    with pytest.raises(ServerUnavailable, match=words):
        Producer("q", url=url, timeout=0).put("a", [1.0])
    assert words in complaint("load", records, *Q, "--timeout", "1", url=url, expect=1)


@every_kind
def test_a_sentinel(kind: ServerKind, make_server: Callable[..., RealServer], records: Path) -> None:
    """It keeps no data, and names who does."""
    url = make_server(kind, port=0, arguments=("--sentinel",)).url
    for said in refused_everywhere(url, records) if kind is available_kinds()[0] else [refused(url)]:
        assert "this is a Sentinel" in said


class _Page(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_an_http_server(records: Path) -> None:
    """The port of something else, spoken to with and without TLS."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for said in refused_everywhere(f"redis://127.0.0.1:{server.server_port}/0", records):
            assert "is an HTTP server" in said
        with pytest.raises(ServerUnfit, match="is an HTTP server"):
            Producer("q", url=f"rediss://127.0.0.1:{server.server_port}/0").put("a", [1.0])
        server.shutdown()


def test_tls_to_a_plain_port(make_server: Callable[..., RealServer]) -> None:
    """The server waits for the end of a command that never comes: it is asked in plain."""
    server = make_server(port=0)
    with pytest.raises(ServerUnfit, match=r"does not speak TLS: use redis://"):
        Producer("q", url=server.url.replace("redis://", "rediss://")).put("a", [1.0])


def test_plain_to_a_tls_port_and_a_foreign_certificate(tmp_path: Path) -> None:
    """The port hangs up on us; and a certificate that nobody vouches for is named as such."""
    with tls_port(tmp_path) as port:
        with pytest.raises(ServerUnfit, match=r"speaks TLS: use rediss://"):
            Producer("q", url=f"redis://127.0.0.1:{port}/0").put("a", [1.0])
        with pytest.raises(ServerUnfit, match=r"CERTIFICATE_VERIFY_FAILED.*ssl_ca_certs"):
            Producer("q", url=f"rediss://127.0.0.1:{port}/0").put("a", [1.0])


@contextlib.contextmanager
def tls_port(directory: Path) -> Iterator[int]:
    """A port that speaks TLS with a certificate of its own, and hangs up on everything else."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    made = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost")
    try:
        subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("no openssl here to make a certificate with")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = listener.accept()
                line.settimeout(5)
                with contextlib.suppress(OSError, ssl.SSLError):
                    line = context.wrap_socket(line, server_side=True)
                line.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
