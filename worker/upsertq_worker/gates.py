"""Owns what may start: the gates of all lanes, and the budget that their retries share.

A gate is kept for each namespace that is in trouble or in flight, and for no other.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from upsertq_worker.backoff import Backoff, RetryBudget
from upsertq_worker.judge import Busy
from upsertq_worker.pace import Gate

BACKOFF: Final = Backoff(0.2, 5.0)
"""Seconds between two probes: of a lane that fails alone, and of a service that is away."""


@dataclass(slots=True)
class Gates:
    """The gates, each of `ceiling` requests at most.

    A gate keeps one lane's pace whatever the others do; the budget keeps all retries of this worker within what its
    successes have earned. First attempts need no token: a lane that works is not harmed by those that do not.
    """

    ceiling: int
    budget: RetryBudget = field(default_factory=lambda: RetryBudget(backoff=BACKOFF))
    _gates: dict[str, Gate] = field(default_factory=dict)
    _rated: dict[str, float] = field(default_factory=dict)
    """When namespaces were told last that they are too fast."""
    _failing: dict[str, float] = field(default_factory=dict)
    """When namespaces were pushed back first since their last success."""

    def of(self, namespace: str) -> Gate:
        """The gate of this namespace."""
        gate = self._gates.get(namespace)
        if gate is None:
            gate = self._gates[namespace] = Gate(self.ceiling, BACKOFF)
        return gate

    def admits(self, namespace: str, now: float, *, retry: bool) -> bool:
        """Whether a request of this namespace may start now."""
        return self.of(namespace).admits(now) and (not retry or self.budget.admits(now))

    def started(self, namespace: str, *, retry: bool) -> None:
        """A request of this namespace is in flight."""
        self.of(namespace).in_flight += 1
        self.budget.in_flight += retry

    def landed(self, namespace: str, *, retry: bool) -> None:
        """A request of this namespace is over; a gate that is wide open again is forgotten."""
        self.budget.in_flight -= retry
        gate = self._gates[namespace]
        gate.in_flight -= 1
        if not gate.in_flight and not gate.failures and gate.limit >= self.ceiling:
            del self._gates[namespace]

    def succeeded(self, namespace: str) -> None:
        """A request of this namespace was answered as it should be."""
        self._failing.pop(namespace, None)
        self.of(namespace).succeeded()
        self.budget.succeeded()

    def pushed_back(self, namespace: str, busy: Busy, started: float, now: float, rng: random.Random) -> None:
        """A request of this namespace that started at `started` had `busy` for an outcome."""
        too_fast = busy.kind == "rate"
        self._failing.setdefault(namespace, now)
        self.of(namespace).pushed_back(started, now, busy.retry_after, rng, too_fast=too_fast)
        self.budget.failed(now, rng)
        if too_fast:
            self._rated[namespace] = now

    def rated(self, since: float) -> set[str]:
        """The namespaces that the service called too fast since then."""
        if self._rated:
            self._rated = {namespace: at for namespace, at in self._rated.items() if at >= since}
        return set(self._rated)

    def failing(self, since: float) -> set[str]:
        """The namespaces of which requests failed, and none passed, since that time or longer."""
        return {namespace for namespace, at in self._failing.items() if at <= since}

    def opens_at(self, namespace: str) -> float:
        """When a retry of this namespace may start."""
        return max(self.of(namespace).opens_at, self.budget.opens_at)

    def openings(self) -> Iterator[float]:
        """When what is shut for a time opens."""
        yield self.budget.opens_at
        for gate in self._gates.values():
            yield gate.opens_at
