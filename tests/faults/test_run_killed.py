"""SIGKILL of `upsertq run` ends the worker that it started, and loses nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datasets import Dataset
from processes import books, call, document, emulated, start
from waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path


def test_the_worker_ends_with_the_command_that_started_it(redis_url: str, tmp_path: Path) -> None:
    """No orphan goes on draining: it stops in good order, and `run --resume` does the rest."""
    data = Dataset.make(4_000, 8)
    source = data.parquet(tmp_path / "v.parquet")
    with emulated("--faults", "seed=1,latency=constant:0.2") as index:
        run = ("run", source, "--queue", "q", "--run", "r", "--index-host", index.url, "--batch-size", "10")
        quick = ("--lease", "1", "--quarantine", "0.5")
        command = start(*run, *quick, url=redis_url, log=tmp_path / "run.log")
        wait_until(lambda: index.counters["records"] > 200, 30, "the worker to work")
        command.kill()
        command.wait(60)
        wait_until(lambda: not document("status", "--queue", "q", "--json", url=redis_url)["leases"], 30, "its end")
        assert books(redis_url, "q")["pending"] > 0, "there was nothing left to leave alone"
        call(*run, *quick, "--concurrency", "64", "--resume", url=redis_url)
        assert books(redis_url, "q") == {
            "enqueued": 4_000, "acked": 4_000, "superseded": 0, "discarded": 0, "dead": 0, "pending": 0,
        }  # fmt: skip
        call("audit", "--queue", "q", url=redis_url)
