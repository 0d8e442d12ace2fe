"""Owns what one worker holds of the shared pace: its slots in each lane that has a pace, and what it has to tell.

Pure: it is told the time. A lane without a pace costs a look-up. It never says what a pace is: see `lane`.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from upsertq_worker.pace.lane import AHEAD, Ask, Given, Lane, Throttled, Unit, answer

LATE: Final = 0.1
"""Seconds for which a slot is good."""
FRESH: Final = 0.25
"""Seconds after which a slot is not spent before the server was asked whether its version still holds."""
FORGOTTEN: Final = 60.0
"""Seconds after which a lane that was not asked about is forgotten here; the server knows it if it has a pace."""
MOST_ASKS: Final = 100
"""Lanes that are asked about in one call at most: bounds how long the server is busy with it."""


@dataclass(eq=False, slots=True)
class _Held:
    """What is held of one lane."""

    version: int
    heard_at: float
    size: float
    """Bytes of a request: a moving average."""
    slots: deque[float] = field(default_factory=deque)
    """When each is due."""
    step: float = 0.0
    spent: int = 0
    """Slots that were spent since the last time that some were given."""
    passed: int = 0
    wanted: int = 0
    asked: bool = False
    """The answer to what was asked is not here yet."""
    throttled: Throttled | None = None
    alone: Lane | None = None
    """The lane as this worker keeps it itself while the server is away."""

    def in_time(self, now: float) -> deque[float]:
        """The slots, without those that were missed."""
        while self.slots and self.slots[0] < now - LATE:
            self.slots.popleft()
        return self.slots

    def last(self) -> float:
        """When something of it was heard last, or is to happen."""
        return max(self.heard_at, self.slots[-1] if self.slots else 0.0)

    def take(self, given: Given, now: float) -> None:
        """Slots were given: those of another version are void."""
        if given.version != self.version:
            self.version = given.version
            self.slots.clear()
            self.throttled = None
        self.heard_at, self.step, self.asked = now, given.step, False
        if given.count:
            self.spent = 0
            self.slots.extend(now + given.first + number * given.step for number in range(given.count))


class Slots:
    """The slots of one worker; `wake` is called when there is something to ask."""

    def __init__(self, wake: Callable[[], object] = lambda: None) -> None:
        self._wake = wake
        self._lanes: dict[str, _Held] = {}
        self._asking: dict[str, None] = {}
        self._tidied_at = 0.0

    @property
    def paces(self) -> dict[str, float]:
        """Requests a second that all workers together may send, of each lane that has a pace."""
        return {namespace: 1 / lane.step for namespace, lane in self._lanes.items() if lane.step > 0}

    def paces_lane(self, namespace: str) -> bool:
        """Whether requests of this namespace need slots."""
        return namespace in self._lanes

    def admits(self, namespace: str, now: float) -> bool:
        """Whether a request of this namespace may leave now."""
        lane = self._lanes.get(namespace)
        if lane is None:
            return True
        slots = lane.in_time(now)
        return bool(slots) and slots[0] <= now <= lane.heard_at + FRESH

    def want(self, namespace: str, now: float, ready: int, free: int) -> None:
        """Ask for slots of a lane where few are left: `ready` requests wait there, `free` more may be in flight."""
        lane = self._lanes.get(namespace)
        if lane is None:
            return
        slots = lane.in_time(now)
        doubtful = bool(slots) and slots[0] <= now and now > lane.heard_at + FRESH
        few = not slots or slots[-1] < now + AHEAD / 2
        wanted = min(ready, max(free, lane.spent + 1)) - len(slots) if few else 0
        if not lane.asked and (wanted > 0 or doubtful):
            lane.wanted = max(0, wanted)
            self._ask(namespace)

    def spend(self, namespace: str, now: float) -> int:
        """A request of this namespace leaves: take its slot; returns the slot's version, 0 where it needs none."""
        lane = self._lanes.get(namespace)
        if lane is None:
            return 0
        if lane.slots and lane.slots[0] <= now:
            lane.slots.popleft()
            lane.spent += 1
        return lane.version

    def passed(self, namespace: str, size: int) -> None:
        """A request of this namespace, of `size` bytes, was accepted."""
        lane = self._lanes.get(namespace)
        if lane is not None:
            lane.passed += 1
            lane.size += (size - lane.size) / 8

    def throttled(
        self, namespace: str, version: int, now: float, size: int, limit: float, unit: Unit, retry_after: float
    ) -> None:
        """A request of `size` bytes that was sent under `version` was answered by 429, see `Throttled`."""
        lane = self._lanes.get(namespace)
        if lane is None:
            lane = self._lanes[namespace] = _Held(0, now, float(size))
        if version != lane.version:
            return  # the fleet has reacted to what caused it
        lane.slots.clear()
        if lane.throttled is None:
            lane.throttled = Throttled(version, limit, unit, retry_after)
        self._ask(namespace)

    def openings(self) -> Iterator[float]:
        """When the next slot of each lane is due."""
        return (lane.slots[0] for lane in self._lanes.values() if lane.slots)

    def opens_at(self, namespace: str) -> float:
        """When the next slot of this lane is due, 0 where that is not known."""
        lane = self._lanes.get(namespace)
        return lane.slots[0] if lane is not None and lane.slots else 0.0

    def asks(self, now: float) -> list[Ask]:
        """What is to be asked now, of some lanes; it counts as asked."""
        if now >= self._tidied_at + FORGOTTEN:
            self._tidied_at = now
            self._lanes = {name: lane for name, lane in self._lanes.items() if now < lane.last() + FORGOTTEN}
        asks = []
        for namespace in list(islice(self._asking, MOST_ASKS)):
            del self._asking[namespace]
            if lane := self._lanes.get(namespace):
                asks.append(Ask(namespace, lane.wanted, max(1.0, lane.size), lane.passed, lane.throttled))
                lane.passed, lane.throttled, lane.wanted, lane.asked = 0, None, 0, True
        return asks

    def given(self, asks: Sequence[Ask], all_given: Sequence[Given], now: float) -> None:
        """What the server answered: slots of another version than the lane's are void."""
        for ask, given in zip(asks, all_given, strict=True):
            if given.version == 0:
                self._lanes.pop(ask.namespace, None)
            elif lane := self._lanes.get(ask.namespace):
                lane.take(given, now)
                lane.alone = None

    def alone(self, asks: Sequence[Ask], now: float, workers: int) -> None:
        """The server does not answer: go on at the last pace divided by the number of live workers."""
        for ask in asks:
            if (lane := self._lanes.get(ask.namespace)) is None:
                continue
            if lane.alone is None and lane.step > 0:
                own = 1 / lane.step / workers
                lane.alone = Lane(int(now * 1000), now, own, since_before=now, since=now)
            told = ask.throttled
            if told is not None:
                told = replace(told, version=lane.alone.version if lane.alone else 0, limit=told.limit / workers)
            lane.alone, given = answer(lane.alone, replace(ask, throttled=told), now)
            if given.version:
                lane.take(given, now)
            else:
                del self._lanes[ask.namespace]

    def _ask(self, namespace: str) -> None:
        self._asking[namespace] = None
        self._wake()
