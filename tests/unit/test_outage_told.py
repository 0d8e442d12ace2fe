"""An outage is told in words: since when, why, and when the worker looks again."""

from __future__ import annotations

from upsertq_worker.flow.outage import OutageWatch


def test_it_says_since_when_why_and_what_is_next() -> None:
    """The times are the wall's, whatever the worker's clock counts from."""
    outage = OutageWatch()
    assert outage.failed(100.0, "no answer: Connection refused")
    outage.probes_at(415.0)
    told = outage.told(411.0, 1777895892.0 + 311)
    since = "2026-05-04T11:58:12Z (311 s)"
    assert told == f"waits and probes since {since}: no answer: Connection refused; next probe in 4 s"
    outage.probes_at(None)
    assert outage.told(411.0, 1777895892.0).endswith("; a probe is out")


def test_a_single_push_back_is_no_outage() -> None:
    """Nothing is told in its first second, nor before it or after it."""
    outage = OutageWatch()
    assert outage.told(100.0, 0.0) == ""
    assert outage.over(100.0) is None
    outage.failed(100.0, "busy")
    assert outage.told(100.5, 0.0) == ""
    assert outage.over(103.0) == 3.0
    assert outage.told(104.0, 0.0) == ""


def test_only_the_first_push_back_is_news() -> None:
    """The time counts from it; what is told is the latest cause."""
    outage = OutageWatch()
    assert outage.failed(100.0, "busy")
    assert not outage.failed(110.0, "refused")
    assert outage.lasts
    assert "(20 s): refused;" in outage.told(120.0, 0.0)
