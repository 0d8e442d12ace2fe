"""Behind a stable address another server becomes the primary, old connections stay open: everything goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import numpy as np
import pytest

from processes import books, call, emulated, start
from redirector import Redirector
from servers import available_kinds
from upsertq import AsyncProducer, Producer
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from servers import RealServer

WORK: Final = ("work", "--queue", "q", "--lease", "2", "--quarantine", "0.5", "--linger", "0.02")


class Pair:
    """A primary, its replica, and the address that stands for whichever is primary."""

    def __init__(self, old: RealServer, new: RealServer) -> None:
        self.old = old
        self.new = new
        self.address = Redirector(_port(old))
        _replicate(new, old)

    def fail_over(self) -> None:
        """Make the replica the primary and the primary its replica; connections to the old one stay open."""
        with self.old.client() as client:
            client.set("last", "1")
            assert client.wait(1, 10_000) == 1
        with self.new.client() as client:
            client.execute_command("REPLICAOF", "NO", "ONE")
        self.address.to = _port(self.new)
        _replicate(self.old, self.new)


def _port(server: RealServer) -> int:
    return urlsplit(server.url).port or 0


def _replicate(replica: RealServer, primary: RealServer) -> None:
    with replica.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", str(_port(primary)))
        wait_until(lambda: client.info()["master_link_status"] == "up", 30, "the replica follows")


@pytest.fixture(params=available_kinds(), ids=lambda kind: kind.id)
def pair(request: pytest.FixtureRequest, make_server: Callable[..., RealServer]) -> Iterator[Pair]:
    """Provide a primary with its replica behind one address."""
    made = Pair(make_server(request.param, port=0), make_server(request.param, port=0))
    yield made
    made.address.close()


def numbered(first: int, count: int = 100) -> tuple[list[str], Any]:
    """Return ids and their vectors."""
    return [f"id{i}" for i in range(first, first + count)], np.ones((count, 4), np.float32)


def test_a_blocking_producer_goes_on_at_the_new_primary(pair: Pair) -> None:
    """Its pooled connection, still open to the old one, which is read-only now, is dropped."""
    with Producer("q", url=pair.address.url, timeout=30) as producer:
        producer.put_many(*numbered(0), run="r")
        assert producer.flush() == 100
        pair.fail_over()
        producer.put_many(*numbered(100), run="r")
        assert producer.flush() == 100
    assert books(pair.new.url, "q", "r")["enqueued"] == 200


async def test_an_asyncio_producer_goes_on_at_the_new_primary(pair: Pair) -> None:
    """The same, also where several connections are pooled."""
    producer = AsyncProducer("q", url=pair.address.url, timeout=30)
    await producer.put_many(*numbered(0))
    assert await producer.flush() == 100
    pair.fail_over()
    await producer.put_many(*numbered(100))
    assert await producer.flush() == 100
    await producer.close()
    assert books(pair.new.url, "q")["enqueued"] == 200


def test_a_worker_goes_on_at_the_new_primary(pair: Pair, tmp_path: Path) -> None:
    """It drains what is loaded after the failover; it ends in good order, and has said once that it waited."""
    log = tmp_path / "worker.log"
    with emulated() as index, Producer("q", url=pair.address.url, timeout=30) as producer:
        worker = start(*WORK, "--index-host", index.url, url=pair.address.url, log=log)
        producer.put_many(*numbered(0))
        producer.wait(timeout=30)
        pair.fail_over()
        producer.put_many(*numbered(100))
        assert producer.wait(timeout=60).acked == 200
        worker.terminate()
        assert worker.wait(60) == 0, log.read_text()
        assert index.counters["records"] >= 200
    call("audit", "--queue", "q", url=pair.new.url)
    said = log.read_text()
    assert said.count("trying again until it is back") <= 2, said  # one for each way in which the tasks met it
    assert "Traceback" not in said
