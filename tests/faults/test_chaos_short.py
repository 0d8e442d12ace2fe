"""A short chaos run by the real command: everything is killed and confused, and every promise is kept."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from processes import call, complaint, start
from waiting import wait_until

if TYPE_CHECKING:
    from servers import RealServer


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_promises_hold_under_kills_and_faults(tmp_path: Path) -> None:
    """Workers, producers and the server are killed, workers freeze, leave and join; the index fails in every way."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    options = ("--seconds", "20", "--records", "3000", "--hot", "100", "--workers", "4", "--seed", "1")
    moves = ("--freeze-probability", "0.3", "--leave-probability", "0.3")
    kept = tmp_path / "kept"
    done = call("chaos", *options, *moves, "--keep", kept, "--json", url=None, timeout=280, TMPDIR=str(scratch))
    verdict = json.loads(done.stdout)
    assert verdict["ok"]
    assert verdict["violations"] == []
    assert all(verdict["kills"].values()), verdict["kills"]
    assert min(verdict["frozen"], verdict["left"]) > 0
    assert verdict["server_restarts"] == verdict["kills"]["server"]
    # a batch whose producer was killed before it was confirmed may take ids of its own along
    assert verdict["ids"] >= 2900
    assert verdict["books"]["dead"] > 0
    assert json.loads((kept / "verdict.json").read_text()) == verdict
    assert verdict["steps_back"] == verdict["steps_back_of_unsettled"] + verdict["steps_back_of_replayed"]
    # the rule cannot condemn a step back that comes sooner than this after the newer version was settled
    assert 0 < verdict["look_gap_median"] < 2


@pytest.mark.proof
@pytest.mark.timeout(120)
def test_a_write_that_lags_beyond_the_quarantine_is_found(tmp_path: Path) -> None:
    """An old version that lands when newer ones were settled fails the verdict, though a newer one follows at once."""
    faults = "seed=1,poison=bad-*,late=4:0.1"
    options = ("--seconds", "12", "--records", "2000", "--hot", "100", "--kill-probability", "0", "--seed", "1")
    done = call("chaos", *options, "--faults", faults, "--json", url=None, expect=1, TMPDIR=str(tmp_path))
    verdict = json.loads(done.stdout)
    assert any(one.startswith("an older version was applied over a settled one") for one in verdict["violations"])
    assert verdict["steps_over_settled"]


def test_nothing_is_left_behind(tmp_path: Path, redis_server: RealServer) -> None:
    """SIGTERM in the middle ends the command and everyone it started, and removes its directory."""
    log = tmp_path / "log"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    chaos = start("chaos", "--seconds", "200", "--records", "1000", url=redis_server.url, log=log, TMPDIR=str(scratch))
    wait_until(lambda: any(scratch.glob("*/producer-1.jsonl")), 60, "a producer takes notes")
    (directory,) = scratch.iterdir()
    chaos.send_signal(signal.SIGTERM)
    assert chaos.wait(60) == 130, log.read_text()
    assert not directory.exists()
    with redis_server.client() as client:
        assert client.keys() == []
    assert log.read_text().splitlines()[-1] == "upsertq: interrupted"


def test_nothing_is_left_behind_by_who_does_not_stop(tmp_path: Path, redis_server: RealServer) -> None:
    """SIGTERM while a producer is waited for, which hangs: that one is ended, too."""
    log = tmp_path / "log"
    options = ("--seconds", "5", "--records", "100", "--workers", "1", "--kill-probability", "0")
    chaos = start("chaos", *options, url=redis_server.url, log=log, TMPDIR=str(tmp_path))
    wait_until(lambda: len(producers(tmp_path)) == 2, 60, "the producers work")
    hangs = producers(tmp_path)[0]
    os.kill(hangs, signal.SIGSTOP)
    wait_until(lambda: "the faults end" in log.read_text() and producers(tmp_path) == [hangs], 60, "one does not stop")
    chaos.send_signal(signal.SIGTERM)
    assert chaos.wait(60) == 130, log.read_text()
    assert producers(tmp_path) == []


def producers(directory: Path) -> list[int]:
    """The process ids of a chaos run's producers, by the directory that they take notes in."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes()
            if b"upsertq_chaos.putting" in words and str(directory).encode() in words:
                found.append(int(process.name))
    return sorted(found)


def test_a_server_that_is_away_is_told_at_once(tmp_path: Path) -> None:
    """Nothing is started where the server does not answer."""
    line = complaint("chaos", "--redis-url", f"unix://{tmp_path}/none", url=None, expect=1, timeout=30)
    assert f"{tmp_path}/none" in line


def test_a_directory_with_something_in_it_is_refused(tmp_path: Path) -> None:
    """`--keep` never mixes a run with what was there."""
    (tmp_path / "old").touch()
    assert "is not empty" in complaint("chaos", "--keep", tmp_path, url=None, expect=2)
