"""What the arguments of a job may be: plain, small, of the types of the options, and without a login."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from upsertq.cli.dead_options import Selection
from upsertq.cli.load_options import LoadOptions
from upsertq.contract.errors import UsageError
from upsertq_worker.cli.config import WorkConfig
from upsertq_worker.job_arguments import MOST_BYTES, MOST_TEXT, check, fitted, named, texts
from upsertq_worker.jobs import replay
from upsertq_worker.jobs.job_context import JobContext, active


def nested(depth: int) -> Any:
    """A list in a list, so many levels deep."""
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "good",
    [
        [],
        [["/data/a.parquet"], "q", None, {"resume": True, "timeout": 1.5, "ids": ["/data/i.npy"]}],
        ["https://index.example/prefix", "mail@example.org", "äöü ∑"],
        ["x" * MOST_TEXT],
        nested(4),
    ],
    ids=range(5),
)
def test_what_is_plain_passes(good: Any) -> None:
    """Texts, numbers, lists and objects of them, an address without a login among them."""
    check(good)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (["redis://user:hunter2@host/0"], "a URL with a login"),
        ([{"deep": ["HTTPS://:hunter2@host"]}], "a URL with a login"),
        ([{"redis://:hunter2@host": 1}], "a URL with a login"),
        (["x" * (MOST_TEXT + 1)], "4,097 characters"),
        ([["x" * MOST_TEXT] * (MOST_BYTES // MOST_TEXT)], "bytes of at most 65,536"),
        (["a\nb"], "cannot be printed"),
        ([float("nan")], "a job takes texts, numbers"),
        ([b"bytes"], "a job takes texts, numbers"),
        ([object()], "a job takes texts, numbers"),
        ([{1: "x"}], "a job takes texts, numbers"),
        (nested(6), "nested more than 4 levels"),
    ],
    ids=range(11),
)
def test_what_is_not_is_refused(bad: Any, said: str) -> None:
    """The line says what is wrong, and no secret."""
    with pytest.raises(UsageError, match=said) as raised:
        check(bad)
    assert "hunter2" not in str(raised.value)


def test_options_fit_the_dataclasses_of_the_commands() -> None:
    """JSON becomes what the commands' own options would have become."""
    given = {"rejects": "/r.jsonl", "ids": ["/i.npy"], "timeout": 5, "shards": 4, "resume": True, "namespace": None}
    found = fitted(LoadOptions, given, sources=("/a",), run_name="r")
    wanted = LoadOptions(("/a",), "r", rejects=Path("/r.jsonl"), ids=("/i.npy",), timeout=5.0, shards=4, resume=True)
    assert found == wanted
    assert fitted(Selection, {"statuses": [400, 0], "since_ms": 1}) == Selection(statuses=(400, 0), since_ms=1)
    assert fitted(WorkConfig, {"index_host": "h", "seconds": 5}).seconds == 5.0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"api_key": "hunter2"}, "'api_key' is no option of this job"),
        ({"nonsense": 1}, "'nonsense' is no option"),
        ({"index_host": 5}, "index_host is 5, which has not the type"),
        ({"concurrency": True}, "concurrency is True"),
        ({"concurrency": 1.5}, "concurrency is 1.5"),
        ({"concurrency": -1}, "give a number from 0 on"),
        ({"linger": "1"}, "linger is '1'"),
        ({"allow_http": 1}, "allow_http is 1"),
        ({"index_host": None}, "index_host is None"),
        ([], "an object"),
    ],
    ids=range(10),
)
def test_options_of_another_type_are_refused(given: Any, said: str) -> None:
    """A stranger's value never reaches what would stumble over it."""
    with pytest.raises(UsageError, match=said) as raised:
        fitted(WorkConfig, given, api_key="")
    assert "hunter2" not in str(raised.value)


def test_names_and_lists_of_texts() -> None:
    """A queue's name is one, sources are texts and not none."""
    assert named("queue", "articles") == "articles"
    assert texts("sources", ["/a"]) == ("/a",)
    bad: Any
    for bad in (5, None, ["q"], "a b", ""):
        with pytest.raises(UsageError, match="queue"):
            named("queue", bad)
    for bad in ("/a", [], [5], None):
        with pytest.raises(UsageError, match="sources"):
            texts("sources", bad)


def test_a_default_of_its_own_is_kept() -> None:
    """What is not given has the dataclass' own default."""

    @dataclass(frozen=True)
    class Kind:
        one: int = 7

    assert fitted(Kind, {}).one == 7


def test_a_replay_of_nothing_is_refused() -> None:
    """As the command has it: a limit of 0 is an argument that does not fit, not an error on the way."""
    with active(JobContext("redis://127.0.0.1:1", {}, lambda: None)), pytest.raises(UsageError, match="limit is 0"):
        replay("q", {"limit": 0})
