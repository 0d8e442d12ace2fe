"""`upsertq queues`, `runs`, `delete-queue` and `reshard` as operators type them, with right and with wrong inputs."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import pytest

import drained
import junk
from junk import Stage
from processes import books, call, complaint, document, emulated, start
from terminals import on_a_terminal
from upsertq import Producer, QueueLost, Server
from upsertq.contract.keys import QueueKeys
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

    from servers import RealServer

KEYS: Final = QueueKeys("q")
Q: Final = ("--queue", "q")
WORK: Final = ("work", *Q, "--lease", "1", "--quarantine", "0.5", "--linger", "0.05")
SOON: Final = 30.0


@pytest.fixture
def url(redis_server: RealServer, client: redis.Redis) -> str:
    """Provide the address of a server with a drained queue `q` of two shards, which has the run `night`."""
    drained.put(Server(client), "q", [f"a{number}" for number in range(10)], run="night", shards=2)
    drained.drain(client, "q")
    return redis_server.url


def test_the_life_of_a_queue(redis_url: str, tmp_path: Path) -> None:
    """It is loaded, drained by a worker, listed, resharded, loaded and drained again, purged, audited, deleted."""
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps({"id": f"r{n}", "values": [1.0, n]}) + "\n" for n in range(500)))
    with emulated() as index:
        drain = (*WORK, "--until-empty", "--index-host", index.url)
        call("load", file, *Q, "--shards", "2", "--run", "one", url=redis_url)
        call(*drain, url=redis_url)
        receipt = document("wait", *Q, "--run", "one", url=redis_url)
        told = call("reshard", *Q, "--shards", "4", url=redis_url).stdout
        assert told == "queue q has 4 shards now, 2 before: start its producers and workers anew\n"
        assert document("wait", *Q, "--run", "one", url=redis_url) == receipt
        call("audit", *Q, url=redis_url)
        call("load", file, *Q, "--run", "two", url=redis_url)
        call(*drain, url=redis_url)
        assert len(index.values([f"r{n}" for n in range(500)])) == 500
    assert books(redis_url, "q")["acked"] == 1_000
    assert [one["run"] for one in document("runs", *Q, url=redis_url)["runs"]] == ["two", "one"]
    purged = document("runs", *Q, "--purge", "--older-than", "0s", "--yes", url=redis_url)
    assert purged == {"queue": "q", "selected": 2, "purged": 2, "records": 1_000, "kept": {}}
    assert document("audit", *Q, url=redis_url)["ok"]
    assert books(redis_url, "q")["acked"] == 1_000
    assert document("delete-queue", "q", "--yes", url=redis_url)["deleted"]
    assert call("queues", url=redis_url).stdout == "there is no queue on this server\n"


def test_queues(url: str, client: redis.Redis) -> None:
    """A table for people, a document for scripts; a queue of an older format is named."""
    drained.put(Server(client), "articles", ["x"], shards=1)
    client.hset(QueueKeys("old").meta, mapping={"format": "1", "shards": "16"})
    lines = call("queues", url=url).stdout.splitlines()
    assert lines[0].split() == ["queue", "pending", "dead", "workers", "shards", "format"]
    assert [line.split()[:6] for line in lines[1:]] == [
        ["articles", "1", "0", "0", "1", "2"],
        ["old", "?", "?", "?", "?", "1"],
        ["q", "0", "0", "0", "2", "2"],
    ]
    assert "drain it with the version of upsertq that made it" in lines[2]
    found = document("queues", url=url)["queues"]
    assert found[2] == {
        "queue": "q", "format": "2", "shards": 2, "pending": 0, "dead": 0, "workers": 0, "problem": None
    }  # fmt: skip
    assert found[1]["pending"] is None
    shown, code = on_a_terminal("queues", url=url, until=b"articles", answer=b"")
    assert code == 0
    assert b"q " in shown


def test_runs(url: str, client: redis.Redis) -> None:
    """The newest first; how many there are is said where not all are shown."""
    drained.bury(client, "q", "x", run="day")
    drained.put(Server(client), "q", ["y"], run="noon")
    lines = call("runs", *Q, url=url).stdout.splitlines()
    assert lines[0].split()[:3] == ["run", "state", "begun"]
    parts = [line.split() for line in lines[1:]]
    assert [[one[0], one[1], *one[3:]] for one in parts] == [
        ["noon", "sealed", "1", "0", "0", "0", "0", "1"],
        ["day", "done", "1", "0", "0", "0", "1", "0"],
        ["night", "done", "10", "10", "0", "0", "0", "0"],
    ]
    assert (
        call("runs", *Q, "--limit", "1", url=url).stdout.splitlines()[-1]
        == "the newest 1 of 3 runs: --limit shows more"
    )
    told = document("runs", *Q, "--limit", "2", url=url)
    assert (told["queue"], told["known"], [one["run"] for one in told["runs"]]) == ("q", 3, ["noon", "day"])
    assert told["runs"][1]["sealed_at"].endswith("Z")


def test_purge(url: str, client: redis.Redis) -> None:
    """It counts, asks, and removes; what is old and stays is told."""
    drained.bury(client, "q", "x", run="day")
    purge = ("runs", *Q, "--purge", "--older-than")
    assert call(*purge, "30d", "--yes", url=url).stdout == "queue q: removed the books of 0 runs\n"
    kept = "as old, but kept: 1 with dead letters (see `upsertq runs --queue q`)\n"
    told = call(*purge, "0", "--dry-run", url=url).stdout
    assert told == f"queue q: would remove the books of 1 run; {kept}"
    assert document(*purge, "0", "--dry-run", url=url)["dry_run"] is True
    shown, code = on_a_terminal(*purge, "0", url=url, until=b"books)? [y/N]", answer=b"n\n")
    assert (code, b"nothing was removed" in shown) == (1, True)
    assert b"remove the books of 1 run of queue 'q' (10 records, counted in the queue's books)?" in shown
    assert document("runs", *Q, url=url)["known"] == 2
    shown, code = on_a_terminal(*purge, "0", url=url, until=b"books)? [y/N]", answer=b"y\n")
    assert code == 0
    assert b"removed the books of 1 run; " in shown
    assert [one["run"] for one in document("runs", *Q, url=url)["runs"]] == ["day"]
    call("audit", *Q, url=url)
    assert books(url, "q")["enqueued"] == 11


def test_delete_queue_asks_for_the_name(url: str, client: redis.Redis) -> None:
    """It tells what would be lost; anything else than the name deletes nothing."""
    question = b"type the queue's name to delete it"
    for answer in (b"y\n", b"\n", b"Q\n"):
        shown, code = on_a_terminal("delete-queue", "q", url=url, until=question, answer=answer)
        assert (code, b"nothing was deleted" in shown) == (1, True)
        assert b"queue 'q': 0 pending, 0 dead letters, 1 runs, 0 leases, and books of 10 records enqueued" in shown
    assert client.exists(KEYS.meta)
    shown, code = on_a_terminal("delete-queue", "q", url=url, until=question, answer=b"q\n")
    assert (code, b"queue q is deleted: " in shown) == (0, True)
    assert client.dbsize() == 0


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        (("delete-queue", "nope", "--yes"), 1, "there is no queue 'nope' on this server"),
        (("runs", "--queue", "nope"), 1, "there is no queue 'nope' on this server"),
        (("reshard", "--queue", "nope", "--shards", "4"), 1, "there is no queue 'nope' on this server"),
        (("delete-queue", "q"), 2, "there is no terminal to confirm on: give --yes to delete the queue without asking"),
        (("runs", *Q, "--purge", "--older-than", "1d"), 2, "there is no terminal to confirm on: give --yes to purge"),
        (("delete-queue", "a*", "--yes"), 2, "queue name 'a*' is not allowed"),
        (("delete-queue", "a:b", "--yes"), 2, "queue name 'a:b' is not allowed"),
        (("delete-queue",), 2, "Missing argument 'QUEUE'"),
        (("runs", *Q, "--purge", "--older-than", "30days", "--yes"), 2, "'30days' is no span of time"),
        (("runs", *Q, "--purge", "--older-than", "-1d", "--yes"), 2, "'-1d' is no span of time"),
        (("runs", *Q, "--purge", "--yes"), 2, "--purge needs an age: give --older-than, as 30d"),
        (("runs", *Q, "--older-than", "1d"), 2, "are for --purge: give it too"),
        (("runs", *Q, "--limit", "0"), 2, "Invalid value for '--limit'"),
        (("reshard", *Q), 2, "Missing option '--shards'"),
        (("reshard", *Q, "--shards", "0"), 2, "Invalid value for '--shards'"),
        (
            ("reshard", *Q, "--shards", "5"),
            2,
            "queue 'q' has 2 shards and cannot be given 5: they are doubled at a time",
        ),
    ],
)
def test_wrong_input(
    url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, line: tuple[str, ...], code: int, told: str
) -> None:
    """One line says what is wrong and what would be right; nothing is changed."""
    before = {key: client.dump(key) for key in client.keys("*")}
    monkeypatch.setenv("UPSERTQ_REDIS_URL", url)
    found, out, err = junk.spoken(*line)
    assert (found, out, err.count("\n")) == (code, "", 1), err
    assert told in err
    assert {key: client.dump(key) for key in client.keys("*")} == before


@pytest.mark.parametrize("line", [("queues",), ("runs",), ("delete-queue", "q", "--yes"), ("reshard", "--shards", "4")])
def test_no_server(line: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says that nothing answers."""
    monkeypatch.setenv("UPSERTQ_REDIS_URL", f"unix://{tmp_path}/none.sock")
    code, out, err = junk.spoken(*line)
    assert (code, out) == (1, "")
    assert err.startswith("upsertq: cannot ")
    assert "is the server running and the URL right?" in err


