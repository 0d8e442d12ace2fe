"""Owns the pace of one lane for all workers: which slots are free, and what a 429 teaches. Pure: it is told the time.

`scripts/pace.lua` is its twin on the server: the same arithmetic in the same order, so that both give equal answers.
This one is used where the server is away, and in simulations. It never knows which worker asks.

A lane has no pace until a 429 comes: then its slots are given out one after the other (GCRA), each a `step` after the
one before. A step is what a request takes of the limit in requests or in bytes a second, whichever takes longer. Since
the last 429 that counted the pace grows, slowly at first; after `MEMORY` seconds without one the lane has none again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

AHEAD: Final = 0.2
"""Seconds for which slots are given out ahead; the next slot, however far ahead it is, is always given."""
NAMED: Final = 0.985
"""Of a limit that is named or measured."""
START: Final = 50.0
"""Requests a second after a first 429 that names no limit; then `START_GROWTH` times as many each `STAGE` seconds."""
START_GROWTH: Final = 1.5
STAGE: Final = 0.5
MOST_STAGES: Final = 20
CREEP: Final = 0.003
"""Growth a second at first, and the seconds after which the pace has doubled."""
DOUBLING: Final = 10.0
CALM: Final = 0.5
"""Seconds after a 429 that counted in which no other one does: its effect is not to be seen before."""
SETTLING: Final = 0.1
"""Seconds after it for which slots of the version before may still be spent by workers that have not heard of it."""
WINDOW: Final = 0.5
"""What was accepted is counted in windows of so many seconds, the current one and the one before."""
FLOOR: Final = 0.8
"""Of the pace at the last 429 that counted: what is measured may be less, where workers report seldom."""
CEILING: Final = 0.95
"""Of the pace at a 429: what is measured may be more, where a bucket gave what it had in store."""
MEMORY: Final = 60.0
LEAST: Final = {"requests": 0.1, "bytes": 1_000.0}
LEAST_MEASURED: Final = 2.0
"""Requests a second: refusals that do not depend on the pace, as of a proxy, must not bring a lane to a standstill."""
MOST: Final = 1e12
SHORTEST_STEP: Final = 1e-4
LONGEST_STEP: Final = 10.0
LONGEST_WAIT: Final = 300.0

Unit = Literal["requests", "bytes", ""]


@dataclass(frozen=True, slots=True)
class Throttled:
    """A 429.

    Args:
        version: of the slot under which the request was sent, 0 where it needed none.
        limit: what it named, in units a second; 0 for nothing.
        unit: what is limited, "" where it does not say.
        retry_after: seconds that it asks to wait, 0 where it does not.
    """

    version: int
    limit: float = 0.0
    unit: Unit = ""
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Ask:
    """What a worker asks of one lane, and tells about it.

    Args:
        namespace: the lane's.
        wanted: slots.
        size: bytes of a request, about.
        passed: requests that were accepted since the last time.
        throttled: a 429.
    """

    namespace: str
    wanted: int = 0
    size: float = 1.0
    passed: int = 0
    throttled: Throttled | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """Slots of one lane: `count` of them, the first in `first` seconds, the others each a `step` later.

    `version` is 0 where the lane has no pace: no slots are needed. Slots of another version are void.
    """

    version: int
    first: float = 0.0
    step: float = 0.0
    count: int = 0


class SharedPace(Protocol):
    """What is needed of the queue for paces."""

    async def pace(self, asks: Sequence[Ask]) -> list[Given]:
        """Give slots of lanes, and learn from what is told about them; a call that is repeated gives others."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane that has a pace, as the server keeps it.

    Args:
        version: milliseconds of the last 429 that counted.
        at: when the next slot is free, seconds.
        requests: a second that were right then, 0 where that is not known; `bytes` too.
        starting: whether it is still to be found out by growing fast.
        passed_before, since_before: accepted in the window before the current one, and when that one began.
        passed, since: the same of the current one.
    """

    version: int
    at: float
    requests: float = 0.0
    bytes: float = 0.0
    starting: int = 0
    passed_before: float = 0.0
    since_before: float = 0.0
    passed: float = 0.0
    since: float = 0.0


def answer(lane: Lane | None, ask: Ask, now: float) -> tuple[Lane | None, Given]:
    """The lane after `ask` (None: it has no pace), and the slots given; `now` in seconds."""
    if lane is not None and not _is_remembered(lane, now):
        lane = None
    if lane is not None:
        lane = _counted(lane, ask.passed, now)
    if ask.throttled is not None:
        lane = _taught(lane, ask.throttled, ask.size, now)
    if lane is None:
        return None, Given(0)
    step = step_of(lane, ask.size, now)
    first = max(lane.at, now)
    count = max(0, min(ask.wanted, max(1, math.floor((now + AHEAD - first) / step) + 1)))
    if count:
        lane = replace(lane, at=first + count * step)
    return lane, Given(lane.version, first - now, step, count)


def step_of(lane: Lane, size: float, now: float) -> float:
    """Seconds between two slots for requests of `size` bytes."""
    cost = 0.0
    if lane.requests > 0:
        cost = 1 / lane.requests
    if lane.bytes > 0:
        cost = max(cost, size / lane.bytes)
    return min(LONGEST_STEP, max(SHORTEST_STEP, cost / _growth(lane, now)))


def _growth(lane: Lane, now: float) -> float:
    age = max(0.0, now - lane.version / 1000)
    if lane.starting:
        return float(START_GROWTH ** min(MOST_STAGES, math.floor(age / STAGE)))
    part = age / DOUBLING
    return 1 + CREEP * age + part * part * part * part


def _is_remembered(lane: Lane, now: float) -> bool:
    """Whether it still has a pace; what lies in the future was written before the server's clock was put back."""
    age = now - lane.version / 1000
    return age >= -1 and (age <= MEMORY or lane.at > now + 1) and lane.at <= now + 2 * LONGEST_WAIT


