"""A record that kills whoever sends it is found and given up; whoever is killed by chance costs no record."""

from __future__ import annotations

import random
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from killer import killing
from processes import books, call, document, emulated, start
from upsertq.contract.keys import QueueKeys, shard_of
from upsertq.contract.queue import DEFAULT_SHARDS
from upsertq_worker.recovery.suspects import ALONE, DEATHS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from killer import Killer
    from servers import RealServer

WORK = ("work", "--queue", "q", "--lease", "1", "--quarantine", "0.5", "--linger", "0.05")
OF_ONE = DEATHS + 1 + ALONE
"""Deaths of one record that kills: until it is looked for, with its entry, and alone."""
IDS = [f"id-{number:03d}" for number in range(400)]


def load(path: Path, ids: Sequence[str], url: str) -> None:
    """Enqueue records of 4 dimensions, the versions of each id in order: more than one entry in each shard."""
    seen = Counter[str]()
    lines = []
    for number, name in enumerate(ids):
        record = {"id": name, "values": [1.0, 2.0, 3.0, 1.0 + number], "metadata": {"version": seen[name]}}
        lines.append(orjson.dumps(record))
        seen[name] += 1
    source = path / "records.jsonl"
    source.write_bytes(b"\n".join(lines) + b"\n")
    call("load", source, "--queue", "q", "--run", "r", url=url)


def drain(killer: Killer, url: str, log: Path, *options: str, most: int) -> tuple[int, int]:
    """Start one worker after the other until one ends by itself; returns how many were killed, and its exit code."""
    for deaths in range(most + 1):
        worker = start(*WORK, *options, "--index-host", killer.url, "--until-empty", url=url, log=log)
        killer.victim = worker.pid
        code = worker.wait(120)
        if code != -signal.SIGKILL:
            return deaths, code
    pytest.fail(f"{most + 1} workers were killed: {killer.killed[-3:]}; {log.read_text()[-3_000:]}")


def assert_dead(url: str, *dead: str) -> None:
    """These are dead of a crash loop, all others are acknowledged, and the books balance."""
    letters: Any = document("dead", "list", "--queue", "q", url=url)
    assert sorted(letter["id"] for letter in letters) == sorted(dead)
    for letter in letters:
        assert (letter["reason"], letter["attempts"], letter["run"]) == ("crash_loop", ALONE, "r")
        assert f"{ALONE} workers in a row died" in letter["message"]
    nothing = dict.fromkeys(("superseded", "discarded", "pending"), 0)
    assert books(url, "q", "r") == books(url, "q")
    assert books(url, "q") == {"enqueued": len(IDS), "acked": len(IDS) - len(dead), "dead": len(dead), **nothing}
    call("audit", "--queue", "q", url=url)


def assert_no_suspects(server: RealServer) -> None:
    """Nothing is held against anything any more."""
    with server.client() as client:
        marks: list[Any] = [client.hget(QueueKeys("q").shard(k).books, "mark") for k in range(DEFAULT_SHARDS)]
        assert not any(marks)


@pytest.mark.parametrize("options", [(), ("--batch-size", "10", "--concurrency", "2")], ids=["wide", "narrow"])
def test_the_record_that_kills_is_given_up(options: tuple[str, ...], redis_server: RealServer, tmp_path: Path) -> None:
    """Five workers die of it, the sixth one buries it without sending it; its neighbours in entry and shard land."""
    url, poison = redis_server.url, IDS[137]
    load(tmp_path, IDS, url)
    with emulated() as index, killing(index.url, poison) as killer:
        assert drain(killer, url, tmp_path / "worker.log", *options, most=10) == (OF_ONE, 3)
        assert len(killer.killed) == OF_ONE
        assert len({shard_of("", name, DEFAULT_SHARDS) for name in killer.killed[-3]}) == 1, "its entry was not alone"
        assert killer.killed[-2:] == [(poison,), (poison,)], "the last ones that it killed had something else in work"
        assert set(index.fetch(IDS)) == set(IDS) - {poison}
    assert_dead(url, poison)
    assert_no_suspects(redis_server)


