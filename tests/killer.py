"""Owns a way to the emulator that watches what passes, and kills the worker that sends what is deadly."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import aiohttp
import orjson
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE: Final = 30.0
"""Seconds to start and to end in."""
_OF_THE_HOP: Final = ("Host", "Content-Length", "Content-Encoding", "Transfer-Encoding", "Connection")


class Killer:
    """A proxy in front of an index.

    Args:
        target: the index.
        deadly: ids that kill.
    """

    def __init__(self, target: str, deadly: frozenset[str]) -> None:
        self.victim = 0
        """Process to be killed."""
        self.fuse: float | None = None
        """Seconds after which the next request kills, whatever it carries; `None`: it does not."""
        self.killed: list[tuple[str, ...]] = []
        """The ids of each request that killed."""
        self.url = ""
        self._target = target
        self._deadly = deadly

    async def handle(self, request: web.Request) -> web.Response:
        """Pass a request on, unless it kills: then nobody is left to be answered."""
        body = await request.read()
        ids: tuple[str, ...] = ()
        if request.path == "/vectors/upsert":
            if self.fuse is not None:
                # a request of the last victim may come only now: the one that is there is killed
                asyncio.get_running_loop().call_later(self.fuse, lambda: os.kill(self.victim, signal.SIGKILL))
                self.fuse = None
            ids = tuple(vector["id"] for vector in orjson.loads(body)["vectors"])
        if not self._deadly.isdisjoint(ids):
            self.killed.append(ids)
            os.kill(self.victim, signal.SIGKILL)
            raise web.HTTPBadGateway
        headers = {name: value for name, value in request.headers.items() if name not in _OF_THE_HOP}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(request.method, self._target + request.path_qs, data=body, headers=headers) as answer,
        ):
            return web.Response(
                status=answer.status, body=await answer.read(), headers={"Content-Type": "application/json"}
            )

    async def serve(self, ready: threading.Event, over: asyncio.Event) -> None:
        """Serve on a port of its own until it is over."""
        app = web.Application(client_max_size=10_000_000)
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = "http://{}:{}".format(*runner.addresses[0][:2])
        ready.set()
        await over.wait()
        await runner.cleanup()


@contextmanager
def killing(target: str, *deadly: str) -> Iterator[Killer]:
    """Put a killer in front of an index."""
    killer = Killer(target, frozenset(deadly))
    ready, over = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(killer.serve(ready, over))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(PATIENCE), "the killer does not start"
        yield killer
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(PATIENCE)
