"""The main job on a real cluster, while slots move and a primary dies: everything lands, nothing is lost or doubled."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

from clusters import RealCluster, keys_in, slot_of_shard
from conftest import first_kind
from processes import books, call, complaint, document, emulated, start
from servers import available_kinds
from upsertq import AsyncProducer, Producer, ServerUnfit
from upsertq.contract.keys import QueueKeys
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import RealServer, ServerKind

Q: Final = ("--queue", "q")
WORK: Final = ("work", *Q, "--lease", "3", "--quarantine", "0.5", "--linger", "0.02")
SHARDS: Final = 4
KINDS: Final = {kind.name: kind for kind in reversed(available_kinds())}
"""The newest Redis and the newest Valkey."""


class Feed(threading.Thread):
    """A job that puts records into the queue, a few at a time, until it is told to stop."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._over = threading.Event()
        self.confirmed = 0
        self.error: Exception | None = None

    def run(self) -> None:
        """Go on until it is over."""
        try:
            with Producer("q", url=self._url, shards=SHARDS, timeout=60) as producer, producer.run("feed") as run:
                while not self._over.is_set():
                    ids = [f"feed{self.confirmed + n}" for n in range(20)]
                    run.put_many(ids, np.ones((20, 4), np.float32), namespace="n")
                    self.confirmed += run.flush()
        except Exception as error:  # noqa: BLE001 - told by those who wait
            self.error = error

    def advance(self) -> None:
        """Return once something is confirmed that was put after this call."""
        enough = self.confirmed + 40
        wait_until(lambda: self.confirmed >= enough or self.error, 60, "it goes on")
        assert self.error is None

    def end(self) -> int:
        """Stop it; returns how many records were confirmed."""
        self._over.set()
        self.join(90)
        assert self.error is None
        return self.confirmed


@contextmanager
def fed(url: str) -> Iterator[Feed]:
    """A feed for the length of a block."""
    feed = Feed(url)
    feed.start()
    yield feed
    feed.end()


@pytest.fixture
def url(cluster: RealCluster) -> str:
    """Provide the address of a node of an empty cluster."""
    cluster.flush()
    return cluster.url


