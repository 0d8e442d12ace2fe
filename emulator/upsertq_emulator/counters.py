"""What the emulator has seen and done, counted; times are seconds since the epoch."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Counters:
    """Running totals over the data plane's requests; admin requests are not counted.

    `outcomes` is keyed by HTTP status as text, or by what happened instead of an answer: `reset`, `stall`,
    `truncated`. `bytes` counts request bodies. `records` counts records that the index took, an
    overwritten one every time. `overlaps` counts ids that came while another request that carried them had no
    answer yet; it needs the journal.
    """

    requests: int = 0
    upserts: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    records: int = 0
    bytes: int = 0
    largest_request_bytes: int = 0
    largest_request_records: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    overlaps: int = 0
    first_request_at: float | None = None
    last_request_at: float | None = None

    def arrived(self, *, size: int, upsert: bool, now: float) -> None:
        """Count a request with a body of `size` bytes."""
        self.requests += 1
        self.upserts += upsert
        self.bytes += size
        self.largest_request_bytes = max(self.largest_request_bytes, size)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if self.first_request_at is None:
            self.first_request_at = now
        self.last_request_at = now

    def ended(self, outcome: str) -> None:
        """Count how a request ended."""
        self.in_flight -= 1
        self.outcomes[outcome] += 1

    def applied(self, records: int) -> None:
        """Count records that the index took from one request."""
        self.records += records
        self.largest_request_records = max(self.largest_request_records, records)

    def document(self) -> dict[str, Any]:
        """The totals as a JSON object."""
        return {
            "requests": self.requests,
            "upserts": self.upserts,
            "outcomes": dict(sorted(self.outcomes.items())),
            "records": self.records,
            "bytes": self.bytes,
            "largest_request_bytes": self.largest_request_bytes,
            "largest_request_records": self.largest_request_records,
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
            "overlaps": self.overlaps,
            "first_request_at": self.first_request_at,
            "last_request_at": self.last_request_at,
        }
