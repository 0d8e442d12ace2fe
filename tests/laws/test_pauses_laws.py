"""Pauses by the service are probed at a pace and end; pauses by hand are never probed and end by hand."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from upsertq.contract.pauses import QUEUE, Paused, scope_of
from upsertq_worker.flow.pauses import PROBE, Pauses

RNGS = st.integers(0, 2**32).map(random.Random)
SCOPES = st.sampled_from([QUEUE, scope_of(""), scope_of("a"), scope_of("queue")])
PAUSES = st.builds(
    Paused,
    st.sampled_from(["unauthorized", "systemic"]),
    st.sampled_from(["one", "two"]),
    st.floats(0, 100),
    st.sampled_from(["w1", "w2"]),
    by_hand=st.booleans(),
)
NOTES = st.dictionaries(SCOPES, PAUSES)
BY_SERVICE = Paused("unauthorized", "401", 1.0, "w1")
BY_HAND = Paused("by_hand", "maintenance", 1.0, "me", by_hand=True)


@given(noted=NOTES, then=NOTES)
def test_what_is_noted_is_followed(noted: dict[str, Paused], then: dict[str, Paused]) -> None:
    """After adopting the notes exactly these pauses hold, as noted, and what began and ended is told."""
    lanes = Pauses()
    lanes.adopt(noted, 0.0)
    begun, ended = lanes.adopt(then, 1.0)
    assert lanes.paused == then
    assert begun == set(then) - set(noted)
    assert ended == set(noted) - set(then)
    assert lanes.adopt(then, 2.0) == (set(), set())


@given(noted=NOTES, namespace=st.sampled_from(["", "a", "b", "queue"]))
def test_a_lane_is_held_by_its_own_pause_or_the_queues(noted: dict[str, Paused], namespace: str) -> None:
    """A pause of one namespace holds no other, whatever its name; one of the queue holds all."""
    lanes = Pauses()
    lanes.adopt(noted, 0.0)
    assert lanes.holds(namespace) == (QUEUE in noted or scope_of(namespace) in noted)


@given(noted=NOTES)
def test_a_pause_by_hand_is_never_probed(noted: dict[str, Paused]) -> None:
    """Adopted pauses by the service may be probed at once, those by hand never."""
    lanes = Pauses()
    lanes.adopt(noted, 5.0)
    by_service = {scope for scope, paused in noted.items() if not paused.by_hand}
    assert set(lanes.due(5.0)) == by_service
    assert lanes.next_probe() == (5.0 if by_service else None)
    assert set(lanes.due(1e9)) == by_service


@given(rng=RNGS, refusals=st.integers(1, 30))
def test_probes_keep_their_pace(rng: random.Random, refusals: int) -> None:
    """Between a refusal and the next probe lie 1 to 15 seconds, and only the first refusal is news."""
    lanes, now = Pauses(), 0.0
    for number in range(refusals):
        assert lanes.pause(QUEUE, BY_SERVICE, now, rng) == (number == 0)
        due = lanes.next_probe()
        assert due is not None
        assert now + PROBE.base <= due <= now + PROBE.cap
        assert list(lanes.due(due - 0.001)) == []
        assert list(lanes.due(due)) == [QUEUE]
        lanes.probed(QUEUE)
        assert list(lanes.due(1e9)) == []
        assert lanes.next_probe() is None
        now = due
    assert lanes.resume(QUEUE)
    assert not lanes.resume(QUEUE)
    assert not lanes.holds("any")


@given(rng=RNGS)
def test_a_refusal_leaves_a_pause_by_hand_as_it_is(rng: random.Random) -> None:
    """What was out when somebody paused and is then refused neither is news nor makes the pause end by itself."""
    lanes = Pauses()
    lanes.adopt({QUEUE: BY_HAND}, 0.0)
    assert not lanes.pause(QUEUE, BY_SERVICE, 1.0, rng)
    assert lanes.paused == {QUEUE: BY_HAND}
    assert lanes.next_probe() is None


@given(rng=RNGS)
def test_a_pause_taken_over_by_hand_is_probed_no_more(rng: random.Random) -> None:
    """A pause by the service that becomes one by hand is not probed, and a new reason is taken over."""
    lanes = Pauses()
    lanes.pause(QUEUE, BY_SERVICE, 0.0, rng)
    assert lanes.adopt({QUEUE: BY_HAND}, 1.0) == (set(), set())
    assert list(lanes.due(1e9)) == []
    newer = Paused("by_hand", "still maintenance", 1.0, "me", by_hand=True)
    lanes.adopt({QUEUE: newer}, 2.0)
    assert lanes.paused == {QUEUE: newer}
