"""The promises of design §1 hold in every history of the simulation, and the simulation can tell when they do not."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import history
from checker import Checker, Filed
from history import live
from planted import PLANTED
from scenario import CLIMATES, SILENCES
from upsertq.contract import wire
from upsertq.contract.dead_letter import Reason, Verdict
from upsertq_worker.ordering.model import DeadRecord, Settlement
from upsertq_worker.recovery.suspects import ALONE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

SEEDS: Final = 300
BLOCK: Final = 50
WORTH: Final = 40
"""Histories in which everything must happen."""
SAMPLE: Final = 5
"""Of so many planted bugs `make test` tries one, and `make proof` all."""
LETTERS: Final = ("poison", "blame", "dead", "replay", "outdated")
PATIENCE: Final = 400
"""Histories within which a planted bug must show."""


def first_only(values: Sequence[Any], one_in: int = 0) -> list[Any]:
    """Leave all but the first of so many values to `make proof`."""
    return [
        value if at % (one_in or len(values)) == 0 else pytest.param(value, marks=pytest.mark.proof)
        for at, value in enumerate(values)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("start", first_only(range(0, SEEDS, BLOCK)))
def test_the_promises_hold_in_every_history(start: int) -> None:
    """Whatever is killed, stopped, lost, late or refused: nothing is lost or stale, and the books balance."""
    reports = [live(seed) for seed in range(start, start + BLOCK)]
    assert {report.seed: report.violations for report in reports if report.violations} == {}
    if start == 0:
        are_worth_their_time(reports[:WORTH])


def are_worth_their_time(reports: Sequence[history.Report]) -> None:
    """Everything that the simulation can do to a worker must have happened in these histories, and often."""
    seen: Counter[str] = Counter()
    for report in reports:
        seen.update(report.seen)
    for kind in ("kill", "pause", "resume", "stop", "mishap", "trouble", "lease", "release", "settle", *LETTERS):
        assert seen[kind] >= 10, kind
    assert seen["apply"] > seen["post"] > 100


@pytest.mark.parametrize("climate", [*CLIMATES, SILENCES])
def test_the_promises_hold_in_every_climate(climate: str) -> None:
    """The same where one chain of accidents happens over and over."""
    reports = [live(seed, climate=climate) for seed in range(5)]
    assert {report.seed: report.violations for report in reports if report.violations} == {}


@pytest.mark.parametrize("plant", first_only(tuple(PLANTED), SAMPLE), ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_caught(plant: Callable[[], AbstractContextManager[Any]]) -> None:
    """Each rule of the worker is needed: without it some history breaks a promise, and the checker says so."""
    with plant():
        assert any(live(seed, climate=PLANTED[plant]).violations for seed in range(PATIENCE))


def test_a_seed_gives_the_same_history_in_every_process() -> None:
    """A failing seed is reproducible by its number, whatever the interpreter's hash seed."""

    def told(hash_seed: str) -> str:
        command = [sys.executable, str(Path(history.__file__).with_name("soak.py")), "--seed", "3", "--trace"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(command, capture_output=True, env=environment, check=True, timeout=60)
        return hashlib.sha256(done.stdout).hexdigest()

    assert len({told("0"), told("1"), told("random")}) == 1


def test_the_soak_names_the_seeds_that_failed(capfd: pytest.CaptureFixture[str]) -> None:
    """The command runs histories in parallel and ends with 0 when every promise held."""
    command = [sys.executable, str(Path(history.__file__).with_name("soak.py")), "--seeds", "4", "--start", "7"]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
    out = capfd.readouterr().out
    assert out.startswith("4 histories in ")
    assert "FAILED" not in out


ACCUSED: Final = ("docs", "a"), 1
ENTRY: Final = wire.Entry("docs", ("a",), 1, b"\0\0\x80?", metadata=b'[{"version":1}]')


def _settle_as_crash_loop(checker: Checker, stream_id: str) -> bool:
    """Settle the entry with its record dead of a crash loop, and return whether the checker has it as guilty."""
    dead = DeadRecord(0, ENTRY, Verdict(Reason.CRASH_LOOP, worker="w"))
    checker.settled("w", Settlement(0, stream_id, "docs", "", 1, ENTRY.size, 0, 0, stream_id, (dead,)), "w")
    assert all("innocent" in text for text in checker.violations)
    return not checker.violations


@pytest.mark.parametrize(
    ("marked", "alone", "guilty"),
    [
        (ALONE, 0, True),
        (ALONE - 1, ALONE, True),
        (0, ALONE, True),
        (ALONE - 1, ALONE - 1, False),
        (0, 0, False),
    ],
)
def test_a_crash_loop_needs_two_deaths_alone(marked: int, alone: int, *, guilty: bool) -> None:
    """By the marks that holders left, or by the requests that killed.

    After a replay it must kill anew: the deaths before say nothing about it any more.
    """
    checker = Checker(lambda: 0.0, traced=False)
    checker.enqueued(0, "1-0", Filed("", ENTRY.size, (ACCUSED,)))
    for _ in range(marked):
        checker.taken_over(0, '[["1-0",0]]')
    for mark in ("", "[null]", '[null,["1-0",0,1]]', '[["1-0",null]]', '[["1-0",1]]'):
        checker.taken_over(0, mark)
    for _ in range(alone):
        checker.blamed([ACCUSED], "crash_loop")
    checker.blamed([ACCUSED, (("docs", "b"), 1)], "crash_loop")
    assert _settle_as_crash_loop(checker, "1-0") is guilty
    checker.replayed(0, "2-0", ENTRY)
    assert not _settle_as_crash_loop(checker, "2-0")
