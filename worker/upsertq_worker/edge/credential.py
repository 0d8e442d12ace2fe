"""Owns the API key that requests carry, and how it is exchanged while a worker runs. It never shows a key."""

import re
from collections.abc import Callable

from upsertq.contract.errors import UsageError
from upsertq_worker.events import Event, Events

TOKEN = re.compile(r"[!-~]+")
"""What can travel in a header."""


class Credential:
    """The key as it was read last.

    Args:
        key: the key at the start, "" for none.
        read: reads it anew; raises UsageError where it cannot.
        events: told of another key, and of one that cannot be used.
    """

    def __init__(self, key: str, read: Callable[[], str] | None = None, events: Events | None = None) -> None:
        self.key = key
        self._events = events or Events()
        self._read = read
        self._told = ""

    def renew(self) -> bool:
        """Read the key anew; returns whether it is another one. One that cannot be used is told once, and left."""
        if self._read is None:
            return False
        try:
            key, trouble = self._read(), ""
            if not TOKEN.fullmatch(key) and key != self.key:
                trouble = "the API key that was read anew is none: it holds a space or a character beyond ASCII"
        except UsageError as error:
            key, trouble = "", str(error)
        if trouble:
            if trouble != self._told:
                self._events.tell(Event.KEY_UNUSABLE, error=trouble)
            self._told = trouble
            return False
        self._told = ""
        if key == self.key:
            return False
        self.key = key
        self._events.tell(Event.KEY_RENEWED)
        return True
