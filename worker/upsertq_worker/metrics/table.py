"""Owns the table of metrics: names, types, labels, help. Nothing is exported that is not in it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """The types of metrics, as Prometheus has them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; `labels` come after `queue`, which each one has."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


class Distribution:
    """Observed values, counted by upper bound (ascending, without the infinite one): what a histogram exports."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        place = next((place for place, bound in enumerate(self.bounds) if value <= bound), len(self.bounds))
        self._counts[place] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self._counts)

    def cumulated(self) -> list[tuple[str, int]]:
        """How many values are at most each bound, the infinite one last."""
        names = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        return [(name, sum(self._counts[: place + 1])) for place, name in enumerate(names)]


Value = float | Distribution


@dataclass(frozen=True, slots=True)
class Family:
    """A metric with its values, by the values of its labels after `queue`."""

    metric: Metric
    queue: str
    values: Mapping[tuple[str, ...], Value]


def one(metric: Metric, queue: str, value: Value) -> Family:
    """A metric that has no label but `queue`."""
    return Family(metric, queue, {(): value})


def by_label(metric: Metric, queue: str, values: Mapping[str, float]) -> Family:
    """A metric with one label after `queue`."""
    return Family(metric, queue, {(label,): value for label, value in values.items()})


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"upsertq_{name}", Kind.COUNTER, text, labels)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"upsertq_{name}", Kind.GAUGE, text, labels)


def _histogram(name: str, text: str) -> Metric:
    return Metric(f"upsertq_{name}", Kind.HISTOGRAM, text)


# of the queue: every process that exports them exports the same figures, so aggregate them by max
RECORDS: Final = _counter(
    "records_total", "Records in the queue's books, by state; dead falls by replay and discard.", "state"
)
PENDING: Final = _gauge("pending_records", "Records that are pending in the queue, those in flight included.")
PENDING_BYTES: Final = _gauge("pending_bytes", "Payload of the pending records.")
OLDEST: Final = _gauge("oldest_pending_seconds", "Age of the oldest pending entry, 0 where none is pending.")
PAUSED: Final = _gauge("lane_paused", "1 for a paused lane, * for the whole queue; other: how many more.", "lane")

# of one worker: aggregate them by sum
REQUESTS: Final = _counter("requests_total", "Upsert requests that ended, by what came back.", "outcome")
DURATION: Final = _histogram("request_duration_seconds", "From the start of a request to the end of its answer.")
BATCH_RECORDS: Final = _histogram("batch_records", "Records in a request.")
BATCH_BYTES: Final = _histogram("batch_bytes", "Bytes of a request's body.")
RETRIES: Final = _counter("retries_total", "Batches that are sent again, by why.", "cause")
PACE: Final = _gauge(
    "pace_requests_per_second",
    "Requests a second that all workers together may send to a lane; one without a known limit is not shown.",
    "lane",
)
IN_FLIGHT: Final = _gauge("in_flight_requests", "Requests in flight.", "lane")
LEASES: Final = _gauge("leases_held", "Shards whose lease is held.")
HANDOVERS: Final = _counter("lease_handovers_total", "Leases taken that another worker had released in good order.")
LOST: Final = _counter("lease_lost_total", "Leases that ran out, or were taken, while they were held.")

# of the queue, exported by `upsertq metrics` alone
DEAD: Final = _gauge("dead_records", "Dead letters, by the reason they died of.", "reason")
RUNS: Final = _gauge("runs", "Runs that the queue knows.")
SHARDS: Final = _gauge("shards", "Shards of the queue.")
WORKERS: Final = _gauge("workers", "Workers by what they do: draining, standby, gone (without a word).", "state")
ALARMS: Final = _gauge("worker_alarms", "Alarms that workers raise: each needs an operator.")
