"""Real workers keep to the limit of an emulated service: a short sample of `make pace`, with loose bounds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(__file__).parents[2] / "benchmarks" / "pace.py"
LIMIT = ("--limit", "20", "--burst", "0.5", "--namespaces", "2", "--workers", "2", "--seconds", "12", "--after", "0")


@pytest.mark.slow
@pytest.mark.parametrize("told", ["--named", "--unnamed"])
def test_workers_keep_to_the_limit_of_a_service(redis_url: str, told: str) -> None:
    """Most of what is allowed is used, and little is refused; on a busy machine less is sent than could be."""
    done = subprocess.run(
        [sys.executable, COMMAND, *LIMIT, told, "--redis-url", redis_url],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert 0.4 < figures["accepted"] < 1.3, figures
    # 32 requests may be in flight when the limit is first met, of 480 that are allowed
    assert 0 < figures["refused"] < 0.3, figures
