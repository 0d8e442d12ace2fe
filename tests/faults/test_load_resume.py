"""A load that was killed, stopped or blocked goes on exactly where it was: every record is enqueued once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from processes import kill, start
from queued import books_of, command, records_of, upsertq
from upsertq.contract.keys import QueueKeys
from waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from forked import Process
    from servers import RealServer

COUNT = 30_000


def parquet(path: Path) -> Path:
    """Records of three namespaces; every thousandth is bad where the test sets them aside."""
    values = np.random.default_rng(1).standard_normal((COUNT, 64), dtype=np.float32)
    offsets = pa.array(np.arange(0, COUNT * 64 + 1, 64, dtype=np.int32))
    table = pa.table(
        {
            "id": [f"doc-{k}" for k in range(COUNT)],
            "values": pa.ListArray.from_arrays(offsets, pa.array(values.ravel())),
            "namespace": [f"ns{k % 3}" for k in range(COUNT)],
        }
    )
    pa.parquet.write_table(table, path / "a.parquet")
    return path / "a.parquet"


def jsonl(path: Path, bad_every: int = 0) -> Path:
    """Records of three namespaces as JSON lines, in which every so many is broken."""
    with (path / "a.jsonl").open("w") as file:
        for k in range(COUNT):
            if bad_every and k % bad_every == 0:
                file.write(f'{{"id": "doc-{k}", "values": [1, 2\n')
            else:
                file.write(json.dumps({"id": f"doc-{k}", "values": [1.0, k], "namespace": f"ns{k % 3}"}) + "\n")
    return path / "a.jsonl"


def ended_or_past(load: Process, server: RealServer, mark: int) -> bool:
    """Whether the load has ended or has enqueued so many records."""
    return load.poll() is not None or books_of(server).enqueued >= mark


def once_each(server: RealServer, wanted: set[str]) -> None:
    """Every one of the ids must be in the queue exactly once, and the books must say so."""
    counts = Counter(record.id for record in records_of(server))
    assert set(counts) == wanted
    assert set(counts.values()) <= {1}
    assert books_of(server).enqueued == len(wanted)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("write", [parquet, jsonl])
def test_a_load_killed_again_and_again_enqueues_every_record_once(
    redis_server: RealServer, tmp_path: Path, seed: int, write: Any
) -> None:
    """SIGKILL at random moments, then --resume: nothing is lost and nothing is loaded twice."""
    path, rng = write(tmp_path), random.Random(seed)
    arguments: list[str | Path] = ["load", path, "--run", "r", "--redis-url", redis_server.url]
    killed, before = 0, 0
    for attempt in range(5):
        load = start(*arguments, *(["--resume"] if attempt else []), url=None, log=tmp_path / "load.log")
        mark = before + rng.randrange(1, 6_000)
        wait_until(partial(ended_or_past, load, redis_server, mark), 60, "the load passes the mark or ends")
        kill(load)
        killed += load.returncode == -signal.SIGKILL
        before = books_of(redis_server).enqueued
        if before == COUNT:
            break
    assert killed >= 2
    ended = upsertq(*arguments, "--resume", "--json")
    assert (ended.code, ended.err) == (0, "")
    told = json.loads(ended.out)
    left = {(COUNT - before, before)} | ({(0, 0)} if before == COUNT else set())  # the last one may have been done
    assert (told["loaded"], told["skipped"]) in left
    once_each(redis_server, {f"doc-{k}" for k in range(COUNT)})
    assert books_of(redis_server, run="r").enqueued == COUNT
    ended = upsertq(*arguments, "--resume")
    assert ended.code == 0
    assert "nothing was left to resume" in ended.out
    assert books_of(redis_server).enqueued == COUNT


def test_rejects_of_a_killed_load_are_complete_after_it_was_resumed(redis_server: RealServer, tmp_path: Path) -> None:
    """The resumed load writes the file of rejects anew: all of them are there, none twice."""
    path, rejects = jsonl(tmp_path, bad_every=1_000), tmp_path / "bad.jsonl"
    arguments: list[str | Path] = ["load", path, "--rejects", rejects, "--redis-url", redis_server.url]
    load = start(*arguments, url=None, log=tmp_path / "load.log")
    wait_until(lambda: books_of(redis_server).enqueued >= 2_000, 60, "a part is loaded")
    kill(load)
    ended = upsertq(*arguments, "--resume", "--json")
    assert ended.code == 3
    told = json.loads(ended.out)
    bad = {f"doc-{k}" for k in range(0, COUNT, 1_000)}
    assert told["rejected"] == len(bad)
    assert told["loaded"] + told["skipped"] == COUNT - len(bad)
    lines = [json.loads(line)["_reject"]["line"] for line in rejects.read_text().splitlines()]
    assert lines == [k + 1 for k in range(0, COUNT, 1_000)]
    once_each(redis_server, {f"doc-{k}" for k in range(COUNT)} - bad)
    assert upsertq(*arguments, "--resume").code == 0
    assert len(rejects.read_text().splitlines()) == len(bad), "a finished load leaves its rejects alone"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_load_in_good_order(
    redis_server: RealServer, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """One line says how many records are in and how to go on, and --resume does."""
    path = jsonl(tmp_path)
    arguments: list[str | Path] = ["load", path, "--run", "r", "--redis-url", redis_server.url]
    log = tmp_path / "load.log"
    load = start(*arguments, url=None, log=log)
    wait_until(lambda: books_of(redis_server).enqueued >= 1_000, 60, "a part is loaded")
    load.send_signal(number)
    assert load.wait(30) == code
    enqueued = books_of(redis_server).enqueued
    assert log.read_text() == (
        f"upsertq: interrupted; {enqueued:,} records are in the queue as run 'r': "
        "repeat the command with --resume to go on\n"
    )
    assert json.loads(upsertq(*arguments, "--resume", "--json").out)["loaded"] == COUNT - enqueued
    once_each(redis_server, {f"doc-{k}" for k in range(COUNT)})


def test_a_full_backlog_ends_the_load_after_its_timeout(redis_server: RealServer, tmp_path: Path) -> None:
    """With nobody draining, the load says what is full and how to go on, and goes on once there is room."""
    path = jsonl(tmp_path)
    arguments: list[str | Path] = ["load", path, "--timeout", "0.3", "--run", "r", "--redis-url", redis_server.url]
    ended = upsertq(*arguments, "--max-pending-records", "5000")
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert "queue 'default' is at its limit (5,000 records" in ended.err
    assert "repeat the command with --resume to go on" in ended.err
    enqueued = books_of(redis_server).enqueued
    assert 4_000 < enqueued <= 5_000
    assert f"{enqueued:,} records are in the queue as run 'r'" in ended.err
    assert json.loads(upsertq(*arguments, "--resume", "--json").out)["skipped"] == enqueued
    once_each(redis_server, {f"doc-{k}" for k in range(COUNT)})


def test_a_signal_ends_a_load_that_waits_for_room(redis_server: RealServer, tmp_path: Path) -> None:
    """A long timeout does not hold up the end."""
    arguments: list[str | Path] = ["load", jsonl(tmp_path), "--timeout", "600", "--redis-url", redis_server.url]
    log = tmp_path / "load.log"
    load = start(*arguments, "--max-pending-records", "1000", url=None, log=log)
    before: list[int] = []

    def stands_still() -> bool:
        before.append(books_of(redis_server).enqueued)
        return len(before) > 100 and before[-1] == before[-100] > 0

    wait_until(stands_still, 60, "the backlog stands at its limit")
    load.send_signal(signal.SIGTERM)
    assert load.wait(30) == 143
    assert f"{before[-1]:,} records are in the queue" in log.read_text()


def test_a_signal_ends_a_load_from_a_silent_pipe(redis_server: RealServer) -> None:
    """What came before is enqueued, though stdin is still open."""
    load = subprocess.Popen(
        command("load", "-", "--redis-url", redis_server.url), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert load.stdin is not None
    lines = "".join(json.dumps({"id": f"doc-{k}", "values": [1.0, k]}) + "\n" for k in range(20_000))
    load.stdin.write(lines.encode())
    load.stdin.flush()
    wait_until(lambda: books_of(redis_server).enqueued >= 10_000, 60, "a part is loaded")
    load.send_signal(signal.SIGINT)
    try:
        assert load.wait(30) == 130
    finally:
        load.kill()
        _, err = load.communicate()
    assert f"{books_of(redis_server).enqueued:,} records are in the queue as run 'load-" in err.decode()


def test_without_resume_a_load_begins_afresh(redis_server: RealServer, tmp_path: Path) -> None:
    """Loading the same file again enqueues it again, as a run of its own, and that is then what is resumed."""
    path = jsonl(tmp_path)
    for run in ("first", "second"):
        assert upsertq("load", path, "--run", run, "--redis-url", redis_server.url).code == 0
    assert books_of(redis_server).enqueued == 2 * COUNT
    assert books_of(redis_server, run="second").enqueued == COUNT
    ended = upsertq("load", path, "--run", "first", "--resume", "--redis-url", redis_server.url)
    assert ended.code == 2
    assert "--resume goes on as run 'second'" in ended.err


def test_resuming_what_never_began_says_so_and_loads(redis_server: RealServer, tmp_path: Path) -> None:
    """`--resume` in a script that always gives it is harmless, also when the file is another one by now."""
    path = jsonl(tmp_path)
    ended = upsertq("load", path, "--resume", "--redis-url", redis_server.url)
    assert ended.code == 0
    assert "there was nothing to resume, so it began at the start" in ended.out
    path.write_text('{"id": "other", "values": [1, 2]}\n')
    assert upsertq("load", path, "--resume", "--redis-url", redis_server.url).code == 0
    assert books_of(redis_server).enqueued == COUNT + 1


def test_a_load_too_old_to_resume_begins_afresh(redis_server: RealServer, tmp_path: Path) -> None:
    """When its ledger may be gone, what was loaded cannot be known: everything is loaded again."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a", "values": [1, 2]}\n{"id": "", "values": [1, 2]}\n')
    arguments: list[str | Path] = ["load", path, "--redis-url", redis_server.url]
    assert upsertq(*arguments, "--run", "r").code == 1
    with redis_server.client() as client:
        (name, told) = next(iter(client.hgetall(QueueKeys("default").loads).items()))
        noted = json.loads(told)
        noted["since"] -= 7 * 24 * 3600 * 1000
        client.hset(QueueKeys("default").loads, name, json.dumps(noted))
    ended = upsertq(*arguments, "--resume", "--rejects", os.devnull)
    assert ended.code == 3
    assert "there was nothing to resume" in ended.out
    assert books_of(redis_server, run="r").enqueued == 2


def test_a_server_that_dies_ends_the_load_and_resume_goes_on(make_server: Any, tmp_path: Path) -> None:
    """The server is killed in the middle and comes back with its append-only file: each record is there once."""
    server = make_server(appendonly="always")
    path = jsonl(tmp_path)
    arguments: list[str | Path] = ["load", path, "--run", "r", "--redis-url", server.url]
    log = tmp_path / "load.log"
    load = start(*arguments, "--timeout", "0.5", url=None, log=log)
    wait_until(lambda: books_of(server).enqueued >= 1_000, 60, "a part is loaded")
    server.kill()
    assert load.wait(60) == 1
    assert "repeat the command with --resume to go on" in log.read_text()
    server.start()
    assert upsertq(*arguments, "--resume").code == 0
    once_each(server, {f"doc-{k}" for k in range(COUNT)})
