"""What it takes to judge an answer is bounded by its size, whatever it holds: counted in steps, not in seconds."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

from upsertq_worker import answer, echo, wording
from upsertq_worker.answer import Answer, Sent
from upsertq_worker.judge import judge

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
    """At most so many ways to match: repeats multiply, branches add up; a class repeated without end is one of many."""
    ways = 1
    for kind, value in tree:
        match str(kind):
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, inner = value
                endless = most is parser.MAXREPEAT
                assert not endless or len(inner) == 1, "a group that repeats without end may be tried in too many ways"
                ways *= (1 if endless else int(most) - int(least) + 1) * choices(inner)
            case "BRANCH":
                ways *= sum(choices(branch) for branch in value[1])
            case "SUBPATTERN":
                ways *= choices(value[-1])
            case _:
                pass
    return ways


@pytest.mark.parametrize("pattern", patterns(wording) + patterns(echo), ids=lambda pattern: pattern.pattern[:40])
def test_a_pattern_has_few_ways_from_each_place(pattern: re.Pattern[str]) -> None:
    """Nothing nests repeats, so that no text makes a search take its square."""
    assert choices(parser.parse(pattern.pattern, pattern.flags)) <= CHOICES_MAX


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
    body = json.dumps({"code": 3, "message": text * 16}).encode()[: answer.BODY_MAX]
    assert lines_run(Answer(status, {}, body), Sent(ids, "ns", metadata)) < 2_000_000
