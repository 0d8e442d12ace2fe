"""TLS with an authority of one's own and client certificates, beyond a single server: a cluster, and Sentinels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import numpy as np
import pytest

from certificates import Certificates, arguments, tls_kind
from clusters import RealCluster
from processes import call, complaint, emulated, start
from sentinels import SERVICE, RealSentinel
from servers import RealServer, free_port
from upsertq import AsyncProducer, Producer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Q: Final = ("--queue", "q")
WORK: Final = ("work", *Q, "--lease", "2", "--quarantine", "0.5", "--linger", "0.02")
COUNT: Final = 500


def numbered(first: int, count: int = COUNT) -> tuple[list[str], Any]:
    """Return ids and their vectors."""
    return [f"id{i}" for i in range(first, first + count)], np.ones((count, 4), np.float32)


def with_files(url: str, files: Certificates) -> str:
    """The URL as Python takes it."""
    return f"{url}?{urlencode({'ssl_ca_certs': files.ca, 'ssl_certfile': files.cert, 'ssl_keyfile': files.key})}"


NAMED: Final = ("--cluster-announce-hostname", "localhost", "--cluster-preferred-endpoint-type", "hostname")


@pytest.mark.parametrize(
    ("host", "vouched", "announced"),
    [("127.0.0.1", "IP:127.0.0.1", ()), ("localhost", "DNS:localhost", NAMED)],
    ids=["addresses", "names"],
)
async def test_the_main_job_on_a_cluster(host: str, vouched: str, announced: tuple[str, ...], tmp_path: Path) -> None:
    """The certificates hold what the nodes announce; without one of its own a client is told of it."""
    files = Certificates.made(tmp_path / "certificates", vouched)
    with RealCluster(tls_kind(), tmp_path, certificates=files, arguments=announced) as cluster, emulated() as index:
        url = f"rediss://{host}:{cluster.port(cluster.nodes[0])}/0"
        with Producer("q", url=with_files(url, files), timeout=60) as producer:
            producer.put_many(*numbered(0))
        async with AsyncProducer("q", url=with_files(url, files), timeout=60) as other:
            await other.put_many(*numbered(COUNT))
        call("work", *Q, "--until-empty", "--index-host", index.url, url=url, **files.environment)
        assert len(index.fetch(numbered(0, 2 * COUNT)[0])) == 2 * COUNT
        told = json.loads(call("status", *Q, "--json", url=url, **files.environment).stdout)
        assert (told["acked"], told["server"]["primaries"]) == (2 * COUNT, 3)
        call("audit", *Q, url=url, **files.environment)
        said = complaint("status", *Q, url=url, expect=1, UPSERTQ_REDIS_CA_FILE=str(files.ca))
        assert "wants a certificate of the client: give --redis-cert-file and --redis-key-file" in said


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[RealServer, RealSentinel, str, Certificates]]:
    """Keep a primary, a Sentinel that watches it and a replica, and its URL; all speak TLS alone."""
    files, kind = Certificates.made(tmp_path / "certificates"), tls_kind()
    at, replica_at, sentinel_at = (free_port() for _ in range(3))
    follows = ("--replicaof", "127.0.0.1", str(at))
    primary = RealServer(kind, tmp_path / "primary", appendonly="everysec", arguments=arguments(files.settings(at)))
    replica = RealServer(kind, tmp_path / "replica", arguments=(*arguments(files.settings(replica_at)), *follows))
    tls = files.settings(sentinel_at)
    sentinel = RealSentinel(kind, tmp_path / "sentinel", primary, primary_port=at, tls=tls)
    with primary, replica, sentinel:
        sentinel.await_replica()
        yield primary, sentinel, f"rediss+sentinel://127.0.0.1:{sentinel_at}/{SERVICE}", files


async def test_the_main_job_behind_a_sentinel(watched: Any, tmp_path: Path) -> None:
    """Producers, a worker and commands go on at the replica once it has taken over."""
    primary, _, url, files = watched
    log, ids = tmp_path / "worker.log", numbered(0, 2 * COUNT)[0]
    other = AsyncProducer("q", url=with_files(url, files), timeout=60)
    with emulated() as index, Producer("q", url=with_files(url, files), timeout=60) as producer:
        worker = start(*WORK, "--index-host", index.url, url=url, log=log, **files.environment)
        producer.put_many(*numbered(0))
        producer.flush()
        with primary.client() as client:
            client.set("last", "1")
            assert client.wait(1, 60_000) == 1  # what was confirmed is on the replica
        primary.kill()
        await other.put_many(*numbered(COUNT))
        assert await other.flush() == COUNT
        await other.close()
        assert producer.wait(timeout=60).pending == 0
        worker.terminate()
        assert worker.wait(60) == 0, log.read_text()
        assert len(index.fetch(ids)) == len(ids)
    call("audit", *Q, url=url, **files.environment)
