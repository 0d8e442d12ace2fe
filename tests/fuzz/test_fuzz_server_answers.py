"""Whatever answers at the server's address, opening a queue there ends soon, in the queue or in a named error."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import fuzzed
from upsertq import Producer, UpsertqError

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET: Final = "sesame-27"  # noqa: S105 - the test's own
SETUP: Final = (b"CLIENT", b"AUTH", b"SELECT")
"""What the client says first on each connection: it is answered as a server would, or nothing else would be reached."""

words = st.sampled_from(
    ["NOAUTH", "LOADING", "MOVED", "ASK", "CLUSTERDOWN", "OOM", "READONLY", "NOSCRIPT", "ERR", "BUSY", "WRONGTYPE", ""]
)
texts = st.text(st.characters(codec="utf-8"), max_size=40)


def _line(kind: bytes, text: str) -> bytes:
    return kind + text.replace("\r", " ").replace("\n", " ").encode() + b"\r\n"


def _bulk(content: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(content), content)


def _array(parts: list[bytes]) -> bytes:
    return b"*%d\r\n%s" % (len(parts), b"".join(parts))


info = st.dictionaries(
    st.sampled_from(
        ["redis_version", "redis_mode", "server_mode", "role", "maxmemory_policy", "maxmemory", "aof_enabled", "db0"]
    ),
    st.one_of(st.sampled_from(["cluster", "sentinel", "allkeys-lru", "volatile-ttl", "0", "1"]), texts),
).map(lambda said: _bulk("\r\n".join(f"{name}:{value}" for name, value in said.items()).encode()))
scalar = st.one_of(
    st.builds(_line, st.just(b"+"), texts),
    st.builds(lambda word, text: _line(b"-", f"{word} {text}"), words, texts),
    st.integers(-(2**70), 2**70).map(lambda number: b":%d\r\n" % number),
    st.binary(max_size=60).map(_bulk),
    st.sampled_from([b"$-1\r\n", b"*-1\r\n", b"_\r\n"]),
    info,
)
reply = st.recursive(scalar, lambda inner: st.lists(inner, max_size=5).map(_array), max_leaves=8)
shape = st.lists(st.sampled_from([b"2", b"1", b"8", b"", b"x"]).map(_bulk), min_size=2, max_size=5).map(_array)
answer = st.one_of(
    reply, shape, st.binary(max_size=80), st.builds(lambda one, cut: one[:cut], reply, st.integers(0, 9))
)


@contextlib.contextmanager
def answering(answers: list[bytes]) -> Iterator[int]:
    """A port that gives these answers, whatever it is asked, then hangs up for good."""
    left = iter(answers)

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = listener.accept()
                line.settimeout(2)
                with contextlib.suppress(OSError):
                    _answer(line, left)
                line.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def _answer(line: socket.socket, left: Iterator[bytes]) -> None:
    while part := line.recv(65536):
        setup = sum(part.count(b"\r\n%s\r\n" % word) for word in SETUP)
        line.sendall(b"+OK\r\n" * setup)
        if setup:
            continue
        one = next(left, None)
        if one is None:
            return
        line.sendall(one)
        if not one.endswith(b"\r\n"):
            return  # the client waits for more: there is none


@pytest.mark.timeout(600)
@fuzzed(examples=300)
@given(answers=st.lists(answer, max_size=4))
def test_opening_a_queue_ends_in_a_named_error(answers: list[bytes]) -> None:
    """No other exception, no hanging, no password, and one line."""
    with answering(answers) as port:
        producer = Producer("q", url=f"redis://:{SECRET}@127.0.0.1:{port}/0", timeout=0)
        # a reply that is cut short and never goes on costs this much: the line stays open as long as the port does
        producer._server._link._client.connection_pool.connection_kwargs["socket_timeout"] = 0.1
        begun, said = time.monotonic(), ""
        try:
            producer.__enter__()
        except UpsertqError as error:
            said = str(error)
        assert SECRET not in said
        assert said.isprintable(), said
        assert time.monotonic() - begun < 30
        producer._server.close()
