"""The measurement that docs/dead-letters.md names fills a queue that this version opens, and runs to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(__file__).parents[2] / "benchmarks" / "dead_letters.py"


@pytest.mark.slow
def test_it_measures_letters_of_this_format(redis_url: str) -> None:
    """Every command of it succeeds, and the books of what it wrote balance."""
    environment = os.environ | {"UPSERTQ_REDIS_URL": redis_url}
    for command in ([COMMAND, "--redis-url", redis_url, "--letters", "60"], ["-m", "upsertq", "audit"]):
        done = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
