"""When a wait is stuck on a pause: not while anything moves, nor before a worker could have found the pause ended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsertq.client.stall import PROBED_SECONDS, stuck_on
from upsertq.contract.pauses import NO_MESSAGE, QUEUE, Paused, by_hand, describe, note, of_reply, one_line, scope_of

NOW = 10_000.0
NAMESPACE = scope_of("a")


def service(since: float) -> Paused:
    """A pause that the service caused."""
    return Paused("unauthorized", "401", since, "w")


def hand(since: float) -> Paused:
    """A pause by hand."""
    return by_hand("maintenance", since, "me")


@pytest.mark.parametrize(
    ("paused", "begun", "settled", "stuck"),
    [
        ({}, 0.0, None, None),
        # of the queue by hand: its note tells all, however short the wait
        ({QUEUE: hand(NOW - 300)}, NOW, None, QUEUE),
        ({QUEUE: hand(NOW - 299)}, 0.0, None, None),
        ({QUEUE: hand(NOW - 900)}, 0.0, NOW - 299, None),
        ({QUEUE: hand(NOW - 900)}, 0.0, NOW - 300, QUEUE),
        # by the service: a worker that began with the wait must have had time to probe
        ({QUEUE: service(NOW - 900)}, NOW, None, None),
        ({QUEUE: service(NOW - 900)}, NOW - PROBED_SECONDS + 1, None, None),
        ({QUEUE: service(NOW - 900)}, NOW - PROBED_SECONDS, None, QUEUE),
        ({QUEUE: service(NOW - 299)}, 0.0, None, None),
        # of a namespace: only watching tells that nothing that is waited for moves
        ({NAMESPACE: hand(0)}, NOW - 299, None, None),
        ({NAMESPACE: hand(0)}, NOW - 300, None, NAMESPACE),
        ({NAMESPACE: service(0)}, 0.0, NOW - 299, None),
        ({NAMESPACE: service(NOW - 299)}, 0.0, None, None),
        # the queue's pause is the one to name
        ({NAMESPACE: service(0), QUEUE: service(0)}, 0.0, None, QUEUE),
        ({NAMESPACE: service(0), QUEUE: service(NOW - 1)}, 0.0, None, NAMESPACE),
    ],
)
def test_stuck(paused: dict[str, Paused], begun: float, settled: float | None, stuck: str | None) -> None:
    """The table of pauses, each borne with for 300 s."""
    found = stuck_on(paused, now=NOW, begun=begun, settled=settled, limit=300)
    assert found == (None if stuck is None else (stuck, paused[stuck]))


TIMES = st.floats(0, NOW)
PAUSES = st.builds(Paused, st.just("quota"), st.just("x"), TIMES, st.just("w"), by_hand=st.booleans())


@given(
    paused=st.dictionaries(st.sampled_from([QUEUE, NAMESPACE, scope_of("b")]), PAUSES),
    begun=TIMES,
    settled=st.none() | TIMES,
    limit=st.floats(0, 1_000),
)
def test_never_stuck_too_soon(paused: dict[str, Paused], begun: float, settled: float | None, limit: float) -> None:
    """Whatever is noted: the pause named stands that long, and nothing was seen to settle in that time."""
    found = stuck_on(paused, now=NOW, begun=begun, settled=settled, limit=limit)
    if found is not None:
        scope, pause = found
        assert paused[scope] == pause
        assert NOW - pause.since >= limit
        assert settled is None or NOW - settled >= limit


@given(paused=st.builds(Paused, st.text(), st.text(), TIMES, st.text(), by_hand=st.booleans()))
def test_a_note_is_read_as_written(paused: Paused) -> None:
    """A pause survives its note, in both shapes in which a hash may come back, and is told as one printable line."""
    reply = {QUEUE.encode(): note(paused), b"odd": b"[]", b"older": b'{"reason": "x"}', b"bad": b"\xff"}
    assert of_reply(reply) == {QUEUE: paused}
    assert of_reply([part for item in reply.items() for part in item]) == {QUEUE: paused}
    assert describe(QUEUE, paused).isprintable()


def test_a_note_of_no_time_is_borne_with() -> None:
    """A beginning that no calendar holds is shown all the same."""
    (paused,) = of_reply({b"queue": note(service(1e300))}).values()
    assert "since 9999-12-31T23:59:59Z" in describe(QUEUE, paused)


@given(text=st.text() | st.just("a\udcff\x1b[31mb\n\n c"))
def test_what_is_said_by_hand_fits_on_a_line(text: str) -> None:
    """A reason becomes one printable line that can be noted, and is never empty."""
    paused = by_hand(text, 0.0, text)
    assert paused.message.isprintable()
    assert 0 < len(paused.message) <= 500
    assert (paused.message == NO_MESSAGE) == (one_line(text) in {"", NO_MESSAGE})
    assert of_reply({b"queue": note(paused)}) == {QUEUE: paused}
