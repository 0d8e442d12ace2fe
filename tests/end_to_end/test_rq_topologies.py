"""RQ jobs where not one server is named: behind a Sentinel they run as elsewhere, on a cluster RQ cannot."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any, Final

import pytest

from processes import books, call, complaint, environment
from rq_fleet import PATIENCE, RQ, fleet
from sentinels import RealSentinel
from upsertq_worker.jobs import Worker, rq_worker
from upsertq_worker.rq_queue import NAME

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from clusters import RealCluster
    from servers import RealServer

BY_SENTINEL: Final = {"RQ_CONNECTION_CLASS": "upsertq_worker.jobs.Connection", "UPSERTQ_REDIS_URL": ""}
OF_ITS_OWN: Final = "give RQ a server of its own (--redis-url or RQ_REDIS_URL)"


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Provide a file of records."""
    file = tmp_path / "r.jsonl"
    file.write_text("".join(f'{{"id": "id{i}", "values": [1, {i}]}}\n' for i in range(50)))
    return file


def receipt(*job: str | Path, url: str, **more: str) -> dict[str, Any]:
    """The receipt of a job that is submitted and followed to its end."""
    done = call("submit", *job, "--queue", "q", "--wait", "--json", url=url, **more)  # type: ignore[arg-type]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("command", [("worker",), ("worker-pool", "-n", "2")], ids=["worker", "pool"])
def test_jobs_behind_a_sentinel_outlive_a_failover(
    command: tuple[str, ...], make_server: Callable[..., RealServer], records: Path, tmp_path: Path
) -> None:
    """The primary is asked for by the worker, by its jobs and by those that hand them over."""
    primary = make_server(port=0, appendonly="everysec")
    replica = make_server(port=0, arguments=("--replicaof", "127.0.0.1", str(primary.port)))
    log = tmp_path / "rq.log"
    with RealSentinel(primary.kind, tmp_path / "sentinel", primary) as sentinel:
        sentinel.await_replica()
        url = sentinel.service_url
        with fleet(url, log, *command, env=BY_SENTINEL):
            assert receipt("ingest", records, "--run", "a", url=url)["loaded"] == 50
            with primary.client() as client:
                assert client.wait(1, 60_000) == 1
            primary.kill()
            sentinel.await_primary(replica.port)
            assert receipt("ingest", records, "--run", "b", url=url)["loaded"] == 50, log.read_text()
        assert books(url, "q")["pending"] == 100


def test_what_cannot_be_reached_by_rq_is_told(tmp_path: Path) -> None:
    """A Sentinel that is not there, by the worker and by what hands jobs over, without what clients were made with."""
    url = "redis+sentinel://:secret@127.0.0.1:1/queues"
    assert "No master found for 'queues'" in complaint("submit", "audit", "--queue", "q", url=url, expect=1)
    with (tmp_path / "log").open("wb") as log:
        command = [*RQ, "info", NAME]
        env = environment(None, RQ_REDIS_URL="redis+sentinel://:secret@127.0.0.1:1", **BY_SENTINEL)
        assert subprocess.run(command, env=env, stdout=log, stderr=log, timeout=PATIENCE, check=False).returncode == 1
    said = (tmp_path / "log").read_text()
    assert "names no service of a Sentinel" in said
    assert "Traceback" not in said
    assert "secret" not in said


def test_a_cluster_is_refused(
    cluster: RealCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By what hands jobs over and by the worker, in a line that names the cure."""
    assert OF_ITS_OWN in complaint("submit", "audit", "--queue", "q", url=cluster.url, expect=1)
    assert OF_ITS_OWN in complaint("submit", "wait", "a-job", url=cluster.url, expect=1)
    monkeypatch.setattr(rq_worker, "AGAIN_SECONDS", 0)
    with cluster.nodes[0].client() as client, pytest.raises(SystemExit):
        Worker(["upsertq"], connection=client)
    assert OF_ITS_OWN in capsys.readouterr().err


def test_rq_on_a_server_of_its_own_beside_a_cluster(
    cluster: RealCluster, redis_url: str, records: Path, tmp_path: Path
) -> None:
    """Jobs wait there, and the queue is where UPSERTQ_REDIS_URL says."""
    own = {"RQ_REDIS_URL": redis_url}
    with fleet(cluster.url, tmp_path / "rq.log", env=own):
        assert receipt("ingest", records, "--run", "r", url=cluster.url, **own)["loaded"] == 50
        assert receipt("audit", url=cluster.url, **own)["ok"]
    assert books(cluster.url, "q", "r")["pending"] == 50
