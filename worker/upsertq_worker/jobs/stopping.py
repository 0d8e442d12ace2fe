"""Owns how the process of one job is told to stop, and that it does: in good order, and within its grace."""

import os
import signal
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

GRACE: Final = 45.0
"""Seconds after which a job that was told to stop ends anyway: more than a worker's own `--grace`."""
PARENT_SECONDS: Final = 1.0


class Stopped(Exception):  # noqa: N818 - a signal, not a failure
    """A job ended before its end because it was told to."""


class Stop:
    """The word to stop, of one process: SIGTERM where the rq worker shuts down, SIGINT where the job is stopped.

    `wake` is called once, in the main thread, when it comes; it may raise `Stopped` to end what cannot be asked.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.wake: Callable[[], None] = lambda: None

    @property
    def for_good(self) -> bool:
        """Whether the job is not to be begun again."""
        return self.asked == signal.SIGINT

    def listen(self, parent: int) -> None:
        """Take the signals from now on, and end with the rq worker, whose process is the `parent`."""
        self.take()
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()

    def take(self) -> None:
        """Take the signals, also after an event loop has: it leaves none of these handlers behind."""
        self.wake = lambda: None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda asked, _: self.ask(asked))

    def ask(self, number: int) -> None:
        """Stop; a second word changes nothing."""
        if self.asked is not None:
            return
        self.asked = number
        last_resort = threading.Timer(GRACE, os._exit, (1,))
        last_resort.daemon = True
        last_resort.start()
        self.wake()

    def check(self) -> None:
        """Raise `Stopped` where the word has come."""
        if self.asked is not None:
            raise Stopped

    def interrupt(self) -> None:
        """Let the word end whatever is under way, by an exception in the midst of it."""
        self.wake = self.check
        self.check()


def _follow(parent: int) -> None:
    """Tell this process to stop when its parent is gone: its job will be given to another worker."""
    gone = threading.Event()
    while os.getppid() == parent:
        gone.wait(PARENT_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


STOP: Final = Stop()
"""Of this process: it runs one job."""
