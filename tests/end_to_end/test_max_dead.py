"""`--max-dead` as an operator meets it: a load is refused with the right words, the letters are handled, it goes on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import buried
from buried import refused
from processes import books, call, complaint, document, emulated
from upsertq import Server
from upsertq.contract.dead_letter import Reason
from upsertq.contract.keys import QueueKeys

if TYPE_CHECKING:
    from pathlib import Path

    from servers import RealServer

COUNT = 6_000
KEYS = QueueKeys("q")
Q = ("--queue", "q")


def lines(path: Path, count: int, *, first: int = 0, name: str = "doc") -> Path:
    """Write records as JSON lines."""
    with path.open("w") as file:
        for k in range(first, first + count):
            file.write(json.dumps({"id": f"{name}-{k}", "values": [1.0, k]}) + "\n")
    return path


@pytest.fixture
def url(redis_server: RealServer, tmp_path: Path) -> str:
    """Provide the address of a server where 20 records of queue `q` were refused and 5 were too large."""
    old = lines(tmp_path / "old.jsonl", 100, name="x")
    call("load", old, *Q, "--run", "old", "--shards", "2", url=redis_server.url)
    with redis_server.client() as client:
        verdicts = {f"x-{k}": refused() if k < 20 else refused("huge", Reason.TOO_LARGE, 413) for k in range(25)}
        buried.settle(Server(client), client, verdicts.get)
        client.delete(*(KEYS.shard(k).lease for k in range(2)))  # its worker is gone
    return redis_server.url


def test_a_load_is_refused_then_goes_on_exactly(url: str, tmp_path: Path, redis_server: RealServer) -> None:
    """Refused at the limit with exit code 1 and what to do; after a discard `--resume` ends with exact books."""
    load = ("load", lines(tmp_path / "new.jsonl", COUNT), *Q, "--run", "new")
    said = complaint(*load, "--max-dead", "25", "--timeout", "600", url=url, expect=1, timeout=60)
    assert said.startswith("upsertq: queue 'q' has 25 dead letters and the limit is 25")
    for word in ("`upsertq dead list --queue q`", "replay or discard", "raise the limit", "nothing was enqueued"):
        assert word in said
    assert said.endswith("repeat the command with --resume to go on")
    assert books(url, "q")["enqueued"] == 100
    again = complaint(*load, "--resume", "--max-dead", "5", url=url, expect=1)
    assert "25 dead letters and the limit is 5" in again
    call("dead", "discard", *Q, "--reason", "refused", "--yes", url=url)
    assert document(*load, "--resume", "--max-dead", "6", url=url)["enqueued"] == COUNT
    assert books(url, "q") == {
        "enqueued": COUNT + 100, "acked": 75, "superseded": 0, "discarded": 20, "dead": 5, "pending": COUNT,
    }  # fmt: skip
    with redis_server.client() as client:
        assert sum(client.xlen(KEYS.shard(k).stream("")) for k in range(2)) > 0
        assert sum(client.xlen(KEYS.shard(k).dead) for k in range(2)) == 5
    call("audit", *Q, url=url)


def test_what_was_enqueued_before_the_limit_stays(url: str, tmp_path: Path, redis_server: RealServer) -> None:
    """A load interrupted by too many letters keeps its first part, and `--resume` enqueues only the rest."""
    load = ("load", lines(tmp_path / "new.jsonl", COUNT), *Q, "--run", "new")
    stopped = complaint(*load, "--max-pending-records", "2000", "--timeout", "0.2", url=url, expect=1)
    assert "is at its limit (2,000 records" in stopped
    before = books(url, "q", "new")["enqueued"]
    assert 0 < before <= 2_000
    refusal = complaint(*load, "--resume", "--max-dead", "20", url=url, expect=1)
    assert f"{before:,} records are in the queue as run 'new'" in refusal
    assert books(url, "q", "new")["enqueued"] == before
    done = document(*load, "--resume", "--max-dead", "26", url=url)
    assert (done["skipped"], done["loaded"], done["enqueued"]) == (before, COUNT - before, COUNT)


def test_run_is_refused_too_and_the_rest_is_drained(url: str, tmp_path: Path) -> None:
    """`upsertq run` has the option: it ends with exit code 1, and beyond the limit it lands everything."""
    path = lines(tmp_path / "new.jsonl", 50)
    with emulated() as index:
        run = ("run", path, *Q, "--run", "new", "--index-host", index.url)
        said = complaint(*run, "--max-dead", "25", url=url, expect=1, PINECONE_API_KEY="any")
        assert "25 dead letters and the limit is 25" in said
        call(*run, "--resume", "--max-dead", "26", url=url, PINECONE_API_KEY="any")
    assert books(url, "q", "new")["acked"] == 50


def test_no_dead_letter_allowed_is_a_usage_error(url: str, tmp_path: Path) -> None:
    """A limit of 0 would allow nothing: exit code 2."""
    call("load", lines(tmp_path / "a.jsonl", 1), *Q, "--max-dead", "0", url=url, expect=2)


def test_status_shows_the_dead_letters_by_reason(url: str) -> None:
    """The page and the JSON say how many letters there are and why they died, of the queue and of a run."""
    page = call("status", *Q, url=url).stdout.splitlines()
    assert "dead letters: 25 (refused 20, too_large 5): see `upsertq dead list --queue q`" in page
    found = document("status", *Q, url=url)
    assert (found["dead"], found["reasons"]) == (25, {"refused": 20, "too_large": 5})
    of_run = call("status", *Q, "--run", "old", url=url).stdout
    assert "dead letters: 25 (refused 20, too_large 5): see `upsertq dead list --queue q --run old`" in of_run


def test_status_without_dead_letters(redis_server: RealServer, tmp_path: Path) -> None:
    """Where nothing is dead there is no line, and no reason."""
    call("load", lines(tmp_path / "a.jsonl", 3), url=redis_server.url)
    assert "dead letters" not in call("status", url=redis_server.url).stdout
    assert document("status", url=redis_server.url)["reasons"] == {}
