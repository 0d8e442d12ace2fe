"""Decides how long to wait before a retry and whether retrying is still polite. Never sleeps and holds no clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """How many retries the recent past has earned: one token lost a failure, a tenth regained a success.

    The rule and its numbers follow gRPC's retry throttling (gRFC A6, "Throttling Retry Attempts and Hedged RPCs"):
    retries are free only while more than half of the tokens are left, so that retries cannot keep a struggling
    service down. A budget is a value: each event returns the next one.
    """

    tokens: float = 100.0
    maximum: float = 100.0
    refund: float = 0.1

    @property
    def may_retry(self) -> bool:
        """Whether a failed request may be retried at once after its backoff; else only a probe should go out."""
        return self.tokens > self.maximum / 2

    def after_failure(self) -> RetryBudget:
        """The budget after a failure that was the service's own (busy, lost), not a refusal."""
        return replace(self, tokens=max(self.tokens - 1, 0.0))

    def after_success(self) -> RetryBudget:
        """The budget after an answered request."""
        # rounded to thousandths, gRPC's own precision: tenths do not add up in binary
        return replace(self, tokens=min(round(self.tokens + self.refund, 3), self.maximum))
