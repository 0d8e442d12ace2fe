"""The emulator's guide says what is so: every fault, every option, every example."""

import re
from pathlib import Path

import click

from upsertq_emulator.command import emulate
from upsertq_emulator.counters import Counters
from upsertq_emulator.kinds import COMMON, KINDS
from upsertq_emulator.spec import parse_faults

GUIDE = (Path(__file__).parents[2] / "docs" / "emulator.md").read_text()
FAULT_ROW = re.compile(r"^\| `(\w+)` \| `([^`]+)` \| (.+) \|$", re.MULTILINE)


def test_every_kind_of_fault_has_an_example_that_works() -> None:
    """Each row's example parses into a fault of its kind, and no kind is missing."""
    rows = FAULT_ROW.findall(GUIDE)
    assert [kind for kind, _, _ in rows] == list(KINDS)
    for kind, example, _ in rows:
        assert [fault["kind"] for fault in parse_faults(example).document["faults"]] == [kind]


def test_every_option_and_counter_is_named() -> None:
    """The guide names each option of the command and of the specs, and each counter."""
    prose = re.sub(r"```.*?```", "", GUIDE, flags=re.DOTALL)
    named = {name for code in re.findall(r"`([^`]+)`", prose) for name in re.findall(r"[\w-]+", code)}
    options = {option for kind in KINDS.values() for option in kind.options} | set(COMMON)
    # these are given by position, and the guide names them in capitals
    options -= {"distribution", "seconds", "low", "high", "median", "sigma", "pattern", "when", "count", "delay"}
    options -= {"status", "requests", "bytes"}
    flags = {flag for option in emulate.params if isinstance(option, click.Option) for flag in option.opts}
    assert (options | flags | set(Counters().document())) - named == set()
