"""A stranger's jobs, commands and registries against an rq worker of ours: bounded, printable, and no worker ends."""

from __future__ import annotations

import json
import os
import signal
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import fakeredis
import pytest
from rq.exceptions import NoSuchJobError
from rq.job import JobStatus
from rq.worker import Worker as RqWorker

from upsertq.contract.errors import UpsertqError, UsageError
from upsertq_worker.jobs import Job, Queue, Worker, loads, rq_worker
from upsertq_worker.jobs.job_context import JobContext
from upsertq_worker.jobs.stopping import Stop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MEGABYTE = 1_000_000
AUDIT: list[Any] = ["upsertq_worker.jobs.audit", None, ["default"], {}]


def packed(call: Any) -> bytes:
    """The data of a job as rq keeps it."""
    return zlib.compress(json.dumps(call).encode())


def taken(client: fakeredis.FakeRedis, data: bytes, **fields: str | bytes) -> Job:
    """The job as a worker takes it from Redis."""
    mapping: dict[Any, Any] = {"data": data, "status": "queued", "origin": "upsertq", **fields}
    client.delete("rq:job:j")
    client.hset("rq:job:j", mapping=mapping)
    return Job.fetch("j", connection=client)


@pytest.fixture
def client() -> Iterator[fakeredis.FakeRedis]:
    """Provide a server without a server."""
    with fakeredis.FakeRedis() as client:
        yield client


@pytest.fixture
def worker(client: fakeredis.FakeRedis) -> Worker:
    """Provide a worker that runs nothing yet."""
    return Worker([Queue(connection=client)], name="w", connection=client)


@pytest.mark.parametrize("field", ["data", "exc_info", "result"])
def test_what_unpacks_to_much_takes_no_memory(client: fakeredis.FakeRedis, field: str) -> None:
    """20 MB of zeros, in the field that is needed and in those that are not."""
    bomb = zlib.compress(bytes(20 * MEGABYTE))
    tracemalloc.start()
    try:
        taken(client, **{"data": packed(AUDIT), field: bomb})
        assert tracemalloc.get_traced_memory()[1] < 10 * MEGABYTE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("retry_intervals", "[]"),
        ("retry_intervals", '["x"]'),
        ("retry_intervals", '{"a": 1}'),
        ("retry_intervals", "[1e400]"),
        ("retry_intervals", "7"),
        ("repeat_intervals", "[-2]"),
        ("dependency_ids", "5"),
        ("dependency_ids", '["\\u001b"]'),
        ("dependency_ids", "[[]]"),
        ("failure_ttl", "9" * 40),
        ("result_ttl", "-2"),
        ("retries_left", "9" * 40),
        ("meta", json.dumps({"x": "y" * 70_000})),
    ],
    ids=range(13),
)
def test_at_what_rq_would_fail_later_the_job_is_refused(client: fakeredis.FakeRedis, field: str, value: str) -> None:
    """Read by rq in the worker's own process once the job has ended, it would end the worker."""
    job = taken(client, packed(AUDIT), **{field: value, "repeats_left": "3"})
    assert "a field that cannot be read" in job.refusal
    assert (job.retry_intervals, job.repeat_intervals, job.repeats_left) == (None, None, None)


def test_what_rq_makes_itself_is_not_refused(client: fakeredis.FakeRedis) -> None:
    """Its limits, retries, dependencies and repetitions, as its own API writes them."""
    rest = {"failure_ttl": "-1", "result_ttl": "500", "number_of_retries": "2", "repeats_left": "1"}
    job = taken(
        client,
        packed(AUDIT),
        retry_intervals="[1, 60]",
        repeat_intervals="[5]",
        dependency_ids='["a-b_C"]',
        retries_left="3",
        group_id="g",
        **rest,
    )
    assert (job.refusal, job.retry_intervals, job.retries_left, job.group_id) == ("", [1, 60], 3, None)


@pytest.mark.parametrize("field", ["origin", "worker_name", "description", "unknown\x1b[2J\n"])
def test_what_rq_logs_is_printable(client: fakeredis.FakeRedis, field: str) -> None:
    """And short."""
    job = taken(client, packed(AUDIT), **{field: b"\x1b]0;x\x07\n\xff\xe2\x80\xae" + b"x" * 5_000})
    shown = [str(one) for one in (job.origin, job.worker_name, job.description, job.refusal, job.id, job.func_name)]
    assert all(one.isprintable() for one in shown)
    assert max(map(len, shown)) < 400


