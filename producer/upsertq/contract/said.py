"""Owns what a connection says in the log of `upsertq`: that the server is waited for, that it is back, and warnings.

Each is one line; what repeats is folded into the first.
"""

import logging
import time
from collections.abc import Callable

from upsertq.contract.protocol import Pause

log = logging.getLogger("upsertq")


class Said:
    """What one connection has said so far.

    Args:
        after: seconds of waiting that are worth a line.
        quiet: another process on this server warns of it.
        clock: seconds from any origin.
    """

    def __init__(self, after: float, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._after = after
        self._quiet = quiet
        self._clock = clock
        self._since: float | None = None
        self._told: set[str] = set()
        self._warned: set[str] = set()

    def pause(self, pause: Pause) -> None:
        """The conversation pauses; where that is for the server, say so once it has lasted, each reason once."""
        if not pause.until_ready:
            return
        now = self._clock()
        if self._since is None:
            self._since = now
        if now + pause.seconds - self._since >= self._after and pause.why not in self._told:
            self._told.add(pause.why)
            log.warning("%s; trying again until it is back", pause.why)

    def answered(self) -> None:
        """The server answered, and not that it is away or not ready."""
        if self._told and self._since is not None:
            log.warning("the server is back after %.0f s", self._clock() - self._since)
        self._since = None
        self._told.clear()

    def warn(self, text: str) -> None:
        """Say this unless it was said."""
        if text not in self._warned and not self._quiet:
            self._warned.add(text)
            log.warning("%s", text)
