"""Owns the gates of all lanes: one for each namespace that is in trouble or in flight, and none for the others."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from upsertq_worker.backoff import Backoff
from upsertq_worker.pace import Gate

_BACKOFF = Backoff(0.2, 5.0)


@dataclass(slots=True)
class Gates:
    """The gates, each of `ceiling` requests at most."""

    ceiling: int
    _gates: dict[str, Gate] = field(default_factory=dict)

    def of(self, namespace: str) -> Gate:
        """The gate of this namespace."""
        gate = self._gates.get(namespace)
        if gate is None:
            gate = self._gates[namespace] = Gate(self.ceiling, _BACKOFF)
        return gate

    def landed(self, namespace: str) -> None:
        """A request of this namespace is over; a gate that is wide open again is forgotten."""
        gate = self._gates[namespace]
        gate.in_flight -= 1
        if not gate.in_flight and gate.limit >= self.ceiling:
            del self._gates[namespace]

    def openings(self) -> Iterator[float]:
        """When the gates that are shut for a time open."""
        return (gate.opens_at for gate in self._gates.values())
