"""Owns a way to a server that kills the program on it once that has sent something for the n-th time.

What was sent is carried out, its answer does not come. So a kill does not depend on how fast anything is.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from forked import Process
    from servers import RealServer

PATIENCE: Final = 30.0
PART: Final = 65_536


class Trap:
    """A proxy on loopback in front of a server on a unix socket; it is set for the `nth` time that `marker` is sent."""

    def __init__(self, server: RealServer, marker: str, nth: int) -> None:
        self._path = server.socket_path
        self._marker = marker.encode()
        self._left = nth
        self._victim: Process | None = None
        self._known = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.sprung = threading.Event()
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def watch(self, victim: Process) -> None:
        """Kill this process, which waits for its first answer until then."""
        self._victim = victim
        self._known.set()

    def close(self) -> None:
        """End."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._path))
                for work in (self._forward, self._answer):
                    threading.Thread(target=work, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        assert self._known.wait(PATIENCE)
        tail = b""
        with suppress(OSError), client, server:
            while part := client.recv(PART):
                found = (tail + part).count(self._marker)
                self._left -= found
                tail = (tail + part)[-len(self._marker) + 1 :]
                if found and self._left <= 0 and self._victim is not None:
                    os.kill(self._victim.pid, signal.SIGKILL)
                    self._victim.wait()
                    server.sendall(part)
                    server.shutdown(socket.SHUT_WR)
                    while server.recv(PART):  # until all of it is carried out
                        pass
                    self.sprung.set()
                    return
                server.sendall(part)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while part := server.recv(PART):
                client.sendall(part)


@contextmanager
def trap(server: RealServer, marker: str, nth: int) -> Iterator[Trap]:
    """Set a trap."""
    found = Trap(server, marker, nth)
    try:
        yield found
    finally:
        found.close()
