"""The embedded server's guardian: a detached process that starts the server and ends it after its last user.

It is run as a file with the standard library alone (`python -I -S`), so it must never import the package; it must never
start a second server on the same data, nor outlive the last user. Facts are locks, which the kernel releases however a
process ends; process ids are recorded for people to read.

    users.lock      shared by every command that uses the server; the guardian waits to have it for itself
    guardian.lock   held by the guardian
    server.lock     inherited by the server: taken exactly as long as a process of it lives
    start.lock      held by the one command that is looking for a guardian
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import runpy
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_SOCKET_PATH: Final = 100  # sun_path holds 104 bytes on macOS and 108 on Linux, the closing NUL among them
ANSWER_TIMEOUT: Final = 2.0
START_TIMEOUT: Final = 30.0
STOP_TIMEOUT: Final = 60.0
POLL: Final = 0.01
LARGEST_LOG: Final = 1_000_000
RESTARTS: Final = 5  # within RESTART_WINDOW seconds: a server that dies faster has a fault that starting cannot cure
RESTART_WINDOW: Final = 60.0
READY: Final = "ready"

CONFIG: Final = """\
# written at every first start of the embedded server: changes made here are lost
port 0
unixsocket {socket}
unixsocketperm 700
dir {data}
daemonize no
logfile ""
appendonly yes
appendfsync {fsync}
aof-use-rdb-preamble yes
aof-load-truncated yes
save ""
maxmemory-policy noeviction
"""


class StartError(Exception):
    """The server could not be started; the text says why and what to do."""


@dataclass(frozen=True)
class Home:
    """The directory of one embedded server, readable by its owner alone."""

    root: Path

    @property
    def data(self) -> Path:
        """The directory of the append-only file."""
        return self.root / "data"

    @property
    def log(self) -> Path:
        """What the server and its guardian had to say."""
        return self.root / "server.log"

    @property
    def config(self) -> Path:
        """The running server's settings."""
        return self.root / "server.conf"

    @property
    def address(self) -> Path:
        """JSON: the socket, and the process ids of server and guardian as they were at the start."""
        return self.root / "address.json"

    @property
    def writer(self) -> Path:
        """The name and version of the server that last wrote the data."""
        return self.root / "written-by"

    def lock(self, role: str) -> Path:
        """Return the lock file of `users`, `guardian`, `server` or `start`."""
        return self.root / f"{role}.lock"

    def socket(self) -> Path | None:
        """Return the recorded socket; None before the first start and after an orderly end."""
        try:
            return Path(json.loads(self.address.read_text())["socket"])
        except (OSError, ValueError, KeyError):
            return None

    def written_by(self) -> str | None:
        """Return, such as `valkey 9.1.2`, the server that last wrote the data; None when there are none."""
        try:
            return self.writer.read_text().strip() or None
        except OSError:
            return None


def hold(path: Path, *, shared: bool = False) -> int:
    """Wait for the lock `path` and return its descriptor; closing it, or the end of the process, releases the lock."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    except BaseException:
        os.close(lock)
        raise
    return lock


def try_hold(path: Path) -> int | None:
    """Take the lock `path` if it is free, without waiting; None if it is taken."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def is_held(path: Path) -> bool:
    """Tell whether any process holds the lock `path`."""
    lock = try_hold(path)
    if lock is not None:
        os.close(lock)
    return lock is None


def write_fresh(path: Path, text: str) -> None:
    """Put a new file, readable by its owner alone, in the place of `path`: a link there is replaced, never followed."""
    opened, name = tempfile.mkstemp(".new", f"{path.name}.", path.parent)
    with os.fdopen(opened, "w", encoding="utf-8") as fresh:
        fresh.write(text)
    os.replace(name, path)  # noqa: PTH105 - as it is named


