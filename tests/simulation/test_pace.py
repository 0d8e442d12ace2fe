"""The shared pace against a service of token buckets: near the limit, few 429s, one reaction for the fleet, fair lanes.

Virtual time; `benchmarks/pace.py` does the same with real workers. The bounds are looser than what is seen.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

from pace_world import PaceWorld, Service
from upsertq_worker.pace import lane as paces
from upsertq_worker.pace.slots import Slots, _Held

if TYPE_CHECKING:
    from upsertq_worker.pace.lane import Given, Lane, Throttled

BUCKETS = pytest.mark.parametrize("burst", [1.0, 0.1], ids=["burst of 100", "burst of 10"])
TOLD = pytest.mark.parametrize("named", [True, False], ids=["named", "not named"])
LIMIT = 100.0


def share(world: PaceWorld, start: float, end: float, limit: float = LIMIT, lanes: int = 1) -> float:
    """What was accepted of what the limit allows."""
    return world.accepted(start, end) / (limit * lanes * (end - start))


def refused(world: PaceWorld, start: float, end: float) -> float:
    """The share of 429s."""
    return world.refused(start, end) / (world.refused(start, end) + world.accepted(start, end))


@BUCKETS
@TOLD
@pytest.mark.parametrize(("seconds", "lanes"), [(30, "a"), pytest.param(120, "abc", marks=pytest.mark.proof)])
def test_a_fleet_stays_just_below_the_limit(burst: float, named: bool, seconds: int, lanes: str) -> None:  # noqa: FBT001
    """Four workers; the 64 requests that were in flight before the limit was known may be refused."""
    world = PaceWorld(Service(LIMIT, burst, named), lanes=lanes)
    world.run(seconds)
    assert world.refused(0, seconds) <= 64 + 0.015 * world.accepted(0, seconds)
    for lane in lanes:
        assert world.accepted(10, seconds, lane) >= 0.95 * LIMIT * (seconds - 10)
    if len(lanes) > 1:
        assert share(world, 0, seconds, lanes=len(lanes)) >= 0.97
        assert refused(world, 0, seconds) <= 0.015


@BUCKETS
@TOLD
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_another_limit_is_found_within_fifteen_seconds(burst: float, named: bool, factor: float) -> None:  # noqa: FBT001
    """Half of it by the first 429s, twice as much by growing."""
    world = PaceWorld(Service(LIMIT, burst, named))
    world.run(20)
    world.service.change(LIMIT * factor, world.now)
    world.run(35)
    assert share(world, 35, 55, LIMIT * factor) >= 0.93
    assert refused(world, 35, 55) <= 0.02
    assert world.refused(20, 35) < 90


@BUCKETS
@TOLD
def test_a_limit_in_bytes_is_kept_too(burst: float, named: bool) -> None:  # noqa: FBT001
    """50 MB a second are 25 requests of 2 MB."""
    world = PaceWorld(Service(5e7, burst, named, "bytes"), size=2e6)
    world.run(60)
    assert share(world, 10, 60, 25) >= 0.93
    assert refused(world, 10, 60) <= 0.03


def test_256_workers_share_a_lane() -> None:
    """They wait for 2.6 s for a slot each; after the first flight, which no limit was known for, 429s are few."""
    world = PaceWorld(Service(LIMIT, 0.1, named=True), workers=256)
    world.run(40)
    assert share(world, 10, 40) >= 0.95
    assert refused(world, 10, 40) <= 0.01
    assert world.refused(0, 10) <= 256 * 16 + 100
    assert world.calls <= 40 * 300


def test_a_lane_that_is_never_refused_costs_no_call() -> None:
    """Be it one with a backlog, or 2,000 with a request each."""
    bulk = PaceWorld(Service(1e9, 1.0, named=True))
    bulk.run(5)
    many = PaceWorld(Service(LIMIT, 1.0, named=True), lanes=[f"tenant-{number}" for number in range(2_000)])
    for crew in many.crews:
        crew.waiting = dict.fromkeys(crew.waiting, 1.0)
    many.run(20)
    assert bulk.accepted(0, 5) > 2_500
    assert many.accepted(0, 20) == 8_000
    assert bulk.calls == many.calls == 0


def test_a_lane_is_forgotten_a_minute_after_its_last_429() -> None:
    """What limited it is gone: then it needs no slots, and nothing is kept."""
    world = PaceWorld(Service(LIMIT, 0.1, named=True), workers=1, concurrency=12)
    world.run(5)
    assert world.lanes
    world.service.change(1e9, world.now)
    world.run(70)
    assert not world.lanes
    calls = world.calls
    world.run(5)
    assert world.calls == calls


def test_a_busy_namespace_does_not_delay_another_ones_trickle() -> None:
    """Each has its own pace, and a request that waits for a slot takes no place in flight."""
    world = PaceWorld(Service(LIMIT, 0.1, named=True), workers=2)
    world.run(5)
    world.trickle("trickle", 0.25)
    world.run(30)
    assert len(world.waits["trickle"]) > 110
    assert max(world.waits["trickle"]) < 1.0


def test_two_throttled_namespaces_are_as_fast_as_their_limits() -> None:
    """A small limit of one is no limit of the other."""
    world = PaceWorld(Service(LIMIT, 0.1, named=True), lanes="ab")
    world.service.bucket("a").rate = 5.0
    world.run(60)
    assert world.accepted(10, 60, "b") >= 0.95 * LIMIT * 50


def test_all_wait_as_long_as_one_is_asked_to() -> None:
    """`Retry-After` moves the lane's clock: what is in flight and what is about to leave comes, and then nothing."""
    world = PaceWorld(Service(LIMIT, 0.1, named=True, retry_after=3.0))
    world.run(60)
    times = [one.at for one in world.answered]
    gaps = sorted(after - before for before, after in pairwise(times))
    assert world.reactions >= 3
    assert sum(gap > 2.4 for gap in gaps) >= world.reactions - 1


