"""Owns what the world gives a producer and a command: clocks, randomness, a process. Tests give their own."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from upsertq.contract.protocol import Patience


@dataclass(frozen=True)
class Circumstances:
    """What the world gives a producer: clocks, randomness, a process. Tests give their own."""

    clock: Callable[[], float]
    """Seconds from any origin, never going back."""
    wall: Callable[[], float]
    """Seconds since 1970."""
    rng: random.Random = field(default_factory=random.Random)
    process: Callable[[], int] = int
    """The process that asks: another number after a fork."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return int(self.wall() * 1000)

    def patience(self, seconds: float, *, silent: float = inf) -> Patience:
        """A patience of so many seconds from now, of `silent` with a server that does not answer at all."""
        return Patience(seconds, self.clock, self.rng, silent=silent)
