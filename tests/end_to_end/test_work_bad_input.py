"""`upsertq work` and `run` with something wrong: one clear line, the right exit code, and the records stay."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from datasets import Dataset
from processes import books, call, complaint, emulated
from servers import closed_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from servers import RealServer

COUNT = 30


@contextmanager
def site(status: int, body: bytes, content_type: str = "text/html") -> Iterator[str]:
    """Run a web server that gives the same answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def url(redis_url: str, tmp_path: Path) -> str:
    """Provide a server with 30 records of 8 dimensions in the queue `q`."""
    call("load", Dataset.make(COUNT, 8).parquet(tmp_path / "v.parquet"), "--queue", "q", url=redis_url)
    return redis_url


def drain(url: str, host: str, *options: str, expect: int, **environment: str) -> str:
    """What the worker complains of; nothing of the backlog may be touched."""
    command = ("work", "--queue", "q", "--index-host", host, "--until-empty", *options)
    line = complaint(*command, url=url, expect=expect, timeout=60, **environment)
    assert books(url, "q")["pending"] == COUNT
    return line


def test_an_unreachable_index(url: str) -> None:
    """Nobody listens there: exit 1, naming the address and the option."""
    port = closed_port()
    line = drain(url, f"http://127.0.0.1:{port}", expect=1)
    assert f"127.0.0.1:{port}" in line
    assert "--index-host" in line
    assert "refused" in line.lower()


def test_an_unknown_host(url: str) -> None:
    """A name that nobody has: exit 1, naming it."""
    line = drain(url, "no-such-index.invalid", expect=1, PINECONE_API_KEY="k")
    assert "no-such-index.invalid" in line


def test_a_host_that_answers_html(url: str) -> None:
    """A web site is no index: exit 5, saying so."""
    with site(200, b"<html><title>Welcome</title></html>") as host:
        assert "not an index" in drain(url, host, expect=5)


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "PINECONE_API_KEY"), (403, "may write"), (404, "--index-host and that the index exists")],
)
def test_a_host_that_refuses(status: int, words: str, url: str) -> None:
    """A wrong key, a missing right, a deleted index: exit 5, saying what to check, at the latest by the first batch."""
    with site(status, b"", "text/plain") as host:
        assert words in drain(url, host, "--pause-timeout", "1", expect=5)


def test_a_proxy_that_cannot_be_used(url: str) -> None:
    """Its kind, or its place: the variable is to blame, and its login is not shown."""
    port = closed_port()
    for value, expect, words in (
        ("socks5://svc:s3cret@127.0.0.1:1", 2, "SOCKS"),
        (f"svc:s3cret@127.0.0.1:{port}", 1, f"127.0.0.1:{port}"),
    ):
        line = drain(url, "https://index.invalid", expect=expect, PINECONE_API_KEY="k", HTTPS_PROXY=value, no_proxy="")
        assert "HTTPS_PROXY" in line
        assert words in line
        assert "s3cret" not in line
        assert "--index-host" not in line


def test_an_index_of_another_dimension(url: str) -> None:
    """An index of 16 dimensions does not fit a queue of 8: exit 5 before anything is sent."""
    with emulated("--dimension", "16") as index:
        line = drain(url, index.url, expect=5)
        assert "16 dimensions" in line
        assert index.counters["upserts"] == 0


def test_no_key(url: str) -> None:
    """Beyond this machine a key is needed: exit 2, naming the variable."""
    assert "PINECONE_API_KEY" in drain(url, "https://index.example", expect=2)


def test_a_missing_key_file(url: str) -> None:
    """A key's file that cannot be read: exit 2, naming it."""
    assert "/nowhere/key" in drain(url, "https://index.example", expect=2, PINECONE_API_KEY_FILE="/nowhere/key")


def test_plain_http_beyond_this_machine(url: str) -> None:
    """Plain http would send the key in the clear: exit 2, naming the way out; the key itself is not shown."""
    line = drain(url, "http://index.example", expect=2, PINECONE_API_KEY="SECRET-KEY")
    assert "--allow-http" in line
    assert "SECRET" not in line


def test_wrong_options_are_told_together(url: str) -> None:
    """Every fault of the options is named at once."""
    line = drain(url, "http://127.0.0.1:1", "--batch-size", "0", "--linger", "-1", "--quarantine", "50", expect=2)
    assert all(option in line for option in ("--batch-size", "--linger", "--quarantine"))


def test_an_unreachable_server() -> None:
    """No Redis there: exit 1, naming what to check."""
    line = complaint(
        "work", "--index-host", "http://127.0.0.1:1", url=f"redis://:SECRET@127.0.0.1:{closed_port()}/0", expect=1
    )
    assert "SECRET" not in line
    assert "URL" in line


def test_a_wrong_password(make_server: Callable[..., RealServer]) -> None:
    """A Redis that wants another password: exit 1, without waiting and without showing it."""
    server = make_server(port=0, password="right")  # noqa: S106 - of a server that lives for this test
    line = complaint(
        "work", "--index-host", "http://127.0.0.1:1", url=f"redis://:SECRET@127.0.0.1:{server.port}/0", expect=1
    )
    assert "SECRET" not in line
    assert "password" in line.lower()


def test_run_ends_with_its_worker(redis_url: str, tmp_path: Path) -> None:
    """`run` against an index that refuses ends with the worker's line and code; the load can be resumed, all stays."""
    source = Dataset.make(COUNT, 8).parquet(tmp_path / "v.parquet")
    with site(401, b'"Unauthorized"', "application/json") as host:
        done = call("run", source, "--queue", "q", "--index-host", host, url=redis_url, expect=5)
    lines = [line for line in done.stderr.splitlines() if line.startswith("upsertq: ")]
    assert "PINECONE_API_KEY" in lines[0], done.stderr
    # where the worker ended before the load did, the load says how far it came
    assert len(lines) == 1 or "--resume" in lines[1], done.stderr
    call("load", source, "--queue", "q", "--resume", url=redis_url)
    assert books(redis_url, "q")["pending"] == COUNT
