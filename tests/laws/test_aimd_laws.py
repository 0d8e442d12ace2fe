"""The gate halves on push-back, once a flight, grows with success, stays in bounds, and always opens again."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsertq_worker.flow.aimd import Gate
from upsertq_worker.flow.backoff import RETRY_AFTER_MAX, RETRY_AFTER_SMEAR, Backoff

BACKOFF = Backoff(0.2, 5.0)
LONGEST = RETRY_AFTER_MAX * (1 + RETRY_AFTER_SMEAR)
EVENTS = st.lists(
    st.tuples(st.sampled_from(["ok", "ok", "busy"]), st.floats(0, 3), st.none() | st.floats(0, 1e4), st.floats(0, 2)),
    max_size=80,
)


@given(ceiling=st.integers(1, 64), events=EVENTS, seed=st.integers(0, 99))
def test_whatever_comes_the_gate_stays_in_bounds_and_opens(
    ceiling: int, events: list[tuple[str, float, float | None, float]], seed: int
) -> None:
    """The limit is 1 to the ceiling; it never shuts for longer than the longest wait; then one request may start."""
    gate, now, rng = Gate(ceiling, BACKOFF), 0.0, random.Random(seed)
    for what, pause, retry_after, age in events:
        now += pause
        if what == "ok":
            before = gate.limit
            gate.succeeded()
            assert gate.limit >= before
        else:
            gate.pushed_back(now - age, now, retry_after, rng)
            assert retry_after is None or gate.opens_at >= now + min(retry_after, RETRY_AFTER_MAX)
        assert 1 <= gate.limit <= ceiling
        assert gate.opens_at <= now + LONGEST
        assert not gate.admits(now) or now >= gate.opens_at
    assert gate.admits(max(now, gate.opens_at))


def test_requests_in_flight_are_bounded() -> None:
    """As many as the limit, and not one more."""
    gate = Gate(4, BACKOFF)
    for number in range(4):
        assert gate.admits(0.0), number
        gate.in_flight += 1
    assert not gate.admits(0.0)


def test_a_flight_counts_once() -> None:
    """Sixteen push-backs of requests that started together halve the limit once; the next flight halves it again."""
    gate, rng = Gate(16, BACKOFF), random.Random(1)
    for number in range(16):
        gate.pushed_back(0.0, 1.0 + number / 100, None, rng)
    assert gate.limit == 8
    gate.pushed_back(1.5, 2.0, None, rng)
    assert gate.limit == 4


def test_it_probes_one_at_a_time_with_growing_waits_and_comes_back_in_a_few_rounds() -> None:
    """While everything fails one request goes out now and then; after it, half of the old limit is there at once."""
    gate, rng, now = Gate(16, BACKOFF), random.Random(1), 0.0
    waits = []
    for _ in range(40):
        gate.pushed_back(now, now, None, rng)
        waits.append(max(0.0, gate.opens_at - now))
        now = max(now, gate.opens_at) + 0.1
    assert gate.limit == 1
    assert waits[0] == 0
    assert all(BACKOFF.base <= wait <= BACKOFF.cap for wait in waits[5:])
    assert max(waits) > 1
    for _ in range(400):
        gate.succeeded()
    assert gate.limit == 16


@pytest.mark.parametrize("limit", [8.0, 3.0])
def test_growth_is_by_one_a_round_beyond_the_threshold(limit: float) -> None:
    """A round of answers as long as the limit adds about one."""
    gate, rng = Gate(16, BACKOFF), random.Random(1)
    gate.limit = limit * 2
    gate.pushed_back(0.0, 0.0, None, rng)
    assert gate.limit == limit
    for _ in range(int(limit)):
        gate.succeeded()
    assert limit + 0.8 <= gate.limit <= limit + 1


def fail_for_long(gate: Gate, rng: random.Random, *, flights: int = 30) -> float:
    """Nothing but push-backs, flight after flight; returns the time afterwards."""
    now = 0.0
    for _ in range(flights):
        for _ in range(int(gate.limit)):
            gate.pushed_back(now, now + 0.01, None, rng)
        now = max(now + 0.02, gate.opens_at)
    return now


def rounds_until(gate: Gate, limit: float) -> int:
    """Rounds of answers, each as many as the gate admits, until it admits `limit`."""
    rounds = 0
    while gate.limit < limit:
        for _ in range(int(gate.limit)):
            gate.succeeded()
        rounds += 1
    return rounds


@pytest.mark.parametrize(("ceiling", "rounds"), [(4, 2), (16, 4), (64, 6)])
def test_after_an_outage_the_old_limit_is_back_within_its_logarithm(ceiling: int, rounds: int) -> None:
    """However long it lasted: it says nothing about the pace."""
    gate, rng = Gate(ceiling, BACKOFF), random.Random(1)
    fail_for_long(gate, rng)
    assert gate.limit == 1
    assert rounds_until(gate, ceiling) <= rounds


def test_a_flight_that_is_told_to_wait_does_not_wait_for_much_longer() -> None:
    """Sixteen answers that ask for one second are one wish: the backoff does not grow with each of them."""
    for seed in range(50):
        gate, rng = Gate(16, BACKOFF), random.Random(seed)
        for number in range(16):
            gate.pushed_back(0.0, 1.0 + number / 1000, 1.0, rng)
        assert 2.0 <= gate.opens_at <= 1.015 + 1 + RETRY_AFTER_SMEAR
