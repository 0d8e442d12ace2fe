"""A Sentinel names the primary: after a failover producers and workers go on at the new one, and nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

from conftest import first_kind
from processes import books, call, complaint, emulated, start
from sentinels import RealSentinel
from servers import RealServer, available_kinds, closed_port
from upsertq import AsyncProducer, Producer
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from servers import ServerKind

WORK: Final = ("work", "--queue", "q", "--lease", "2", "--quarantine", "0.5", "--linger", "0.02")


def numbered(first: int, count: int = 100) -> tuple[list[str], Any]:
    """Return ids and their vectors."""
    return [f"id{i}" for i in range(first, first + count)], np.ones((count, 4), np.float32)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Callable[[ServerKind], tuple[RealServer, RealServer, RealSentinel]]]:
    """Make a primary, its replica and the Sentinel that watches them."""
    made: list[RealServer] = []

    def make(kind: ServerKind) -> tuple[RealServer, RealServer, RealSentinel]:
        primary = RealServer(kind, tmp_path / "primary", port=0, appendonly="everysec").start()
        made.append(primary)
        follows = ("--replicaof", "127.0.0.1", str(primary.port))
        replica = RealServer(kind, tmp_path / "replica", port=0, arguments=follows).start()
        made.append(replica)
        sentinel = RealSentinel(kind, tmp_path / "sentinel", primary)
        made.append(sentinel.start())
        sentinel.await_replica()
        return primary, replica, sentinel

    yield make
    for server in made:
        server.kill()


@pytest.mark.slow
async def test_everything_goes_on_after_a_failover(watched: Any, tmp_path: Path) -> None:
    """Blocking producer, asyncio producer and worker; each has said in a line that it waited."""
    first_kind()
    primary, replica, sentinel = watched(available_kinds()[-1])  # a Valkey where there is one
    url, log = sentinel.service_url, tmp_path / "worker.log"
    producer = AsyncProducer("q", url=url, timeout=60)
    with emulated() as index, Producer("q", url=url, timeout=60) as blocking:
        worker = start(*WORK, "--index-host", index.url, url=url, log=log)
        blocking.put_many(*numbered(0))
        await producer.put_many(*numbered(100))
        assert (blocking.flush(), await producer.flush()) == (100, 100)
        with primary.client() as client:
            client.set("last", "1")
            # what was confirmed is on the replica
            wait_until(lambda: client.wait(1, 1_000) == 1, 60, "the replica has it")
        primary.kill()
        blocking.put_many(*numbered(200))
        await producer.put_many(*numbered(300))
        assert (await producer.flush(), blocking.flush()) == (100, 100)
        assert blocking.wait(timeout=60).acked == 400
        sentinel.await_primary(replica.port)
        await producer.close()
        worker.terminate()
        assert worker.wait(60) == 0, log.read_text()
        assert len(index.fetch([f"id{i}" for i in range(400)])) == 400
    call("audit", "--queue", "q", url=url)
    assert books(url, "q")["enqueued"] == 400
    assert "Traceback" not in log.read_text()
    assert 1 <= log.read_text().count("trying again until it is back") <= 4, log.read_text()


def test_wrong_addresses(watched: Any, make_server: Callable[..., RealServer]) -> None:
    """A service that is not watched, a server that is no Sentinel, and none at all: one line each."""
    primary, _, sentinel = watched(first_kind())
    right = sentinel.service_url
    for url, words in (
        (right.replace("/queues", "/cues"), "knows no service 'cues', but 'queues': name one of these"),
        (f"redis+sentinel://127.0.0.1:{primary.port}/queues", "is no Sentinel"),
        (f"redis+sentinel://127.0.0.1:{closed_port()}/queues", "No master found for 'queues'"),
        (f"redis://127.0.0.1:{sentinel.port}", "redis+sentinel://HOST:PORT/NAME"),
    ):
        assert words in complaint("status", "--queue", "q", url=url, expect=1)
    said = complaint("status", "--queue", "q", url="redis+sentinel://u:secret@127.0.0.1:1", expect=2)
    assert "names no service of a Sentinel" in said
    assert "secret" not in said


def test_a_sentinel_that_is_gone_is_passed_over(watched: Any) -> None:
    """Of several the first that answers is heard; with a login of its own, and one of the server."""
    primary, replica, sentinel = watched(first_kind())
    for server, name in ((primary, "etl"), (replica, "etl"), (sentinel, "asker")):
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", name, "on", ">s3cret", "~*", "&*", "+@all")
    with sentinel.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "off")
    hosts = f"127.0.0.1:{closed_port()},127.0.0.1:{sentinel.port}"
    url = f"redis+sentinel://etl:s3cret@{hosts}/queues/0"
    said = complaint("status", "--queue", "q", url=url, expect=1)
    assert "sentinel_password" in said
    assert "s3cret" not in said
    url += "?sentinel_username=asker&sentinel_password=s3cret"
    with Producer("q", url=url, timeout=10) as producer:
        producer.put_many(*numbered(0))
    assert books(url, "q")["pending"] == 100


def test_the_worker_says_that_no_sentinel_answers(tmp_path: Path) -> None:
    """It bears with that for a while, as with any address at which nothing answers, and shows nothing of the client."""
    log = tmp_path / "worker.log"
    with emulated() as index:
        url = f"redis+sentinel://127.0.0.1:{closed_port()}/queues"
        worker = start(*WORK, "--index-host", index.url, url=url, log=log)
        wait_until(lambda: "No master found for 'queues'; trying again" in log.read_text(), 60, "it tells")
        assert worker.poll() is None
    assert "ConnectionPool" not in log.read_text()
    assert "the server is back" not in log.read_text()