@pytest.mark.parametrize("command", ["queues", "runs", "delete-queue", "reshard"])
def test_help_teaches(command: str) -> None:
    """Each shows an example."""
    assert f"  upsertq {command}" in junk.spoken(command, "--help")[1].split("Options:")[0].split("\n\n", 1)[1]
    assert f"\n  {command} " in junk.spoken("--help")[1]


def test_a_worker_keeps_its_queue(url: str, client: redis.Redis, tmp_path: Path) -> None:
    """While it has leases nothing is resharded or deleted; by force it is told that the queue is lost.

    So is a producer. Neither makes the queue again, and another one by its name is drained.
    """
    log = tmp_path / "worker.log"
    producer = Producer("q", url=url)
    producer.put("known", [1.0, 1.0])
    producer.flush()
    with emulated("--dimension", "2") as index:
        worker = start(*WORK, "--index-host", index.url, url=url, log=log)
        wait_until(lambda: books(url, "q")["pending"] == 0, SOON, "the worker drains")
        for line in (("reshard", *Q, "--shards", "4"), ("delete-queue", "q", "--yes")):
            told = complaint(*line, url=url, expect=1)
            assert "2 leases are held (" in told
            assert f"-{worker.pid}-" in told
        assert document("queues", url=url)["queues"][0]["workers"] == 1
        call("delete-queue", "q", "--yes", "--force", url=url)
        producer.put("late", [1.0, 1.0])
        with pytest.raises(QueueLost, match="the server lost queue 'q'"):
            producer.flush()
        wait_until(lambda: "the server lost queue 'q'" in log.read_text(), SOON, "the worker says so")
        assert client.keys("*") == []
        drained.put(Server(client), "q", ["new"], shards=1)
        wait_until(lambda: books(url, "q")["acked"] == 1, SOON, "the worker drains the new queue")
        worker.terminate()
        assert worker.wait(SOON) == 0
    assert log.read_text().count("the server lost queue 'q'") == 1


