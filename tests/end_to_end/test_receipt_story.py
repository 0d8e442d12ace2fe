"""The receipt at the end of a run, as people and scripts get it: the right figures, and why what is dead is dead."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from processes import call, document, emulated, start
from waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from processes import Index

Q = ("--queue", "q")
FAST = ("--lease", "2", "--quarantine", "0.5", "--linger", "0.05")
COUNT = 150
NAMES = ["bad", *(f"a{number}" for number in range(COUNT - 1))]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Provide a file of 150 records, two thirds of them in the namespace `n`; one is named `bad`."""
    path = tmp_path / "a.jsonl"
    records = [
        {"id": name, "values": [float(at), 1.0], "namespace": "n" if at % 3 else ""} for at, name in enumerate(NAMES)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def assert_times(found: dict[str, Any]) -> None:
    """The times are ISO 8601 in UTC with milliseconds, and the seconds are those between them."""
    first, last = found["first_enqueued_at"], found["last_settled_at"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time) for time in (first, last))
    between = (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()
    assert found["seconds"] == pytest.approx(between)
    assert 0 < between < 120


def assert_posted(found: dict[str, Any], index: Index) -> None:
    """Requests, bytes and LSN are what the emulator saw."""
    counters = index.counters
    # before its first upsert a worker asks the index what it is, with a body of `{}`
    asked = 2 * (counters["requests"] - counters["upserts"])
    assert (found["requests"], found["posted_bytes"]) == (counters["upserts"], counters["bytes"] - asked)
    newest = {
        space or "__default__": max(entry["lsn"] for name in NAMES for entry in index.journal(name, space))
        for space in ("", "n")
    }
    assert found["lsn"] == newest


def test_a_run_with_a_dead_record(redis_url: str, source: Path) -> None:
    """`run` tells the reason; after a replay that lands `wait` has none, and more requests."""
    with emulated() as index:
        index.set_faults("poison=bad")
        found = document("run", source, *Q, "--run", "r", "--index-host", index.url, *FAST, url=redis_url, expect=3)
        books = {"enqueued": COUNT, "acked": COUNT - 1, "superseded": 0, "discarded": 0, "dead": 1, "pending": 0}
        assert {name: found[name] for name in books} == books
        assert (found["queue"], found["run"], found["loaded"]) == ("q", "r", COUNT)
        assert found["reasons"] == {"refused": 1}
        assert found["retries"] > 0
        assert_times(found)
        assert_posted(found, index)
        assert found["load_seconds"] >= 0
        lines = call("wait", *Q, "--run", "r", url=redis_url, expect=3).stdout.splitlines()
        assert lines[0] == "enqueued 150, acked 149, superseded 0, discarded 0, dead 1, pending 0"
        assert [line.split()[0] for line in lines[1:]] == ["dead", "requests", "lsn", "time"]
        assert lines[1] == "dead      refused 1: see `upsertq dead list --queue q --run r`"
        index.set_faults(None)
        call("dead", "replay", *Q, "--yes", url=redis_url)
        call("work", *Q, "--index-host", index.url, "--until-empty", *FAST, url=redis_url)
        after = document("wait", *Q, "--run", "r", url=redis_url)
        assert (after["acked"], after["dead"], after["reasons"]) == (COUNT, 0, {})
        assert after["requests"] == found["requests"] + 1
        assert after["last_settled_at"] > found["last_settled_at"]
        assert_posted(after, index)
        assert document("status", *Q, url=redis_url)["reasons"] == {}
        call("audit", *Q, url=redis_url)


def test_load_and_wait(redis_url: str, source: Path, tmp_path: Path) -> None:
    """`load --wait` ends with the receipt, its first line the one line that was there before."""
    with emulated() as index:
        worker = start("work", *Q, "--index-host", index.url, *FAST, url=redis_url, log=tmp_path / "work.log")
        text = call("load", source, *Q, "--run", "r", "--wait", url=redis_url).stdout
        first, *more = text.splitlines()
        assert first.startswith("loaded 150 records into queue 'q' as run 'r' in ")
        assert first.endswith("; enqueued 150, acked 150, superseded 0, discarded 0, dead 0, pending 0")
        assert [line.split()[0] for line in more] == ["requests", "lsn", "time"]
        assert re.fullmatch(r"lsn       __default__ \d+, n \d+", more[1])
        found = document("wait", *Q, "--run", "r", url=redis_url)
        whole = document("wait", *Q, url=redis_url)
        assert_posted(found, index)
        assert_times(found)
        same = ("requests", "retries", "posted_bytes", "lsn", "last_settled_at", *("acked", "dead", "reasons"))
        assert {name: whole[name] for name in same} == {name: found[name] for name in same}
        assert "run" not in whole
        assert f"{found['requests']:,}, {found['posted_bytes']:,} bytes posted" in more[0]
        worker.terminate()
        wait_until(lambda: worker.poll() is not None, 30, "the worker has ended")


def test_what_never_was_settled(redis_url: str, source: Path) -> None:
    """A wait that gives up says so as before; with --json the load still prints what there is of a receipt."""
    done = call("load", source, *Q, "--run", "r", "--wait", "--wait-timeout", "0.2", "--json", url=redis_url, expect=4)
    found = json.loads(done.stdout)
    assert (found["pending"], found["requests"], found["lsn"]) == (COUNT, 0, {})
    assert (found["last_settled_at"], found["seconds"]) == (None, None)
    assert "seconds" in document("load", source, *Q, "--run", "s", url=redis_url)
