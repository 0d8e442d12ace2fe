"""Waits stay within their bounds and honour what the server asks; retries run out when only failures come back."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsertq_worker.flow.backoff import RETRY_AFTER_MAX, RETRY_AFTER_SMEAR, Backoff, RetryBudget, retry_delay

BACKOFFS = st.tuples(st.floats(1e-3, 10), st.floats(1, 100)).map(lambda pair: Backoff(pair[0], pair[0] * pair[1]))
PREVIOUS = st.none() | st.floats(0, 1e6)
RNGS = st.integers(0, 2**32).map(random.Random)


class EdgeRandom(random.Random):
    """A source that always draws the same place in its range: 0 the least, just under 1 the most."""

    def __init__(self, place: float) -> None:
        super().__init__()
        self.place = place

    def random(self) -> float:
        """The fixed place."""
        return self.place


LEAST, MOST = EdgeRandom(0.0), EdgeRandom(math.nextafter(1.0, 0.0))


@given(backoff=BACKOFFS, previous=PREVIOUS, rng=RNGS | st.sampled_from([LEAST, MOST]))
def test_a_wait_is_within_base_and_cap(backoff: Backoff, previous: float | None, rng: random.Random) -> None:
    """Whatever came before."""
    assert backoff.base <= backoff.next(previous, rng) <= backoff.cap


@given(backoff=BACKOFFS, previous=PREVIOUS, rng=RNGS)
def test_a_wait_is_at_most_three_times_the_last(backoff: Backoff, previous: float | None, rng: random.Random) -> None:
    """It grows from where it is, not with the number of attempts."""
    last = max(previous or 0.0, backoff.base)
    assert backoff.next(previous, rng) <= last * 3 * (1 + 1e-12)


def test_waits_reach_the_cap_and_spread_down_to_the_base() -> None:
    """The range grows threefold a step, and its lower end stays: that is the decorrelation."""
    backoff, wait = Backoff(base=0.2, cap=30.0), None
    for expected in (0.6, 1.8, 5.4, 16.2, 30.0, 30.0):
        wait = backoff.next(wait, MOST)
        assert wait == pytest.approx(expected)
    assert backoff.next(wait, LEAST) == 0.2


@pytest.mark.parametrize(("base", "cap"), [(0, 1), (-1, 1), (2, 1), (1, math.inf), (math.nan, 1), (1, math.nan)])
def test_a_backoff_out_of_range_is_refused(base: float, cap: float) -> None:
    """With both values in the message."""
    with pytest.raises(ValueError, match=f"base={base} and cap={cap}"):
        Backoff(base, cap)


@given(
    backoff=BACKOFFS,
    previous=PREVIOUS,
    asked=st.floats(0, allow_infinity=True),
    rng=RNGS | st.sampled_from([LEAST, MOST]),
)
def test_retry_after_is_never_undercut_and_bounded(
    backoff: Backoff, previous: float | None, asked: float, rng: random.Random
) -> None:
    """Up to 300 s the server has its way, plus a smear of a fifth."""
    delay = retry_delay(backoff, previous, asked, rng)
    assert delay >= min(asked, RETRY_AFTER_MAX)
    assert backoff.base <= delay <= max(backoff.cap, min(asked, RETRY_AFTER_MAX) * (1 + RETRY_AFTER_SMEAR))


@given(backoff=BACKOFFS, previous=PREVIOUS, seed=st.integers(), asked=st.sampled_from([None, 0.0, -1.0, math.nan]))
def test_without_a_wish_the_backoff_alone_decides(
    backoff: Backoff, previous: float | None, seed: int, asked: float | None
) -> None:
    """A wish for no wait, or a senseless one, does not shorten it."""
    delay = retry_delay(backoff, previous, asked, random.Random(seed))
    assert delay == backoff.next(previous, random.Random(seed))


def test_a_fleet_told_the_same_wait_spreads_out() -> None:
    """Above the bound as well as below it."""
    for asked in (20.0, 3600.0):
        delays = {retry_delay(Backoff(), None, asked, random.Random(seed)) for seed in range(50)}
        assert len(delays) == 50
        assert max(delays) - min(delays) > 0.1 * min(asked, RETRY_AFTER_MAX)


@given(
    events=st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 3)), max_size=400),
    seed=st.integers(0, 99),
    together=st.integers(1, 20),
)
def test_retries_that_fail_are_a_share_of_what_succeeds(
    events: list[tuple[bool, bool, float]], seed: int, together: int
) -> None:
    """However many are sent together: at most the first tokens, one for each success, and the probes."""
    budget, rng, now = RetryBudget(backoff=Backoff(0.2, 5.0)), random.Random(seed), 0.0
    failed = successes = probes = 0
    for retry, success, pause in events:
        now += pause
        started = 0
        while (not retry and not started) or (retry and started < together and budget.admits(now)):
            probes += budget.spent
            budget.in_flight += retry
            started += 1
        for _ in range(started):
            budget.in_flight -= retry
            if success:
                budget.succeeded()
                successes += 1
            else:
                budget.failed(now, rng)
                failed += retry
        assert 0 <= budget.tokens <= budget.maximum
        assert failed <= budget.maximum + successes + probes


def test_a_spent_budget_lets_one_probe_at_a_time_go_after_a_growing_wait() -> None:
    """After fifty failures in a row; the failures of one flight lengthen the wait once."""
    budget, rng, now = RetryBudget(backoff=Backoff(0.2, 5.0)), random.Random(1), 0.0
    for _ in range(49):
        budget.failed(now, rng)
    assert not budget.spent
    assert budget.admits(now)
    waits: list[float] = []
    for _ in range(40):
        for _ in range(16):
            budget.failed(now, rng)
        assert budget.spent
        assert not budget.admits(now)
        waits.append(budget.opens_at - now)
        now = budget.opens_at
        assert budget.admits(now)
        budget.in_flight += 1
        assert not budget.admits(now)
        budget.in_flight -= 1
    assert all(0.2 <= wait <= 5.0 for wait in waits)
    assert sum(waits) / len(waits) > 1


def test_a_success_ends_the_wait_and_the_retries_double_with_each_round() -> None:
    """As TCP's slow start: whatever waits is sent within a few rounds of answers, and the first failure stops it."""
    budget, rng = RetryBudget(backoff=Backoff(0.2, 5.0)), random.Random(1)
    for _ in range(60):
        budget.failed(0.0, rng)
    budget.in_flight = 1  # the probe
    rounds = []
    for _ in range(5):
        flying, budget.in_flight = budget.in_flight, 0
        for _ in range(flying):
            budget.succeeded()
        while budget.admits(0.0):
            budget.in_flight += 1
        rounds.append(budget.in_flight)
    assert rounds == [1, 2, 4, 8, 16]
    budget.in_flight = 0
    for _ in range(16):
        budget.failed(0.0, rng)
    assert budget.spent


def test_half_of_all_requests_failing_never_ends_a_budget() -> None:
    """A success pays for a failure."""
    budget, rng = RetryBudget(), random.Random(1)
    for _ in range(1_000):
        budget.failed(0.0, rng)
        budget.succeeded()
    assert budget.tokens == budget.maximum
