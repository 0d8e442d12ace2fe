"""Owns how many requests a lane may have in flight, and when the next may start. Pure: it is told the time.

The rule is TCP's (RFC 5681): halve on push-back, once for each flight; grow by one for each answer up to the old
half (so that an outage is left within a few round trips), then by one for each round of answers.
"""

import random
from dataclasses import dataclass, field

from upsertq_worker.backoff import Backoff, retry_delay


@dataclass(slots=True)
class Gate:
    """Admission of one lane.

    Args:
        ceiling: requests in flight at most, whatever happens.
        backoff: how long to wait while everything fails.
    """

    ceiling: int
    backoff: Backoff = field(default_factory=Backoff)
    limit: float = field(init=False)
    in_flight: int = 0
    opens_at: float = 0.0
    """No request starts before this time."""
    failures: int = 0
    """Push-backs since the last success."""
    _threshold: float = field(init=False)
    _cut_at: float = -1.0
    _delay: float | None = None

    def __post_init__(self) -> None:
        self.limit = self._threshold = float(self.ceiling)

    def admits(self, now: float) -> bool:
        """Whether another request may start now."""
        return now >= self.opens_at and self.in_flight < int(self.limit)

    def succeeded(self) -> None:
        """An answer came that is no push-back."""
        self.failures = 0
        self._delay = None
        step = 1.0 if self.limit < self._threshold else 1.0 / self.limit
        self.limit = min(float(self.ceiling), self.limit + step)

    def pushed_back(self, started: float, now: float, retry_after: float | None, rng: random.Random) -> None:
        """A request that started at `started` was refused for now, or had no answer."""
        self.failures += 1
        if started >= self._cut_at:
            self._cut_at = now
            self._threshold = max(1.0, self.limit / 2)
            self.limit = self._threshold
        if retry_after is not None or self.limit < 2:  # noqa: PLR2004 - one at a time: the lane probes
            self._delay = retry_delay(self.backoff, self._delay, retry_after, rng)
            self.opens_at = max(self.opens_at, now + self._delay)
