"""A dead letter's way back: an old version that is replayed never overwrites a newer one, whichever comes first."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from processes import books, call, emulated

if TYPE_CHECKING:
    from pathlib import Path

    from processes import Index

Q = ("--queue", "q")


def put(path: Path, url: str, version: int) -> None:
    """Enqueue version `version` of the record `x`, and a neighbour of its own."""
    source = path / f"v{version}.jsonl"
    records = [
        {"id": name, "values": [float(version), 1.0], "metadata": {"version": version}} for name in ("x", f"n{version}")
    ]
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    call("load", source, *Q, url=url)


def drain(index: Index, url: str, expect: int = 0) -> None:
    """Drain until empty."""
    work = ("work", *Q, "--index-host", index.url, "--until-empty", "--lease", "2", "--quarantine", "0.5")
    call(*work, "--linger", "0.05", url=url, expect=expect)


def die(index: Index, path: Path, url: str) -> None:
    """Let version 1 of `x` be refused: its neighbour lands, it is dead."""
    put(path, url, 1)
    index.set_faults("poison=x")
    drain(index, url, expect=3)
    index.set_faults(None)
    assert [letter["id"] for letter in json.loads(call("dead", "list", *Q, "--json", url=url).stdout)] == ["x"]


def assert_settled(index: Index, url: str, version: int, *, acked: int, superseded: int) -> None:
    """The index holds this version of `x`; the books are closed, with these counts."""
    assert index.fetch(["x"])["x"]["metadata"] == {"version": version}
    found = books(url, "q")
    assert (found["acked"], found["superseded"]) == (acked, superseded)
    assert found["dead"] == found["pending"] == 0
    call("audit", *Q, url=url)
    assert json.loads(call("dead", "list", *Q, "--json", url=url).stdout) == []


def test_a_replayed_record_lands(redis_url: str, tmp_path: Path) -> None:
    """Once the cause is gone a replayed letter is acknowledged."""
    with emulated() as index:
        die(index, tmp_path, redis_url)
        call("dead", "replay", *Q, "--yes", url=redis_url)
        drain(index, redis_url)
        assert_settled(index, redis_url, 1, acked=2, superseded=0)


def test_a_newer_version_supersedes_the_letter(redis_url: str, tmp_path: Path) -> None:
    """v1 is dead, v2 is acknowledged: the letter is superseded in the same step, and a replay finds nothing."""
    with emulated() as index:
        die(index, tmp_path, redis_url)
        put(tmp_path, redis_url, 2)
        drain(index, redis_url)
        assert_settled(index, redis_url, 2, acked=3, superseded=1)
        call("dead", "replay", *Q, "--yes", url=redis_url)
        drain(index, redis_url)
        assert_settled(index, redis_url, 2, acked=3, superseded=1)


@pytest.mark.parametrize("first", ["replay", "load"])
def test_a_replay_beside_a_newer_version(first: str, redis_url: str, tmp_path: Path) -> None:
    """v1 is replayed before or after v2 is enqueued, and both wait: v2 stays in the index, v1 is superseded."""
    with emulated() as index:
        die(index, tmp_path, redis_url)
        if first == "load":
            put(tmp_path, redis_url, 2)
        call("dead", "replay", *Q, "--yes", url=redis_url)
        if first == "replay":
            put(tmp_path, redis_url, 2)
        drain(index, redis_url)
        assert_settled(index, redis_url, 2, acked=3, superseded=1)
        assert [entry["version"] for entry in index.journal("x")] == [2]


def test_a_refused_replay_is_dead_again(redis_url: str, tmp_path: Path) -> None:
    """A letter whose cause is still there dies again and is not lost; it can be exported, mended and loaded."""
    with emulated() as index:
        die(index, tmp_path, redis_url)
        index.set_faults("poison=x")
        call("dead", "replay", *Q, "--yes", url=redis_url)
        drain(index, redis_url, expect=3)
        index.set_faults(None)
        exported = tmp_path / "dead.jsonl"
        call("dead", "export", exported, *Q, url=redis_url)
        assert json.loads(exported.read_text())["metadata"] == {"version": 1}
        call("load", exported, *Q, url=redis_url)
        drain(index, redis_url)
        assert_settled(index, redis_url, 1, acked=2, superseded=1)
