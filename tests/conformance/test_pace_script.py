"""The pace on every kind of server: the script gives what its twin gives, to the last bit, and bears with bad state."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upsertq import Server
from upsertq.contract import queue
from upsertq.contract.errors import QueueDamaged, QueueLost
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Failed, Patience, run_scripts
from upsertq.contract.server import AsyncServer
from upsertq_worker.pace import wire
from upsertq_worker.pace.lane import Ask, Given, Throttled, answer
from upsertq_worker.queue.redis_queue import RedisQueue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conftest import Backend
    from upsertq_worker.pace.lane import Lane

KEYS: Final = QueueKeys("q")
LANES: Final = ("", "a", "b:c", "long" * 100)
OWN: Final = -1
"""Stands for the version that a lane has then."""


class Bench:
    """A queue, and what the twin says of its lanes."""

    def __init__(self, backend: Backend) -> None:
        self.client = backend.sync
        self.server = Server(backend.sync)
        self.shape = self.server.hold(queue.open_queue(KEYS, 1, 7, Patience(0, time.monotonic, random.Random(1))))
        self.lanes: dict[str, Lane] = {}

    def ask(self, *asks: Ask, incarnation: str | None = None) -> Any:
        """Call the script."""
        arguments = [self.shape.incarnation if incarnation is None else incarnation, *wire.arguments(asks)]
        (reply,) = self.server.hold(run_scripts(wire.PACE, [([KEYS.meta, KEYS.pace], arguments)]))
        return reply

    def ask_both(self, *asks: Ask) -> list[Given]:
        """Ask the script, and the twin at the time that the script says; they must agree."""
        reply = self.ask(*asks)
        assert isinstance(reply, list), reply
        now, expected = float(reply[0]), []
        for ask in asks:
            lane, slots = answer(self.lanes.pop(ask.namespace, None), ask, now)
            expected.append(slots)
            if lane is not None:
                self.lanes[ask.namespace] = lane
        assert wire.given_of(reply) == expected
        self.compare([ask.namespace for ask in asks])
        return expected

    def owned(self, ask: Ask) -> Ask:
        """The ask, with its lane's version where it is to tell of that."""
        told, lane = ask.throttled, self.lanes.get(ask.namespace)
        if told is None or told.version != OWN:
            return ask
        return replace(ask, throttled=replace(told, version=lane.version if lane else 0))

    def compare(self, names: Sequence[str]) -> None:
        """What the server keeps is what the twin keeps."""
        for name in names:
            lane = self.lanes.get(name)
            assert self.client.hget(KEYS.pace, f"lane:{name}") == (None if lane is None else text(lane)), name

    def age(self, milliseconds: int) -> None:
        """Let time pass: everything that is kept becomes older."""
        seconds = milliseconds / 1000
        for name, lane in self.lanes.items():
            older = replace(
                lane,
                version=lane.version - milliseconds,
                at=lane.at - seconds,
                since_before=lane.since_before - seconds,
                since=lane.since - seconds,
            )
            self.lanes[name] = older
            self.client.hset(KEYS.pace, f"lane:{name}", text(older))


def text(lane: Lane) -> bytes:
    """A lane as the script writes it."""
    figures = (
        lane.version, lane.at, lane.requests, lane.bytes, lane.starting,
        lane.passed_before, lane.since_before, lane.passed, lane.since,
    )  # fmt: skip
    return " ".join(f"{figure:.17g}" for figure in figures).encode()


@pytest.fixture
def bench(backend: Backend) -> Bench:
    """Provide an empty queue on every backend."""
    return Bench(backend)