def lease_is_gone(shard: int, *nodes: RealServer) -> bool:
    """Whether none of these nodes has the lease of a shard."""
    lease = QueueKeys("q").shard(shard).lease.encode()
    return all(lease not in keys_in(node, slot_of_shard("q", shard)) for node in nodes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_main_job_while_slots_move_and_a_primary_dies(kind: ServerKind, tmp_path: Path) -> None:
    """A file, a producer and a worker: every id is in the index, the books balance, and the logs are short."""
    log, file = tmp_path / "worker.log", tmp_path / "r.jsonl"
    file.write_text("".join(f'{{"id": "id{i}", "values": [1, {i}, 2, 3]}}\n' for i in range(1_000)))
    with RealCluster(kind, tmp_path, replicas=1) as cluster, emulated() as index, fed(cluster.url) as feed:
        feed.advance()
        worker = start(*WORK, "--index-host", index.url, url=cluster.primaries[1].url, log=log)
        call("load", file, *Q, "--run", "r", url=cluster.url)
        for shard in range(SHARDS):
            slot = slot_of_shard("q", shard)
            cluster.move(slot, cluster.another(slot))
            feed.advance()
        slot = slot_of_shard("q", 0)
        target = cluster.another(slot)
        with cluster.moving(
            slot, target, QueueKeys("q").shard(0).books
        ) as source:  # for so long that the worker's lease runs out
            wait_until(lambda: lease_is_gone(0, source, target), 60, "the lease runs out")
        feed.advance()
        cluster.fail_over()
        feed.advance()
        confirmed = feed.end()
        url = cluster.primaries[2].url
        for run, count in (("feed", confirmed), ("r", 1_000)):
            document("wait", *Q, "--run", run, "--timeout", "120", url=url)
            found = books(url, "q", run)
            assert found["enqueued"] == found["acked"] == count
        call("audit", *Q, url=url)
        worker.terminate()
        assert worker.wait(60) == 0, log.read_text()
        for ids, space in (([f"id{i}" for i in range(1_000)], ""), ([f"feed{i}" for i in range(confirmed)], "n")):
            assert set(index.fetch(ids, space)) == set(ids)
    said = log.read_text()
    assert "Traceback" not in said
    assert said.count("trying again") <= 12, said  # a line for each way in which a task met one of seven events


async def test_an_asyncio_producer_waits_for_a_slot_that_is_moved(cluster: RealCluster, url: str) -> None:
    """In the middle of a move its records wait, and no others; afterwards all are there, once."""
    producer = AsyncProducer("q", url=url, shards=SHARDS, timeout=0)
    await producer.put_many([f"a{i}" for i in range(100)], np.ones((100, 4), np.float32))
    assert await producer.flush() == 100
    slot = slot_of_shard("q", 1)
    with cluster.moving(slot, cluster.another(slot), QueueKeys("q").shard(1).books):
        await producer.put_many([f"b{i}" for i in range(100)], np.ones((100, 4), np.float32))
        with pytest.raises(Exception, match="rehashing of slot"):
            await producer.flush()
        assert 0 < producer.buffered < 100
    await producer.flush()
    assert (await producer.books()).enqueued == 200
    await producer.close()
    call("audit", *Q, url=url)


def test_the_commands_know_all_nodes(url: str, tmp_path: Path) -> None:
    """Queues are found on whichever node they are; one is resharded, its dead letters replayed, and it is deleted."""
    file = tmp_path / "r.jsonl"
    file.write_text("".join(f'{{"id": "id{i}", "values": [1, {i}]}}\n' for i in range(100)))
    for name in ("a", "b", "c", "q"):
        call("load", file, "--queue", name, "--run", "r", url=url)
    listed = json.loads(call("queues", "--json", url=url).stdout)["queues"]
    assert [(one["queue"], one["pending"]) for one in listed] == [(name, 100) for name in ("a", "b", "c", "q")]
    assert document("status", *Q, url=url)["server"]["primaries"] == 3
    with emulated() as index:
        index.set_faults("poison=id7")
        call("work", *Q, "--index-host", index.url, "--until-empty", url=url, expect=3)
        index.set_faults(None)
        call("dead", "replay", *Q, "--reason", "refused", "--yes", url=url)
        call("work", *Q, "--index-host", index.url, "--until-empty", url=url)
        assert len(index.fetch([f"id{i}" for i in range(100)])) == 100
    call("audit", *Q, url=url)
    call("reshard", *Q, "--shards", "32", url=url)
    call("runs", *Q, "--purge", "--older-than", "0", "--yes", url=url)
    call("delete-queue", "q", "--yes", url=url)
    call("delete-queue", "a", "--yes", "--force", url=url)
    assert [one["queue"] for one in json.loads(call("queues", "--json", url=url).stdout)["queues"]] == ["b", "c"]


def test_a_cluster_in_which_slots_are_missing(tmp_path: Path) -> None:
    """It is waited for as long as is allowed, and the one line says what to look for."""
    file = tmp_path / "r.jsonl"
    file.write_text('{"id": "a", "values": [1]}\n')
    with RealCluster(first_kind(), tmp_path, missing=5_000) as broken:
        said = complaint("load", file, *Q, "--timeout", "1", url=broken.url, expect=1)
        assert "cluster" in said.lower()
        assert "are all slots of the cluster served" in said


def test_a_database_in_the_url_of_a_cluster(url: str) -> None:
    """A cluster has one only."""
    said = complaint("status", *Q, url=url.replace("/0", "/1"), expect=1)
    assert "it is a node of a Redis Cluster: name it by host and port, without a database" in said


def test_a_user_who_may_not_see_the_slots(cluster: RealCluster, url: str) -> None:
    """The permission that is missing is named, before anything is done."""
    for node in cluster.nodes:
        with node.client() as client:
            client.execute_command("ACL", "SETUSER", "etl", "on", ">open", "~*", "+@all", "-cluster")
    with pytest.raises(ServerUnfit, match="let its user run CLUSTER SLOTS"):
        Producer("q", url=url.replace("redis://", "redis://etl:open@"), timeout=0).__enter__()


def test_a_node_that_evicts_keys(cluster: RealCluster, url: str) -> None:
    """Each node is looked at, not only that of the URL."""
    with cluster.nodes[2].client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(ServerUnfit, match="allkeys-lru"):
                Producer("q", url=url, timeout=0).__enter__()
        finally:
            client.config_set("maxmemory-policy", "noeviction")


def test_a_producer_over_a_fork_goes_on(url: str) -> None:
    """Threads do not survive a fork, and each process has its own."""
    with Producer("q", url=url, timeout=10) as producer:
        producer.put_many([f"a{i}" for i in range(100)], np.ones((100, 4), np.float32))
        producer.flush()
        assert producer.books().enqueued == 100
        told: Any = producer._server._cluster
        told._process = -1  # as it is found in a child
        producer.put_many([f"b{i}" for i in range(100)], np.ones((100, 4), np.float32))
        producer.flush()
        assert producer.books().enqueued == 200
