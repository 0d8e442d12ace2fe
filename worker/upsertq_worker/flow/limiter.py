"""Owns what may start: the gates of all lanes, the budget that their retries share, and the slots of the shared pace.

A gate is kept for each namespace that is in trouble or in flight, or was not long ago, and for no other.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from upsertq_worker.flow.aimd import Gate
from upsertq_worker.flow.backoff import Backoff, RetryBudget
from upsertq_worker.pace.slots import Slots

BACKOFF: Final = Backoff(0.2, 5.0)
"""Seconds between two probes: of a lane that fails alone, and of a service that is away."""
FORGOTTEN: Final = 60.0
"""Seconds after which the gate of a lane of which nothing started, and nothing that failed waits, is forgotten."""


@dataclass(slots=True)
class Limiter:
    """The gates of all lanes, each of `ceiling` requests at most.

    A gate keeps the requests of one lane in flight within what works, whatever the others do; its slots keep it within
    the pace of the fleet; the budget keeps all retries of this worker within what its successes have earned. First
    attempts need no token: a lane that works is not harmed by those that do not.
    """

    ceiling: int
    slots: Slots = field(default_factory=Slots)
    budget: RetryBudget = field(default_factory=lambda: RetryBudget(backoff=BACKOFF))
    waiting: Callable[[str], int] = lambda _: 1
    """How many requests of a namespace could start now."""
    _flying: int = 0
    _gates: dict[str, Gate] = field(default_factory=dict)
    _tidied_at: float = 0.0

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
        if (gate is not None and not gate.admits(now)) or (retry and not self.budget.admits(now)):
            return False
        if self.slots.admits(namespace, now):
            return True
        self._want_slots(namespace, now)
        return False

    def started(self, namespace: str, now: float, *, retry: bool) -> int:
        """A request of this namespace is in flight; returns the version of its slot, 0 where it needed none."""
        if now >= self._tidied_at + FORGOTTEN:
            self._tidy(now)
        gate = self.of(namespace)
        gate.in_flight, gate.used_at = gate.in_flight + 1, now
        self.budget.in_flight += retry
        self._flying += 1
        version = self.slots.spend(namespace, now)
        self._want_slots(namespace, now)
        return version

    def landed(self, namespace: str, *, retry: bool) -> None:
        """A request of this namespace is over; a gate that is wide open again is forgotten."""
        self.budget.in_flight -= retry
        self._flying -= 1
        gate = self._gates[namespace]
        gate.in_flight -= 1
        if not gate.in_flight and not gate.failures and gate.limit >= self.ceiling:
            del self._gates[namespace]

    def succeeded(self, namespace: str, size: int) -> None:
        """A request of this namespace, of `size` bytes, was answered as it should be."""
        self.of(namespace).succeeded()
        self.slots.passed(namespace, size)
        self.budget.succeeded()

    def pushed_back(
        self, namespace: str, started: float, now: float, rng: random.Random, retry_after: float | None
    ) -> None:
        """A request of this namespace that started at `started` was refused for now, or had no answer."""
        self.of(namespace).pushed_back(started, now, retry_after, rng)
        self.budget.failed(now, rng)

    def opens_at(self, namespace: str) -> float:
        """When a retry of this namespace may start."""
        gate = self._gates.get(namespace)
        return max(self.budget.opens_at, self.slots.opens_at(namespace), gate.opens_at if gate else 0.0)

    def failing(self, namespace: str) -> bool:
        """Whether nothing of this namespace passed since it was pushed back last."""
        gate = self._gates.get(namespace)
        return gate is not None and gate.failures > 0

    def openings(self) -> Iterator[float]:
        """When what is shut for a time opens."""
        yield self.budget.opens_at
        yield from self.slots.openings()
        for gate in self._gates.values():
            yield gate.opens_at

    def _tidy(self, now: float) -> None:
        """Forget what is told of lanes that had trouble and are quiet: namespaces can be many."""
        self._tidied_at = now
        self._gates = {
            namespace: gate
            for namespace, gate in self._gates.items()
            if gate.in_flight
            or now < max(gate.used_at + FORGOTTEN, gate.opens_at)
            or (gate.failures and self.waiting(namespace))
        }

    def _want_slots(self, namespace: str, now: float) -> None:
        if self.slots.paces_lane(namespace):
            self.slots.want(namespace, now, self.waiting(namespace), self.ceiling - self._flying)
