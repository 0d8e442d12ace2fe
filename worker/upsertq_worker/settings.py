"""Owns how a worker drains: every setting, with its default. Pure, and the one place of defaults."""

from dataclasses import dataclass, field
from typing import Final

MOST_CULPRITS: Final = 10
"""Culprits among one batch, or in a row without an accepted record, beyond which the cause is taken to be systemic."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one request may carry, and how long a record may wait for company (seconds)."""

    records: int = 100
    bytes: int = 2_000_000
    linger: float = 0.2


@dataclass(frozen=True, slots=True)
class Settings:
    """How to drain. Times are seconds.

    Args:
        batch: what one request may carry.
        concurrency: requests in flight at most.
        read_ahead: bytes of memory that entries read and not yet settled may take, about.
        lease: how long a shard stays ours without a word from us.
        quarantine: how long an id whose answer was lost keeps its newer versions waiting.
        handover: how long the requests in flight of a shard that is given back to the pool may take.
        grace: how long requests in flight may take to finish after the signal to stop.
        max_attempts: failures while others succeed after which a batch is taken apart, and a single record given up.
        max_culprits: refused records of one batch, or in a row, beyond which the lane is paused instead.
        pause_timeout: with `until_empty`, how long a pause may keep everything waiting.
        until_empty: stop when nothing is pending any more.
        stop_after: stop after so many seconds, `None` for never.
    """

    batch: BatchLimits = field(default_factory=BatchLimits)
    concurrency: int = 16
    read_ahead: int = 96_000_000
    lease: float = 10.0
    quarantine: float = 5.0
    handover: float = 30.0
    grace: float = 30.0
    max_attempts: int = 8
    max_culprits: int = MOST_CULPRITS
    pause_timeout: float = 300.0
    until_empty: bool = False
    stop_after: float | None = None


DEFAULTS: Final = Settings()
