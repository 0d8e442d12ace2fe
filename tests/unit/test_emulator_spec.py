"""Fault specs are read from text, documents and files, and every problem is reported at once."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsertq_emulator.faults import Latency, Reset
from upsertq_emulator.spec import FaultSpecError, parse_faults
from upsertq_emulator.spec_file import load_faults

DOCUMENT = {
    "seed": 7,
    "faults": [
        {"kind": "latency", "distribution": "lognormal", "median": 0.05, "sigma": 0.5},
        {"kind": "reset", "when": "after", "rate": 0.1, "from": 5, "until": 9, "namespace": "tenant-*"},
    ],
}
TEXT = "seed=7,latency=lognormal:0.05:0.5,reset=after:0.1;from=5;until=9;namespace=tenant-*"
TOML = """
seed = 7

[[faults]]
kind = "latency"
distribution = "lognormal"
median = 0.05
sigma = 0.5

[[faults]]
kind = "reset"
when = "after"
rate = 0.1
from = 5
until = 9
namespace = "tenant-*"
"""


def test_text_document_and_files_say_the_same(tmp_path: Path) -> None:
    """The compact text, the JSON document and the TOML file give equal rules."""
    spec = parse_faults(DOCUMENT)
    assert spec.seed == 7
    assert spec.rules[0].action == Latency("lognormal", 0.05, 0.5)
    assert spec.rules[1].action == Reset("after")
    assert (spec.rules[1].when.rate, spec.rules[1].when.since, spec.rules[1].when.namespace) == (0.1, 5, "tenant-*")
    (tmp_path / "faults.toml").write_text(TOML)
    for other in (parse_faults(TEXT), load_faults(str(tmp_path / "faults.toml")), load_faults(TEXT)):
        assert (other.seed, other.rules) == (spec.seed, spec.rules)


def test_a_spec_read_back_is_the_same() -> None:
    """The document that a spec gives parses into the same rules, so that an admin can fetch and send it."""
    spec = parse_faults(TEXT)
    assert parse_faults(spec.document) == spec
    assert parse_faults(None).rules == ()
    assert parse_faults("").rules == ()


def test_every_problem_is_reported() -> None:
    """One error holds a line for each wrong thing, naming the fault, the option, the value and what is expected."""
    text = (
        "seed=x,error=abc:2,foo=1,latency=uniform:5:1,poison=*;on=any,late=,stall;from=5;until=2,deny=405,short=1:1:1"
    )
    with pytest.raises(FaultSpecError) as caught:
        parse_faults(text)
    problems = "\n".join(caught.value.problems)
    for expected in (
        "seed: expected a whole number, got 'x'",
        "fault 1 (error): status: expected a whole number, got 'abc'",
        "fault 1 (error): rate: expected a number from 0 to 1, got '2'",
        "fault 2: unknown kind 'foo', expected one of error,",
        "fault 3 (latency): low 5 is above high 1",
        "fault 4 (poison): unknown option 'on', expected one of pattern,",
        "fault 5 (late): delay is missing",
        "fault 6 (stall): from 5 is not before until 2",
        "fault 7 (deny): status: expected a whole number from 401 to 404, got '405'",
        "'short=1:1:1': too many arguments, expected count:rate",
    ):
        assert expected in problems


@pytest.mark.parametrize(
    "document",
    [
        {"faults": "reset"},
        {"faults": [5]},
        {"faults": [{"status": 500}]},
        {"faults": [], "sed": 1},
        {"faults": [{"kind": "error", "status": True}]},
        {"faults": [{"kind": "throttle"}]},
        {"faults": [{"kind": "latency", "distribution": "constant", "low": 1}]},
        {"faults": [{"kind": "poison", "pattern": "(", "match": "regex"}]},
        {"faults": [{"kind": "stall", "rate": float("nan")}]},
    ],
)
def test_wrong_documents_are_refused(document: dict[str, Any]) -> None:
    """A document of the wrong shape or type is an error, never a silent default."""
    with pytest.raises(FaultSpecError):
        parse_faults(document)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    """A missing or broken file is an error that names it."""
    for name, text in (("a.toml", None), ("b.toml", "x"), ("c.json", "[]"), ("d.json", "{")):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(FaultSpecError, match=name):
            load_faults(str(tmp_path / name))


@given(st.text(st.sampled_from("seedrorlatncy=:;,.0159*-"), max_size=40))
def test_any_text_is_a_spec_or_a_clear_error(text: str) -> None:
    """No text makes the parser fail in any other way than with its own error."""
    with suppress(FaultSpecError):
        parse_faults(text)
