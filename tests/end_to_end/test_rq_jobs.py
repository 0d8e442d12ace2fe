"""`upsertq submit` and real rq workers: four jobs, their receipts, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rq import Callback, Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.webhook import Webhook

from datasets import Dataset
from drained import bury
from processes import books, call, complaint, document, emulated, start
from rq_fleet import PATIENCE, fleet, rq, see
from servers import closed_port
from waiting import wait_until

if TYPE_CHECKING:
    import redis

COUNT = 300
NO_WORKER = (
    "upsertq: no rq worker listens on 'upsertq': start one with `rq worker -w upsertq_worker.jobs.Worker upsertq`"
)


def submitted(*arguments: str | Path, url: str) -> str:
    """Submit a job; returns its id."""
    return call("submit", *arguments, url=url).stdout.strip()


def test_a_worker_runs_the_four_jobs(client: redis.Redis, redis_url: str, tmp_path: Path) -> None:
    """Each ends with the receipt and the exit code of the same command, and `rq info` counts them."""
    source = Dataset.make(COUNT, 8).parquet(tmp_path / "v.parquet")
    log = tmp_path / "log"
    with emulated() as index, fleet(redis_url, log, env={"UPSERTQ_INDEX_HOST": f"http://other {index.url}"}) as worker:
        loaded = document("submit", "ingest", source, "--queue", "q", "--run", "r", "--wait", url=redis_url)
        assert (loaded["run"], loaded["loaded"], loaded["pending"], loaded["exit_code"]) == ("r", COUNT, COUNT, 0)
        assert see(redis_url, loaded["job"]).notes["records"] == COUNT
        drained = document(
            "submit", "drain", "--queue", "q", "--index-host", index.url, "--seconds", "60", "--wait", url=redis_url
        )
        assert (drained["acked"], drained["pending"], drained["worker"]["acked"]) == (COUNT, 0, COUNT)
        assert document("submit", "audit", "--queue", "q", "--wait", url=redis_url)["ok"] is True
        bury(client, "letters", "a", "b")
        replayed = document("submit", "replay", "--queue", "letters", "--reason", "refused", "--wait", url=redis_url)
        assert (replayed["selected"], replayed["replayed"], replayed["left"]) == (2, 2, 0)
        assert (
            f"job {loaded['job']}: queue q, run r, loaded 300"
            in call("submit", "wait", loaded["job"], url=redis_url).stdout
        )
        told = rq("info", url=redis_url)
        assert "0, 0 executing, 4 finished, 0 failed" in told
        assert f"{worker.pid}): " in told
    assert worker.returncode == 0
    assert "Traceback" not in log.read_text()


def test_every_end_has_its_exit_code(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the same command would have ended with: 1, 2, 3, 5; and what it would have said."""
    source = Dataset.make(COUNT, 8).parquet(tmp_path / "v.parquet")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "a", "values": [1, 2]}\n{"id": "", "values": [1, 2]}\n')
    folders = {"UPSERTQ_REJECTS_DIR": str(tmp_path / "rejects"), "UPSERTQ_SOURCES_DIR": str(tmp_path)}
    allowed = {"PINECONE_API_KEY": "hunter2", **folders}
    (tmp_path / "rejects").mkdir()
    monkeypatch.setenv("THE_KEY", "another one")
    with (
        emulated("--require-api-key", "--api-key-env", "THE_KEY") as index,
        fleet(redis_url, tmp_path / "log", env={"UPSERTQ_INDEX_HOST": index.url, **allowed}),
    ):

        def ends(code: int, *arguments: str | Path) -> str:
            told = complaint("submit", *arguments, "--wait", url=redis_url, expect=code)
            assert " failed: " in told
            return told.partition(" failed: ")[2]

        assert "No such file" in ends(1, "ingest", tmp_path / "nothing.jsonl")
        assert "id" in ends(1, "ingest", bad, "--queue", "bad")
        assert "this rq worker keeps to" in ends(2, "ingest", "/etc/hostname")
        assert "this rq worker keeps to" in ends(2, "ingest", bad, "--rejects", tmp_path / "here.jsonl")
        assert "there is no queue 'nothing'" in ends(1, "drain", "--queue", "nothing", "--index-host", index.url)
        assert "none of those to which" in ends(2, "drain", "--index-host", "https://evil.example")
        assert "there is no queue 'nothing'" in ends(1, "audit", "--queue", "nothing")
        rejects = tmp_path / "rejects" / "r.jsonl"
        found = document(
            "submit", "ingest", bad, "--queue", "bad", "--rejects", rejects, "--wait", url=redis_url, expect=3
        )
        assert (found["loaded"], found["rejected"], found["exit_code"]) == (1, 1, 3)
        assert rejects.read_text().count("\n") == 1
        call("load", source, "--queue", "q", url=redis_url)
        told = ends(5, "drain", "--queue", "q", "--index-host", index.url, "--pause-timeout", "0.2")
        assert "401" in told or "key" in told
    assert "hunter2" not in (tmp_path / "log").read_text()
    assert books(redis_url, "q")["pending"] == COUNT


