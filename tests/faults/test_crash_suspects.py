"""A record that kills each worker that sends it is found and given up; a worker killed by chance costs no record."""

from __future__ import annotations

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


def assert_dead(server: RealServer, *dead: str) -> None:
    """These are dead of a crash loop, all others are acknowledged, the books balance, no mark is left."""
    url = server.url
    letters: Any = document("dead", "list", "--queue", "q", url=url)
    assert sorted(letter["id"] for letter in letters) == sorted(dead)
    for letter in letters:
        assert (letter["reason"], letter["attempts"], letter["run"]) == ("crash_loop", ALONE, "r")
        assert f"{ALONE} workers died" in letter["message"]
    nothing = dict.fromkeys(("superseded", "discarded", "pending"), 0)
    assert books(url, "q", "r") == books(url, "q")
    assert books(url, "q") == {"enqueued": len(IDS), "acked": len(IDS) - len(dead), "dead": len(dead), **nothing}
    call("audit", "--queue", "q", url=url)
    with server.client() as client:
        assert not any(client.hget(QueueKeys("q").shard(k).books, "mark") for k in range(DEFAULT_SHARDS))


@pytest.mark.parametrize(
    ("poisons", "options"),
    [(IDS[137:138], ()), (IDS[137:138], ("--batch-size", "10", "--concurrency", "2")), ((*IDS[3:5], IDS[250]), ())],
    ids=["wide", "narrow", "several"],
)
def test_what_kills_is_given_up(
    poisons: Sequence[str], options: tuple[str, ...], redis_server: RealServer, tmp_path: Path
) -> None:
    """Five workers die of a record, the sixth does not send it and gives it up; the others of entry and shard land."""
    url, most = redis_server.url, DEATHS + len(poisons) * (1 + ALONE)
    load(tmp_path, IDS, url)
    with emulated() as index, killing(index.url, *poisons) as killer:
        deaths, code = drain(killer, url, tmp_path / "worker.log", *options, most=most)
        assert (code, len(killer.killed)) == (3, deaths)
        assert OF_ONE <= deaths <= most
        assert len({shard_of("", name, DEFAULT_SHARDS) for name in killer.killed[-3]}) == 1, "its entry was not alone"
        assert set(killer.killed[-2:]) <= {(one,) for one in poisons}, "the last ones had something else in work"
        assert set(index.fetch(IDS)) == set(IDS) - set(poisons)
    assert_dead(redis_server, *poisons)


def test_a_replayed_one_is_found_again(redis_server: RealServer, tmp_path: Path) -> None:
    """Replayed while it still kills it dies as before; replayed when it does not it lands."""
    url, poison, log = redis_server.url, IDS[7], tmp_path / "worker.log"
    load(tmp_path, IDS, url)
    with emulated() as index:
        with killing(index.url, poison) as killer:
            assert drain(killer, url, log, most=10) == (OF_ONE, 3)
            call("dead", "replay", "--queue", "q", "--reason", "crash_loop", "--yes", url=url)
            # it has an entry of its own now: that one alone is the record alone
            assert drain(killer, url, log, most=10) == (OF_ONE - 1, 3)
            assert_dead(redis_server, poison)
        call("dead", "replay", "--queue", "q", "--reason", "crash_loop", "--yes", url=url)
        call(*WORK, "--index-host", index.url, "--until-empty", url=url)
        assert set(index.fetch(IDS)) == set(IDS)
    assert books(url, "q")["acked"] == len(IDS)


@pytest.mark.slow
@pytest.mark.parametrize("ids", [IDS, IDS[:60] * 20], ids=["records", "versions"])
def test_workers_killed_by_chance_cost_no_record(ids: Sequence[str], redis_server: RealServer, tmp_path: Path) -> None:
    """Eight SIGKILLs, each soon after a worker's first answer: nothing is dead, no id goes back to an older version."""
    url, log, newest = redis_server.url, tmp_path / "worker.log", len(ids) // len(set(ids)) - 1
    load(tmp_path, ids, url)
    with emulated("--faults", "seed=1,latency=uniform:0.005:0.02") as index, killing(index.url) as killer:
        work = (*WORK, "--batch-size", "2", "--concurrency", "2", "--index-host", killer.url)
        for fuse in (2, 5, 3, 2, 4, 3, 2, 5):
            worker = start(*work, url=url, log=log)
            killer.victim, killer.fuse = worker.pid, fuse
            assert worker.wait(60) == -signal.SIGKILL
        call(*work, "--until-empty", url=url)
        for name in set(ids):
            applied = [write["version"] for write in index.journal(name)]
            assert applied == sorted(applied), f"{name} went back"
            assert applied[-1] == newest
        assert index.counters["records"] > len(set(ids)), "nothing was sent twice"
    counted = books(url, "q")
    assert counted["acked"] + counted["superseded"] == counted["enqueued"] == len(ids)
