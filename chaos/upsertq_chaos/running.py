"""Owns the processes of a chaos run: starts them, kills them when the plan says so, and ends every one of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

from upsertq.contract.errors import WorldError
from upsertq_chaos.cast import Cast, Deed, Kill, Role
from upsertq_chaos.checking import Step

COMMAND: Final = (sys.executable, "-m", "upsertq")
BOLD: Final = ("--lease", "2", "--quarantine", "1", "--timeout", "5", "--grace", "5", "--max-attempts", "100")
"""A short lease, so that a killed worker is replaced soon; many attempts, since chance alone fails a batch here."""
STOP_SECONDS: Final = 60.0
START_SECONDS: Final = 10.0
"""A process that was started so shortly before may not heed signals yet."""
TICK: Final = 0.05
_OPENER: Final = build_opener(ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Index:
    """The emulator that the workers post to."""

    url: str

    def ask(self, path: str, parameters: list[tuple[str, str]] | None = None) -> Any:
        """The JSON of a GET."""
        query = f"?{urlencode(parameters)}" if parameters else ""
        with _opened(self.url + path + query) as answer:
            return json.load(answer)

    def journal(self) -> Iterator[dict[str, Any]]:
        """Every entry, in the order applied."""
        with _opened(f"{self.url}/_emulator/journal") as answer:
            for line in answer:
                if line.strip():
                    yield json.loads(line)

    def set_faults(self, spec: str) -> None:
        """Replace the faults."""
        where = f"{self.url}/_emulator/faults"
        request = Request(where, json.dumps(spec).encode(), {"Content-Type": "application/json"}, method="PUT")  # noqa: S310 - our own
        with _opened(request):
            pass


@dataclass(slots=True)
class Tally:
    """What was done to which process, and which ended without being told to."""

    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Role, 0))
    frozen: int = 0
    left: int = 0
    restarts: int = 0
    mishaps: list[str] = field(default_factory=list)


class Stage:
    """All processes that run: `workers` and `producers` by their number; a process that ends is replaced."""

    def __init__(self, cast: Cast, directory: Path, url: str, queue: str, index_url: str) -> None:
        self.cast, self.directory, self.queue, self.tally = cast, directory, queue, Tally()
        self._url, self._index_url = url, index_url
        self._address = directory / "state" / "redis" / "address.json"
        self._server_pid = self._told_pid()
        self._started = time.time()
        self._people: dict[tuple[Role, int], subprocess.Popen[bytes]] = {}
        self._frozen: list[subprocess.Popen[bytes]] = []
        self._begun: dict[tuple[Role, int], float] = {}
        self._leaving: dict[tuple[Role, int], float] = {}
        """Those that were told to leave, and for how many seconds their places shall be empty."""
        self._later: list[tuple[float, Callable[[], object]]] = []

    def notes(self, producer: int) -> Path:
        """Where a producer notes what it did."""
        return self.directory / f"producer-{producer}.jsonl"

    def play(self, plan: list[Kill], show: Callable[[float], None]) -> None:
        """Let everyone work for the time given, and kill as planned."""
        begin, due = time.monotonic(), sorted(plan, key=lambda kill: kill.at)
        for role, count in ((Role.WORKER, self.cast.workers), (Role.PRODUCER, self.cast.producers)):
            for number in range(count):
                self._start(role, number)
        while (passed := time.monotonic() - begin) < self.cast.seconds:
            while due and due[0].at <= passed:
                self._do(due.pop(0))
            for one in [one for one in self._later if one[0] <= time.monotonic()]:
                self._later.remove(one)
                one[1]()
            self._look_after()
            show(passed)
            time.sleep(TICK)
        self._later.clear()
        for process in self._frozen:
            process.send_signal(signal.SIGCONT)

    def shown(self, step: Step) -> str:
        """A step back as a line, in seconds since the start."""
        at, new_at = step.at - self._started, step.new_at - self._started
        settled = "none" if step.settled is None else step.settled
        return f"{step.id}: {step.old} at {at:.2f} s, after {step.new} at {new_at:.2f} s; settled by then: {settled}"

    def stop(self, role: Role) -> None:
        """SIGTERM everyone of this role, and wait until they have ended in good order."""
        leaving = [(one, process) for one, process in self._people.items() if one[0] is role]
        for _, process in leaving:
            process.terminate()
        for one, process in leaving:
            number = one[1]
            try:
                code = process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                _end(process)
                self.tally.mishaps.append(f"{role} {number} did not end within {STOP_SECONDS:g} s of SIGTERM")
            else:
                early = code == -signal.SIGTERM and time.monotonic() < self._begun.get(one, 0.0) + START_SECONDS
                if code and not early:
                    self.tally.mishaps.append(f"{role} {number} ended with code {code} after SIGTERM")
            del self._people[one]  # not sooner: where this is interrupted `close` ends the others

    def call(self, *arguments: str, timeout: float = STOP_SECONDS) -> tuple[int, str]:
        """Run one command of upsertq on the queue to its end; returns its exit code and what it printed."""
        with self._log("commands") as log:
            try:
                done = subprocess.run(  # noqa: S603 - our own command
                    [*COMMAND, *arguments, "--queue", self.queue],
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    timeout=timeout,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                self.tally.mishaps.append(f"upsertq {' '.join(arguments[:2])} did not end within {timeout:g} s")
                return -1, ""
        return done.returncode, done.stdout.decode()

    def drain(self, timeout: float) -> None:
        """A last worker that empties the queue; exit code 3 tells of dead letters, which are judged elsewhere."""
        code, _ = self.call("work", "--index-host", self._index_url, *BOLD, "--until-empty", "--json", timeout=timeout)
        if code not in {0, 3, -1}:
            self.tally.mishaps.append(f"the last worker ended with code {code}")

    def close(self) -> None:
        """End all that is left, at once."""
        for process in self._people.values():
            _end(process)
        self._people.clear()

    def _start(self, role: Role, number: int) -> None:
        # a session of its own: Ctrl-C at the terminal is for the command alone, which ends the others
        with self._log(f"{role}-{number}") as log:
            process = subprocess.Popen(  # noqa: S603 - our own programs
                self._worker() if role is Role.WORKER else self._producer(number),
                env=self._environment(),
                stdin=subprocess.PIPE if role is Role.PRODUCER else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self._people[role, number] = process
        self._begun[role, number] = time.monotonic()
        if process.stdin is not None:
            with process.stdin as pipe:
                pipe.write(f"{self._url}\n".encode())

    def _worker(self) -> list[str]:
        # should this command be killed itself, its workers do not stay for ever
        longest = str(self.cast.seconds + STOP_SECONDS * 4)
        return [*COMMAND, "work", "--queue", self.queue, "--index-host", self._index_url, *BOLD, "--seconds", longest]

    def _producer(self, number: int) -> list[str]:
        share = self.cast.share(number)
        given = {
            "queue": self.queue,
            "notes": str(self.notes(number)),
            "start": self._started,
            "until": self._started + self.cast.seconds + STOP_SECONDS * 4,
            "share": share.as_list(),
        }
        return [sys.executable, "-m", "upsertq_chaos.putting", json.dumps(given)]

    def _do(self, kill: Kill) -> None:
        process = self._people.get((kill.role, kill.number))
        if kill.deed is Deed.KILL:
            self._kill(kill)
        elif process is None or process.poll() is not None or (kill.role, kill.number) in self._leaving:
            return
        elif kill.deed is Deed.FREEZE:
            self.tally.frozen += 1
            self._frozen.append(process)
            process.send_signal(signal.SIGSTOP)
            self._later.append((time.monotonic() + kill.seconds, lambda: process.send_signal(signal.SIGCONT)))
        else:
            self.tally.left += 1
            self._leaving[kill.role, kill.number] = kill.seconds
            process.terminate()

    def _kill(self, kill: Kill) -> None:
        if kill.role is Role.SERVER:
            if (pid := self._told_pid()) is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.tally.kills[kill.role] += 1
            return
        process = self._people.get((kill.role, kill.number))
        if process is not None and process.poll() is None:
            self._leaving.pop((kill.role, kill.number), None)
            _end(process)
            self.tally.kills[kill.role] += 1
            self._start(kill.role, kill.number)

    def _look_after(self) -> None:
        for (role, number), process in list(self._people.items()):
            code = process.poll()
            if code in {0, -signal.SIGTERM} and (away := self._leaving.pop((role, number), None)) is not None:
                del self._people[role, number]
                self._later.append((time.monotonic() + away, partial(self._start, role, number)))
            elif code is not None:
                self._leaving.pop((role, number), None)
                self.tally.mishaps.append(f"{role} {number} ended by itself with code {code}")
                self._start(role, number)
        pid = self._told_pid()
        if pid != self._server_pid and pid is not None:
            self.tally.restarts += 1
            self._server_pid = pid

    def _told_pid(self) -> int | None:
        """The process id of our own server as its guardian wrote it down; None for a server of the user."""
        if not self.cast.server:
            return None
        return int(json.loads(self._address.read_text())["server_pid"])

    def _environment(self) -> dict[str, str]:
        own = {"UPSERTQ_REDIS_URL": self._url, "PINECONE_API_KEY": "", "PINECONE_API_KEY_FILE": ""}
        return {"UPSERTQ_LOG_LEVEL": "WARNING", **os.environ, **own}

    @contextmanager
    def _log(self, name: str) -> Iterator[int]:
        with (self.directory / f"{name}.log").open("ab") as file:
            yield file.fileno()


@contextmanager
def emulated(directory: Path, faults: str) -> Iterator[Index]:
    """An emulator with a journal, as a process."""
    command = [*COMMAND, "emulate", "--port", "0", "--journal", "--json", "--faults", faults]
    with (directory / "index.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True
        )
    try:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        line = process.stdout.readline()
        if not line:
            why = (directory / "index.log").read_text().strip().splitlines()
            raise WorldError(f"the emulator did not start: {why[-1] if why else 'it said nothing'}")
        yield Index(json.loads(line)["url"])
    finally:
        _end(process)
        if process.stdout is not None:
            process.stdout.close()


def _opened(what: str | Request) -> Any:
    try:
        return _OPENER.open(what)
    except OSError as error:
        raise WorldError(f"the emulator does not answer: {error}") from None


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