def test_an_interrupted_load_is_resumed_after_a_reshard(redis_url: str, tmp_path: Path) -> None:
    """Every record is enqueued once, wherever it goes by the new shards."""
    file = tmp_path / "records.jsonl"
    with file.open("w") as lines:
        for number in range(20_000):
            lines.write(json.dumps({"id": f"r{number}", "values": [1.0, 2.0], "namespace": f"n{number % 3}"}) + "\n")
    load = ("load", file, *Q, "--run", "r")
    bounds = ("--shards", "2", "--max-pending-records", "9000", "--timeout", "0")
    assert "queue 'q' is at its limit" in complaint(*load, *bounds, url=redis_url, expect=1)
    begun = books(redis_url, "q")["enqueued"]
    assert 0 < begun < 20_000
    with emulated() as index:
        drain = (*WORK, "--until-empty", "--index-host", index.url)
        call(*drain, url=redis_url)
        call("reshard", *Q, "--shards", "4", url=redis_url)
        call(*load, "--resume", url=redis_url)
        assert books(redis_url, "q", "r")["enqueued"] == 20_000
        call(*drain, url=redis_url)
        assert document("wait", *Q, "--run", "r", url=redis_url)["acked"] == 20_000
    call("audit", *Q, url=redis_url)


LINES: Final = (
    ("queues",),
    ("queues", "--json"),
    ("runs", *Q),
    ("runs", *Q, "--json"),
    ("runs", *Q, "--purge", "--older-than", "0", "--dry-run"),
    ("runs", *Q, "--purge", "--older-than", "0", "--yes"),
    ("reshard", *Q, "--shards", "4"),
    ("delete-queue", "q", "--yes"),
    ("delete-queue", "q", "--yes", "--force"),
)


