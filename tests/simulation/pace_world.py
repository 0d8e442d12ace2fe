"""Owns a world for the shared pace: a service of token buckets, a server that keeps the pace, workers that send.

Time is virtual and every run of a seed is the same. It uses the worker's own `Slots` and `answer`, nothing else of it.
"""

from __future__ import annotations

import heapq
import random
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from upsertq_worker.pace import lane as paces
from upsertq_worker.pace.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from upsertq_worker.pace.lane import Ask, Lane, Unit

WALL: Final = 1_800_000_000.0
"""The server's time at the start."""
CALL: Final = 0.002
"""Seconds of a call to the server, on average."""


@dataclass(slots=True)
class Bucket:
    """Tokens of one lane: `rate` more each second, `burst` seconds' worth at most."""

    rate: float
    burst: float
    tokens: float
    at: float = 0.0
    allowed: float = 0.0
    """What the service would have accepted so far."""

    def takes(self, now: float, cost: float) -> bool:
        """Whether a request is accepted."""
        gained = (now - self.at) * self.rate
        self.allowed += gained
        self.tokens, self.at = min(max(cost, self.rate * self.burst), self.tokens + gained), now
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True


@dataclass(slots=True)
class Service:
    """What is accepted in each lane, by requests or by bytes."""

    rate: float
    burst: float
    named: bool
    unit: Unit = "requests"
    retry_after: float = 0.0
    buckets: dict[str, Bucket] = field(default_factory=dict)

    def bucket(self, lane: str) -> Bucket:
        """The bucket of a lane, full at first."""
        if lane not in self.buckets:
            self.buckets[lane] = Bucket(self.rate, self.burst, self.rate * self.burst)
        return self.buckets[lane]

    def change(self, rate: float, now: float) -> None:
        """Another limit holds from now on."""
        self.rate = rate
        for bucket in self.buckets.values():
            bucket.takes(now, float("inf"))
            bucket.rate, bucket.tokens = rate, min(bucket.tokens, rate * self.burst)


@dataclass(eq=False, slots=True)
class Crew:
    """One worker: its slots, its requests in flight, and what waits in each lane."""

    name: int
    slots: Slots
    waiting: dict[str, float]
    in_flight: int = 0
    calling: bool = False
    asking: bool = False
    timer: float = float("inf")
    turn: int = 0


@dataclass(slots=True)
class Answered:
    """One request that reached the service."""

    at: float
    lane: str
    accepted: bool


