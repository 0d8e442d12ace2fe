"""The scripts on a real server against a plain model: after every step the books balance and each record is once."""

from __future__ import annotations

import hashlib
import os
import pkgutil
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import declared_keys
from servers import available_kinds
from upsertq.contract.protocol import Script

pytest.register_assert_rewrite("transitions_checks", "transitions_machine", "transitions_model", "transitions_people")

from transitions_machine import Site, Transitions  # noqa: E402 - its asserts are to show their values
from transitions_raw import LossyServer  # noqa: E402

if TYPE_CHECKING:
    from conftest import Backend
    from servers import ServerKind

EXAMPLES: Final = int(os.environ.get("TRANSITION_EXAMPLES", "0"))
"""Examples of a soak, on every kind of server; 0 for the few of every day."""
KINDS: Final = [*(available_kinds() if EXAMPLES else available_kinds()[:1]), "fakeredis"]


@pytest.fixture
def site(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Provide a server, whose scripts are held to their declared keys."""
    declared_keys.hold_all(monkeypatch)
    return Site(backend, LossyServer(backend.sync))


def machine(site: Site) -> type[Transitions]:
    """The machine on one server."""
    return type("TransitionsHere", (Transitions,), {"site": site})


def profile(examples: int, steps: int, **options: object) -> settings:
    """Settings without a clock: how long a step takes is the server's affair."""
    quiet = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=quiet,
        **options,  # type: ignore[arg-type]
    )


def _kind(kind: ServerKind | str) -> str:
    return kind if isinstance(kind, str) else kind.id


@pytest.mark.parametrize("backend", KINDS, indirect=True, ids=_kind)
def test_transitions(site: Site) -> None:
    """Whatever producers, workers and operators do, each step leaves the queue as the model has it."""
    examples = EXAMPLES or settings().max_examples // (2 if site.backend.server else 12)
    run_state_machine_as_test(machine(site), settings=profile(examples, 60))


PLANTED: Final = {
    "a fenced worker settles": (
        "worker_scripts.SETTLE",
        "if current ~= ARGV[2] then return {0, current or ''} end",
        "if current ~= ARGV[2] then current = nil end",
    ),
    "a replayed letter stays": ("upsertq.dead.moves.REPLAY", "redis.call('XDEL', KEYS[4], move.dead_id)", ""),
    "newer versions are forgotten": ("worker_scripts.SETTLE", "if replaying and acked then", "if false then"),
    "the clock is not kept": (
        "upsertq.client.enqueue.ENQUEUE",
        "i == 1 and {'clock', clock}",
        "i == 1 and {'boundary', clock}",
    ),
    "what was not removed is counted": ("worker_scripts.SETTLE", "entry.id) == 1 then", "entry.id) >= 0 then"),
    "a stream goes with an entry in it": (
        "worker_scripts.SETTLE",
        "if left[stream.place] == 0 then",
        "if left[stream.place] <= 1 then",
    ),
    "letters of other runs are superseded in the shard's books alone": (
        "worker_scripts.SETTLE",
        "if run ~= '' and not place_of[run] and not unknown[run] then",
        "if false then",
    ),
    "a death is forgotten": ("worker_scripts.LEASE", "local clean = (epoch == 0 or", "local clean = (true or"),
}
"""Bugs: the script, a line of it, and what stands there instead."""


EVERY_DAY: Final = "a stream goes with an entry in it"
"""The bug that `make test` plants; `make proof` plants all."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "bug", [pytest.param(bug, marks=() if bug == EVERY_DAY else pytest.mark.proof) for bug in PLANTED]
)
@pytest.mark.parametrize("backend", KINDS[:1], indirect=True, ids=_kind)
def test_a_planted_bug_is_found(site: Site, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    """The machine can fail: a script with a bug does not pass."""
    where, line, instead = PLANTED[bug]
    plant(monkeypatch, where, line, instead)
    found = profile(300, 60, phases=[Phase.generate], database=None, derandomize=True, report_multiple_bugs=False)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine(site), settings=found)


def plant(monkeypatch: pytest.MonkeyPatch, where: str, line: str, instead: str) -> None:
    """Put a bug into a script."""
    script: Script = pkgutil.resolve_name(where)
    assert script.text.count(line) == 1, f"{where} has no such line any more: choose another one to break"
    text = script.text.replace(line, instead)
    digest = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 - the server names scripts by SHA-1
    monkeypatch.setattr(where, Script(script.name, text, digest))
