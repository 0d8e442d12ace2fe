"""rq workers that are stopped and killed in the midst of a job: nothing is lost, doubled or left behind."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from datasets import Dataset
from processes import books, call, document, emulated, start
from rq_fleet import PATIENCE, alive, await_status, children, end, fleet, rq, see
from waiting import wait_until

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    import redis

    from processes import Index

COUNT = 2_000
BACKLOG = 320
POOL = "worker-pool", "-n", "4"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Provide a file of 2,000 records in one namespace."""
    data = Dataset.make(COUNT, 4)
    path = tmp_path / "v.jsonl"
    lines = (f'{{"id": "{name}", "values": {row.tolist()}}}' for name, row in zip(data.ids, data.matrix, strict=True))
    path.write_text("\n".join(lines))
    return path


def submit(*arguments: str | Path, url: str) -> str:
    """Submit a job; returns its id."""
    return call("submit", *arguments, url=url).stdout.strip()


def load_slowly(source: Path, url: str) -> str:
    """Submit a load that stands still once the backlog is full, as nothing drains it; returns its id."""
    limits = ("--max-pending-records", str(BACKLOG), "--timeout", "600")
    return submit("ingest", source, "--queue", "q", "--run", "r", *limits, url=url)


def assert_landed(index: Index, url: str) -> None:
    """Every record is in the index, and counted once."""
    assert books(url, "q", "r") == {
        "enqueued": COUNT,
        "acked": COUNT,
        "superseded": 0,
        "discarded": 0,
        "dead": 0,
        "pending": 0,
    }
    assert len(index.fetch(Dataset.make(COUNT, 4).ids)) == COUNT
    assert document("audit", "--queue", "q", url=url)["ok"] is True


def leases(client: redis.Redis) -> list[bytes]:
    """The leases that are held."""
    return list(client.scan_iter("upsertq:{q:*}:lease"))


def await_horse(worker: subprocess.Popen[bytes], url: str, job: str, before: int = 0) -> int:
    """Wait until a worker runs the job in another process than `before`; returns that one."""

    def found() -> int:
        there = [child for child in children(worker.pid) if alive(child) and child != before]
        return there[0] if there and see(url, job).notes.get("process") == there[0] else 0

    return wait_until(found, PATIENCE, f"another process than {before} runs the job")


def test_a_load_goes_on_where_it_was(client: redis.Redis, source: Path, redis_url: str, tmp_path: Path) -> None:
    """Whatever ends it in between, each record is enqueued once, and the job ends with its receipt."""
    log = tmp_path / "log"
    job = load_slowly(source, redis_url)
    client.hset(f"rq:job:{job}", "meta", '{"of": "a caller"}')  # rq saves notes that it has read, stale ones included
    with fleet(redis_url, log) as worker:
        wait_until(lambda: see(redis_url, job).notes.get("waits"), PATIENCE, "the load waits for room")
        killed = await_horse(worker, redis_url, job)
        os.kill(killed, signal.SIGKILL)
        stopped = await_horse(worker, redis_url, job, killed)
        call("submit", "stop", job, url=redis_url)
        await_status(redis_url, job, "stopped")
        told = call("submit", "wait", job, url=redis_url, expect=1).stderr
        assert f"job {job} was stopped: `rq requeue --queue upsertq {job}` has it go on" in told
        rq("requeue", "--queue", "upsertq", job, url=redis_url)
        await_horse(worker, redis_url, job, stopped)
        assert end(worker) == 0
    assert see(redis_url, job).status == "queued"
    with fleet(redis_url, log) as worker:
        orphan = await_horse(worker, redis_url, job)
        worker.kill()
        wait_until(lambda: not alive(orphan), PATIENCE, "the process of the job ends with its worker")
    assert see(redis_url, job).status == "queued"
    assert 0 < books(redis_url, "q", "r")["pending"] < COUNT
    with emulated() as index, fleet(redis_url, log):
        work = start("work", "--queue", "q", "--index-host", index.url, url=redis_url, log=tmp_path / "work")
        receipt = document("submit", "wait", job, url=redis_url)
        assert receipt["loaded"] + receipt["skipped"] == receipt["enqueued"] == COUNT
        assert receipt["skipped"] > 0
        call("wait", "--queue", "q", "--run", "r", url=redis_url)
        assert_landed(index, redis_url)
        work.terminate()
        assert work.wait(PATIENCE) == 0
    assert "Traceback" not in log.read_text()


def test_a_pool_drains_a_backlog_through_a_restart(
    client: redis.Redis, source: Path, redis_url: str, tmp_path: Path
) -> None:
    """SIGTERM in the midst: the leases are given back, the jobs are in the queue again, and the next pool ends them."""
    log = tmp_path / "log"
    call("load", source, "--queue", "q", "--run", "r", url=redis_url)
    with emulated("--faults", "latency=constant:0.2") as index:
        allowed = {"UPSERTQ_INDEX_HOST": index.url}
        with fleet(redis_url, log, *POOL, env=allowed) as pool:
            slow = ("--batch-size", "10", "--concurrency", "2", "--index-host", index.url)
            jobs = submit("drain", "--queue", "q", "--slots", "4", *slow, url=redis_url).split()
            wait_until(lambda: books(redis_url, "q")["acked"], PATIENCE, "something has landed")
            wait_until(lambda: {see(redis_url, job).status for job in jobs} == {"started"}, PATIENCE, "all four run")
            assert "upsertq " in rq("info", url=redis_url)
            assert end(pool) == 0
        assert {see(redis_url, job).status for job in jobs} == {"queued"}
        assert leases(client) == []
        assert books(redis_url, "q")["pending"] > 0
        index.set_faults(None)
        with fleet(redis_url, log, *POOL, env=allowed):
            for job in jobs:
                assert document("submit", "wait", job, url=redis_url)["pending"] == 0
        assert_landed(index, redis_url)
    assert "Traceback" not in log.read_text()


def test_a_drain_that_is_stopped_leaves_no_lease(
    client: redis.Redis, source: Path, redis_url: str, tmp_path: Path
) -> None:
    """The rq worker goes on, and its next job takes the shards at once."""
    call("load", source, "--queue", "q", "--run", "r", url=redis_url)
    with (
        emulated("--faults", "latency=constant:0.2") as index,
        fleet(redis_url, tmp_path / "log", env={"UPSERTQ_INDEX_HOST": index.url}) as worker,
    ):
        host = ("--queue", "q", "--index-host", index.url)
        job = submit("drain", *host, "--batch-size", "10", "--concurrency", "2", url=redis_url)
        wait_until(lambda: see(redis_url, job).notes.get("records"), PATIENCE, "the job notes what has landed")
        call("submit", "stop", job, url=redis_url)
        await_status(redis_url, job, "stopped")
        assert leases(client) == []
        assert books(redis_url, "q")["pending"] > 0
        index.set_faults(None)
        assert document("submit", "drain", *host, "--wait", url=redis_url)["pending"] == 0
        assert_landed(index, redis_url)
        assert worker.poll() is None
