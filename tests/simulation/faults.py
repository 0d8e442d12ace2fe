"""Owns what goes wrong on the way to the queue's server and to the service: delays, faults, outages, all from one seed.

It decides only what happens to one call; the models carry it out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Collection


class Mishap(Enum):
    """What becomes of one call to the queue's server that goes wrong. The caller always sees `ServerUnavailable`."""

    UNSENT = "unsent"
    """It never arrives."""
    LOST = "lost"
    """It is carried out; the reply is lost."""
    PARTLY = "partly"
    """The connection breaks in the middle of a pipeline: only the first parts are carried out."""
    LATE = "late"
    """It is carried out after the caller gave up, up to two leases later."""


class Trouble(Enum):
    """What becomes of one request to the service that goes wrong."""

    UNSENT = "connect"
    LOST = "reset"
    GARBLED = "protocol"
    SLOW = "slow"
    RATE = "429"
    REQUEST_TIMEOUT = "408"
    GATEWAY = "5xx"
    SHORT = "short"
    PAGE = "page"


@dataclass(frozen=True, slots=True)
class Outage:
    """From `start` to `end` nothing passes to `target` from `worker` (`""`: from any).

    A target is `queue`, `service`, or one kind of call to the queue, such as `lease`.
    """

    target: str
    start: float
    end: float
    worker: str = ""


@dataclass(slots=True)
class Faults:
    """The faults of one history.

    Args:
        rng: the seed's.
        now: seconds of virtual time.
        lease: of every worker, seconds.
        quarantine: the longest that a request travels on after its sender gave up, seconds.
        latency: typical seconds of one way.
        mishaps: share of calls to the queue that go wrong.
        sick: share of one kind of call (`lease`, `read`, `settle`...) that goes wrong besides.
        troubles: share of requests to the service that go wrong.
        kinds: the kinds of trouble with the service, with their weights.
        outages: see there.
        mishap_kinds: the kinds of what goes wrong with the queue, equally often.
        silences: share of the calls for leases with which a shard falls silent: the node that has it is away.
    """

    rng: random.Random
    now: Callable[[], float]
    lease: float
    quarantine: float
    latency: float
    mishaps: float
    sick: dict[str, float]
    troubles: float
    kinds: dict[Trouble, float]
    outages: list[Outage] = field(default_factory=list)
    mishap_kinds: tuple[Mishap, ...] = tuple(Mishap)
    silences: float = 0.0
    calm: bool = False
    """Nothing goes wrong any more."""
    _silent: dict[int, float] = field(default_factory=dict)

    def delay(self) -> float:
        """Seconds of one way: short as a rule, now and then many times as long."""
        drawn = self.rng.expovariate(1.0) * self.latency
        return drawn * 20 if not self.calm and self.rng.random() < 0.02 else drawn

    def cut_off(self, target: str, worker: str) -> bool:
        """Whether an outage keeps `worker` from `target` now."""
        now = self.now()
        return not self.calm and any(
            one.target == target and one.worker in {"", worker} and one.start <= now < one.end for one in self.outages
        )

    def mishap(self, worker: str, what: str) -> Mishap | None:
        """What goes wrong with the call `what` to the queue that starts now; `None`: nothing."""
        if self.cut_off("queue", worker) or self.cut_off(what, worker):
            return Mishap.UNSENT
        if self.calm or self.rng.random() >= self.mishaps + self.sick.get(what, 0.0):
            return None
        return self.rng.choice(self.mishap_kinds)

    def silent(self, shards: Collection[int]) -> set[int]:
        """The shards among these of which a call for leases brings no answer."""
        now = self.now()
        if shards and self.silences and self.rng.random() < self.silences:
            self._silent[self.rng.choice(list(shards))] = now + self.rng.uniform(0, 2) * self.lease
        return set() if self.calm else {shard for shard in shards if self._silent.get(shard, now) > now}

    def trouble(self, worker: str) -> Trouble | None:
        """What goes wrong with a request to the service that starts now; `None`: nothing."""
        if self.cut_off("service", worker):
            return Trouble.UNSENT
        if self.calm or self.rng.random() >= self.troubles:
            return None
        return self.rng.choices(list(self.kinds), list(self.kinds.values()))[0]

    def straggle(self) -> float:
        """Seconds that a request still travels after its sender gave up: always less than the quarantine."""
        return math.sqrt(self.rng.random()) * self.quarantine * 0.99
