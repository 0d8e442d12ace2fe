"""Owns what a worker knows about the leases it holds, and until when it may act on them. Pure: it is told the time."""

from collections.abc import Sequence
from dataclasses import dataclass

from upsertq_worker.queue.protocols import Grant


@dataclass(frozen=True, slots=True)
class Change:
    """What a round of asking brought or took."""

    gained: tuple[Grant, ...]
    lost: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Takeover:
    """What is known of the moment when a shard became ours.

    Attributes:
        boundary: the last sequence given then: what stands there up to it is inherited.
        quarantined_until: until then requests of the former holder may take effect; `None` after a clean release.
        deaths: unclean deaths of holders in a row.
        mark: what was noted of suspects.
    """

    boundary: tuple[int, int]
    quarantined_until: float | None
    deaths: int
    mark: str


class Leases:
    """The leases of one worker.

    Args:
        shards: of the queue.
        seconds: that a lease lives after it was taken or prolonged.
        quarantine: seconds for which requests of a holder that died may take effect.
    """

    def __init__(self, shards: int, seconds: float, quarantine: float) -> None:
        self._shards = shards
        self._seconds = seconds
        self._quarantine = quarantine
        self.valid_until = float("-inf")
        """Until then the leases held are ours for certain."""
        self.epochs: dict[int, int] = {}
        self.takeovers: dict[int, Takeover] = {}
        """Of the shards that are ours."""
        self.holders: dict[int, str] = {}
        """The holders of the shards that are not ours."""
        self.faults: dict[int, str] = {}
        """Why no worker can have a shard, of those that are damaged."""

    def wanted(self) -> dict[int, int]:
        """What to ask for: every shard, with the epoch we hold (0: none)."""
        return {shard: self.epochs.get(shard, 0) for shard in range(self._shards)}

    def granted(self, grants: Sequence[Grant], asked_at: float, now: float) -> Change:
        """Take in what came of asking at `asked_at` (before the request left: the lease may have begun then)."""
        gained, lost = [], []
        for grant in grants:
            before = self.epochs.get(grant.shard, 0)
            if grant.epoch == before:
                continue
            if before:
                lost.append(grant.shard)
                self.fenced(grant.shard)
            if grant.epoch:
                gained.append(grant)
                self.epochs[grant.shard] = grant.epoch
                until = None if grant.clean else now + self._quarantine
                self.takeovers[grant.shard] = Takeover(place_of(grant.clock), until, grant.deaths, grant.mark)
        self.holders = {grant.shard: grant.holder for grant in grants if not grant.epoch and grant.holder}
        self.faults = {grant.shard: grant.fault for grant in grants if grant.fault}
        self.valid_until = asked_at + self._seconds
        return Change(tuple(gained), tuple(lost))

    def fenced(self, shard: int) -> None:
        """The server says that this shard's lease is not ours any more."""
        self.epochs.pop(shard, None)
        self.takeovers.pop(shard, None)

    def safe(self, now: float) -> bool:
        """Whether the leases held are still ours for certain: nothing may be sent otherwise."""
        return bool(self.epochs) and now < self.valid_until


def place_of(sequence: str) -> tuple[int, int]:
    """A stream id as something to compare."""
    milliseconds, _, number = sequence.partition("-")
    return int(milliseconds), int(number)