TOLD = st.builds(
    Throttled,
    st.sampled_from([0, 1, OWN, OWN, OWN]),
    st.sampled_from([0.0, 0.0, 100.0, 0.01, 12.5, 5e7, 1e15]),
    st.sampled_from(["", "requests", "bytes"]),
    st.sampled_from([0.0, 0.0, 1.5, 1e6]),
)
ASKS = st.lists(
    st.builds(
        Ask,
        st.sampled_from(LANES),
        st.sampled_from([0, 1, 3, 16, 500]),
        st.sampled_from([1.0, 1_234.5, 2e6]) | st.floats(1, 1e7),
        st.sampled_from([0, 1, 20, 10_000]),
        st.none() | TOLD,
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda ask: ask.namespace,
)
HISTORY = st.lists(st.tuples(ASKS, st.sampled_from([0, 1, 30, 250, 501, 1_700, 9_000, 61_500])), max_size=40)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(history=HISTORY)
def test_the_script_and_its_twin_agree_to_the_last_bit(bench: Bench, history: list[tuple[list[Ask], int]]) -> None:
    """Whatever is asked and told, in whatever order, after whatever time."""
    bench.client.delete(KEYS.pace)
    bench.lanes.clear()
    for asks, pause in history:
        bench.ask_both(*map(bench.owned, asks))
        bench.age(pause)


def test_a_lane_without_a_429_costs_the_server_nothing(bench: Bench) -> None:
    """It is not written down, and nothing is."""
    assert bench.ask_both(Ask("a", 10)) == [Given(0)]
    assert not bench.client.exists(KEYS.pace)


def test_of_the_429s_of_one_version_one_counts(bench: Bench) -> None:
    """The other workers that were refused at the same pace hear of the new one, and change nothing."""
    told = Throttled(0, 100.0, "requests")
    (first,) = bench.ask_both(Ask("a", 1, throttled=told))
    bench.age(600)
    for _ in range(3):
        (slots,) = bench.ask_both(Ask("a", 1, throttled=replace(told, limit=10.0)))
        assert slots.version == first.version - 600
        assert slots.step == pytest.approx(1 / 98.5, rel=0.1)
    (slots,) = bench.ask_both(bench.owned(Ask("a", 1, throttled=replace(told, version=OWN, limit=10.0))))
    assert slots.version > first.version - 600
    assert slots.step == pytest.approx(1 / 9.85, rel=0.1)


def test_everybody_waits_as_long_as_one_was_asked_to(bench: Bench) -> None:
    """The next slot of any worker is behind it."""
    bench.ask_both(Ask("a", 0, throttled=Throttled(0, 100.0, "requests", 7.0)))
    (slots,) = bench.ask_both(Ask("a", 5))
    assert slots.count == 1
    assert 0 < slots.first <= 7


def test_lanes_that_are_asked_about_no_more_are_swept_away(bench: Bench) -> None:
    """However many there were: those that come later sweep; and in the end the key expires as a whole."""
    for number in range(0, 1_000, 100):
        bench.ask_both(*(Ask(f"old-{number + more}", throttled=Throttled(0)) for more in range(100)))
    assert 0 < int(bench.client.pttl(KEYS.pace)) <= 600_000
    bench.age(61_000)
    for number in range(500):
        bench.ask_both(Ask(f"new-{number}", throttled=Throttled(0)))
    assert int(bench.client.hlen(KEYS.pace)) < 700


@pytest.mark.parametrize(
    "junk",
    [
        "",
        "x",
        "1 2 3",
        "nan " * 9,
        "inf " * 9,
        "1e400 " * 9,
        "-1 " * 9,
        "0x10 " * 9,
        "9" * 5_000,
        "9e15 0 1 1 0 0 0 0 0",
    ],
)
def test_a_lane_that_cannot_be_read_is_none(bench: Bench, junk: str) -> None:
    """What another program wrote there stops no worker, and is gone with the next call."""
    bench.client.hset(KEYS.pace, "lane:a", junk)
    assert bench.ask_both(Ask("a", 10)) == [Given(0)]
    bench.client.hset(KEYS.pace, "lane:a", junk)
    bench.ask_both(Ask("a", 10, throttled=Throttled(0, 100.0, "requests")))


def test_a_server_whose_clock_was_put_back_forgets(bench: Bench) -> None:
    """Nothing waits for a time that is far."""
    bench.ask_both(Ask("a", 10, throttled=Throttled(0, 100.0, "requests")))
    bench.age(-3_600_000)
    assert bench.ask_both(Ask("a", 10)) == [Given(0)]


def test_another_queue_of_the_name_and_another_type_are_refused(bench: Bench) -> None:
    """Nothing is written for a queue that is gone, nor over what another program wrote."""
    told = Ask("a", 1, throttled=Throttled(0))
    assert bench.ask(told, incarnation="other") == [-1, bench.shape.incarnation.encode()]
    bench.client.set(KEYS.pace, "x")
    reply = bench.ask(told)
    assert isinstance(reply, Failed)
    assert f"DAMAGED {KEYS.pace} is no hash" in reply.message


async def test_what_a_worker_sees_of_it(bench: Bench, backend: Backend) -> None:
    """Slots, the loss of the queue, and damage."""
    worker = RedisQueue(AsyncServer(backend.make_async()), bench.shape, "me", 10.0)
    told = Ask("a", 3, 1_000.0, 1, Throttled(0, 100.0, "requests", 0.0))
    (slots,) = await worker.pace([told])
    assert slots.count == 3
    assert slots.step == pytest.approx(1 / 98.5, rel=0.1)
    bench.client.delete(KEYS.meta)
    with pytest.raises(QueueLost, match="gone"):
        await worker.pace([told])
    bench.client.set(KEYS.pace, "x")
    with pytest.raises(QueueDamaged, match="RENAME"):
        await worker.pace([told])


def test_it_works_when_the_server_is_out_of_memory(bench: Bench, backend: Backend) -> None:
    """Backlogs fill servers: then the pace is needed as well."""
    if backend.server is None:
        pytest.skip("fakeredis is never out of memory")
    bench.client.config_set("maxmemory", 1)
    try:
        (slots,) = bench.ask_both(Ask("a", 3, throttled=Throttled(0, 100.0, "requests")))
        assert slots.count == 3
    finally:
        bench.client.config_set("maxmemory", 0)
