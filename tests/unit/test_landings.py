"""What landed since a refusal is told by when it was sent, of each lane and of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upsertq_worker.flow import landings
from upsertq_worker.flow.landings import Landings

if TYPE_CHECKING:
    import pytest


def test_only_what_was_sent_since_counts() -> None:
    """What was on its way already when the refusal came says nothing."""
    landed = Landings()
    landed.note("a", started=5.0, now=9.0)
    assert landed.in_lane("a", 5.0)
    assert not landed.in_lane("a", 5.1)
    assert not landed.in_lane("b", 5.0)
    assert landed.anywhere(5.0)
    assert not landed.anywhere(5.1)
    assert landed.at == 9.0


def test_a_late_answer_takes_nothing_back() -> None:
    """A request that was sent earlier may land later."""
    landed = Landings()
    landed.note("a", started=5.0, now=6.0)
    landed.note("a", started=1.0, now=7.0)
    assert landed.in_lane("a", 5.0)
    assert landed.anywhere(5.0)


def test_what_was_never_refused_has_no_evidence() -> None:
    """Without a time nothing can have landed since."""
    landed = Landings()
    landed.note("a", started=5.0, now=6.0)
    assert not landed.in_lane("a", None)
    assert not landed.anywhere(None)


def test_the_lanes_that_landed_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many lanes there are, the memory is bounded; of all together nothing is forgotten."""
    monkeypatch.setattr(landings, "MOST_LANES", 3)
    landed = Landings()
    for number, lane in enumerate("abcad"):
        landed.note(lane, started=float(number), now=float(number))
    assert [lane for lane in "abcd" if landed.in_lane(lane, 0.0)] == ["a", "c", "d"]
    assert landed.anywhere(4.0)
