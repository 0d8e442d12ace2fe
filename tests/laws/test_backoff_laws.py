"""Waits stay within their bounds and honour what the server asks; retries run out when only failures come back."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsertq_worker.backoff import RETRY_AFTER_MAX, RETRY_AFTER_SMEAR, Backoff, RetryBudget, retry_delay

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


@given(events=st.lists(st.booleans(), max_size=400))
def test_a_budget_stays_within_its_bounds(events: list[bool]) -> None:
    """Whatever happens."""
    budget = RetryBudget()
    for success in events:
        budget = budget.after_success() if success else budget.after_failure()
        assert 0 <= budget.tokens <= budget.maximum


def test_a_budget_ends_after_fifty_failures_and_comes_back_by_tenths() -> None:
    """Exactly at half the retries stop, and one success above it lets them go on."""
    budget = RetryBudget()
    for _ in range(49):
        budget = budget.after_failure()
    assert budget.may_retry
    budget = budget.after_failure()
    assert not budget.may_retry
    budget = budget.after_failure()
    for _ in range(10):
        budget = budget.after_success()
    assert budget.tokens == 50.0
    assert not budget.may_retry
    assert budget.after_success().may_retry


def test_one_failure_in_ten_never_ends_a_budget() -> None:
    """A tenth of failures is what the refund carries for good."""
    budget = RetryBudget()
    for _ in range(1_000):
        budget = budget.after_failure()
        for _ in range(10):
            budget = budget.after_success()
    assert budget.tokens == 100.0
