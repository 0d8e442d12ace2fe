"""Owns how a worker tells that nothing lands: since when, why, and when it looks again. Pure: it is told the time."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

SHORTEST: Final = 1.0
"""Seconds of nothing but push-backs that are worth telling an operator: a single one is no outage."""


@dataclass(slots=True)
class Outage:
    """The time since the first push-back after the last success; times are the worker's clock, in seconds.

    Args:
        since: when it began.
        why: the latest push-back, as one line.
        next_probe: when the next request may go out, `None` while one is out.
    """

    since: float
    why: str
    next_probe: float | None = None

    def told(self, now: float, wall: float) -> str:
        """One line for an operator; `wall` is `now` in seconds since 1970. Empty while it is too short to matter."""
        lasted = now - self.since
        if lasted < SHORTEST:
            return ""
        began = datetime.fromtimestamp(wall - lasted, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ahead = (
            "a probe is out" if self.next_probe is None else f"next probe in {max(0.0, self.next_probe - now):.0f} s"
        )
        return f"waits and probes since {began} ({lasted:.0f} s): {self.why}; {ahead}"
