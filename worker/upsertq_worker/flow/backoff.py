"""Decides how long to wait before a retry and whether retrying is still polite. Never sleeps and holds no clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random

RETRY_AFTER_MAX: Final = 300.0
"""The longest wait, in seconds, that a `Retry-After` may ask for; a longer one counts as this."""

RETRY_AFTER_SMEAR: Final = 0.2
"""The share by which a wait that a server asked for is lengthened at random, so that a fleet does not return as one."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Decorrelated jitter: each wait is drawn between `base` and three times the wait before it, up to `cap`.

    The rule is the one named so in "Exponential Backoff And Jitter" (AWS Architecture Blog, Marc Brooker, 2015).

    Args:
        base: the shortest wait, in seconds, above 0.
        cap: the longest wait, in seconds, at least `base`.

    Raises:
        ValueError: `base` or `cap` is out of range.
    """

    base: float = 0.2
    cap: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.base <= self.cap < math.inf:
            raise ValueError(
                f"Backoff needs 0 < base <= cap, both finite, got base={self.base} and cap={self.cap}: "
                f"give seconds such as base=0.2, cap=30"
            )

    def next(self, previous: float | None, rng: random.Random) -> float:
        """The wait in seconds that follows `previous` (None before the first), within [base, cap]."""
        # clamped first: `previous` may be a longer wait that a server asked for
        last = self.base if previous is None else min(max(previous, self.base), self.cap)
        return min(max(rng.uniform(self.base, last * 3), self.base), self.cap)


def retry_delay(backoff: Backoff, previous: float | None, retry_after: float | None, rng: random.Random) -> float:
    """The wait in seconds before a retry: the backoff's own, or the server's wish where that is longer.

    `retry_after` (seconds) is a floor: cut to `RETRY_AFTER_MAX`, then lengthened by up to `RETRY_AFTER_SMEAR`, so the
    longest possible wait is 360 s (or the backoff's cap). The cut comes before the smear because workers that were all
    told "an hour" would otherwise all return in the same instant.
    """
    own = backoff.next(previous, rng)
    if retry_after is None or not retry_after > 0:
        return own
    return max(own, min(retry_after, RETRY_AFTER_MAX) * (1 + RETRY_AFTER_SMEAR * rng.random()))


@dataclass(slots=True)
class RetryBudget:
    """How many retries the recent past has earned: a failure costs a token, a success refunds one.

    While tokens are left, each retry in flight needs one of them; without any, a single retry at a time goes out, after
    a backoff: the probe. So retries that fail are never more than `maximum` + `refund` x successes, and the probes:
    they cannot keep a struggling service down, whatever the number of lanes that have something to retry. The idea is
    gRPC's (gRFC A6, "Throttling Retry Attempts"). Its refund is a tenth; but a call of its may be given up, and here
    every batch must pass in the end, so that after an outage each success has to make room for more than itself.

    Args:
        maximum: tokens to begin with, and at most.
        refund: tokens for a success.
        backoff: seconds between two probes.
    """

    maximum: float = 50.0
    refund: float = 1.0
    backoff: Backoff = field(default_factory=Backoff)
    tokens: float = field(init=False)
    in_flight: int = 0
    """Retries in flight."""
    opens_at: float = 0.0
    """No probe starts before this time."""
    _delay: float | None = None

    def __post_init__(self) -> None:
        self.tokens = self.maximum

    @property
    def spent(self) -> bool:
        """Whether nothing but a probe may be retried."""
        return self.tokens < 1

    def admits(self, now: float) -> bool:
        """Whether another retry may start now."""
        return self.in_flight < int(self.tokens) or (not self.in_flight and now >= self.opens_at)

    def failed(self, now: float, rng: random.Random) -> None:
        """A request, retried or not, was pushed back or had no answer."""
        self.tokens = max(self.tokens - 1, 0.0)
        if self.spent and now >= self.opens_at:  # once for each probe, not for each request that was in flight with it
            self._delay = self.backoff.next(self._delay, rng)
            self.opens_at = now + self._delay

    def succeeded(self) -> None:
        """A request, retried or not, was answered as it should be."""
        self.tokens = min(self.tokens + self.refund, self.maximum)
        self._delay = None
        self.opens_at = 0.0
