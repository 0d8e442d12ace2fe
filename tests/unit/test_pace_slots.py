"""What one worker holds of the pace: slots are spent in time and under their version, and asked for before they end."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from upsertq.contract.errors import ServerRefused, ServerUnavailable
from upsertq_worker.context import Context, Signals
from upsertq_worker.events import Event, Events
from upsertq_worker.flow.limiter import Limiter
from upsertq_worker.pace.lane import AHEAD, Ask, Given, Lane, Throttled, answer, step_of
from upsertq_worker.pace.pacer import Pacer
from upsertq_worker.pace.slots import FORGOTTEN, FRESH, LATE, MOST_ASKS, Slots
from upsertq_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

VERSION = 1_800_000_000_000


def throttled(slots: Slots, name: str = "a", version: int = 0, now: float = 0.0) -> None:
    """A 429 that names 100 requests a second."""
    slots.throttled(name, version, now, 1_000, 100.0, "requests", 0.0)


def paced(count: int = 3, first: float = 0.0, now: float = 0.0) -> Slots:
    """Slots of a lane with a pace: `count` of them, 10 ms apart."""
    slots = Slots()
    throttled(slots)
    slots.given(slots.asks(now), [Given(VERSION, first, 0.01, count)], now)
    return slots


def test_a_lane_without_a_pace_needs_nothing() -> None:
    """Whatever happens in it but a 429."""
    woken: list[int] = []
    slots = Slots(lambda: woken.append(1))
    assert slots.admits("a", 0.0)
    assert slots.spend("a", 0.0) == 0
    slots.passed("a", 5)
    slots.want("a", 0.0, 5, 5)
    assert (slots.asks(0.0), slots.paces, list(slots.openings()), woken) == ([], {}, [], [])


def test_slots_are_spent_when_they_are_due_and_not_much_later() -> None:
    """A slot that was missed is void: to send what was missed at once would be too fast."""
    slots = paced()
    assert slots.paces == {"a": pytest.approx(100)}
    assert slots.admits("a", 0.0)
    assert slots.spend("a", 0.0) == VERSION
    assert not slots.admits("a", 0.005)
    assert slots.admits("a", 0.015)
    assert not slots.admits("a", 0.02 + LATE + 0.001)


def test_a_slot_far_ahead_is_spent_only_after_a_look_whether_its_version_holds() -> None:
    """The server is asked when it is due, without asking for more."""
    slots = paced(1, first=5.0)
    slots.want("a", 1.0, 5, 5)
    assert slots.asks(1.0) == []
    assert not slots.admits("a", 5.0)
    slots.want("a", 5.0, 1, 1)
    (ask,) = slots.asks(5.0)
    assert ask.wanted == 0
    slots.given([ask], [Given(VERSION, 0.0, 0.01, 0)], 5.001)
    assert slots.admits("a", 5.001)
    assert not slots.admits("a", 5.002 + FRESH)


def test_slots_of_another_version_are_void() -> None:
    """Also those that are held when a 429 comes for this one."""
    slots = paced()
    slots.want("a", 0.0, 9, 9)
    slots.given(slots.asks(0.0), [Given(VERSION + 1, 1.0, 0.02, 1)], 0.0)
    assert not slots.admits("a", 0.0)
    assert slots.opens_at("a") == pytest.approx(1.0)
    throttled(slots, version=VERSION)
    assert slots.opens_at("a") == pytest.approx(1.0)
    throttled(slots, version=VERSION + 1)
    assert slots.opens_at("a") == 0.0


def test_a_flight_of_429s_is_told_once() -> None:
    """Those that follow, and those of an older version, are known."""
    slots = Slots()
    for _ in range(3):
        throttled(slots)
    (ask,) = slots.asks(0.0)
    assert ask.throttled == Throttled(0, 100.0, "requests", 0.0)
    slots.given([ask], [Given(VERSION, 0.0, 0.01, 1)], 0.1)
    throttled(slots)
    assert slots.asks(0.1) == []


def test_as_many_are_asked_for_as_can_be_used_and_before_they_end() -> None:
    """No more than wait, than may be in flight, or were spent last time and one; while some are left, none."""
    slots = paced(30)
    slots.want("a", 0.0, 100, 100)
    assert slots.asks(0.0) == []
    now = 0.29 - AHEAD / 2 + 0.001
    slots.want("a", now, 40, 16)
    assert slots.asks(now) == []
    slots = paced(2)
    slots.want("a", 0.0, 40, 16)
    (ask,) = slots.asks(0.0)
    assert ask.wanted == 14
    slots.want("a", 0.0, 40, 16)
    assert slots.asks(0.0) == [], "the answer is on its way"


def test_a_call_asks_about_so_many_lanes() -> None:
    """The rest follows in the next one."""
    slots = Slots()
    for number in range(MOST_ASKS + 5):
        throttled(slots, f"{number}")
    assert [len(slots.asks(0.0)) for _ in range(3)] == [MOST_ASKS, 5, 0]


def test_lanes_that_have_no_pace_any_more_or_are_not_asked_about_are_forgotten() -> None:
    """What is kept is as large as the trouble."""
    slots = paced()
    slots.want("a", 0.0, 9, 9)
    slots.given(slots.asks(0.0), [Given(0)], 0.0)
    assert not slots.paces_lane("a")
    slots = paced()
    throttled(slots, "b", now=FORGOTTEN)
    slots.asks(FORGOTTEN + 1)
    assert (slots.paces_lane("a"), slots.paces_lane("b")) == (False, True)


def test_a_lane_that_waits_for_minutes_is_not_forgotten() -> None:
    """Neither here nor on the server, before the time that the service asked for is over."""
    told = Throttled(0, 100.0, "requests", 300.0)
    lane, given = answer(None, Ask("a", 1, throttled=told), 1e9)
    assert given.first == pytest.approx(300)
    slots = Slots()
    throttled(slots)
    slots.given(slots.asks(0.0), [given], 0.0)
    throttled(slots, "b", now=200.0)
    slots.asks(200.0)
    assert slots.paces_lane("a")
    lane, given = answer(lane, Ask("a", 1), 1e9 + 290)
    assert given.version
    assert answer(lane, Ask("a", 1), 1e9 + 301) == (None, Given(0))


def test_what_passed_and_how_large_it_was_is_told() -> None:
    """For the limits that are not named, and for those in bytes."""
    slots = paced(1)
    for _ in range(30):
        slots.passed("a", 5_000)
    slots.want("a", 0.0, 9, 9)
    (ask,) = slots.asks(0.0)
    assert ask.passed == 30
    assert ask.size == pytest.approx(5_000, rel=0.05)
    slots.given([ask], [Given(VERSION, 0.0, 0.01, 1)], 0.0)
    slots.want("a", 0.0, 9, 9)
    assert [ask.passed for ask in slots.asks(0.0)] == [0]


@pytest.mark.parametrize(
    ("told", "requests", "size_rate"),
    [
        (Throttled(0, 100.0, "requests"), 98.5, 0.0),
        (Throttled(0, 5e7, "bytes"), 0.0, 4.925e7),
        (Throttled(0, 0.0, ""), 50.0, 0.0),
        (Throttled(0, 0.0, "bytes"), 0.0, 5e7),
        (Throttled(0, 0.001, "requests"), 0.1, 0.0),
        (Throttled(0, 1e300, "requests"), 1e12, 0.0),
    ],
)
def test_what_the_first_429_teaches(told: Throttled, requests: float, size_rate: float) -> None:
    """What it names, within bounds; else a beginning."""
    lane, given = answer(None, Ask("a", 1, 1e6, 0, told), 1e9)
    assert lane is not None
    assert lane.requests == pytest.approx(requests)
    assert lane.bytes == pytest.approx(size_rate)
    assert (given.version, given.count) == (lane.version, 1)


def test_the_slower_of_two_limits_holds() -> None:
    """Small requests are limited by their number, large ones by their bytes."""
    lane = Lane(1_000_000, 1_000.0, 100.0, 5e7)
    assert step_of(lane, 1_000, 1_000.0) == pytest.approx(0.01)
    assert step_of(lane, 2e6, 1_000.0) == pytest.approx(0.04)


def test_refusals_that_have_nothing_to_do_with_the_pace_bring_no_standstill() -> None:
    """A proxy that refuses whatever comes is asked twice a second at least."""
    lane, now = None, 1e9
    for _ in range(200):
        version = lane.version if lane else 0
        lane, _ = answer(lane, Ask("a", 1, 1.0, 0, Throttled(version)), now)
        now += 0.6
    assert lane is not None
    assert lane.requests == 2.0


def test_the_limiter_admits_what_has_a_slot_and_asks_for_more() -> None:
    """By what waits, and by what may be in flight beside it."""
    slots = Slots()
    limiter = Limiter(4, slots, waiting=lambda _: 10)
    assert limiter.started("a", 0.0, retry=False) == 0
    throttled(slots)
    slots.given(slots.asks(0.0), [Given(VERSION, 0.5, 0.01, 1)], 0.0)
    assert not limiter.admits("a", 0.0, retry=False)
    assert limiter.opens_at("a") == pytest.approx(0.5)
    assert 0.5 in [pytest.approx(one) for one in limiter.openings()]
    assert limiter.admits("b", 0.0, retry=False)
    slots.given([Ask("a")], [Given(VERSION, 0.5, 0.01, 0)], 0.5)
    assert limiter.admits("a", 0.5, retry=False)
    assert limiter.started("a", 0.5, retry=False) == VERSION
    assert [ask.wanted for ask in slots.asks(0.5)] == [2]


def test_the_gates_of_lanes_that_are_quiet_after_trouble_are_forgotten() -> None:
    """Each lane of a thousand was pushed back once, and then accepted; one waits still, for its retry."""
    limiter = Limiter(16, waiting=lambda namespace: int(namespace == "waits"))
    for name in [*map(str, range(1_000)), "waits", "gone"]:
        limiter.started(name, 1.0, retry=False)
        limiter.pushed_back(name, 1.0, 1.0, random.Random(1), None)
        limiter.landed(name, retry=False)
        if name not in {"waits", "gone"}:
            limiter.started(name, 2.0, retry=True)
            limiter.succeeded(name, 1_000)
            limiter.landed(name, retry=True)
    limiter.started("other", 3.0 + FORGOTTEN, retry=False)
    assert limiter.failing("waits")
    assert not limiter.failing("gone")
    assert len(list(limiter.openings())) == 1 + len({"waits", "other"})


class FakePace:
    """A server that keeps the pace, or is away."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.asked = asyncio.Event()
        self.lanes: dict[str, Lane | None] = {}

    async def pace(self, asks: Sequence[Ask]) -> list[Given]:
        """As `SharedPace.pace`."""
        self.asked.set()
        if self.error is not None:
            raise self.error
        found = []
        for ask in asks:
            self.lanes[ask.namespace], given = answer(self.lanes.get(ask.namespace), ask, 1e9)
            found.append(given)
        return found