def test_jobs_that_cannot_be_read_are_none_among_many(client: fakeredis.FakeRedis) -> None:
    """An id that can be none, a key of another type, an origin that is no text."""
    taken(client, packed(AUDIT))
    client.lpush("rq:job:list", "x")
    client.hset("rq:job:o", mapping={"data": packed(AUDIT), "origin": b"\xff", "created_at": "x"})
    found = Job.fetch_many(["j", "a b", "list", "o", "none"], connection=client)
    assert [one and one.refusal != "" for one in found] == [False, None, None, True, None]
    with pytest.raises(NoSuchJobError):
        Job.fetch("\x1b", connection=client)


def test_a_refused_job_keeps_its_data(client: fakeredis.FakeRedis) -> None:
    """So it is refused for the same reason when it is enqueued again."""
    job = taken(client, packed(["os.system", None, [], {}]), status="failed")
    job.save()
    assert Job.fetch("j", connection=client).refusal == job.refusal != ""


def test_a_key_in_the_name_of_an_option_is_not_repeated(client: fakeredis.FakeRedis) -> None:
    """The arguments are judged before Python says which of them does not fit."""
    call: list[Any] = ["upsertq_worker.jobs.audit", None, [], {"redis://:hunter2@h": 1}]
    assert "hunter2" not in taken(client, packed(call)).refusal


@pytest.mark.parametrize(
    "data",
    [b"no JSON", b"\xff", b"[]", b'"stop-job"', b"{}", b'{"command": ["stop-job"]}', b"[" * 100_000, b"null"],
    ids=range(8),
)
def test_a_command_that_cannot_be_read_is_passed_over(worker: Worker, data: bytes) -> None:
    """Otherwise the thread that takes commands would end, and `submit stop` with it."""
    worker.handle_payload({"type": "message", "data": data})


def test_commands_of_others_reach_no_other_job(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop for a job or an execution that does not run here does nothing; rq's four commands are all there are."""
    told: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: told.append(number))
    monkeypatch.setattr(os, "killpg", lambda _, number: told.append(number))
    for command in ("stop-job", "stop-execution", "kill-horse", "os.system", "__init__"):
        worker.handle_payload({"data": json.dumps({"command": command, "job_id": "x", "execution_id": "y"}).encode()})
    assert told == []
    assert worker._stopped_job_id is None


@pytest.mark.parametrize(
    ("key", "kind"),
    [("rq:wip:upsertq", "string"), ("rq:workers:upsertq", "set"), ("rq:groups", "set"), ("rq:failed:upsertq", "list")],
)
def test_what_stands_in_the_registries_ends_no_worker(
    client: fakeredis.FakeRedis, worker: Worker, key: str, kind: str
) -> None:
    """A key of another type, names that are no text: a line in the log, and the next look in a minute."""
    client.execute_command({"string": "SET", "set": "SADD", "list": "LPUSH"}[kind], key, b"\xff")  # type: ignore[no-untyped-call]
    worker.run_maintenance_tasks()
    assert not worker.should_run_maintenance_tasks


def test_an_abandoned_job_of_a_stranger_ends_no_worker(client: fakeredis.FakeRedis, worker: Worker) -> None:
    """What rq does for a job whose worker has died, it does in the process of another worker."""
    taken(client, packed(["os.system", None, ["x"], {}]), status="started", retries_left="2", retry_intervals="[]")
    client.zadd("rq:wip:upsertq", {"j:1": 1, "a b:\x1b": 1, "gone:1": 1})
    worker.run_maintenance_tasks()
    assert client.hget("rq:job:j", "status") == b"failed"


def test_ids_that_are_no_text_are_passed_over(client: fakeredis.FakeRedis, worker: Worker) -> None:
    """The job behind them is found."""
    taken(client, packed(AUDIT))
    client.rpush("rq:queue:upsertq", b"\xff\xfe", "a b", "\x1b[2J", b"", "j")
    found = Queue.dequeue_any(worker.queues, None, connection=client, job_class=Job)
    assert found[0].id == "j"


@pytest.mark.parametrize("meta", [b"[" * 100_000, b"[1]", b"\xff", b'"x"', b"5"], ids=range(5))
def test_notes_that_cannot_be_read_end_no_worker(client: fakeredis.FakeRedis, worker: Worker, meta: bytes) -> None:
    """They were written while the job ran; those of before are kept."""
    job = taken(client, packed(AUDIT), meta=json.dumps({"run": "r"}))
    client.hset("rq:job:j", "meta", meta)
    worker.handle_work_horse_killed(job, 1, 9, None)
    assert job.meta == {"run": "r"}