@TOLD
def test_without_the_server_each_goes_on_at_its_share(named: bool) -> None:  # noqa: FBT001
    """And together again once it is back."""
    world = PaceWorld(Service(LIMIT, 0.1, named))
    world.run(20)
    world.away = True
    world.run(20)
    world.away = False
    world.run(20)
    assert share(world, 20, 40) >= 0.7
    assert refused(world, 20, 40) <= 0.05
    assert share(world, 45, 60) >= 0.95


def stale_reactions() -> int:
    """The reactions of a large fleet to what it had reacted to."""
    world = PaceWorld(Service(LIMIT, 0.1, named=True), workers=64)
    world.run(20)
    assert world.reactions >= 4
    return world.stale_reactions


def test_the_fleet_reacts_once_to_an_event_and_the_bug_would_be_seen() -> None:
    """A 429 of a request under an older version changes nothing; nor does the calm after it hide that it would."""
    taught = paces._taught

    def once_a_worker(lane: Lane | None, told: Throttled, size: float, now: float) -> Lane | None:
        return taught(lane, told if lane is None else replace(told, version=lane.version), size, now)

    with patch.object(paces, "CALM", 1e-9):
        assert stale_reactions() == 0
        with patch.object(paces, "_taught", once_a_worker):
            assert stale_reactions() > 10


def spend_what_is_held() -> int:
    """429s in the steady state of a fleet that holds slots far ahead."""
    world = PaceWorld(Service(LIMIT, 0.1, named=True), workers=64)
    world.run(25)
    return world.refused(10, 25)


def test_slots_of_an_older_version_are_void_and_the_bug_would_be_seen() -> None:
    """Else the slots of two versions are spent at once."""
    assert spend_what_is_held() <= 20
    take = _Held.take

    def keep(self: _Held, given: Given, now: float) -> None:
        self.version = given.version
        take(self, given, now)

    def keep_on_429(self: Slots, namespace: str, version: int, now: float, size: int, *told: object) -> None:
        held = self._lanes.get(namespace)
        kept = list(held.slots) if held else []
        throttled(self, namespace, version, now, size, *told)  # type: ignore[arg-type]
        self._lanes[namespace].slots.extend(kept)

    throttled = Slots.throttled
    with patch.object(_Held, "take", keep), patch.object(Slots, "throttled", keep_on_429):
        assert spend_what_is_held() > 80
