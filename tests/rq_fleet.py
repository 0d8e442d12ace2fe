"""Real `rq worker` and `rq worker-pool` processes, and what RQ says of their jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import processes
from upsertq_worker.rq_queue import NAME, Jobs
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from upsertq_worker.rq_queue import Seen

RQ: Final = (sys.executable, "-m", "rq.cli")
OURS: Final = ("-w", "upsertq_worker.jobs.Worker")
PATIENCE: Final = 60


def rq(*arguments: str, url: str, **more: str) -> str:
    """Run a command of rq to its end; returns what it says."""
    done = subprocess.run(
        [*RQ, *arguments],
        env=processes.environment(url, RQ_REDIS_URL=url, **more),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.stdout + done.stderr


@contextmanager
def fleet(
    url: str, log: Path, *command: str, listens: bool = True, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run rq workers, `worker` unless a `command` says otherwise, from when one listens until the block ends."""
    environment = processes.environment(url, **{"RQ_REDIS_URL": url, **(env or {})})
    with log.open("ab") as file:
        before = file.tell()
        process = subprocess.Popen(
            [*RQ, *(command or ("worker",)), *OURS, NAME],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        wait_until(lambda: not listens or b"Listening on" in log.read_bytes()[before:], PATIENCE, "a worker listens")
        yield process
        end(process)
    finally:
        process.kill()
        process.wait()


def end(process: subprocess.Popen[bytes]) -> int:
    """Have workers shut down in good order; returns their exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(PATIENCE)


def see(url: str, job_id: str) -> Seen:
    """What RQ says of a job."""
    with closing(Jobs(url)) as jobs:
        return jobs.see(job_id)


def await_status(url: str, job_id: str, *status: str) -> Seen:
    """Wait until a job has one of these states."""
    wait_until(lambda: see(url, job_id).status in status, PATIENCE, f"job {job_id} is {status}")
    return see(url, job_id)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether there is such a process, one that waits to be reaped aside."""
    try:
        os.kill(pid, 0)
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
