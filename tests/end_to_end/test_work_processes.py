"""`upsertq work --processes N`: several workers of one command, replaced when they die, and gone when it is."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from datasets import Dataset
from processes import books, call, complaint, document, emulated, start
from upsertq.contract.keys import QueueKeys
from upsertq_worker.processes import FIRST_SECONDS, MOST_SECONDS, STEADY_SECONDS, pause_before, work_command
from waiting import wait_until

if TYPE_CHECKING:
    from forked import Process

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are found in /proc")
KEYS = QueueKeys("q")
KEY = "a-secret-key-of-the-index"
QUICK = ("--lease", "2", "--quarantine", "1", "--linger", "0.05")
SOON = 60.0


def children(process: Process | int) -> set[int]:
    """The processes that this one started and that live."""
    parent = process if isinstance(process, int) else process.pid
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, ppid = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(ppid) == parent and state != "Z":
            found.add(int(path.parent.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def holders(url: str) -> dict[str, int]:
    """How many shards each worker holds, as the leases say."""
    with redis.Redis.from_url(url) as client:
        leases: Any = client.mget([KEYS.shard(shard).lease for shard in range(16)])
    return Counter(lease.partition(b":")[2].decode() for lease in leases if lease)


def pids(url: str) -> set[int]:
    """The processes that hold shards, as the names of their workers say."""
    return {int(name.split("-")[-2]) for name in holders(url)}


def shared(url: str, workers: int) -> bool:
    """Whether so many workers hold an equal part of 16 shards each."""
    return sorted(holders(url).values()) == [16 // workers] * workers


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_line_says_which_worker_wrote_it(log_format: str, redis_url: str, tmp_path: Path) -> None:
    """By its number among those of the command; a worker that is alone has none."""
    call("load", Dataset.make(10, 4).parquet(tmp_path / "v.parquet"), "--queue", "q", url=redis_url)
    with emulated() as index:
        work = ("work", "--queue", "q", "--index-host", index.url, "--until-empty", "--log-format", log_format, *QUICK)
        several, alone = (call(*work, "--processes", n, url=redis_url).stderr.splitlines() for n in ("2", "1"))
    if log_format == "json":
        told = [json.loads(line) for line in several]
        assert {line["worker"] for line in told} == {1, 2}
        assert {line["worker"] for line in told if line["event"] == "started"} == {1, 2}
        assert not [line for line in alone if "worker" in json.loads(line)]
    else:
        assert all(re.search(r" INFO \[[12]\] ", line) for line in several), several
        assert {"[1]", "[2]"} == {word for line in several for word in line.split()[2:3]}
        assert not [line for line in alone if " [" in line]


def test_two_drain_to_the_end(redis_url: str, tmp_path: Path) -> None:
    """Both work, none is replaced, and the sum of what they did is told."""
    data = Dataset.make(4_000, 8)
    call("load", data.parquet(tmp_path / "v.parquet"), "--queue", "q", url=redis_url)
    with emulated("--faults", "seed=1,latency=constant:0.1") as index:
        work = ("work", "--queue", "q", "--index-host", index.url, "--batch-size", "10", "--concurrency", "2", *QUICK)
        told = document(*work, "--processes", "2", "--until-empty", url=redis_url)
        assert (told["processes"], told["acked"], told["worker"]["acked"]) == (2, 4_000, 4_000)
        assert index.counters["records"] == 4_000, "nothing was sent twice"
    assert holders(redis_url) == {}


def test_one_that_dies_is_replaced_and_a_signal_ends_all(redis_url: str, tmp_path: Path) -> None:
    """SIGKILL of a child: another one in its place; SIGTERM to the parent: all end in good order, and exit code 0."""
    log = tmp_path / "work.log"
    with emulated() as index:
        work = ("work", "--queue", "q", "--index-host", index.url, *QUICK, "--processes", "2")
        parent = start(*work, url=redis_url, log=log, PINECONE_API_KEY=KEY)
        wait_until(lambda: shared(redis_url, 2), SOON, "two workers share the shards")
        first = children(parent)
        assert len(first) == 2
        lines = {Path(f"/proc/{pid}/cmdline").read_bytes() for pid in first}
        assert not any(KEY.encode() in line or b"redis" in line for line in lines), lines
        victim = min(first)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(children(parent) - {victim}) == 2, SOON, "another one in its place")
        assert log.read_text().count("a worker process was killed by SIGKILL after") == 1
        wait_until(lambda: pids(redis_url) == children(parent), SOON, "the new one has its share")
        parent.terminate()
        assert parent.wait(SOON) == 0, log.read_text()
        assert "stopping 2 worker processes" in log.read_text()
        # what was taken over from the dead one is kept until its quarantine is over
        wait_until(lambda: holders(redis_url) == {}, SOON, "all leases are given up")
        assert "Traceback" not in log.read_text()


def test_children_end_with_a_parent_that_is_killed(redis_url: str, tmp_path: Path) -> None:
    """SIGKILL of the parent: no worker goes on."""
    with emulated() as index:
        work = ("work", "--queue", "q", "--index-host", index.url, *QUICK, "--processes", "2")
        parent = start(*work, url=redis_url, log=tmp_path / "work.log")
        wait_until(lambda: shared(redis_url, 2), SOON, "two workers share the shards")
        workers = children(parent)
        parent.kill()
        wait_until(lambda: not any(map(is_alive, workers)), SOON, "the workers are gone")
        assert holders(redis_url) == {}


def test_a_second_signal_stops_at_once(redis_url: str, tmp_path: Path) -> None:
    """Though requests hang; nothing is lost."""
    data = Dataset.make(200, 8)
    call("load", data.parquet(tmp_path / "v.parquet"), "--queue", "q", url=redis_url)
    log = tmp_path / "work.log"
    with emulated("--faults", "stall") as index:
        work = ("work", "--queue", "q", "--index-host", index.url, *QUICK, "--processes", "2")
        parent = start(*work, url=redis_url, log=log)
        wait_until(lambda: index.counters["in_flight"] > 0, SOON, "a request hangs")
        workers = children(parent)
        parent.send_signal(signal.SIGINT)
        wait_until(lambda: "stopping 2 worker processes" in log.read_text(), SOON, "it stops")
        wait_until(lambda: "requests in flight may finish" in log.read_text(), SOON, "a worker heard of it")
        parent.send_signal(signal.SIGINT)
        assert parent.wait(SOON) == 130
        assert not any(map(is_alive, workers))
    assert books(redis_url, "q")["pending"] == 200


def test_what_fails_for_all_is_told_once(redis_url: str, tmp_path: Path) -> None:
    """No queue, no server, a usage error: one line and its exit code; nothing is started anew."""
    work = ("work", "--queue", "nowhere", "--index-host", "http://127.0.0.1:9", "--processes", "2")
    assert "nowhere" in complaint(*work, "--until-empty", url=redis_url, expect=1)
    assert "--http is for one worker" in complaint(*work, "--http", "127.0.0.1:0", url=redis_url, expect=2)
    call(*work[:-1], "0", url=redis_url, expect=2)
    assert "--lease is 0" in complaint(*work, "--lease", "0", url=redis_url, expect=2)
    assert list(tmp_path.iterdir()) == []


def test_a_pause_grows_up_to_a_bound_and_begins_anew_after_steady_work() -> None:
    """About 1, 2, 4 … 60 seconds."""
    rng = random.Random(1)
    pauses: list[Any] = [None]
    for _ in range(12):
        pauses.append(pause_before(pauses[-1], 0.1, rng))
        assert pauses[-1] <= MOST_SECONDS
    assert all(second > first for first, second in itertools.pairwise(pauses[1:6]))
    assert pauses[-1] > MOST_SECONDS / 2
    assert pause_before(pauses[-1], STEADY_SECONDS, rng) <= FIRST_SECONDS


def test_a_workers_command_has_every_option() -> None:
    """As flags, values, or not at all."""
    given = {"request_timeout": 3.0, "until_empty": True, "allow_http": False, "seconds": None, "batch_size": 5}
    assert work_command("q", given)[3:] == [
        "work",
        "--queue",
        "q",
        "--timeout",
        "3.0",
        "--until-empty",
        "--batch-size",
        "5",
    ]
