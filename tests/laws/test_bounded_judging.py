"""What it takes to judge an answer is bounded by its size, whatever it holds: counted in steps, not in seconds."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

from upsertq_worker.delivery import echo, messages, response
from upsertq_worker.delivery.outcome import judge
from upsertq_worker.delivery.response import Answer, Sent
from upsertq_worker.edge.redact import Redactor

if TYPE_CHECKING:
    from types import FrameType, ModuleType

parser: Final[Any] = re._parser  # type: ignore[attr-defined]  # nothing public tells what a pattern is made of
CHOICES_MAX: Final = 2_500
"""Ways in which a pattern may be tried from one place of a text: with 4,096 places a few milliseconds."""


def patterns(module: ModuleType) -> list[re.Pattern[Any]]:
    """Every pattern of a module, those in its tables too."""
    found: list[re.Pattern[Any]] = []
    waiting = list(vars(module).values())
    while waiting:
        match waiting.pop():
            case re.Pattern() as pattern:
                found.append(pattern)
            case tuple() | list() as several:
                waiting += several
            case _:
                pass
    return found


def choices(tree: Any) -> int:
    """At most so many ways to match: repeats multiply, branches add up; one without end must be the last of all."""
    ways = 1
    for place, (kind, value) in enumerate(tree):
        match str(kind):
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, inner = value
                endless = most is parser.MAXREPEAT
                assert not endless or (len(inner) == 1 and place == len(tree) - 1), "what follows may fail everywhere"
                ways *= (1 if endless else int(most) - int(least) + 1) * choices(inner)
            case "BRANCH":
                ways *= sum(choices(branch) for branch in value[1])
            case "SUBPATTERN":
                ways *= choices(value[-1])
            case _:
                pass
    return ways


@pytest.mark.parametrize("pattern", patterns(messages) + patterns(echo), ids=lambda pattern: pattern.pattern[:40])
def test_a_pattern_has_few_ways_from_each_place(pattern: re.Pattern[str]) -> None:
    """Nothing nests repeats, so that no text makes a search take its square."""
    assert choices(parser.parse(pattern.pattern, pattern.flags)) <= CHOICES_MAX


def test_no_spelling_of_a_secret_repeats_without_end() -> None:
    """A flood of escapes would be looked through again from each of them."""
    pattern = Redactor(["pcsk_a/b&c\\d\"e'f <g>", "pässwörd"])._pattern
    assert pattern is not None
    waiting = [parser.parse(pattern.pattern, pattern.flags)]
    while waiting:
        for kind, value in waiting.pop():
            if str(kind) in {"MAX_REPEAT", "MIN_REPEAT"}:
                assert value[1] is not parser.MAXREPEAT
                waiting.append(value[2])
            elif str(kind) == "BRANCH":
                waiting += value[1]
            elif str(kind) == "SUBPATTERN":
                waiting.append(value[-1])


def lines_run(reply: Answer, sent: Sent) -> int:
    """The lines of Python that judging takes."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        judge(reply, sent, 0.0)
    finally:
        sys.settrace(before)
    return count


QUOTES: Final = tuple("'" * size for size in range(1, 513))
HOSTILE: Final[dict[str, tuple[str, tuple[str, ...], tuple[Any, ...]]]] = {
    "ids of quotes": ("'" * 4_096, QUOTES, ()),
    "ids of quotes and letters": ("-'a" * 1_365, tuple(("a-'" * 171)[:size] for size in range(1, 512)), ()),
    "one word": ("a " * 2_048 + "schema", ("a " * 256, "a"), ({"x": "a " * 20_000},)),
    "many texts": ("document schema " * 256, ("a",), tuple({f"document schema {i}": "b"} for i in range(30_000))),
    "many starts": (
        "document schema x " * 220,
        (),
        tuple({"a": "document schema " * 40 + str(i)} for i in range(1_000)),
    ),
    "many ends": (
        "x document schema " * 220,
        (),
        tuple({"a": f"{i} " + "document schema " * 99} for i in range(1_000)),
    ),
    "scripts": ("<script " * 512, ("a",), ()),
    "fields": ("field 'x " * 455, ("a",), ()),
    "numbers": ("1,1 QPS " * 512, ("QPS",), ()),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("status", [400, 403, 429])
def test_judging_takes_a_bounded_number_of_steps(name: str, status: int) -> None:
    """Whatever was sent, whatever comes back."""
    text, ids, metadata = HOSTILE[name]
    body = json.dumps({"code": 3, "message": text * 16}).encode()[: response.BODY_MAX]
    assert lines_run(Answer(status, {}, body), Sent(ids, "ns", metadata)) < 2_000_000
