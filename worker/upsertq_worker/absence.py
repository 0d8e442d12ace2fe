"""Owns when a worker says that the queue's server is away and back: once for all of its tasks. Pure."""


class Absence:
    """The time in which calls to the server fail, as all tasks of a worker meet it."""

    def __init__(self) -> None:
        self._since = 0.0
        self._waiting: set[str] = set()
        self._told: set[str] = set()

    def begins(self, what: str, why: str, now: float) -> bool:
        """Task `what` waits because of `why`; returns whether that is worth a line: each reason is, once."""
        if not self._waiting:
            self._since = now
        self._waiting.add(what)
        news = why not in self._told
        self._told.add(why)
        return news

    def ends(self, what: str, now: float) -> float | None:
        """Task `what` succeeded; returns the seconds that it all lasted once none waits any more."""
        self._waiting.discard(what)
        if self._waiting or not self._told:
            return None
        self._told.clear()
        return now - self._since
