"""`upsertq status --check` as a probe uses it, and workers as `status` shows them while they come, err and go."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from processes import call, complaint, document, emulated, environment
from upsertq import Producer, Server
from upsertq.contract.keys import QueueKeys
from waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from servers import RealServer

KEYS = QueueKeys("q")
CHECK = ("status", "--queue", "q", "--check")
OFF = """
import sys, time
real, off = time.time, float(sys.argv.pop(1))
time.time = lambda: real() + off
from upsertq.__main__ import main
sys.exit(main())
"""
"""A command on a machine of which the clock is off."""


@pytest.fixture
def url(redis_server: RealServer, client: redis.Redis) -> str:
    """Provide the address of a server with a queue of which nothing is wrong but that an entry is an hour old."""
    with Producer("q", url=Server(client), shards=2) as producer:
        producer.put_many(["a", "b", "c", "d"], np.ones((4, 4)))
    for shard in map(KEYS.shard, range(2)):
        entries: Any = client.xrange(shard.stream(""))
        client.delete(shard.stream(""))
        for at, fields in entries:
            client.xadd(shard.stream(""), fields, id=f"{int(at.split(b'-')[0]) - 3_600_000}-0")
    beat(client)
    return redis_server.url


def beat(client: redis.Redis, **said: Any) -> None:
    """Write a worker's heartbeat of now."""
    client.hset(KEYS.workers, "w", json.dumps({"at": time.time(), "every": 600, **said}))


def test_a_probe_is_told_by_the_exit_code(url: str, client: redis.Redis) -> None:
    """0 for nothing wrong, 1 and 5 with one line that names it all."""
    fine = call(*CHECK, url=url)
    assert fine.stdout.startswith("queue q: nothing is wrong: 1 worker; backlog of the queue: ")
    assert (fine.stdout.count("\n"), fine.stderr) == (1, "")
    assert document(*CHECK, "--max-age", "2h", url=url)["problems"] == []
    told = complaint(*CHECK, "--max-age", "30m", url=url, expect=1)
    assert "queue 'q': the oldest pending entry is 3,6" in told
    assert "s old, more than 1,800 s" in told

    beat(client, alarms={"index": "401 Unauthorized\nfix: the key"})
    assert "alarm of worker w: index: 401 Unauthorized fix: the key" in complaint(*CHECK, url=url, expect=1)

    beat(client)
    call("pause", "--queue", "q", "--reason", "maintenance", url=url)
    assert "paused: the queue: maintenance (since" in complaint(*CHECK, "--max-age", "60", url=url, expect=5)

    client.delete(KEYS.workers)
    told = complaint(*CHECK, url=url, expect=1)
    assert "no worker drains it; paused: the queue" in told


def test_a_probe_gets_the_whole_document_too(url: str, client: redis.Redis) -> None:
    """With `--json` the document has what `status` has, and the problems by kind."""
    client.delete(KEYS.workers)
    done = call(*CHECK, "--json", "--max-age", "1h", url=url, expect=1)
    found = json.loads(done.stdout)
    assert [problem["kind"] for problem in found["problems"]] == ["no_worker", "old"]
    assert (found["pending"], found["workers"]) == (4, [])
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["--check", "--watch"], ["--max-age", "5"], ["--check", "--max-age", "soon"], ["--check", "--max-age=-1"]]
)
def test_wrong_use(words: list[str], url: str) -> None:
    """What makes no sense together is a usage error."""
    complaint("status", "--queue", "q", *words, url=url, expect=2)


def test_absence_is_no_health(redis_server: RealServer) -> None:
    """A queue that does not exist, and a server that does not answer, are not fine."""
    complaint(*CHECK, url=redis_server.url, expect=1)
    complaint(*CHECK, url="redis://127.0.0.1:1/0", expect=1)


def test_workers_are_judged_by_the_servers_time(url: str, client: redis.Redis, tmp_path: Path) -> None:
    """A worker of which the clock is two minutes off is at work as any other; those long gone leave the list."""
    client.delete(KEYS.workers)
    old = {"at": time.time() - 4_000, "every": 5}
    client.hset(KEYS.workers, mapping={"long": json.dumps(old), "odd": "{"})
    client.hset(KEYS.workers, "gone", json.dumps({**old, "at": time.time() - 600, "alarms": {"index": "401"}}))
    assert [worker["name"] for worker in document("status", "--queue", "q", url=url)["workers"]] == ["gone", "odd"]
    with emulated("--dimension", "4") as index:
        workers = []
        for off in ("-120", "120"):
            arguments = [sys.executable, "-c", OFF, off, "work", "--queue", "q", "--index-host", index.url]
            with (tmp_path / f"log{off}").open("wb") as log:
                own = environment(url, PINECONE_API_KEY="k")
                workers.append(subprocess.Popen(arguments, env=own, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
        try:
            names: Any = client.hkeys
            gone = {b"long", b"odd"}
            wait_until(lambda: len({*names(KEYS.workers)} - gone) == 3, 120, "both have beaten")
            wait_until(lambda: not {*names(KEYS.workers)} & gone, 60, "two beats are taken away")
            found = document("status", "--queue", "q", url=url)["workers"]
        finally:
            for worker in workers:
                worker.terminate()
                worker.wait(60)
    assert [worker["gone"] for worker in found] == [False, False, True]
    for worker in found[:2]:
        assert worker["age"] < 30
        assert abs(worker["at"] - time.time()) < 60
        assert abs(worker["started_at"] - time.time()) < 100
    assert (found[2]["name"], found[2]["alarms"]) == ("gone", {})
    assert names(KEYS.workers) == [b"gone"], "those that ended took their own away"


def test_heartbeats_that_cannot_be_written_stop_no_worker(url: str, client: redis.Redis) -> None:
    """Where something foreign stands in their place a worker drains all the same, and `status` says it in one line."""
    client.delete(KEYS.workers)
    client.set(KEYS.workers, "foreign")
    with emulated("--dimension", "4") as index:
        arguments = ("work", "--queue", "q", "--index-host", index.url, "--until-empty", "--quarantine", "0.1")
        done = call(*arguments, url=url, PINECONE_API_KEY="k")
    assert "may take this worker for gone, it works on" in done.stderr
    complaint("status", "--queue", "q", url=url, expect=1)
