"""A command on a terminal of its own, as a person would run it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from processes import COMMAND, environment
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def a_device() -> Iterator[Path]:
    """A device of this test alone, a terminal: whatever a program does wrong to its name, the system's are not hurt."""
    leader, follower = pty.openpty()
    try:
        yield Path(os.ttyname(follower))
    finally:
        os.close(leader)
        os.close(follower)


def on_a_terminal(
    *arguments: str, url: str, until: bytes, answer: bytes | None = None, meanwhile: Callable[[], object] = int
) -> tuple[bytes, int]:
    """Run a command; once `until` is shown do `meanwhile`, and type the answer, or interrupt it where there is none.

    Returns all that it showed, on 100 columns, and its exit code.
    """
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(url, TERM="xterm", COLUMNS="100", LINES="40"),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    ) as process:
        os.close(follower)
        shown = b""

        def read() -> None:
            nonlocal shown
            while True:
                try:
                    part = os.read(leader, 65536)
                except OSError:  # the other side has gone
                    return
                if not part:
                    return
                shown += part

        reader = threading.Thread(target=read)
        reader.start()
        wait_until(lambda: until in shown, 30, f"{until!r} is shown")
        meanwhile()
        if answer is None:
            process.send_signal(signal.SIGINT)
        else:
            os.write(leader, answer)
        code = process.wait(30)
        reader.join(30)
        os.close(leader)
    return shown, code