async def until(done: Callable[[], Any]) -> None:
    """Let the loop turn until something is so."""
    async with asyncio.timeout(60):
        while not done():  # noqa: ASYNC110 - it waits for a task that has no event of its own
            await asyncio.sleep(0)


@pytest.mark.parametrize("error", [ServerUnavailable("away"), ServerRefused("NOPERM")])
async def test_a_server_that_does_not_answer_is_said_once_and_replaced(error: Exception) -> None:
    """The last pace divided by the workers; asked again after a second; and it is the server's pace again."""
    told: list[Event] = []
    events, now, signals, server = Events(), 100.0, Signals(), FakePace()
    events.listen(lambda event, _: told.append(event))
    context = Context("me", 1, Settings(), lambda: now, time.time, random.Random(1), events)
    pacer = Pacer(context, signals, server, lambda: 4)
    slots = pacer.slots
    running = asyncio.create_task(pacer.run())
    throttled(slots, now=now)
    await until(lambda: slots.paces)
    assert slots.paces["a"] == pytest.approx(98.5)
    server.error = error
    for _ in range(2):
        now += 0.5
        slots.want("a", now, 5, 5)
        await until(lambda: slots.admits("a", context.clock()))
        assert slots.paces["a"] == pytest.approx(98.5 / 4, rel=0.01)
    assert told == [Event.NOT_SEEN]
    server.error = None
    now += 2.0
    slots.want("a", now, 5, 5)
    await until(lambda: slots.paces["a"] > 90)
    signals.stop()
    await asyncio.wait_for(running, 60)


def test_alone_a_429_counts_as_well() -> None:
    """The limit that it names is shared with the others."""
    slots = Slots()
    throttled(slots)
    slots.alone(slots.asks(0.0), 0.0, 4)
    assert slots.paces["a"] == pytest.approx(98.5 / 4)
    slots.want("a", 61.0, 5, 5)
    slots.alone(slots.asks(0.0), 61.0, 4)
    assert not slots.paces_lane("a")
