"""An outage is told in words: since when, why, and when the worker looks again."""

from __future__ import annotations

import random

from upsertq_worker.context import Desk, Settings
from upsertq_worker.flow.outage import Outage


def test_it_says_since_when_why_and_what_is_next() -> None:
    """The times are the wall's, whatever the worker's clock counts from."""
    outage = Outage(100.0, "no answer: Connection refused", next_probe=415.0)
    told = outage.told(411.0, 1777895892.0 + 311)
    since = "2026-05-04T11:58:12Z (311 s)"
    assert told == f"waits and probes since {since}: no answer: Connection refused; next probe in 4 s"
    outage.next_probe = None
    assert outage.told(411.0, 1777895892.0).endswith("; a probe is out")


def test_a_single_push_back_is_no_outage() -> None:
    """Nothing is told in its first second."""
    assert Outage(100.0, "busy").told(100.5, 0.0) == ""


def test_the_heartbeat_tells_it_as_it_stands_when_it_is_written() -> None:
    """Fresh at each beat, gone after it; other alarms stay."""
    now = 100.0
    desk = Desk("w", 1, Settings(), clock=lambda: now, wall=lambda: now, rng=random.Random(1))
    desk.alarms["shard 0"] = "strange"

    desk.outage = Outage(now, "refused", next_probe=now + 30)
    for later in (10.0, 20.0):
        now = 100.0 + later
        alarm = desk.report(0.0, 1.0)["alarms"]["index"]
        assert f"({later:.0f} s): refused; next probe in {30 - later:.0f} s" in alarm
    desk.outage = None
    assert desk.report(0.0, 1.0)["alarms"] == {"shard 0": "strange"}
