"""Owns several workers as processes of one command: starts them, replaces those that die, and ends with all of them.

The key and the server's address reach them by the environment alone, never by a command line.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from upsertq.cli.exit_code import ExitCode
from upsertq_worker.context import signalled
from upsertq_worker.edge.process import NUMBER, PARENT
from upsertq_worker.events import Event, Events

FIRST_SECONDS: Final = 1.0
"""Until a worker that died is replaced, at first; twice as long each time in a row."""
MOST_SECONDS: Final = 60.0
STEADY_SECONDS: Final = 60.0
"""A worker that lived for so long did not die of its start: its successor is there at once again."""
WORST: Final = (ExitCode.USAGE, ExitCode.FAILED, ExitCode.PAUSED, ExitCode.REJECTED_OR_DEAD, ExitCode.DONE)
"""Exit codes of workers, the gravest first: it is the command's."""


def work_command(queue: str, given: Mapping[str, Any]) -> list[str]:
    """The command of one worker process; `given` are options of `upsertq work` by their names here."""
    command = [sys.executable, "-m", "upsertq", "work", "--queue", queue]
    for name, value in given.items():
        option = "--timeout" if name == "request_timeout" else f"--{name.replace('_', '-')}"
        if value is True:
            command.append(option)
        elif value is not False and value is not None:
            command += [option, str(value)]
    return command


def work_environment(url: str, **more: str) -> dict[str, str]:
    """The environment of a worker that is on the server at `url`, and ends with this process."""
    return {**more, **os.environ, "UPSERTQ_REDIS_URL": url, PARENT: str(os.getpid())}


def pause_before(last: float | None, lived: float, rng: random.Random) -> float:
    """Seconds until a worker is replaced that `lived` for so many; `last` is the pause before it, if there was one."""
    doubled = FIRST_SECONDS if last is None or lived >= STEADY_SECONDS else min(MOST_SECONDS, 2 * last)
    return doubled * rng.uniform(0.8, 1.0)


@dataclass(eq=False)
class Crew:
    """The worker processes of one command.

    Args:
        queue: what they drain.
        url: the server.
        given: the options of each.
        count: how many.
    """

    queue: str
    url: str
    given: Mapping[str, Any]
    count: int
    books: dict[str, Any] = field(init=False, default_factory=dict)
    """The queue's books, as the last worker that ended in good order saw them."""
    tally: Counter[str] = field(init=False, default_factory=Counter)
    """What those together did."""
    _living: set[asyncio.subprocess.Process] = field(init=False, default_factory=set)
    _stopping: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _signals: int = field(init=False, default=0)

    async def run(self) -> int:
        """Keep the workers running until they are done, or are stopped; returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        if hangup := getattr(signal, "SIGHUP", None):
            loop.add_signal_handler(hangup, self._pass_on, hangup)
        until = None if self.given.get("seconds") is None else time.monotonic() + self.given["seconds"]
        codes = await asyncio.gather(*(self._keep(number, until) for number in range(1, self.count + 1)))
        if self._signals > 1:
            return ExitCode.INTERRUPTED
        return min(codes, key=lambda code: WORST.index(code) if code in WORST else -1)

    async def _keep(self, number: int, until: float | None) -> int:
        """Run one worker after the other in place `number`, until that is over; returns the exit code of the last."""
        pause, events, rng = None, Events(), random.Random()
        while True:
            begun = time.monotonic()
            code = await self._work(number, until)
            lived = time.monotonic() - begun
            if code == ExitCode.USAGE:
                self._stop()  # no other one would fare better
            if self._stopping.is_set():
                return ExitCode.DONE if code == -signal.SIGTERM else code if code >= 0 else ExitCode.FAILED
            if self._is_over(code, until):
                return code if code >= 0 else ExitCode.FAILED
            pause = pause_before(pause, lived, rng)
            events.tell(Event.WORKER_ENDED, how=_how(code), lived=lived, seconds=pause)
            if await signalled(self._stopping, pause):
                return ExitCode.DONE

    def _is_over(self, code: int, until: float | None) -> bool:
        """Whether a worker that ended with `code`, and was not told to, needs no successor."""
        if until is not None and time.monotonic() >= until:
            return True
        # one that was killed did not do what it was to do; where there is no end to drain to, nor did any other
        return code >= 0 and (bool(self.given.get("until_empty")) or until is not None)

    async def _work(self, number: int, until: float | None) -> int:
        """Run one worker to its end; returns its exit code, or the negative number of the signal that killed it."""
        given = {**self.given, "json": True}
        if until is not None:
            given["seconds"] = max(0.1, until - time.monotonic())
        # a session of its own: Ctrl-C is ours to pass on, once
        process = await asyncio.create_subprocess_exec(
            *work_command(self.queue, given),
            env={**work_environment(self.url), NUMBER: str(number)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._living.add(process)
        if self._stopping.is_set():
            process.terminate()
        said, _ = await process.communicate()
        self._living.discard(process)
        if said.strip():
            told = orjson.loads(said)
            self.tally.update(told.pop("worker"))
            self.books = told
        return process.returncode or 0

    def _stop(self) -> None:
        """Stop all in good order, or on the second signal at once; nothing is lost either way."""
        self._signals += 1
        if not self._stopping.is_set():
            Events().tell(Event.PROCESSES_STOPPING, workers=len(self._living))
        self._stopping.set()
        self._pass_on(signal.SIGTERM)

    def _pass_on(self, number: int) -> None:
        for process in self._living:
            if process.returncode is None:
                process.send_signal(number)


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