@pytest.mark.parametrize("word", ["shutdown", "stop", "earlier"])
def test_the_word_that_comes_while_a_process_begins_is_passed_on(
    client: fakeredis.FakeRedis, worker: Worker, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then the worker has nothing to tell it to; the process itself has its signals held back."""
    job = taken(client, packed(AUDIT))
    told, held = [], []
    monkeypatch.setattr(os, "kill", lambda *how: told.append(how))
    worker._stopped_job_id = "j" if word == "earlier" else None

    def begins(self: Any, _: Any, __: Any) -> None:
        held.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        if word == "shutdown":
            self._stop_requested = True
        elif word == "stop":
            self._stopped_job_id = "j"
        self._horse_pid = 4711

    monkeypatch.setattr(RqWorker, "fork_work_horse", begins)
    monkeypatch.setattr(RqWorker, "monitor_work_horse", lambda *_: None)
    worker.execute_job(job, worker.queues[0])
    assert told == {"shutdown": [(4711, signal.SIGTERM)], "stop": [(4711, signal.SIGINT)], "earlier": []}[word]
    assert held[0] >= {signal.SIGTERM, signal.SIGINT}
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT}


def test_the_signals_are_taken_again_after_an_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop leaves the default actions behind: the end of a drain would be a death."""
    stop, before = Stop(), {number: signal.getsignal(number) for number in rq_worker.TOLD}
    heard: list[int] = []
    monkeypatch.setattr(stop, "ask", heard.append)  # the real one ends this process after its grace
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stop.wake = lambda: pytest.fail("what it wakes is over")
        stop.take()
        stop.wake()
        if callable(signal.getsignal(signal.SIGTERM)):
            signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_load_whose_run_cannot_be_noted_enqueues_nothing() -> None:
    """Begun again it would not know its run, and would enqueue everything once more."""

    def fails() -> None:
        raise ConnectionError("away")

    context = JobContext("redis://", {}, fails, lambda: 0.0)
    with pytest.raises(ConnectionError):
        loads._Watched(context).begins("r", resumed=False)
    context.progress(1)  # of what is nice to know nothing fails


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide the only folder that jobs may load from, with links that lead out of it."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    outside.mkdir()
    for name in ("outside/secret.jsonl", "inside/good.jsonl", "inside/sub/good.jsonl"):
        (tmp_path / name).write_text('{"id": "a", "values": [1]}\n')
    (outside / "m.ids.txt").write_text("a\n")
    (inside / "link").symlink_to(outside)
    (inside / "sub" / "l.jsonl").symlink_to(outside / "secret.jsonl")
    monkeypatch.setenv("UPSERTQ_SOURCES_DIR", str(inside))
    return inside


@pytest.mark.parametrize(
    "path",
    [
        "link/secret.jsonl",
        "link",
        "l*/*.jsonl",
        "l*/../outside/*.jsonl",
        "sub",
        "sub/*.jsonl",
        "**/*.jsonl",
        "sub/l.jsonl",
        "../outside/secret.jsonl",
        "sub/../../outside",
        "link/../inside/../outside/secret.jsonl",
    ],
)
def test_no_path_leads_out_of_the_folder(folder: Path, path: str) -> None:
    """By links in names, in folders, in what a pattern matches, and by `..` behind them."""
    with pytest.raises(UsageError, match="this rq worker keeps to"):
        loads._plan([f"{folder}/{path}"], "q", None, {})
    assert len(loads._plan([f"{folder}/g*.jsonl"], "q", None, {}).sources) == 1


@pytest.mark.parametrize(
    "path", ["/proc/self/environ", "/proc/{pid}/environ", "/dev/zero", "/dev/fd/0", "{key}", "{link}"]
)
def test_what_may_hold_secrets_is_not_loaded(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment and the file of the key would be in errors, rejects and the index."""
    key, link = tmp_path / "key", tmp_path / "link.jsonl"
    key.write_text("hunter2\n")
    link.symlink_to(key)
    monkeypatch.setenv("PINECONE_API_KEY_FILE", str(key))
    with pytest.raises(UpsertqError, match="what may hold secrets") as caught:
        loads._plan([path.format(pid=os.getpid(), key=key, link=link)], "q", None, {"format_name": "jsonl"})
    assert "hunter2" not in str(caught.value)


def test_a_job_that_was_never_begun_is_not_begun_by_its_status(client: fakeredis.FakeRedis) -> None:
    """A status of rq's own is kept, any other refuses the job."""
    assert taken(client, packed(AUDIT), status="finished").get_status() == JobStatus.FINISHED
    assert taken(client, packed(AUDIT), status="nonsense").refusal != ""
