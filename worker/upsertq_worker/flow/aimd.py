"""Owns how many requests a lane may have in flight, and when the next may start. Pure: it is told the time.

It knows nothing of 429s: these are about the pace (`upsertq_worker.pace`), which all workers share. The rule is TCP's
(RFC 5681): halve on push-back, once for each flight; grow by one for each answer up to a threshold, then by one for
each round of answers. The threshold is half of what was in use before the first push-back: those that follow it before
anything succeeds lower the limit, not the threshold. After an outage it is all of what was in use.
"""

import random
from dataclasses import dataclass, field
from typing import Final

from upsertq_worker.flow.backoff import Backoff, retry_delay

LEAST_THRESHOLD: Final = 2.0


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
    used_at: float = 0.0
    """When a request started last."""
    opens_at: float = 0.0
    """No request starts before this time."""
    failures: int = 0
    """Push-backs since the last success."""
    _threshold: float = field(init=False)
    _before: float = field(init=False)
    """The limit before the first of these push-backs."""
    _cut_at: float = -1.0
    _delay: float | None = None

    def __post_init__(self) -> None:
        self.limit = self._threshold = self._before = float(self.ceiling)

    def admits(self, now: float) -> bool:
        """Whether another request may start now."""
        return now >= self.opens_at and self.in_flight < int(self.limit)

    def succeeded(self) -> None:
        """An answer came that is no push-back."""
        if self.failures >= self._before:
            # a whole flight failed and nothing passed: the service was away, which says nothing about our pace
            self._threshold = self._before
        self.failures = 0
        self._delay = None
        step = 1.0 if self.limit < self._threshold else 1.0 / self.limit
        self.limit = min(float(self.ceiling), self.limit + step)

    def pushed_back(self, started: float, now: float, retry_after: float | None, rng: random.Random) -> None:
        """A request that started at `started` was refused for now, or had no answer."""
        if not self.failures:
            self._before = self.limit
        news = started >= self._cut_at
        if news:
            self._cut_at = now
            if not self.failures:
                self._threshold = min(float(self.ceiling), max(LEAST_THRESHOLD, self.limit / 2))
            self.limit = max(1.0, self.limit / 2)
        self.failures += 1
        if retry_after is not None or (news and self.limit < 2):  # noqa: PLR2004 - one at a time: it probes
            delay = retry_delay(self.backoff, self._delay if news else None, retry_after, rng)
            self.opens_at = max(self.opens_at, now + delay)
            if news:
                self._delay = delay