def test_several_that_kill_are_found_one_by_one(redis_server: RealServer, tmp_path: Path) -> None:
    """In one entry and in others: all are dead in the end, and nothing else is."""
    url = redis_server.url
    poisons = (IDS[3], IDS[4], IDS[250])
    load(tmp_path, IDS, url)
    with emulated() as index, killing(index.url, *poisons) as killer:
        deaths, code = drain(killer, url, tmp_path / "worker.log", most=DEATHS + 3 * (1 + ALONE))
        assert code == 3
        assert OF_ONE < deaths <= DEATHS + 3 * (1 + ALONE)
        assert set(index.fetch(IDS)) == set(IDS) - set(poisons)
    assert_dead(url, *poisons)


def test_a_replayed_one_is_found_again(redis_server: RealServer, tmp_path: Path) -> None:
    """Replayed while it still kills it dies as before; replayed when it does not it lands."""
    url, poison = redis_server.url, IDS[7]
    load(tmp_path, IDS, url)
    log = tmp_path / "worker.log"
    with emulated() as index:
        with killing(index.url, poison) as killer:
            assert drain(killer, url, log, most=10) == (OF_ONE, 3)
            call("dead", "replay", "--queue", "q", "--reason", "crash_loop", "--yes", url=url)
            # it has an entry of its own now: that one alone is the record alone
            assert drain(killer, url, log, most=10) == (OF_ONE - 1, 3)
            assert_dead(url, poison)
        call("dead", "replay", "--queue", "q", "--reason", "crash_loop", "--yes", url=url)
        call(*WORK, "--index-host", index.url, "--until-empty", url=url)
        assert set(index.fetch(IDS)) == set(IDS)
    assert books(url, "q")["acked"] == len(IDS)


def test_a_new_holder_sends_the_newest_of_what_was_left(redis_server: RealServer, tmp_path: Path) -> None:
    """Ids with twenty versions each, eight workers killed in the middle: the index never goes back to an older one."""
    url, ids = redis_server.url, IDS[:60]
    load(tmp_path, [name for _ in range(20) for name in ids], url)
    with emulated("--faults", "seed=1,latency=uniform:0.005:0.02") as index, killing(index.url) as killer:
        work = (*WORK, "--batch-size", "10", "--concurrency", "2", "--index-host", killer.url)
        for turn in range(8):
            worker = start(*work, url=url, log=tmp_path / "worker.log")
            killer.victim = worker.pid
            killer.fuse = 0.02 * turn
            assert worker.wait(60) == -signal.SIGKILL
        call(*work, "--until-empty", url=url)
        for name in ids:
            applied = [write["version"] for write in index.journal(name)]
            assert applied == sorted(applied), f"{name} went back"
            assert applied[-1] == 19
        assert len(index.journal(ids[0])) > 1 or index.counters["upserts"] > 6, "nothing was sent twice"
    counted = books(url, "q")
    assert counted["acked"] + counted["superseded"] == counted["enqueued"] == 20 * len(ids)


def test_workers_killed_by_chance_cost_no_record(redis_server: RealServer, tmp_path: Path) -> None:
    """Twelve SIGKILLs in a row, some of them 50 ms after a worker's first request: nothing is dead, all land."""
    url = redis_server.url
    load(tmp_path, IDS, url)
    rng = random.Random(1)
    with emulated("--faults", "seed=1,latency=uniform:0.005:0.02") as index, killing(index.url) as killer:
        work = (*WORK, "--batch-size", "5", "--concurrency", "2", "--index-host", killer.url)
        for turn in range(12):
            worker = start(*work, url=url, log=tmp_path / "worker.log")
            killer.victim = worker.pid
            killer.fuse = 0.05 if turn % 2 else rng.uniform(0.1, 0.5)
            assert worker.wait(60) == -signal.SIGKILL
        call(*work, "--until-empty", url=url)
        assert set(index.fetch(IDS)) == set(IDS)
    assert_dead(url)
    assert_no_suspects(redis_server)
