"""Owns what a seed draws before its history begins: how many workers, with which settings, and which faults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from faults import Faults, Mishap, Outage, Trouble
from service_policy import REFUSED, Poison, Refusal, ServicePolicy
from upsertq.contract.keys import shard_of
from upsertq_worker.settings import BatchLimits, Settings

if TYPE_CHECKING:
    import random

    from virtual_time import VirtualLoop

NAMESPACES: Final = ("", "docs", "images")
BEFALLS: Final = ("kill", "kill", "pause", "pause", "stop")
CLIMATES: Final = ("starved", "late", "kills", "pauses", "stops", "letters", "refusals", "deadly", "backlogs", "pools")
SILENCES: Final = "silences"
"""A climate that is not drawn."""
CALLS: Final = ("lease", "read", "settle", "lanes", "mark")
POOL_CALLS: Final = ("lease", "beat", "beat", "holders", "release", "settle")
MOST_WORKERS: Final = 6


@dataclass(slots=True)
class Scenario:
    """What a seed draws before its history begins. Times are seconds of virtual time."""

    rng: random.Random
    climate: str = ""
    """Most histories know all faults; some dwell on one chain of accidents that is too rare otherwise. `""`: drawn."""
    lease: float = field(init=False)
    quarantine: float = field(init=False)
    shards: int = field(init=False)
    workers: int = field(init=False)
    duration: float = field(init=False)
    entries: int = field(init=False)
    incidents: int = field(init=False)
    spoilt: float = 0.0
    """Share of the versions of the busiest ids that are poisonous."""
    replays: int = 0
    """Times that dead letters are replayed."""
    by_hand: int = 0
    """Times that a namespace is paused or resumed by hand."""
    befalls: tuple[str, ...] = BEFALLS
    """What may befall a worker."""
    pools: dict[tuple[int, str], list[str]] = field(init=False)

    def __post_init__(self) -> None:
        rng = self.rng
        self.lease = rng.choice((2.0, 4.0, 10.0))
        self.quarantine = self.lease * rng.choice((0.25, 0.5, 0.5, 0.75))
        self.shards = rng.choice((1, 1, 2, 4))
        self.workers = rng.choice((1, 2, 2, 3))
        self.duration = self.lease * rng.uniform(3, 6)
        self.entries = rng.randrange(10, 120)
        self.incidents = rng.randrange(8)
        drawn = rng.choice(("mixed",) * 10 + CLIMATES)
        self.climate = self.climate or drawn
        if self.climate == "starved":  # leases end by themselves, and the next holder follows at once
            self.lease, self.quarantine, self.workers, self.incidents = 4.0, 3.0, 3, 0
            self.shards, self.entries, self.duration = 1, 100, 30.0
        elif self.climate in {"kills", "pauses", "stops"}:
            self.workers, self.incidents, self.befalls = 3, 20, (self.climate[:-1],)
        elif self.climate == "deadly":
            self.spoilt, self.incidents, self.replays = 0.02, rng.randrange(3), 0
        elif self.climate == "backlogs":  # more than fits in memory of namespaces that must wait, others between
            self.shards, self.workers, self.incidents = rng.choice((1, 1, 2)), rng.choice((1, 2)), rng.randrange(4)
            self.entries, self.by_hand = rng.randrange(100, 250), rng.randrange(5, 30)
        elif self.climate == "pools":  # workers join and leave all the time
            self.shards, self.incidents, self.entries = rng.choice((1, 4, 8)), rng.randrange(30), rng.randrange(60, 160)
            self.quarantine = self.lease / 4
            self.workers, self.befalls = rng.randrange(1, MOST_WORKERS + 1), (*BEFALLS, "staff", "staff", "staff")
        elif self.climate == SILENCES:  # primaries of a cluster are away, one after the other
            self.shards, self.workers, self.incidents = rng.choice((2, 4, 8)), rng.choice((1, 2, 3)), rng.randrange(4)
            self.quarantine = self.lease / 4
        elif self.climate != "late":
            self.spoilt, self.replays = rng.choice((0.0, 0.02, 0.2)), rng.randrange(20)
        if self.climate in {"letters", "refusals"}:
            self.spoilt, self.replays, self.incidents = 0.2, 40, rng.randrange(4)
        self.pools = {}
        names = NAMESPACES[: rng.randrange(1, len(NAMESPACES) + 1)] if self.climate != "backlogs" else NAMESPACES
        for number in range(rng.randrange(2, 60)):
            namespace, record_id = rng.choice(names), f"r{number}"
            self.pools.setdefault((shard_of(namespace, record_id, self.shards), namespace), []).append(record_id)

    def faults(self, loop: VirtualLoop) -> Faults:
        """Draw the faults."""
        rng = self.rng
        kinds = {trouble: rng.choice((0.0, 1.0, 3.0)) for trouble in Trouble}
        kinds[Trouble.SHORT] *= rng.choice((0.0, 0.0, 0.2))
        kinds[Trouble.LOST] += 0.1
        faults = Faults(
            rng=rng,
            now=loop.time,
            lease=self.lease,
            quarantine=self.quarantine,
            latency=self.lease * rng.choice((0.0005, 0.003, 0.01)),
            mishaps=rng.choice((0.0, 0.02, 0.1, 0.3)),
            sick={rng.choice(CALLS): rng.choice((0.0, 0.0, 0.5, 0.8))},
            troubles=rng.choice((0.0, 0.05, 0.2, 0.5)),
            kinds=kinds,
        )
        match self.climate:
            case "starved":
                faults.mishaps, faults.sick, faults.latency = 0.0, {}, 0.001 * self.lease
                faults.troubles, faults.kinds = 0.3, {Trouble.LOST: 4.0, Trouble.SLOW: 1.0}
                for start in range(2, int(self.duration), 7):
                    faults.outages.append(Outage("lease", start, start + self.lease * rng.uniform(0.9, 1.2)))
            case "stops":
                faults.mishaps, faults.sick, faults.latency = 0.0, {}, 0.001 * self.lease
                faults.troubles, faults.kinds = 0.3, {Trouble.LOST: 1.0}
            case "pools":
                faults.mishaps, faults.latency = rng.choice((0.0, 0.02, 0.1)), self.lease * rng.choice((0.0005, 0.003))
                faults.sick = {rng.choice(POOL_CALLS): rng.choice((0.0, 0.3, 0.8))}
                faults.troubles, faults.kinds = rng.choice((0.1, 0.4)), {Trouble.LOST: 1.0, Trouble.SLOW: 2.0}
                for _ in range(rng.randrange(3)):  # heartbeats that cannot be written, or read
                    begin, worker = rng.uniform(0, self.duration), f"w{rng.randrange(1, MOST_WORKERS)}"
                    length = self.lease * rng.uniform(0.1, 3.0)
                    faults.outages.append(Outage("beat", begin, begin + length, rng.choice(("", worker))))
            case "silences":
                faults.mishaps, faults.sick, faults.silences = rng.choice((0.0, 0.02)), {}, rng.choice((0.02, 0.1, 0.3))
                faults.latency = 0.001 * self.lease
            case "late":
                faults.sick = {rng.choice(CALLS): 0.5}
                faults.mishap_kinds = (Mishap.LATE, Mishap.LATE, Mishap.LOST)
            case "letters" | "refusals" | "backlogs":
                faults.mishaps, faults.sick, faults.latency = 0.02, {}, 0.001 * self.lease
                faults.troubles = rng.choice((0.0, 0.05))
                if self.climate == "backlogs":
                    faults.troubles, faults.kinds = rng.choice((0.0, 0.3)), {Trouble.LOST: 1.0, Trouble.SLOW: 0.1}
            case _:
                pass
        return faults

    def policy(self, loop: VirtualLoop) -> ServicePolicy:
        """Draw what the service refuses."""
        rng = self.rng
        policy = ServicePolicy(rng, loop.time, kinds=rng.choice((REFUSED, (Poison.NAMED,), (Poison.UNNAMED,))))
        if self.climate == "deadly":
            policy.kinds = (Poison.DEADLY,)
            return policy
        if self.climate in {"starved", "late", "kills", "pauses", "stops", "backlogs", "pools", SILENCES}:
            return policy
        policy.most_bytes = rng.choice((2_000_000, 2_000_000, 400, 90))
        if self.climate == "refusals" or rng.random() < 0.2:
            start = rng.uniform(0, self.duration)
            policy.refusals.append((rng.choice(list(Refusal)), start, start + self.lease * rng.uniform(0.1, 3.0)))
        return policy

    def skew(self) -> float:
        """Draw the seconds by which a worker's clock is wrong."""
        return self.rng.choice((0.0, -3600.0, 90.0)) if self.climate == "pools" else 0.0

    def settings(self) -> Settings:
        """Draw the settings of one worker: those of a fleet agree on lease and quarantine alone."""
        rng = self.rng
        limits = BatchLimits(
            rng.choice((1, 3, 20, 100)), rng.choice((150, 1_000, 2_000_000)), rng.choice((0.0, 0.05, 0.2, 0.7))
        )
        pools = self.climate == "pools"
        ahead = (6_000, 20_000, 80_000) if self.climate == "backlogs" else (1, 20_000, 200_000, 96_000_000)
        return Settings(
            batch=limits,
            concurrency=rng.choice((1, 2, 8)),
            read_ahead=rng.choice(ahead),
            lease=self.lease,
            quarantine=self.quarantine,
            handover=self.lease * rng.choice((0.05, 0.5, 3.0)) if pools else 30.0,
            grace=self.lease * rng.choice((0.0, 0.2, 2.0)),
            max_attempts=rng.choice((2, 8)),
        )