def _counted(lane: Lane, passed: int, now: float) -> Lane:
    lane = replace(lane, passed=lane.passed + passed)
    if now - lane.since < WINDOW:
        return lane
    return replace(lane, passed_before=lane.passed, since_before=lane.since, passed=0.0, since=now)


def _taught(lane: Lane | None, told: Throttled, size: float, now: float) -> Lane | None:
    """What a 429 changes: only one of a request under the current version counts, so that the fleet reacts once."""
    fresh = lane is None
    if lane is None:
        lane = Lane(0, now, since_before=now, since=now)
    elif told.version != lane.version:
        return lane
    elif now - lane.version / 1000 < CALM:
        return replace(lane, at=max(lane.at, now + min(told.retry_after, LONGEST_WAIT)))
    requests, size_rate, starting = lane.requests, lane.bytes, 0
    unit: Unit
    if told.limit > 0:
        found, unit = NAMED * told.limit, told.unit or "requests"
    elif fresh:
        starting = 1
        found, unit = (START * size, "bytes") if told.unit == "bytes" else (START, "requests")
    else:
        found, unit = _measured(lane, size, now), told.unit or _binding(lane, size)
        found = found * size if unit == "bytes" else found
    if unit == "bytes":
        size_rate = min(MOST, max(LEAST["bytes"], found))
    else:
        requests = min(MOST, max(LEAST["requests"], found))
    version = max(lane.version + 1, math.floor(now * 1000))
    at = max(min(lane.at, now + SETTLING), now + min(told.retry_after, LONGEST_WAIT))
    return Lane(version, at, requests, size_rate, starting, 0.0, now, 0.0, now)


def _measured(lane: Lane, size: float, now: float) -> float:
    """Requests a second that are accepted: between two 429s a bucket of tokens gives as many as it gains."""
    pace = 1 / step_of(lane, size, now)
    before = pace / _growth(lane, now)
    accepted = (lane.passed_before + lane.passed) / max(CALM, now - lane.since_before)
    return max(LEAST_MEASURED, min(CEILING * pace, max(FLOOR * before, NAMED * accepted)))


def _binding(lane: Lane, size: float) -> Unit:
    """Which of its limits makes a lane as slow as it is."""
    if lane.bytes > 0 and (lane.requests <= 0 or size / lane.bytes > 1 / lane.requests):
        return "bytes"
    return "requests"