class PaceWorld:
    """The world; `run` lets time pass."""

    def __init__(
        self,
        service: Service,
        *,
        workers: int = 4,
        lanes: Sequence[str] = ("a",),
        concurrency: int = 16,
        latency: float = 0.1,
        size: float = 1_000.0,
        seed: int = 1,
    ) -> None:
        self.now = 0.0
        self.service = service
        self.rng = random.Random(seed)
        self.latency, self.concurrency, self.size = latency, concurrency, size
        self.lanes: dict[str, Lane] = {}
        """What the server keeps."""
        self.away = False
        """The server does not answer."""
        self.answered: list[Answered] = []
        self.calls = 0
        self.reactions = 0
        self.stale_reactions = 0
        """Of these, those to a 429 of a request under an older version: the fleet had reacted to its cause."""
        self.waits: dict[str, list[float]] = defaultdict(list)
        """Seconds that requests of lanes with a trickle waited until they left."""
        self._ready: dict[str, deque[float]] = defaultdict(deque)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._ticket = 0
        self.crews = [self._crew(number, lanes) for number in range(workers)]

    def _crew(self, number: int, lanes: Sequence[str]) -> Crew:
        crew = Crew(number, Slots(), dict.fromkeys(lanes, float("inf")))
        crew.slots = Slots(lambda: self._wish(crew))
        self.later(self.rng.random() * 0.01, lambda: self._launch(crew))
        return crew

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Let something happen."""
        self._ticket += 1
        heapq.heappush(self._events, (self.now + seconds, self._ticket, what))

    def trickle(self, lane: str, every: float) -> None:
        """Let the first worker get a request of a lane now and then, for ever."""
        self._ready[lane].append(self.now)
        crew = self.crews[0]
        crew.waiting[lane] = crew.waiting.get(lane, 0.0) + 1
        self._launch(crew)
        self.later(every, lambda: self.trickle(lane, every))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = until

    def _jittered(self, seconds: float) -> float:
        return seconds * self.rng.uniform(0.7, 1.3)

    def _launch(self, crew: Crew) -> None:
        """Send what may be sent, lane after lane in turns, as a worker's sender does."""
        passed_over = 0
        lanes = list(crew.waiting)
        while crew.in_flight < self.concurrency and passed_over < len(lanes):
            name = lanes[crew.turn % len(lanes)]
            crew.turn += 1
            passed_over += 1
            if crew.waiting[name] < 1:
                continue
            if crew.slots.admits(name, self.now):
                passed_over = 0
                self._send(crew, name)
            if crew.waiting[name] >= 1:
                free = self.concurrency - crew.in_flight
                crew.slots.want(name, self.now, int(min(crew.waiting[name], 1_000)), free)
        due = min((due for due in crew.slots.openings() if due > self.now), default=float("inf"))
        if due < crew.timer or crew.timer <= self.now:
            crew.timer = due
            if due < float("inf"):
                self.later(due - self.now + self.rng.random() * 0.003, lambda: self._launch(crew))

    def _send(self, crew: Crew, name: str) -> None:
        version = crew.slots.spend(name, self.now)
        crew.in_flight += 1
        crew.waiting[name] -= 1
        if ready := self._ready[name]:
            self.waits[name].append(self.now - ready.popleft())
        self.later(self._jittered(self.latency / 2), lambda: self._arrive(crew, name, version))

    def _arrive(self, crew: Crew, name: str, version: int) -> None:
        service = self.service
        accepted = service.bucket(name).takes(self.now, self.size if service.unit == "bytes" else 1.0)
        self.answered.append(Answered(self.now, name, accepted))
        self.later(self._jittered(self.latency / 2), lambda: self._land(crew, name, version, accepted=accepted))

    def _land(self, crew: Crew, name: str, version: int, *, accepted: bool) -> None:
        crew.in_flight -= 1
        service = self.service
        if accepted:
            crew.slots.passed(name, int(self.size))
        else:
            crew.waiting[name] += 1
            limit, unit = (service.rate, service.unit) if service.named else (0.0, "")
            crew.slots.throttled(name, version, self.now, int(self.size), limit, unit, service.retry_after)
        self._launch(crew)

    def _wish(self, crew: Crew) -> None:
        crew.asking = True
        if not crew.calling:
            crew.calling = True
            self.later(0.0, lambda: self._call(crew))

    def _call(self, crew: Crew) -> None:
        crew.asking = False
        asks = crew.slots.asks(self.now)
        if self.away:
            crew.slots.alone(asks, self.now, len(self.crews))
            self.later(self._jittered(CALL), lambda: self._called(crew))
            return
        self.later(self._jittered(CALL / 2), lambda: self._asked(crew, asks))

    def _asked(self, crew: Crew, asks: Sequence[Ask]) -> None:
        self.calls += 1
        all_given = []
        for ask in asks:
            before = self.lanes.get(ask.namespace)
            after, given = paces.answer(before, ask, WALL + self.now)
            if after is not None and (before is None or before.version != after.version):
                self.reactions += 1
                told = ask.throttled
                self.stale_reactions += before is not None and told is not None and told.version != before.version
            all_given.append(given)
            if after is None:
                self.lanes.pop(ask.namespace, None)
            else:
                self.lanes[ask.namespace] = after

        def heard() -> None:
            crew.slots.given(asks, all_given, self.now)
            self._called(crew)

        self.later(self._jittered(CALL / 2), heard)

    def _called(self, crew: Crew) -> None:
        crew.calling = False
        self._launch(crew)
        if crew.asking and not crew.calling:
            crew.calling = True
            self.later(0.0, lambda: self._call(crew))

    # what came of it

    def accepted(self, start: float, end: float, lane: str | None = None) -> int:
        """Requests accepted in a span of time."""
        return sum(one.accepted for one in self.answered if start <= one.at < end and lane in {None, one.lane})

    def refused(self, start: float, end: float) -> int:
        """Requests answered by 429 in a span of time."""
        return sum(not one.accepted for one in self.answered if start <= one.at < end)
