"""A job that is stopped while it begins does not run on; and what a stranger piles up under its key is not read."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from rq.job import JobStatus

from upsertq.contract.errors import NotFound, WorldError
from upsertq_worker import rq_queue
from upsertq_worker.jobs import Job, Queue, Worker, audit
from upsertq_worker.rq_queue import NAME, Jobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis


@pytest.fixture
def jobs(redis_url: str) -> Iterator[Jobs]:
    """Provide the jobs of a server."""
    with closing(Jobs(redis_url)) as jobs:
        yield jobs


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Provide the list of jobs that ran, in place of what they do."""
    ran: list[str] = []

    def run(queue: str = "default") -> dict[str, Any]:
        ran.append(queue)
        return {"exit_code": 0}

    monkeypatch.setattr(Job, "calls", {"upsertq_worker.jobs.audit": run})
    return ran


class Popped:
    """A job that a worker has taken from the queue and has not begun."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.id = Queue(connection=client).enqueue(audit).id
        self._worker = Worker([NAME], connection=client)
        found = self._worker.dequeue_job_and_maintain_ttl(None)
        assert found is not None
        self._job, self._queue = found
        self._execution = self._worker.prepare_execution(self._job)

    def begin(self) -> None:
        """Let the worker note that it runs."""
        self._worker.prepare_job_execution(self._job, remove_from_intermediate_queue=True)

    def run(self) -> None:
        """Let the worker run it, in this process."""
        self._worker.perform_job(self._job, self._queue, self._execution)

    @property
    def status(self) -> str:
        """As it stands in Redis."""
        return str(Job.fetch(self.id, connection=self.client).get_status().value)


def test_a_job_that_is_stopped_before_it_begins_does_not_run(client: redis.Redis, jobs: Jobs, ran: list[str]) -> None:
    """The worker has it already; it ends as stopped, is not begun again, and can be requeued."""
    popped = Popped(client)
    jobs.stop(popped.id)
    popped.run()
    assert (ran, popped.status) == ([], "stopped")
    assert Queue(connection=client).job_ids == []
    assert client.zcard(f"rq:canceled:{NAME}") == 0
    Job.fetch(popped.id, connection=client).requeue()
    Worker([NAME], connection=client)  # another one
    assert Queue(connection=client).job_ids == [popped.id]


def test_a_job_that_is_not_stopped_runs(client: redis.Redis, ran: list[str]) -> None:
    """And ends as finished."""
    popped = Popped(client)
    popped.run()
    assert (ran, popped.status) == (["default"], "finished")


def test_a_job_that_begins_while_it_is_stopped_is_told_by_its_worker(
    client: redis.Redis, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was seen to wait, and runs now: it is not taken out of the queue, in which it is not any more."""
    popped, fetch = Popped(client), jobs._fetch
    begins = iter([popped.begin])

    def fetched(job_id: str) -> Any:
        job = fetch(job_id)
        for begin in begins:
            begin()
        return job

    monkeypatch.setattr(jobs, "_fetch", fetched)
    told: Any
    with client.pubsub() as told:  # type: ignore[no-untyped-call]
        told.psubscribe("rq:pubsub:*")
        assert told.get_message(timeout=60)["type"] == "psubscribe"
        jobs.stop(popped.id)
        message: Any = told.get_message(timeout=60)
    assert json.loads(message["data"])["job_id"] == popped.id
    assert popped.status == JobStatus.STARTED.value


def test_a_hash_or_a_result_of_any_size_is_not_read(
    client: redis.Redis, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by what follows and stops jobs, nor by a worker, which passes it over."""
    monkeypatch.setattr(rq_queue, "MOST_STORED", 100_000)
    queue = Queue(connection=client)
    job, other = queue.enqueue(audit), queue.enqueue(audit)
    client.hset(job.key, mapping={f"field-{i}" * 10: "x" * 100 for i in range(1_000)})
    with pytest.raises(WorldError, match="bytes"):
        jobs.see(job.id)
    with pytest.raises(WorldError, match="bytes"):
        jobs.stop(job.id)
    assert Job.fetch_many([job.id], connection=client) == [None]
    found: Any = Worker([NAME], connection=client).dequeue_job_and_maintain_ttl(None)
    assert found[0].id == other.id
    client.hset(other.key, "status", "finished")
    client.xadd(f"rq:results:{other.id}", {"type": 1, "return_value": "x" * 200_000})
    with pytest.raises(WorldError, match="bytes"):
        jobs.see(other.id)
    with pytest.raises(NotFound):
        jobs.see("none")
