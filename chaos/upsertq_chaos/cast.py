"""Owns what happens when in a chaos run: the records of every batch, the kills, the faults.

Pure: the same seed gives the same plan.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from random import Random
from typing import Final

DIMENSION: Final = 8
BATCH_SECONDS: Final = 0.25
"""A producer puts a batch so often."""
HOT_SECONDS: Final = 1.0
"""Every hot id gets a new version so often."""
POISON_EVERY: Final = 40
"""Each so-manieth batch carries one record that the index refuses."""
SERVER_SECONDS: Final = 20.0
"""Between two kills of the server: its guardian takes more than five in a minute for a fault of the server."""
ROOM: Final = 3
"""How many times what comes in full batches a namespace's rate limit is.

Catching up meets it. But it must leave room for small batches (of suspects, of what an earlier holder left), as the
real service's limit does: with 1.5 the workers spend a storm waiting for leave to send single records.
"""
FULL_BATCH: Final = 20_000
"""Bytes of a request with 100 records, about."""
AWAY_SECONDS: Final = 1.0, 6.0
"""For how long a worker is frozen, or its place is empty: up to three times the lease."""
CALM_SECONDS: Final = 2.0
"""Nothing is killed so shortly after the start, so that there is something to kill."""
POISON: Final = "bad-"
POISON_FAULT: Final = f"poison={POISON}*"


class Role(StrEnum):
    """What can be killed."""

    WORKER = "worker"
    PRODUCER = "producer"
    SERVER = "server"


class Deed(StrEnum):
    """What is done to a process."""

    KILL = "kill"
    """SIGKILL; another one starts at once."""
    FREEZE = "freeze"
    """SIGSTOP, for longer than a lease lives, and SIGCONT."""
    LEAVE = "leave"
    """SIGTERM; another one joins some time after its end."""


@dataclass(frozen=True, slots=True)
class Kill:
    """A deed: `at` seconds after the start, to the one with this number in its role; it lasts for some `seconds`."""

    at: float
    role: Role
    number: int
    deed: Deed = Deed.KILL
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """The size of a run: how long, how many of everyone, how many ids; `kill_every` in seconds."""

    seconds: float
    seed: int
    workers: int
    producers: int
    records: int
    hot: int
    kill_probability: float
    kill_every: float
    server: bool = False
    freeze_probability: float = 0.0
    leave_probability: float = 0.0

    def moves(self) -> list[Kill]:
        """Which workers are frozen, and which leave, in the order of time."""
        rng = Random(f"moves {self.seed}")
        found: list[Kill] = []
        for round_ in range(int((self.seconds - CALM_SECONDS) / self.kill_every)):
            for number in range(self.workers):
                at = CALM_SECONDS + (round_ + rng.random()) * self.kill_every
                seconds, drawn = rng.uniform(*AWAY_SECONDS), rng.random()
                if drawn < self.freeze_probability:
                    found.append(Kill(at, Role.WORKER, number, Deed.FREEZE, seconds))
                elif drawn < self.freeze_probability + self.leave_probability:
                    found.append(Kill(at, Role.WORKER, number, Deed.LEAVE, seconds))
        return sorted(found, key=lambda kill: kill.at)

    def kills(self) -> list[Kill]:
        """What is killed when, in the order of time."""
        rng = Random(self.seed)
        found: list[Kill] = []
        server_free = 0.0
        roles = [(Role.WORKER, self.workers), (Role.PRODUCER, self.producers), (Role.SERVER, int(self.server))]
        rounds = int((self.seconds - CALM_SECONDS) / self.kill_every)
        for number in range(1, rounds + 1):
            for role, count in roles:
                for one in range(count):
                    at = CALM_SECONDS + (number - 1 + rng.random()) * self.kill_every
                    if rng.random() >= self.kill_probability or (role is Role.SERVER and at < server_free):
                        continue
                    if role is Role.SERVER:
                        server_free = at + SERVER_SECONDS
                    found.append(Kill(at, role, one))
        return sorted(found, key=lambda kill: kill.at)

    def share(self, producer: int) -> "Share":
        """The part of one producer."""
        batches = max(1, int(self.seconds * 0.9 / BATCH_SECONDS))
        cold = len(range(producer, self.records, self.producers))
        hot = len(range(producer, self.hot, self.producers))
        return Share(producer, cold, ceil(cold / batches), hot, ceil(hot * BATCH_SECONDS / HOT_SECONDS))


@dataclass(frozen=True, slots=True)
class Share:
    """What one producer puts: so many cold and hot ids, and how many of them in every batch.

    The content of a batch follows from its number alone, so that a producer that was killed goes on where its notes
    end. The number is also the version of its records: it grows strictly for every id.
    """

    producer: int
    cold: int
    cold_each: int
    hot: int
    hot_each: int

    def as_list(self) -> list[int]:
        """Its fields in order, to make it anew in another process."""
        return [self.producer, self.cold, self.cold_each, self.hot, self.hot_each]

    @property
    def namespace(self) -> str:
        """Of all its records."""
        return "" if self.producer == 0 else f"tenant-{self.producer}"

    def ids(self, batch: int) -> list[str]:
        """The ids of a batch, each once; beyond the last cold id it begins anew with the first."""
        return list(dict.fromkeys(self._ids(batch)))

    def _ids(self, batch: int) -> Iterator[str]:
        for which, count, each in (("cold", self.cold, self.cold_each), ("hot", self.hot, self.hot_each)):
            for place in range(batch * each, (batch + 1) * each if count else 0):
                yield f"{which}-{self.producer}-{place % count}"
        if batch % POISON_EVERY == POISON_EVERY // 2:
            yield f"{POISON}{self.producer}-{batch}"


def producer_of(name: str) -> int:
    """The number of the one producer that puts an id."""
    return int(name.split("-")[1])


def namespace_of(name: str) -> str:
    """The namespace of an id."""
    return Share(producer_of(name), 0, 0, 0, 0).namespace


def is_poison(name: str) -> bool:
    """Whether the index refuses this id, so that it may end as a dead letter."""
    return name.startswith(POISON)


def usual_faults(cast: Cast) -> str:
    """Something of everything that the emulator can do to a request; a record is harmed by none but the poison."""
    share = cast.share(0)
    records = (share.cold_each + share.hot_each) / BATCH_SECONDS
    requests = ceil(2 + ROOM * records / 100)
    return ",".join(
        (
            f"seed={cast.seed}",
            POISON_FAULT,
            f"throttle={requests}:{requests * FULL_BATCH};retry_after=auto",
            "toolarge=6000;body=html;rate=0.03",
            "error=503:0.03",
            "error=500:0.01",
            "error=503:0.01;applied=true",
            "reset=before:0.02",
            "reset=after:0.02",
            "truncate=0.02",
            "unreadable=0.01;body=ok",
            "unreadable=0.002",
            "short=1:0.01;lose=true",
            # the client of a request without an answer still waits when it is frozen, though its lease is over
            *(() if cast.freeze_probability else ("stall=0.004",)),
            "late=0.5:0.01",
            "latency=lognormal:0.03:0.7;most=0.4",
        )
    )
