"""Owns what a worker knows about the leases it holds, and until when it may act on them. Pure: it is told the time."""

from collections.abc import Iterable, Mapping, Sequence
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
        own: the former holder was this very worker, which lost the lease and lives: no death is behind it.
    """

    boundary: tuple[int, int]
    quarantined_until: float | None
    deaths: int
    mark: str
    own: bool = False


class Leases:
    """The leases of one worker.

    Args:
        seconds: that a lease lives after it was taken or prolonged.
        quarantine: seconds for which requests of a holder that died may take effect.
    """

    def __init__(self, seconds: float, quarantine: float) -> None:
        self._seconds = seconds
        self._quarantine = quarantine
        self.valid_until = float("-inf")
        """Until then the leases held are ours for certain."""
        self._silent: dict[int, float] = {}
        """Shards of which nothing is known since then: the node that has them gives no answer, others do."""
        self.target = 0
        """How many shards are due to us."""
        self.epochs: dict[int, int] = {}
        self._former: dict[int, int] = {}
        """The epochs of shards that were lost."""
        self.takeovers: dict[int, Takeover] = {}
        """Of the shards that are ours."""
        self.draining: dict[int, float] = {}
        """Of the shards that are ours, those that are given back: nothing new of them is read or sent. And until when
        that may take."""
        self.holders: dict[int, str] = {}
        """The holders of shards that are not ours, as far as they are known."""
        self.faults: dict[int, str] = {}
        """Why no worker can have a shard, of those that were asked for and are damaged."""

    def granted(self, grants: Sequence[Grant], asked_at: float, now: float) -> Change:
        """Take in what came of asking at `asked_at` (before the request left: the lease may have begun then).

        Leases that were held before were all asked for then, or in an earlier call at that time. A shard whose node
        gives no answer for half of a lease's life is let go of as one that was lost: else the others, which are
        certain as long as all are, would stand still with it.
        """
        gained, lost = [], []
        for grant in grants:
            if grant.silent:
                self._silent.setdefault(grant.shard, asked_at)
                continue
            self._silent.pop(grant.shard, None)
            self._note(grant)
            before = self.epochs.get(grant.shard, 0)
            if grant.epoch == before:
                continue
            if grant.epoch and grant.epoch == self._former.get(grant.shard):
                # asked for before it was lost: what we settled under it may still arrive, so it is left to run out
                continue
            if before:
                lost.append(grant.shard)
                self.fenced(grant.shard)
            if grant.epoch:
                gained.append(grant)
                self.epochs[grant.shard] = grant.epoch
                until = None if grant.clean else now + self._quarantine
                own = not grant.clean and grant.epoch == self._former.get(grant.shard, 0) + 1
                self.takeovers[grant.shard] = Takeover(place_of(grant.clock), until, grant.deaths, grant.mark, own)
        self._silent = {shard: since for shard, since in self._silent.items() if shard in self.epochs}
        for shard in [shard for shard, since in self._silent.items() if now >= since + self._seconds / 2]:
            lost.append(shard)
            self.fenced(shard)
        if not self._silent:
            self.valid_until = asked_at + self._seconds
        return Change(tuple(gained), tuple(lost))

    def fenced(self, shard: int) -> None:
        """The server says that this shard's lease is not ours any more."""
        if epoch := self.epochs.pop(shard, 0):
            self._former[shard] = epoch
        self.takeovers.pop(shard, None)
        self.draining.pop(shard, None)
        self._silent.pop(shard, None)

    def denied(self, shards: Iterable[int], sent: Mapping[int, int]) -> frozenset[int]:
        """Those of these shards that are ours under the epoch with which the server denied them.

        An answer to a call of before, sent under an older epoch, says nothing of the lease that is held now.
        """
        return frozenset(shard for shard in shards if self.epochs.get(shard) == sent[shard])

    def quarantine_end(self, shard: int) -> float:
        """When the requests of a former holder of this shard of ours, which died, can take effect no more."""
        return self.takeovers[shard].quarantined_until or float("-inf")

    def safe(self, now: float) -> bool:
        """Whether the leases held are still ours for certain: nothing may be sent otherwise."""
        return bool(self.epochs) and now < self.valid_until

    def _note(self, grant: Grant) -> None:
        """Keep true what is known of holders and of damage."""
        for known, told in ((self.holders, "" if grant.epoch else grant.holder), (self.faults, grant.fault)):
            known.pop(grant.shard, None)
            if told:
                known[grant.shard] = told


def place_of(sequence: str) -> tuple[int, int]:
    """A stream id as something to compare."""
    milliseconds, _, number = sequence.partition("-")
    return int(milliseconds), int(number)
