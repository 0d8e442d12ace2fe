"""The service goes away under load and comes back: the worker waits and probes, buries nothing, and is soon as fast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("outage.py")
CONCURRENCY, NAMESPACES, TOKENS = 16, 4, 50


def live_through(how: str, seconds: int) -> dict[str, Any]:
    """The figures of one outage, of which `make outage` makes a longer one."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--how", how, "--seconds", str(seconds)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


@pytest.mark.slow
@pytest.mark.parametrize("how", ["down", "503"])
def test_an_outage_is_waited_for_and_left_behind(how: str) -> None:
    """No dead letters, few requests meanwhile, words in `status`, and the old rate within seconds of the recovery."""
    figures = live_through(how, 10)
    assert figures["dead_in_outage"] == figures["dead"] == figures["pending"] == 0, figures
    assert figures["acked"] == figures["enqueued"], figures
    # what was in flight, what the lanes may try and the tokens pay for, and a probe every now and then
    assert 0 < figures["requests_in_outage"] <= CONCURRENCY + TOKENS + NAMESPACES + 3 * 10, figures
    (alarm,) = figures["status"]
    assert "waits and probes since" in alarm, alarm
    assert ("Connection refused" if how == "down" else "HTTP 503") in alarm, alarm
    assert "probe" in alarm.rpartition(";")[2], alarm
    assert figures["seconds_to_90_percent"] < 20, figures
    assert figures["worker_exit"] == 0
