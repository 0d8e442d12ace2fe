"""SIGKILL in the middle of `delete-queue`, `runs --purge` and `reshard`: the command again ends what was begun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest

import drained
from processes import books, call, complaint, document, start
from trap import trap
from upsertq import Producer, QueueLost, Server
from upsertq.admin.purge import PURGE, RENOTE
from upsertq.admin.removal import UNLINK
from upsertq.admin.reshard import GROW
from upsertq.client.resume import Attempt, remember
from upsertq.contract.closing import CLOSE, CLOSING
from upsertq.contract.keys import QueueKeys

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

    from servers import RealServer
    from upsertq.contract.protocol import Script

KEYS: Final = QueueKeys("q")
Q: Final = ("--queue", "q")
SHARDS: Final = 2
RECORDS: Final = 20
SOON: Final = 60.0


@pytest.fixture
def client(redis_server: RealServer) -> Iterator[redis.Redis]:
    """Provide a server with a drained queue."""
    with redis_server.client() as client:
        drained.put(Server(client), "q", [f"a{number}" for number in range(RECORDS)], run="r", shards=SHARDS)
        drained.drain(client, "q")
        yield client


def killed(server: RealServer, log: Path, line: tuple[str, ...], script: Script, nth: int) -> None:
    """Run a command, and kill it when it calls the script for the n-th time: that call is carried out."""
    with server.client() as client:
        client.script_load(script.text)
    with trap(server, script.digest, nth) as way:
        way.watch(start(*line, url=way.url, log=log))
        assert way.sprung.wait(SOON), f"it has not come so far: {log.read_text()}"


def test_delete_queue(redis_server: RealServer, client: redis.Redis, tmp_path: Path) -> None:
    """What is left belongs to no queue that could be used: whatever comes says so, until the command has ended it."""
    url = redis_server.url
    for number in range(1_000):
        client.set(f"other:{number}", "")
    producer = Producer("q", url=url)
    producer.put("known", [1.0, 1.0])
    producer.flush()
    drained.drain(client, "q")
    for number in range(3_000):
        client.set(KEYS.shard(number % SHARDS).run(f"r{number}"), "")
    left = client.dbsize()
    for nth in (1, 12):
        killed(redis_server, tmp_path / "log", ("delete-queue", "q", "--yes"), UNLINK, nth)
        assert 1_000 < client.dbsize() < left
        left = client.dbsize()
        producer.put("late", [1.0, 1.0])
        with pytest.raises(QueueLost, match="the server lost queue 'q'"):
            producer.flush()
        assert client.dbsize() == left
        for line in (("status", *Q), ("reshard", *Q, "--shards", "4")):
            assert "`upsertq delete-queue q` goes on" in complaint(*line, url=url, expect=1)
        assert "goes on" in document("queues", url=url)["queues"][0]["problem"]
    assert document("delete-queue", "q", "--yes", url=url)["deleted"]
    assert client.dbsize() == 1_000
    assert "there is no queue 'q'" in complaint("delete-queue", "q", "--yes", url=url, expect=1)
    drained.put(Server(client), "q", ["new"], shards=8)
    assert books(url, "q")["enqueued"] == 1


def test_purge(redis_server: RealServer, client: redis.Redis, tmp_path: Path) -> None:
    """The books of the queue are what they were all the time, and no books of a run are left that nothing names."""
    url = redis_server.url
    for number in range(300):
        client.hset(KEYS.runs, f"r{number}", orjson.dumps({"begun": 5, "sealed": 6, "records": 6}))
        for shard in range(SHARDS):
            client.hset(KEYS.shard(shard).run(f"r{number}"), mapping={"enqueued": "3", "acked": "3"})
    before = books(url, "q")
    purge = ("runs", *Q, "--purge", "--older-than", "30d", "--yes")
    for script, nth, left in ((PURGE, 1, 300), (RENOTE, 3, 200), (RENOTE, 2, 100)):
        killed(redis_server, tmp_path / "log", purge, script, nth)
        assert client.hlen(KEYS.runs) == left + 1
        assert books(url, "q") == before
        assert document("audit", *Q, url=url)["ok"]
    told = document(*purge, url=url)
    assert told["selected"] == told["purged"] == 100
    assert client.hkeys(KEYS.runs) == [b"r"], "the run of today stays"
    names: Any = client.keys("*:run:*")
    assert {name.decode() for name in names} <= {KEYS.shard(shard).run("r") for shard in range(SHARDS)}
    assert books(url, "q") == before
    call("audit", *Q, url=url)


@pytest.mark.parametrize(
    ("script", "nth", "state"),
    [(CLOSING, 1, b"closing"), (CLOSE, SHARDS + 1, b"closing"), (GROW, 1, b"closing"), (CLOSING, 3, b"ready")],
)
def test_reshard(
    redis_server: RealServer, client: redis.Redis, tmp_path: Path, script: Script, nth: int, state: bytes
) -> None:
    """It has its old shape within seconds, by itself, or the new one; the command again gives it the new one."""
    url = redis_server.url
    attempt = Attempt("t", "r", drained.now_ms())
    Server(client).hold(remember(KEYS, "f", attempt, drained.no_patience()))
    for shard in range(SHARDS):
        client.hset(KEYS.shard(shard).ledger("t"), mapping={f"n{number}": str(number) for number in range(2_500)})
        client.pexpire(KEYS.shard(shard).ledger("t"), 900_000)
    before = document("wait", *Q, "--run", "r", url=url)
    line = ("reshard", *Q, "--shards", "4")
    killed(redis_server, tmp_path / "log", line, script, nth)
    assert client.hget(KEYS.meta, "state") == state
    shards = 4 if state == b"ready" else 2
    assert document("status", *Q, url=url)["shards"] == shards
    assert client.hget(KEYS.meta, "state") == b"ready"
    assert document("wait", *Q, "--run", "r", url=url) == before
    drained.put(Server(client), "q", ["x", "y", "z"])
    drained.drain(client, "q")
    call("audit", *Q, url=url)
    told = document(*line, url=url)
    assert told == {"queue": "q", "before": shards, "shards": 4, "changed": shards == SHARDS}
    assert document("wait", *Q, "--run", "r", url=url) == before
    assert books(url, "q")["acked"] == RECORDS + 3
    assert [client.hlen(KEYS.shard(shard).ledger("t")) for shard in range(4)] == [2_500] * 4
    call("audit", *Q, url=url)