def test_the_example_waits_for_three_ingests(redis_url: str, tmp_path: Path) -> None:
    """Three files, three jobs, three runs that have landed, and their receipts."""
    sources = [Dataset.make(COUNT, 8, seed).parquet(tmp_path / f"part-{seed}.parquet") for seed in (1, 2, 3)]
    example = Path(__file__).parents[2] / "examples" / "three_ingests.py"
    with emulated() as index, fleet(redis_url, tmp_path / "log", "worker-pool", "-n", "2"):
        start("work", "--queue", "q", "--index-host", index.url, url=redis_url, log=tmp_path / "work")
        environment = {**os.environ, "RQ_REDIS_URL": redis_url}
        done = subprocess.run(
            [sys.executable, example, "q", *sources],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        receipts = [json.loads(line) for line in done.stdout.splitlines()]
        assert [one["run"].rsplit("-", 2)[0] for one in receipts] == ["part-1", "part-2", "part-3"]
        assert all(one["enqueued"] == COUNT and one["acked"] + one["superseded"] == COUNT for one in receipts)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_what_is_none_of_our_jobs_is_refused(client: redis.Redis, redis_url: str, tmp_path: Path) -> None:
    """A command, a callback, a webhook, a pickle: a line in the log each, the job failed, and nothing was run."""
    queue = Queue("upsertq", connection=client, serializer=JSONSerializer)
    made = tmp_path / "made"
    audit, touch = "upsertq_worker.jobs.audit", Callback("upsertq_worker.jobs.nothing.of_the_kind")
    hook = Webhook(f"http://127.0.0.1:{closed_port()}/", "failed")
    jobs = {
        "os.system": queue.enqueue("os.system", f"touch {made}"),
        "success_callback_name": queue.enqueue(audit, on_success=touch),
        "failure_callback_name": queue.enqueue(audit, on_failure=touch),
        "webhooks": queue.enqueue(audit, webhooks=[hook]),
        "no JSON call": Queue("upsertq", connection=client).enqueue("builtins.print", Bomb(made)),
    }
    client.lpush("rq:queue:upsertq", "no id", "no-job")
    client.hset("rq:job:broken", mapping={"data": b"x", "created_at": b"\xff", "status": "queued"})
    client.lpush("rq:queue:upsertq", "broken")
    log = tmp_path / "log"
    with fleet(redis_url, log, "worker", "--burst", listens=False) as worker:
        assert worker.wait(PATIENCE) == 0
    lines = log.read_text().splitlines()
    for reason, job in jobs.items():
        seen = see(redis_url, job.id)
        assert seen.status == "failed"
        assert reason in seen.notes["error"]
        assert len([line for line in lines if job.id in line and "failed: " in line and reason in line]) == 1
    assert not made.exists()
    assert "Traceback" not in log.read_text()
    assert "Failed to send webhook" not in log.read_text()


def test_a_plain_rq_worker_runs_nothing_of_ours(redis_url: str) -> None:
    """With rq's own classes and the JSON serializer the job fails, and what to type stands in its result."""
    job = submitted("audit", url=redis_url)
    rq("worker", "--burst", "-S", "json", "upsertq", url=redis_url)
    assert "rq worker -w upsertq_worker.jobs.Worker upsertq" in see(redis_url, job).error
    assert f"job {job} failed: " in complaint("submit", "wait", job, url=redis_url, expect=1)


def test_a_slot_has_one_drain_at_a_time(redis_url: str, tmp_path: Path) -> None:
    """What a cron submits again while it is not over is not submitted; once it is over, it is."""
    call("load", Dataset.make(COUNT, 8).parquet(tmp_path / "v.parquet"), "--queue", "a_b.c", url=redis_url)
    with emulated() as index:
        drain = ("drain", "--queue", "a_b.c", "--index-host", index.url, "--slots", "2")
        first = call("submit", *drain, url=redis_url)
        assert first.stdout.split() == ["drain-a__b_dc-1", "drain-a__b_dc-2"]
        assert first.stderr.strip() == NO_WORKER
        again = call("submit", *drain, url=redis_url)
        assert again.stdout.split() == []
        assert again.stderr.count("is not over yet: no other one was submitted") == 2
        with fleet(redis_url, tmp_path / "log", env={"UPSERTQ_INDEX_HOST": index.url}):
            call("submit", "wait", "drain-a__b_dc-2", url=redis_url)
            call("submit", "wait", "drain-a__b_dc-1", url=redis_url)
            done = call("submit", *drain, "--wait", url=redis_url)
            assert (done.stderr, done.stdout.count("pending 0")) == ("", 2)
    assert books(redis_url, "a_b.c")["acked"] == COUNT


def test_bad_inputs_are_one_line_each(redis_url: str, tmp_path: Path) -> None:
    """No server, an embedded one, stdin, a secret, an unknown job, a job that nothing takes, a job that is lost."""
    source = Dataset.make(3, 8).parquet(tmp_path / "v.parquet")
    nowhere = f"redis://:hunter2@127.0.0.1:{closed_port()}/0"
    assert "rq jobs need a server that rq workers can reach" in complaint("submit", "audit", url=None, expect=2)
    told = complaint("submit", "audit", url=nowhere, expect=1)
    assert "127.0.0.1" in told
    assert "hunter2" not in told
    assert "no Redis URL" in complaint("submit", "audit", url="nonsense", expect=2)
    assert "a job cannot read stdin" in complaint("submit", "ingest", "-", url=redis_url, expect=2)
    told = complaint("submit", "ingest", source, "--id-column", "redis://:hunter2@h", url=redis_url, expect=2)
    assert "a URL with a login" in told
    assert "hunter2" not in told
    assert "there is no job 'nothing'" in complaint("submit", "wait", "nothing", url=redis_url, expect=1)
    assert "there is no job 'a b'" in complaint("submit", "stop", "a b", url=redis_url, expect=1)
    job = submitted("audit", url=redis_url)
    told = complaint("submit", "wait", job, "--wait-timeout", "0", url=redis_url, expect=4)
    assert f"job {job} is queued and not over yet: it goes on" in told
    call("submit", "stop", job, url=redis_url)
    assert f"job {job} was canceled" in complaint("submit", "wait", job, url=redis_url, expect=1)
    assert "is over already" in complaint("submit", "stop", job, url=redis_url, expect=1)


def test_a_pool_without_a_server_says_so(tmp_path: Path) -> None:
    """A line for each worker, no traceback, and SIGTERM ends the pool."""
    log, url = tmp_path / "log", f"redis://:hunter2@127.0.0.1:{closed_port()}/0"
    with fleet(url, log, "worker-pool", "-n", "2", listens=False) as pool:
        said = "upsertq: the server of the rq jobs does not answer: "
        wait_until(lambda: log.read_text().count(said) >= 2, PATIENCE, "each worker says that there is no server")
    assert pool.returncode == 0
    assert "Traceback" not in log.read_text()
    assert "hunter2" not in log.read_text()


@pytest.mark.parametrize("what", ["interrupted", "lost"])
def test_a_wait_ends_without_the_job(what: str, client: redis.Redis, redis_url: str, tmp_path: Path) -> None:
    """Ctrl-C leaves the job where it is and says how to follow it; a job that is gone is lost."""
    job = submitted("audit", url=redis_url)
    log = tmp_path / "log"
    before = client.info("commandstats")
    waiting = start("submit", "wait", job, url=redis_url, log=log)
    looked = int(before.get("cmdstat_hgetall", {}).get("calls", 0))
    wait_until(
        lambda: client.info("commandstats").get("cmdstat_hgetall", {}).get("calls", 0) > looked,
        PATIENCE,
        "the command looks at the job",
    )
    if what == "interrupted":
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(PATIENCE) == 130
        assert f"the job goes on: follow it with `upsertq submit wait {job}`" in log.read_text()
        assert see(redis_url, job).status == "queued"
    else:
        Job.fetch(job, connection=client, serializer=JSONSerializer).delete()
        assert waiting.wait(PATIENCE) == 1
        assert f"job {job} is lost: it was queued" in log.read_text()


def test_relative_paths_are_made_absolute(
    client: redis.Redis, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker runs elsewhere; only options that were given travel, and no vector does."""
    monkeypatch.chdir(tmp_path)
    job = Job.fetch(
        submitted("ingest", "v.parquet", "--ids", "i.npy", "--resume", url=redis_url),
        connection=client,
        serializer=JSONSerializer,
    )
    assert job.func_name == "upsertq_worker.jobs.ingest"
    given = {"ids": [str(tmp_path / "i.npy")], "resume": True}
    assert job.args == [[str(tmp_path / "v.parquet")], "default", None, given]
    assert (job.timeout, job.get_status()) == (-1, JobStatus.QUEUED)
