"""Owns time and processes in the simulation: a clock that jumps to the next timer, processes that stop and die.

It never waits for real, and nothing in it depends on the order of a hash.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_SPINS: Final = 50_000
"""Rounds of the loop in one instant after which it counts as a busy loop: a healthy shell needs a few dozen."""
_WAKES: Final = 1_000
"""Rounds of cancelling after which a task counts as one that never ends: a healthy worker needs two or three."""


class TimeStandsStill(RuntimeError):  # noqa: N818 - what happened, in the words of the simulation
    """No task can ever go on (a deadlock), or some task goes on for ever without letting time pass (a busy loop)."""


_PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Process:
    """One simulated operating-system process: everything that was started within it stops and continues with it."""

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.name = name
        self.stopped = False
        self.dead = False
        self.ended = False
        self.fuse: tuple[int, Callable[[], None]] | None = None
        """After so many more callbacks, do this first: something befalls the process between two of its lines."""
        self._loop = loop
        self._stalled: list[_Step] = []

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` as a part of this process."""
        context = contextvars.copy_context()
        context.run(_PROCESS.set, self)
        return self._loop.create_task(work, name=self.name, context=context)

    def pause(self) -> None:
        """Do as SIGSTOP does: no line of it runs until `resume`; what becomes due meanwhile waits."""
        self.stopped = True

    def resume(self) -> None:
        """Do as SIGCONT does."""
        if self.dead and not self.ended:
            return
        self.stopped = False
        stalled, self._stalled = self._stalled, []
        for step in stalled:
            self._loop.call_soon(step.again, context=step.context)

    def kill(self) -> None:
        """Do as SIGKILL does: no line of it runs any more, no cleaning up either."""
        self.stopped = self.dead = True

    def run(self, step: _Step) -> None:
        """Run a callback of this process, or keep it for later. Nothing befalls it any more once it was ended."""
        if self.ended:
            step.callback(*step.arguments)
            return
        if self.fuse is not None and not self.stopped:
            left, befall = self.fuse
            self.fuse = (left - 1, befall) if left else None
            if not left:
                befall()
        if self.stopped:
            self._stalled.append(step)
        else:
            step.callback(*step.arguments)


@dataclass(eq=False, slots=True)
class _Step:
    """A callback of a process, which may have to wait until the process runs again, and may be cancelled until then."""

    process: Process
    callback: Callable[..., object]
    arguments: tuple[Any, ...]
    context: contextvars.Context
    handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        self.process.run(self)

    def again(self) -> None:
        """Run after a pause, unless it was cancelled since."""
        if self.handle is None or not self.handle.cancelled():
            self.process.run(self)


class _Jump(selectors.SelectSelector):
    """Instead of waiting for files it moves the clock to the next timer."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop
        self.spins = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Let `timeout` seconds pass at once."""
        if timeout is None:
            names = sorted(repr(task) for task in asyncio.all_tasks(self._loop))
            raise TimeStandsStill(f"a deadlock: nothing is due and nothing will be; tasks: {'; '.join(names)}")
        if timeout > 0:
            self._loop.now += timeout
            self.spins = 0
        else:
            self.spins += 1
            if self.spins > _SPINS:
                raise TimeStandsStill(f"a busy loop at {self._loop.now:.3f} s: no task lets time pass")
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, from 0: it takes no time to wait, and the same program takes the same steps."""

    def __init__(self) -> None:
        self.now = 0.0
        self._world = contextvars.Context()
        self._jump = _Jump(self)
        super().__init__(self._jump)
        self.set_debug(enabled=False)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.now

    def later(self, delay: float, callback: Callable[..., object], *arguments: Any) -> asyncio.TimerHandle:
        """Call back after `delay` seconds outside of every process: what the world does goes on when a worker dies."""
        return super().call_at(self.now + delay, callback, *arguments, context=self._world)

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """As the base class, but a callback of a process runs only while the process does."""
        context = contextvars.copy_context() if context is None else context
        process = context.get(_PROCESS)
        if process is None:
            return super().call_soon(callback, *args, context=context)
        step = _Step(process, callback, args, context)
        step.handle = super().call_soon(step, context=context)
        return step.handle

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """As the base class, but a callback of a process runs only while the process does."""
        context = contextvars.copy_context() if context is None else context
        process = context.get(_PROCESS)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        step = _Step(process, callback, args, context)
        handle = step.handle = super().call_at(when, step, context=context)
        return handle

    def end_all(self, processes: list[Process]) -> None:
        """End every task that is left, the dead processes' included, so that none is destroyed while pending.

        Raises:
            TimeStandsStill: some task does not end.
        """
        self.set_exception_handler(lambda _loop, _context: None)
        for process in processes:
            process.ended = True
            process.resume()
        for _ in range(_WAKES):
            left = asyncio.all_tasks(self)
            if not left:
                return
            self._jump.spins = 0
            for task in left:
                task.cancel()
            self.run_until_complete(asyncio.sleep(0))
        names = sorted(repr(task) for task in asyncio.all_tasks(self))
        raise TimeStandsStill(f"no end: tasks go on although they are cancelled: {'; '.join(names)}")