def open_log(home: Home) -> int:
    """Open the log to append to; a link in its place is refused."""
    return os.open(home.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def ask(address: Path | None, command: str) -> bytes:
    """Return the server's reply to one inline command (a bulk reply's content), or nothing if it does not answer."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_TIMEOUT)
        connection.connect(str(address))
        connection.sendall(f"{command}\r\n".encode())
        with connection.makefile("rb") as reply:
            line = reply.readline()
            return reply.read(int(line[1:])) if line.startswith(b"$") else line
    return b""


def _cut_torn_transaction(directory: Path) -> int:
    """See `torn.py`, which is found by its file: this process knows no package."""
    return int(runpy.run_path(str(Path(__file__).with_name("torn.py")))["cut_torn_transaction"](directory))


def _quoted(path: Path) -> str:
    shown = (
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}"  # noqa: PLR2004 - printable ASCII
        for byte in os.fsencode(path)
    )
    return f'"{"".join(shown)}"'


def _is_private(directory: Path) -> bool:
    try:
        status = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def place_socket(home: Home) -> Path:
    """Return where the socket goes: into the home, or into a short private directory where that path is too long."""
    inside = home.root / "redis.sock"
    if len(os.fsencode(inside)) <= LONGEST_SOCKET_PATH:
        return inside
    before = home.socket()
    if before is not None and _is_private(before.parent):
        return before
    short = Path(tempfile.mkdtemp(prefix="upsertq-"))
    if len(os.fsencode(short / inside.name)) > LONGEST_SOCKET_PATH:
        short.rmdir()
        short = Path(tempfile.mkdtemp(prefix="upsertq-", dir="/tmp"))
    return short / inside.name


class Guardian:
    """Starts or adopts the server of one home, and serves until nothing uses it."""

    def __init__(self, home: Home, binary: str, label: str, fsync: str) -> None:
        self._home = home
        self._binary = binary
        self._label = label
        self._fsync = fsync
        self._socket: Path | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._starts: list[float] = []
        self._leaving = threading.Event()
        self._ended = threading.Event()

    def take_charge(self) -> None:
        """Start the server, or adopt the one that a killed guardian left behind; raise StartError if neither works."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            lock = try_hold(self._home.lock("server"))
            if lock is not None:
                self._socket = place_socket(self._home)
                self._configure()
                self._start(lock)
                return
            self._socket = self._home.socket()
            told = ask(self._socket, "INFO server")
            if b"process_id:" in told:
                self._pid = int(told.split(b"process_id:", 1)[1].split(None, 1)[0])
                self._record()
                return
            if time.monotonic() > deadline:
                raise StartError(
                    f"a server process that does not answer holds the data in {self._home.data}; end it and try "
                    f"again ({self._home.address} may name it; on a network drive it may run on another machine)"
                )
            time.sleep(POLL)

    def serve(self) -> None:
        """Keep the server running until the last user is gone, then shut it down and clean up."""
        threading.Thread(target=self._leave_when_unused, daemon=True).start()
        while True:
            lock = hold(self._home.lock("server"))  # granted when the server's process has ended
            if self._child is not None:
                self._child.wait()
            if self._leaving.is_set():
                break
            print(f"guardian: {self._label} ended while in use; starting it again", flush=True)  # noqa: T201
            self._start(lock)
        self._ended.set()
        self._home.address.unlink(missing_ok=True)
        if self._socket is not None and self._socket.parent != self._home.root:
            with contextlib.suppress(OSError):
                self._socket.unlink(missing_ok=True)
                self._socket.parent.rmdir()

    def _leave_when_unused(self) -> None:
        hold(self._home.lock("users"))  # kept to the end of this process: newcomers wait until the server is gone
        self._leaving.set()
        deadline = time.monotonic() + STOP_TIMEOUT
        while not self._ended.is_set():
            ask(self._socket, "SHUTDOWN")
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)
            self._ended.wait(0.05)

    def _configure(self) -> None:
        self._home.data.mkdir(mode=0o700, exist_ok=True)
        if self._socket is not None:
            settings = CONFIG.format(socket=_quoted(self._socket), data=_quoted(self._home.data), fsync=self._fsync)
            write_fresh(self._home.config, settings)

    def _start(self, lock: int) -> None:
        now = time.monotonic()
        self._starts = [at for at in self._starts if at > now - RESTART_WINDOW] + [now]
        if len(self._starts) > RESTARTS:
            raise StartError(f"{self._label} ended {RESTARTS} times in {RESTART_WINDOW:g} s; see {self._home.log}")
        if cut := _cut_torn_transaction(self._home.data):
            print(f"guardian: cut {cut} bytes of a transaction that was torn when the server died", flush=True)  # noqa: T201
        with os.fdopen(open_log(self._home), "ab") as log, self._home.config.open("rb") as config:
            begin = log.tell()
            try:
                self._child = subprocess.Popen(  # noqa: S603 - the binary that the user's command chose
                    [self._binary, "-"],  # Redis 7 takes a path with '?' or '[' for a pattern, and passes over it
                    stdin=config,
                    stdout=log,
                    stderr=log,
                    pass_fds=(lock,),
                )
            except OSError as error:
                raise StartError(f"cannot run {self._binary}: {error.strerror}") from error
            finally:
                os.close(lock)
        self._pid = self._child.pid
        self._record()
        self._wait_until_ready(self._child, begin)
        write_fresh(self._home.writer, self._label)

    def _wait_until_ready(self, child: subprocess.Popen[bytes], log_begin: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while (reply := ask(self._socket, "PING")) != b"+PONG\r\n":
            if child.poll() is not None:
                raise StartError(self._failure(log_begin))
            if reply.startswith(b"-LOADING"):
                deadline = time.monotonic() + START_TIMEOUT  # a long file takes its time
            elif time.monotonic() > deadline:
                child.kill()
                child.wait()
                raise StartError(f"{self._label} did not answer within {START_TIMEOUT:g} s; see {self._home.log}")
            time.sleep(POLL)

    def _failure(self, log_begin: int) -> str:
        with self._home.log.open("rb") as log:
            log.seek(log_begin)
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        text = f"{self._label} ({self._binary}) ended while starting: {lines[-1] if lines else 'it said nothing'}"
        before = self._home.written_by()
        if before not in (None, self._label):
            text += f"; its data were written by {before}, whose format it may not read: put {before} back on PATH"
        return f"{text}; the whole log is {self._home.log}"

    def _record(self) -> None:
        known = {"socket": str(self._socket), "server_pid": self._pid, "guardian_pid": os.getpid()}
        write_fresh(self._home.address, json.dumps(known))


def _detach(home: Home) -> None:
    with contextlib.suppress(FileNotFoundError):
        if home.log.stat().st_size > LARGEST_LOG:
            home.log.replace(home.log.with_suffix(".log.1"))
    log = open_log(home)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)


def _guard(home: Home, options: Sequence[str], report: int) -> None:
    """Be the guardian, unless there is one; tell `report` the outcome of the start."""
    mine = try_hold(home.lock("guardian"))
    if mine is None:
        os.write(report, READY.encode())
        return
    guardian = Guardian(home, *options)
    try:
        guardian.take_charge()
    except (StartError, OSError) as error:
        os.write(report, str(error).encode())
        return
    with contextlib.suppress(BrokenPipeError):  # the command that asked may be gone
        os.write(report, READY.encode())
    os.close(report)
    guardian.serve()


def main(arguments: Sequence[str]) -> int:
    """Leave a guardian behind and return 0 once the server answers, or 1 with the reason on stderr."""
    home = Home(Path(arguments[0]))
    os.umask(0o077)
    result, report = os.pipe()
    if os.fork() == 0:
        os.close(result)
        _detach(home)
        _guard(home, arguments[1:], report)
        return 0
    os.close(report)
    with os.fdopen(result, encoding="utf-8", errors="replace") as outcome:
        told = outcome.read()
    if told != READY:
        sys.stderr.write(told or f"the guardian of the embedded server died; see {home.log}")
    return 0 if told == READY else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