@pytest.fixture
def stage(redis_server: RealServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Provide a queue with something in every key."""
    stage = Stage(redis_server)
    monkeypatch.setenv("UPSERTQ_REDIS_URL", redis_server.url)
    yield stage
    stage.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(2))
def test_junk(stage: Stage, part: int) -> None:
    """Whatever stands in the keys, each command ends by the contract with one line; by force all of the queue goes."""
    damages = [*junk.foreign_types(), *list(junk.bad_fields())[::48]]
    for damage in damages[part::2]:
        for line in LINES:
            stage.reset()
            with suppress(Stage.refused):
                damage.do(stage.client)
            code, told = junk.check(line, damage.name)
            if line[-1] == "--force":
                assert (code, stage.client.dbsize()) == (0, 0), (damage.name, told, stage.client.keys("*"))
            if line[0] == "queues":
                assert code == 0, (damage.name, told)


def test_a_large_server_is_listed_in_small_steps(url: str, client: redis.Redis) -> None:
    """Fifty thousand other keys: no command takes long, and the queue is found."""
    client.config_set("slowlog-log-slower-than", 10_000)
    client.slowlog_reset()
    values: dict[Any, Any] = {f"other:{number}": b"" for number in range(50_000)}
    client.mset(values)
    client.slowlog_reset()
    assert [one["queue"] for one in document("queues", url=url)["queues"]] == ["q"]
    call("delete-queue", "q", "--yes", url=url)
    assert [one["command"] for one in client.slowlog_get() if b"SCAN" in one["command"]] == []
    assert client.dbsize() == 50_000


def test_hostile_names(url: str, client: redis.Redis) -> None:
    """Names that another program put there reach no terminal as they are."""
    client.hset(KEYS.runs, "\x1b[31mred\n", '{"begun":5,"sealed":null}')
    client.hset(KEYS.meta, "format", "2")
    for line in (("runs", *Q), ("queues",), ("runs", *Q, "--json")):
        done = call(*line, url=url)
        assert "\x1b" not in done.stdout
    assert "\\u001b[31mred\\n" in call("runs", *Q, url=url).stdout
