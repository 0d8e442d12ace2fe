"""Owns a way to the emulator that watches what passes, and kills the worker that sends what is deadly."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator


class Killer(ThreadingHTTPServer):
    """A proxy in front of the index `target`; the ids in `deadly` kill."""

    daemon_threads = True
    victim = 0
    """Process to be killed."""
    fuse = 0
    """Requests until one kills, whatever it carries, and is passed on all the same; below 1: none does."""

    def __init__(self, target: str, deadly: frozenset[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.target = target.removeprefix("http://")
        self.deadly = deadly
        self.killed: list[tuple[str, ...]] = []
        """The ids of each request that killed."""
        self._one_at_a_time = threading.Lock()

    def watch(self, ids: tuple[str, ...]) -> bool:
        """Take note of a batch; returns whether it was deadly."""
        deadly = not self.deadly.isdisjoint(ids)
        self.killed += [ids] * deadly
        with self._one_at_a_time:
            self.fuse -= 1
            if deadly or self.fuse == 0:
                os.kill(self.victim, signal.SIGKILL)
        return deadly


class _Passing(BaseHTTPRequestHandler):
    """Passes a request on, unless it kills: then nothing is left to be answered."""

    server: Killer
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        upsert = self.path == "/vectors/upsert"
        if upsert and self.server.watch(tuple(vector["id"] for vector in orjson.loads(body)["vectors"])):
            return
        with closing(HTTPConnection(self.server.target)) as index:
            index.request(self.command, self.path, body, {"Content-Type": "application/json"})
            answer = index.getresponse()
            content = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _pass_on  # noqa: N815 - as http.server has it

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def killing(target: str, *deadly: str) -> Iterator[Killer]:
    """Put a killer in front of an index."""
    with Killer(target, frozenset(deadly)) as killer:
        threading.Thread(target=killer.serve_forever).start()
        try:
            yield killer
        finally:
            killer.shutdown()
