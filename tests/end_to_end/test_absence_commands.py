"""No command takes absence for success: on nothing, and on what a server lost in the middle of a wait, it exits 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from processes import call, complaint, emulated, start
from upsertq import Producer
from upsertq.contract.keys import QueueKeys, shard_of
from upsertq.contract.queue import DEFAULT_SHARDS
from waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from servers import RealServer

Q = ("--queue", "q")
KEYS = QueueKeys("q")
STREAM = KEYS.shard(shard_of("", "a", DEFAULT_SHARDS)).stream("")
ON_A_QUEUE = [
    ("wait",),
    ("status",),
    ("status", "--watch"),
    ("audit",),
    ("pause",),
    ("resume",),
    ("dead", "list"),
    ("dead", "show", "0-1-1-0"),
    ("dead", "replay", "--yes"),
    ("dead", "discard", "--yes"),
    ("dead", "export", "-"),
]
ON_A_RUN = [
    ("wait", "--run", "r"),
    ("status", "--run", "r"),
    ("dead", "list", "--run", "r"),
    ("dead", "replay", "--yes", "--run", "r"),
    ("dead", "discard", "--yes", "--run", "r"),
    ("dead", "export", "-", "--run", "r"),
]


@pytest.mark.parametrize("command", [*ON_A_QUEUE, *ON_A_RUN], ids=" ".join)
def test_a_queue_that_is_not_there(redis_url: str, redis_server: RealServer, command: tuple[str, ...]) -> None:
    """One line, exit code 1, and no key is made."""
    assert "there is no queue 'q'" in complaint(*command, *Q, url=redis_url, expect=1)
    with redis_server.client() as client:
        assert not client.keys("*")


@pytest.mark.parametrize("command", ON_A_RUN, ids=" ".join)
def test_a_run_that_is_not_there(redis_url: str, command: tuple[str, ...]) -> None:
    """A queue without the run."""
    with Producer("q", url=redis_url) as producer:
        producer.put("a", [1.0], run="another")
    assert "has no run 'r'" in complaint(*command, *Q, url=redis_url, expect=1)


def test_draining_to_the_end_what_is_not_there(redis_url: str) -> None:
    """A mistyped queue has no end to be drained to."""
    with emulated() as index:
        command = ("work", *Q, "--index-host", index.url, "--until-empty")
        assert "there is no queue 'q'" in complaint(*command, url=redis_url, expect=1)


@pytest.mark.parametrize("way", ["wait", "wait --run", "load --wait", "run", "work --until-empty"])
def test_the_server_is_flushed_in_mid_wait(redis_server: RealServer, tmp_path: Path, way: str) -> None:
    """FLUSHALL leaves nothing pending: that is no success."""
    url, log, file = redis_server.url, tmp_path / "log", tmp_path / "records.jsonl"
    file.write_text('{"id": "a", "values": [1, 2]}\n')
    with emulated("--faults", "latency=constant:5") as index, redis_server.client() as client:
        load = ("load", file, *Q, "--run", "r")
        if way in {"wait", "wait --run", "work --until-empty"}:
            call(*load, url=url)
        command = {
            "wait": ("wait", *Q),
            "wait --run": ("wait", *Q, "--run", "r"),
            "load --wait": (*load, "--wait"),
            "run": ("run", file, *Q, "--run", "r", "--index-host", index.url),
            "work --until-empty": ("work", *Q, "--until-empty", "--index-host", index.url),
        }[way]
        client.config_resetstat()
        process = start(*command, url=url, log=log)
        if way == "work --until-empty":
            wait_until(lambda: index.counters["requests"] > 0, 30, "it sends")
        else:
            wait_until(lambda: _looks(client) >= 2, 30, "it waits")
        client.flushall()
        assert process.wait(60) == 1, log.read_text()
    said = log.read_text()
    assert "the server lost queue 'q'" in said, said
    assert "Traceback" not in said


def _looks(client: redis.Redis) -> int:
    """How often the books of all shards were read, about."""
    stats: Any = client.info("commandstats")
    return int(stats.get("cmdstat_hmget", {}).get("calls", 0)) // DEFAULT_SHARDS


def test_loading_nothing_makes_a_run_that_is_there(redis_url: str, tmp_path: Path) -> None:
    """An empty file is loaded and waited for at once."""
    file = tmp_path / "none.jsonl"
    file.write_text("")
    call("load", file, *Q, "--run", "r", "--wait", url=redis_url)
    call("wait", *Q, "--run", "r", url=redis_url)
