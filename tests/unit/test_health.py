"""What a probe calls wrong, and how a worker's beat is judged: by the server's time, and forgotten in the end."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standings import FINE, NOW, PAUSE, worker
from upsertq.admin.health import Wrong, only_paused, problems
from upsertq.admin.status import Backlog
from upsertq.admin.workers import FORGOTTEN, beat_at, forgotten, workers_of

if TYPE_CHECKING:
    from upsertq.admin.status import Standing

OLD = Backlog(3, NOW - 61.0, 1, (("", 3),))


@pytest.mark.parametrize(
    ("now", "kinds", "paused"),
    [
        (FINE, [], False),
        (replace(FINE, workers=()), [Wrong.NO_WORKER], False),
        (replace(FINE, workers=worker(at=NOW - 60)), [Wrong.NO_WORKER], False),
        (replace(FINE, workers=worker(alarms={"shard 1": "odd entry"})), [Wrong.ALARM], False),
        (replace(FINE, paused=PAUSE), [Wrong.PAUSED], True),
        (replace(FINE, paused=PAUSE, workers=worker(alarms={"queue": "over"})), [Wrong.PAUSED], True),
        (replace(FINE, paused=PAUSE, backlog=OLD), [Wrong.PAUSED, Wrong.OLD], True),
        (replace(FINE, paused=PAUSE, workers=()), [Wrong.NO_WORKER, Wrong.PAUSED], False),
        (replace(FINE, backlog=OLD), [Wrong.OLD], False),
        (replace(FINE, backlog=replace(OLD, oldest=NOW - 60.0)), [], False),
    ],
)
def test_what_is_wrong(now: Standing, kinds: list[Wrong], paused: bool) -> None:  # noqa: FBT001
    """Each kind is named once, a pause alone is told from what needs more, and what is fine is not named."""
    found = problems(now, 60.0)
    assert [problem.kind for problem in found] == kinds
    assert only_paused(found) is paused
    assert all("\n" not in problem.message for problem in found)


def test_any_age_is_fine_where_none_is_given() -> None:
    """Without a limit an old entry is no problem."""
    assert problems(replace(FINE, backlog=replace(OLD, oldest=0.0)), None) == ()


@pytest.mark.parametrize("off", [-7200.0, -120.0, 0.0, 120.0, 7200.0])
def test_a_clock_that_is_off_does_not_matter(off: float) -> None:
    """A report dated by a worker's own clock becomes one of the server's time, with all its times."""
    report = {"name": "w", "at": NOW + off, "started_at": NOW + off - 300, "every": 2.5}
    (one,) = workers_of({"w": orjson.dumps(beat_at(report, NOW))}, NOW + 1)
    assert (one.gone, one.age, one.at, one.started_at) == (False, 1.0, NOW, NOW - 300)


@pytest.mark.parametrize(
    ("at", "shown", "gone"),
    [
        (NOW - 7, True, False),
        (NOW - 8, True, True),
        (NOW - FORGOTTEN, True, True),
        (NOW - FORGOTTEN - 1, False, True),
        (NOW + 5, True, False),
        (NOW + FORGOTTEN + 1, False, True),
    ],
)
def test_the_gone_are_forgotten(at: float, shown: bool, gone: bool) -> None:  # noqa: FBT001
    """A worker is gone after three beats, has no alarms then, and is not shown after an hour; nor one of the future."""
    beats = {"w": orjson.dumps({"at": at, "every": 2.5, "alarms": {"index": "401"}})}
    found = workers_of(beats, NOW)
    assert [(one.gone, bool(one.alarms)) for one in found] == ([(gone, not gone)] if shown else [])
    assert forgotten(beats, NOW) == ([] if shown else ["w"])


def test_what_cannot_be_read_is_shown_until_a_worker_takes_it_away() -> None:
    """A beat of another program is a worker that is gone, and is no use to keep."""
    deep = b"[" * 900 + b"]" * 900
    beats = {"odd": b"[]", "text": b'{"at":"x"}', "deep": b'{"at":%d,"pid":%s}' % (NOW, deep)}
    assert [(one.name, one.gone) for one in workers_of(beats, NOW)] == [("deep", True), ("odd", True), ("text", True)]
    assert {*forgotten(beats, NOW)} == beats.keys()


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=9,
)
NAMES = ("at", "every", "host", "pid", "started_at", "shards", "in_flight", "posted", "requests", "standby", "alarms")


@settings(deadline=None)
@given(st.binary(max_size=40) | st.dictionaries(st.sampled_from(NAMES), JSON).map(orjson.dumps))
def test_whatever_stands_there_is_a_worker_or_none(beat: bytes) -> None:
    """No heartbeat stops a look, a probe, or a worker that tidies up."""
    found = workers_of({"w": beat}, NOW)
    assert len(found) <= 1
    assert isinstance(problems(replace(FINE, workers=found), None), tuple)
    assert forgotten({"w": beat}, NOW) in ([], ["w"])
