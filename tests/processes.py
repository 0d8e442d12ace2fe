"""Real `upsertq` commands and real emulators as processes, for stories that end with their exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np

import forked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from forked import Process


COMMAND = forked.COMMAND
COUNTERS = ("enqueued", "acked", "superseded", "discarded", "dead", "pending")
_OPENER = build_opener(ProxyHandler({}))


def environment(url: str | None, **more: str) -> dict[str, str]:
    """The environment of a command on the server at `url`."""
    own = {} if url is None else {"UPSERTQ_REDIS_URL": url}
    return {**os.environ, **own, **more}


def call(
    *arguments: str | Path, url: str | None, expect: int = 0, timeout: float = 120, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end; its exit code must be `expect`, and nothing may look like a traceback."""
    ended = forked.run([*map(str, arguments)], environment(url, **more), timeout)
    done = subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode())
    assert done.returncode == expect, (done.args, done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def complaint(*arguments: str | Path, url: str | None, expect: int, timeout: float = 60, **more: str) -> str:
    """The one line that a failing command says on stderr, logs of a worker aside."""
    done = call(*arguments, url=url, expect=expect, timeout=timeout, **more)
    lines = [line for line in done.stderr.splitlines() if line.startswith("upsertq: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def document(*arguments: str | Path, url: str | None, expect: int = 0, timeout: float = 120) -> dict[str, Any]:
    """The JSON document that a command prints with `--json`."""
    done = call(*arguments, "--json", url=url, expect=expect, timeout=timeout)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def books(url: str, queue: str, run: str | None = None) -> dict[str, int]:
    """The books of a queue, or of a run, as `upsertq status` gives them."""
    found = document("status", "--queue", queue, *(("--run", run) if run else ()), url=url)
    return {name: found[name] for name in COUNTERS}


_STARTED: list[Process] = []


def end_all() -> None:
    """Kill what a test started and left running."""
    for process in _STARTED:
        if process.poll() is None:
            kill(process)
    _STARTED.clear()


def start(*arguments: str | Path, url: str | None, log: Path, **more: str) -> Process:
    """Start a command that goes on; what it says goes into `log`."""
    with log.open("ab") as file, Path(os.devnull).open("rb") as null:
        streams = null.fileno(), file.fileno(), file.fileno()
        process = forked.start([*map(str, arguments)], environment(url, **more), *streams)
    _STARTED.append(process)
    return process


def kill(process: Process) -> None:
    """SIGKILL a process and wait for its end."""
    process.send_signal(signal.SIGKILL)
    process.wait()


@dataclass(frozen=True)
class Index:
    """An emulator that runs as a process."""

    url: str
    process: Process

    def get(self, path: str, parameters: Sequence[tuple[str, str]] = ()) -> Any:
        """The JSON of a GET."""
        query = f"?{urlencode(parameters)}" if parameters else ""
        with _OPENER.open(self.url + path + query) as answer:
            return json.loads(answer.read())

    def set_faults(self, spec: str | dict[str, Any] | None) -> None:
        """Switch the faults; `None` ends them."""
        request = Request(  # noqa: S310 - an emulator of our own
            f"{self.url}/_emulator/faults",
            data=None if spec is None else json.dumps(spec).encode(),
            method="DELETE" if spec is None else "PUT",
            headers={"Content-Type": "application/json"},
        )
        with _OPENER.open(request):
            pass

    def fetch(self, ids: Sequence[str], namespace: str = "") -> dict[str, Any]:
        """The vectors of these ids."""
        found: dict[str, Any] = {}
        for first in range(0, len(ids), 100):
            page = [("ids", name) for name in ids[first : first + 100]]
            found |= self.get("/vectors/fetch", [*page, ("namespace", namespace)])["vectors"]
        return found

    def values(self, ids: Sequence[str], namespace: str = "") -> dict[str, bytes]:
        """The float32 values of these ids, as bytes."""
        found = self.fetch(ids, namespace)
        return {name: np.asarray(vector["values"], dtype="<f4").tobytes() for name, vector in found.items()}

    @property
    def counters(self) -> dict[str, Any]:
        """What it counted so far."""
        found: dict[str, Any] = self.get("/_emulator/counters")
        return found

    def journal(self, record_id: str, namespace: str = "") -> list[dict[str, Any]]:
        """Every version of one id that was applied, in order."""
        found: list[dict[str, Any]] = self.get("/_emulator/journal", [("id", record_id), ("namespace", namespace)])
        return found


@contextmanager
def emulated(*options: str, port: int = 0) -> Iterator[Index]:
    """Run `upsertq emulate` with a journal."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as told, os.fdopen(writing, "w") as stdout, Path(os.devnull).open("rb") as null:
        command = ["emulate", "--port", str(port), "--journal", "--json", *options]
        process = forked.start(command, os.environ, null.fileno(), stdout.fileno(), 2)
        stdout.close()
        try:
            yield Index(json.loads(told.readline())["url"], process)
        finally:
            process.kill()
            process.wait()
