"""Owns what one worker counts: it listens to the worker's events and turns each into changes of figures.

It does no I/O, and is given its clock.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from upsertq_worker.events import Event
from upsertq_worker.metrics import lanes, table
from upsertq_worker.metrics.table import Distribution, Family, by_label, one

TRANSPORT: Final = "transport"
OUTCOMES: Final = ("ok", "throttled", "refused", "server_error", TRANSPORT, "short_ack")
DURATIONS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCHES: Final = (1, 5, 10, 25, 50, 75, 100, 250, 500, 1_000)
BODIES: Final = (1e3, 1e4, 5e4, 1e5, 2.5e5, 5e5, 1e6, 2e6)


class Counts:
    """What one worker did since it started; `hear` is to be given every event. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._outcomes = Counter[str]()
        self._retries = Counter[str]()
        self._durations = Distribution(DURATIONS)
        self._batches = Distribution(BATCHES)
        self._bodies = Distribution(BODIES)
        self._busiest = lanes.Busiest(clock())
        self._handovers = 0
        self._lost = 0

    def hear(self, event: Event, fields: Mapping[str, Any]) -> None:
        """Count one event; most are none of ours."""
        match event:
            case Event.REQUEST_ENDED:
                self._request_ended(fields)
            case Event.BATCH_SENT:
                self._outcomes[fields["outcome"]] += 1
                self._batches.observe(fields["records"])
                self._busiest.note(fields["namespace"], self._clock())
            case Event.BATCH_RETRIED:
                self._retries[fields["cause"]] += 1
            case Event.SHARDS_GAINED:
                self._handovers += fields["handed_over"]
            case Event.LEASE_LOST:
                self._lost += 1
            case _:
                pass

    def families(
        self, queue: str, leases: int, in_flight: Mapping[str, float], paces: Mapping[str, float]
    ) -> list[Family]:
        """All figures of the worker; its `leases`, requests `in_flight` and `paces` by namespace are as they stand."""
        busiest = self._busiest.names()
        return [
            by_label(table.REQUESTS, queue, _from_zero(OUTCOMES, self._outcomes)),
            by_label(table.RETRIES, queue, _from_zero(OUTCOMES[1:], self._retries)),
            one(table.DURATION, queue, self._durations),
            one(table.BATCH_RECORDS, queue, self._batches),
            one(table.BATCH_BYTES, queue, self._bodies),
            by_label(table.PACE, queue, lanes.labelled(paces, busiest)),
            by_label(table.IN_FLIGHT, queue, lanes.labelled(in_flight, busiest)),
            one(table.LEASES, queue, leases),
            one(table.HANDOVERS, queue, self._handovers),
            one(table.LOST, queue, self._lost),
        ]

    def _request_ended(self, fields: Mapping[str, Any]) -> None:
        self._durations.observe(fields["seconds"])
        self._bodies.observe(fields["bytes"])
        if not fields["answered"]:  # given up: no outcome is judged
            self._outcomes[TRANSPORT] += 1


def _from_zero(known: tuple[str, ...], counted: Mapping[str, float]) -> dict[str, float]:
    """The counts with those that are 0 still: a series that begins at 1 hides its first event from `rate()`."""
    return {**dict.fromkeys(known, 0.0), **counted}
