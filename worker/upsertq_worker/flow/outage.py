"""Owns how a worker tells that nothing lands: since when, why, and when it looks again. Pure: it is told the time."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

SHORTEST: Final = 1.0
"""Seconds of nothing but push-backs that are worth telling an operator: a single one is no outage."""


@dataclass(slots=True)
class _Outage:
    since: float
    why: str
    next_probe: float | None = None


class OutageWatch:
    """The time since the first push-back after the last success, if there is one; times are the worker's clock."""

    def __init__(self) -> None:
        self._outage: _Outage | None = None

    @property
    def lasts(self) -> bool:
        """Whether nothing landed since the latest push-back."""
        return self._outage is not None

    def failed(self, now: float, why: str) -> bool:
        """A request was pushed back; returns whether that is news."""
        news = self._outage is None
        self._outage = self._outage or _Outage(now, why)
        self._outage.why = why
        return news

    def over(self, now: float) -> float | None:
        """Something landed, or nothing is left that could tell; returns how many seconds the outage lasted."""
        outage, self._outage = self._outage, None
        return None if outage is None else now - outage.since

    def probes_at(self, when: float | None) -> None:
        """The next request goes out then; `None` while one is out."""
        if self._outage is not None:
            self._outage.next_probe = when

    def told(self, now: float, wall: float) -> str:
        """One line for an operator; `wall` is `now` in seconds since 1970. Empty while it is too short to matter."""
        outage = self._outage
        if outage is None or now - outage.since < SHORTEST:
            return ""
        lasted = now - outage.since
        began = datetime.fromtimestamp(wall - lasted, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        probe = outage.next_probe
        ahead = "a probe is out" if probe is None else f"next probe in {max(0.0, probe - now):.0f} s"
        return f"waits and probes since {began} ({lasted:.0f} s): {outage.why}; {ahead}"
