"""Owns what may start: the gates of all lanes, and the budget that their retries share.

A gate is kept for each namespace that is in trouble or in flight, and for no other.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from upsertq_worker.flow.aimd import Gate
from upsertq_worker.flow.backoff import Backoff, RetryBudget

BACKOFF: Final = Backoff(0.2, 5.0)
"""Seconds between two probes: of a lane that fails alone, and of a service that is away."""


@dataclass(slots=True)
class Limiter:
    """The gates of all lanes, each of `ceiling` requests at most.

    A gate keeps one lane's pace whatever the others do; the budget keeps all retries of this worker within what its
    successes have earned. First attempts need no token: a lane that works is not harmed by those that do not.
    """

    ceiling: int
    budget: RetryBudget = field(default_factory=lambda: RetryBudget(backoff=BACKOFF))
    _gates: dict[str, Gate] = field(default_factory=dict)

    @property
    def in_flight(self) -> dict[str, int]:
        """Requests in flight, by namespace."""
        return {namespace: gate.in_flight for namespace, gate in self._gates.items() if gate.in_flight}

    def of(self, namespace: str) -> Gate:
        """The gate of this namespace."""
        if namespace not in self._gates:
            self._gates[namespace] = Gate(self.ceiling, BACKOFF)
        return self._gates[namespace]

    def admits(self, namespace: str, now: float, *, retry: bool) -> bool:
        """Whether a request of this namespace may start now."""
        gate = self._gates.get(namespace)
        return (gate is None or gate.admits(now)) and (not retry or self.budget.admits(now))

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
        self.of(namespace).succeeded()
        self.budget.succeeded()

    def pushed_back(
        self,
        namespace: str,
        started: float,
        now: float,
        rng: random.Random,
        retry_after: float | None,
        *,
        too_fast: bool,
    ) -> None:
        """A request of this namespace that started at `started` was refused for now, or had no answer."""
        self.of(namespace).pushed_back(started, now, retry_after, rng, too_fast=too_fast)
        self.budget.failed(now, rng)

    def opens_at(self, namespace: str) -> float:
        """When a retry of this namespace may start."""
        gate = self._gates.get(namespace)
        return self.budget.opens_at if gate is None else max(gate.opens_at, self.budget.opens_at)

    def failing(self, namespace: str) -> bool:
        """Whether nothing of this namespace passed since it was pushed back last."""
        gate = self._gates.get(namespace)
        return gate is not None and gate.failures > 0

    def openings(self) -> Iterator[float]:
        """When what is shut for a time opens."""
        yield self.budget.opens_at
        for gate in self._gates.values():
            yield gate.opens_at
