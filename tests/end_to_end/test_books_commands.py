"""`upsertq status`, `wait` and `audit` as scripts and people use them: real processes, exit codes, one-line errors."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from processes import COMMAND, COUNTERS, call
from terminals import on_a_terminal
from upsertq import Producer, Server
from upsertq.contract.keys import QueueKeys
from waiting import wait_until

if TYPE_CHECKING:
    import redis

    from servers import RealServer

KEYS = QueueKeys("q")


def complaint(*arguments: str, url: str, expect: int) -> str:
    """Return the one line that a failing command says, and that nothing else was said."""
    done = call(*arguments, url=url, expect=expect)
    assert done.stdout == ""
    assert done.stderr.startswith("upsertq: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture
def url(redis_server: RealServer, client: redis.Redis) -> str:
    """Provide the address of a server with 100 records of run `night` and 20 of none in the queue `q`."""
    with Producer("q", url=Server(client), shards=2) as producer:
        producer.put_many([f"a{i}" for i in range(100)], np.ones((100, 4)), run="night")
        producer.put_many([f"b{i}" for i in range(20)], np.ones((20, 4)))
    return redis_server.url


def settle(client: redis.Redis, *, dead: int = 0) -> None:
    """Settle everything as a worker would, `dead` records of run `night` in shard 0 as dead letters."""
    with client.pipeline() as pipeline:
        for k in range(2):
            shard = KEYS.shard(k)
            for name in (shard.books, shard.run("night")):
                pending: Any = client.hget(name, "pending")
                bad = dead if k == 0 else 0
                settled = {"acked": int(pending) - bad, "dead": bad, "pending": 0, "bytes": 0}
                pipeline.hset(name, mapping=settled)  # type: ignore[arg-type]
            pipeline.delete(shard.stream(""), shard.lanes)
        for _ in range(dead):
            pipeline.xadd(KEYS.shard(0).dead, {"id": "x", "run": "night"})
        pipeline.execute()


def test_status_as_json(url: str, client: redis.Redis) -> None:
    """`status --json` is one document with the books at its top level, and what a monitor needs."""
    document = json.loads(call("status", "--queue", "q", "--json", url=url).stdout)
    assert [document[name] for name in COUNTERS] == [120, 0, 0, 0, 0, 120]
    assert (document["queue"], document["shards"], document["dimension"]) == ("q", 2, 4)
    assert "run" not in document
    assert document["entries"] > 0
    assert 0 <= document["oldest_age"] < 60
    (run,) = document["runs"]
    assert (run["run"], run["enqueued"], run["pending"]) == ("night", 100, 100)
    of_run = json.loads(call("status", "--queue", "q", "--run", "night", "--json", url=url).stdout)
    assert (of_run["run"], of_run["pending"]) == ("night", 100)


def test_status_shows_leases_workers_and_lanes(url: str, client: redis.Redis) -> None:
    """Who drains, who is gone and what is paused is shown, and a beat that cannot be read does no harm."""
    now = time.time()
    beat = {"name": "w1", "host": "here", "pid": 7, "started_at": now - 9, "at": now, "shards": [0, 1]}
    beat |= {"in_flight": 3, "posted": 50, "requests": 2, "standby": False, "every": 60}
    beat["alarms"] = {"index": "401 Unauthorized: check the key"}
    client.hset(KEYS.workers, "w1", json.dumps(beat))
    client.hset(KEYS.workers, "w0", json.dumps({**beat, "name": "w0", "at": now - 200}))
    client.hset(KEYS.workers, "odd", "[]")
    client.set(KEYS.shard(0).lease, "5:w1:x", ex=60)
    client.set(KEYS.shard(1).lease, "6:w1", ex=60)
    paused = {"reason": "unauthorized", "message": "401: check the key", "since": 1.5e9, "by": "w1", "by_hand": False}
    client.hset(KEYS.paused, "namespace:n", json.dumps(paused))
    client.hset(KEYS.paused, "odd", "[]")
    document = json.loads(call("status", "--queue", "q", "--json", url=url).stdout)
    assert [(w["name"], w["gone"]) for w in document["workers"]] == [("w1", False), ("odd", True), ("w0", True)]
    lease, _ = document["leases"]
    assert (lease["shard"], lease["worker"], lease["epoch"]) == (0, "w1:x", 5)
    assert 0 < lease["expires_in"] <= 60
    assert document["paused"] == [{"scope": "namespace:n", "namespace": "n", **paused}]
    page = call("status", "--queue", "q", url=url).stdout
    held = "w1 (shards 1), w1:x (shards 0; it has ended, they are free in "
    assert f"leases: 2 of 2 held: {held}" in page, "of a worker that has left there is no beat"
    assert "worker w1 (here, process 7): 3 in flight, 50 records posted in 2 requests" in page
    assert "worker w0 (here, process 7): gone" in page
    assert page.count("alarm of w1: index: 401 Unauthorized: check the key") == page.count("alarm of") == 1
    assert document["workers"][0]["alarms"] == beat["alarms"]
    assert "paused: namespace 'n': unauthorized: 401: check the key (since 2017-07-14T02:40:00Z, by w1)" in page


def test_status_as_text(url: str) -> None:
    """The page shows the books under their names, the backlog and the runs."""
    lines = call("status", "--queue", "q", url=url).stdout.splitlines()
    assert lines[0] == "queue q: 2 shards, 4 dimensions"
    head = next(i for i, line in enumerate(lines) if line.split() == list(COUNTERS))
    assert lines[head + 1].split() == ["120", "0", "0", "0", "0", "120"]
    assert any(line.startswith("backlog of the queue: ") for line in lines)
    assert any("night" in line and "100 pending" in line for line in lines)


def test_the_newest_runs_come_first(url: str, client: redis.Redis) -> None:
    """Of many runs only the ten newest are shown, and how many there are."""
    for i in range(30):
        client.hset(KEYS.runs, f"run-{i}", json.dumps({"begun": i, "sealed": None}))
    document = json.loads(call("status", "--queue", "q", "--json", url=url).stdout)
    assert [run["run"] for run in document["runs"]] == ["night", *(f"run-{i}" for i in range(29, 20, -1))]
    assert document["runs_known"] == 31


@pytest.mark.parametrize("as_json", [False, True])
def test_watch_in_a_pipe(url: str, client: redis.Redis, as_json: bool) -> None:  # noqa: FBT001
    """In a pipe `--watch` prints a line for each look, with rates from the second on, until it is interrupted."""
    arguments = ["status", "--queue", "q", "--watch", "--interval", "0.2", *(["--json"] if as_json else [])]
    with subprocess.Popen(
        [*COMMAND, *arguments, "--redis-url", url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watch:
        assert watch.stdout is not None
        assert watch.stderr is not None
        first = watch.stdout.readline()
        settle(client)
        later = [watch.stdout.readline() for _ in range(2)]
        watch.send_signal(signal.SIGINT)
        rest, complaints = watch.communicate(timeout=30)
    assert (watch.returncode, complaints) == (0, "")
    if as_json:
        looks = [json.loads(line) for line in (first, *later, *rest.splitlines())]
        assert (looks[0]["pending"], looks[0]["rates"]) == (120, None)
        assert looks[-1]["pending"] == 0
        assert any(look["rates"]["acked"] > 0 for look in looks[1:])
    else:
        assert "pending=120" in first
        assert "pending=0" in later[-1]
        assert "acked/s=" in later[0]


def test_watch_on_a_terminal_redraws(url: str) -> None:
    """On a terminal `--watch` redraws the page, shows rates, and ends quietly when interrupted."""
    shown, code = on_a_terminal("status", "--queue", "q", "--watch", "--interval", "0.2", url=url, until=b"rates: ")
    assert code == 0
    assert b"\x1b[" in shown
    assert b"Traceback" not in shown


def test_wait_on_a_terminal_has_a_bar(url: str) -> None:
    """On a terminal `wait` shows how many records are settled; interrupted it says so."""
    shown, code = on_a_terminal("wait", "--queue", "q", "--run", "night", url=url, until=b"0/100")
    assert code == 130
    assert b"run night" in shown
    assert b"interrupted" in shown


def test_wait_until_the_run_is_settled(url: str, client: redis.Redis) -> None:
    """`wait` blocks until nothing is pending, prints the books and exits with 0; it is quiet in a pipe."""
    with subprocess.Popen(
        [*COMMAND, "wait", "--queue", "q", "--run", "night", "--json", "--redis-url", url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as waiting:
        wait_until(lambda: b"upsertq" in _names(client), 30, "the command is connected")
        assert waiting.poll() is None
        settle(client)
        told, complaints = waiting.communicate(timeout=30)
    assert (waiting.returncode, complaints) == (0, "")
    document = json.loads(told)
    assert [document[name] for name in COUNTERS] == [100, 100, 0, 0, 0, 0]
    assert (document["queue"], document["run"]) == ("q", "night")


def _names(client: redis.Redis) -> set[bytes]:
    clients: Any = client.client_list()
    return {str(item["name"]).encode() for item in clients}


def test_wait_tells_of_the_dead(url: str, client: redis.Redis) -> None:
    """Exit code 3 says that everything is settled, but some records are dead."""
    settle(client, dead=2)
    assert "dead 2" in call("wait", "--queue", "q", "--run", "night", url=url, expect=3).stdout
    document = json.loads(call("wait", "--queue", "q", "--json", url=url, expect=3).stdout)
    assert (document["dead"], document["enqueued"], "run" in document) == (2, 120, False)


def test_wait_gives_up(url: str) -> None:
    """Exit code 4 says that the time was over."""
    line = complaint("wait", "--queue", "q", "--run", "night", "--timeout", "0.1", url=url, expect=4)
    assert "100 of 100 records of run 'night' are pending after 0.1 s" in line


def test_audit_of_sound_books(url: str, client: redis.Redis) -> None:
    """`audit` exits with 0 when the books balance, before and after the records are settled."""
    assert "the books balance" in call("audit", "--queue", "q", url=url).stdout
    settle(client, dead=2)
    document = json.loads(call("audit", "--queue", "q", "--json", url=url).stdout)
    assert document == {
        "queue": "q",
        "ok": True,
        "drifts": [],
        "entries": 0,
        "records": 0,
        "bytes": 0,
        "dead": 2,
        "shards": 2,
        "runs": 1,
        "inconclusive": [],
    }


def test_audit_of_drift(url: str, client: redis.Redis) -> None:
    """`audit` exits with 1 when a counter drifts, and names shard, run, counter, expected and found."""
    pending: Any = client.hget(KEYS.shard(1).run("night"), "bytes")
    client.hincrby(KEYS.shard(1).run("night"), "bytes", 11)
    text = call("audit", "--queue", "q", url=url, expect=1).stdout
    expected, found = int(pending), int(pending) + 11
    assert f"drift: shard 1, run night: bytes: expected {expected:,}, found {found:,} in the books" in text
    document = json.loads(call("audit", "--queue", "q", "--json", url=url, expect=1).stdout)
    assert document["ok"] is False
    assert document["drifts"] == [
        {"shard": 1, "run": "night", "counter": "bytes", "expected": expected, "found": found}
    ]


@pytest.mark.parametrize("command", ["status", "wait", "audit"])
def test_what_is_not_there(redis_server: RealServer, command: str, client: redis.Redis) -> None:
    """A queue that does not exist is one line and exit code 1, and is not created by asking."""
    assert "there is no queue 'nope'" in complaint(command, "--queue", "nope", url=redis_server.url, expect=1)
    assert client.dbsize() == 0


@pytest.mark.parametrize("command", ["status", "wait"])
def test_a_run_that_is_not_there(url: str, command: str) -> None:
    """A run that does not exist is one line and exit code 1."""
    assert "has no run 'x'" in complaint(command, "--queue", "q", "--run", "x", url=url, expect=1)


@pytest.mark.parametrize("command", ["status", "wait", "audit"])
def test_a_newer_queue_is_refused(url: str, client: redis.Redis, command: str) -> None:
    """A queue of a newer format is not read."""
    client.hset(KEYS.meta, "format", 3)
    assert "format version 3, this program knows 2: upgrade upsertq" in complaint(
        command, "--queue", "q", url=url, expect=1
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "--queue", "a b"], "queue name 'a b' is not allowed"),
        (["wait", "--run", "-x"], "run name '-x' is not allowed"),
        (["wait", "--timeout", "-1"], "--timeout"),
        (["status", "--interval", "0"], "--interval"),
        (["audit", "more"], "unexpected extra argument"),
        (["status", "--redis-url", "http://h"], "is no Redis URL"),
    ],
)
def test_usage_errors(arguments: list[str], said: str, url: str) -> None:
    """A mistake on the command line is one line and exit code 2."""
    assert said in complaint(*arguments, url=url, expect=2)


@pytest.mark.parametrize("command", ["status", "audit"])
def test_a_server_that_is_away(command: str) -> None:
    """An unreachable server is one line with what to check, soon, and without the password."""
    line = complaint(command, url="redis://user:sesame@127.0.0.1:1/0", expect=1)
    assert "is the server running" in line
    assert "sesame" not in line
