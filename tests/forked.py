"""Real `upsertq` processes that begin at once: each is forked by a process that has imported all of it before.

The imports take a processor half a second, and the stories start a thousand commands. What a test says about the start
of the interpreter itself (its options, its variables, its command line in `ps`) needs a process of its own instead.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

IMPORTED: Final = (
    *("upsertq.cli.main", "upsertq.cli.load", "upsertq_worker.cli.work", "upsertq_worker.cli.run"),
    *(
        "upsertq_worker.cli.submit",
        "upsertq_worker.worker",
        "upsertq_emulator.command",
        "upsertq_emulator.app",
        "rich.progress",
        "uvloop",
        "pyarrow.compute",
        "pyarrow.parquet",
        "pandas",  # by pyarrow, when it first looks at an array
    ),
)
STREAMS: Final = 3
OF_PYTHON: Final = ("PYTHON", "LANG", "LC_")
"""So begin the names of what the interpreter reads when it starts: another value needs a real start."""
REAL: Final = sys.platform != "linux" or "REAL_STARTS" in os.environ
"""Whether each process is started anew all the same: elsewhere what is imported may not bear a fork."""
COMMAND: Final = (sys.executable, "-m", "upsertq")
_AT_FIRST: Final = {name: value for name, value in os.environ.items() if name.startswith(OF_PYTHON)}
_starting: Final = threading.Lock()


class Forked:
    """A process that was forked; to be used like a `subprocess.Popen`."""

    def __init__(self, arguments: Sequence[str], pid: int, told: int) -> None:
        self.args = arguments
        self.pid = pid
        self.returncode: int | None = None
        self._told = told

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, once it has ended; raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            asked = select.poll()
            asked.register(self._told, select.POLLIN)
            if not asked.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0.0)
            self.returncode = int(_line_of(self._told))
            os.close(self._told)
        return self.returncode

    def poll(self) -> int | None:
        """Return the exit code, `None` while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def send_signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


Process: TypeAlias = Forked | subprocess.Popen[bytes]


def start(arguments: Sequence[str], env: Mapping[str, str], stdin: int, stdout: int, stderr: int) -> Process:
    """Start `upsertq` with these arguments, all of its environment, and files for its streams."""
    if REAL or {name: value for name, value in env.items() if name.startswith(OF_PYTHON)} != _AT_FIRST:
        return subprocess.Popen([*COMMAND, *arguments], env=env, stdin=stdin, stdout=stdout, stderr=stderr)
    told, tell = os.pipe()
    order = json.dumps([list(arguments), dict(env), str(Path.cwd())]).encode()
    with _starting:
        _, line = _forker(os.getpid())
        socket.send_fds(line, [len(order).to_bytes(4, "big")], [stdin, stdout, stderr, tell])
        line.sendall(order)
        os.close(tell)
    return Forked(arguments, int(_line_of(told)), told)


def run(
    arguments: Sequence[str], env: Mapping[str, str], timeout: float, given: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run `upsertq` to its end; raises `subprocess.TimeoutExpired`, having killed it."""
    with contextlib.ExitStack() as stack:
        out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        null = stack.enter_context(open(os.devnull, "rb"))  # noqa: PTH123 - no path of a test
        reading, writing = (null.fileno(), -1) if given is None else os.pipe()
        process = start(arguments, env, reading, out.fileno(), err.fileno())
        if given is not None:
            os.close(reading)
            threading.Thread(target=_write, args=(writing, given), daemon=True).start()
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        streams = []
        for stream in (out, err):
            stream.seek(0)
            streams.append(stream.read())
    return subprocess.CompletedProcess(["upsertq", *arguments], code, *streams)


def dismiss() -> None:
    """End the process that forks, and with it all that it has started."""
    if _forker.cache_info().currsize:
        forker, line = _forker(os.getpid())
        line.close()
        forker.wait()
        _forker.cache_clear()


@functools.cache
def _forker(owner: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Return the process that forks for the process `owner`, which it does not outlive, and the line to it."""
    ours, theirs = socket.socketpair()
    with theirs:
        forker = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return forker, ours


def _write(descriptor: int, content: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as pipe:
        pipe.write(content)


def _line_of(descriptor: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(descriptor, 1) or b"the process that forks has ended\n"
    return line


def _fork(line: socket.socket) -> list[str]:
    """Fork for each order that comes; returns in the child alone, as the process that was ordered."""
    running: dict[int, int] = {}
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    while True:
        ready, _, _ = select.select([line.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _tell_ends(running)
        if line.fileno() not in ready:
            continue
        size, files, _, _ = socket.recv_fds(line, 4, STREAMS + 1)
        if not size:
            _end(running)
        order = line.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
        tell = files.pop()
        pid = os.fork()
        if not pid:
            line.close()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _become(order, files, [woken, wake, tell, *running.values()])
        running[pid] = tell
        os.write(tell, b"%d\n" % pid)
        for file in files:
            os.close(file)


def _tell_ends(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        tell = running.pop(pid)
        with contextlib.suppress(BrokenPipeError):
            os.write(tell, b"%d\n" % os.waitstatus_to_exitcode(status))
        os.close(tell)


def _end(running: dict[int, int]) -> None:
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    os._exit(0)


def _become(order: bytes, files: list[int], foreign: list[int]) -> list[str]:
    arguments, env, directory = json.loads(order)
    for number, file in enumerate(files):
        os.dup2(file, number)
    for file in (*files, *foreign):
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(directory)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = open(number, "w" if number else "r", closefd=False)  # noqa: SIM115 - as the interpreter does
        stream.reconfigure(write_through="PYTHONUNBUFFERED" in env)
        setattr(sys, name, stream)
    return [str(argument) for argument in arguments]


def _leave(code: str | int | None) -> None:
    """End as the interpreter does, but leave what was imported as it is: to take that apart takes longest of all."""
    if isinstance(code, str):
        return
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


if __name__ == "__main__":
    del sys.path[0]  # the tests' own folder
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()
    sys.argv = ["upsertq", *_fork(socket.socket(fileno=int(sys.argv[1])))]
    try:
        runpy.run_module("upsertq", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        _leave(ended.code)
        raise
