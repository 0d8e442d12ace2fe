"""What a stranger can put where `upsertq submit` looks: no traceback, no escape sequence, no wrong exit code."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from base64 import b64encode
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from processes import call, complaint
from upsertq.contract.errors import NotFound, UpsertqError, WorldError
from upsertq_worker.cli.job_ends import report
from upsertq_worker.rq_queue import Call, Jobs, Seen

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis
    from rq.job import Job as RqJob

DATA = zlib.compress(json.dumps(["upsertq_worker.jobs.audit", None, ["default"], {}]).encode())
MEGABYTE = 1_000_000
SLOT = Call("drain", ("q", "", None, {}), "drain queue q, slot 1", "drain-q-1")


@pytest.fixture
def jobs(redis_url: str) -> Iterator[Jobs]:
    """Provide the jobs of a server."""
    with closing(Jobs(redis_url)) as jobs:
        yield jobs


def put(client: redis.Redis, result: dict[Any, Any] | None = None, **fields: str | bytes) -> None:
    """Let a finished job `j` stand in Redis."""
    mapping: dict[Any, Any] = {"data": DATA, "status": "finished", "created_at": "2026-01-01T00:00:00Z", **fields}
    client.hset("rq:job:j", mapping=mapping)
    if result:
        client.xadd("rq:results:j", result)


def returned(value: Any) -> dict[Any, Any]:
    """The entry of a result."""
    packed = value if isinstance(value, bytes) else json.dumps(value).encode()
    return {"type": "1", "return_value": b64encode(packed)}


@pytest.mark.parametrize(
    "code", ["3", 999, -1, True, None, 1e3, 10**30, [3], 256, 130, "missing"], ids=[str(number) for number in range(11)]
)
def test_a_receipt_without_a_known_exit_code_is_none(code: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """And never success; nor is one that JSON of ours cannot show."""
    receipt = {"a": 1} if code == "missing" else {"a": 1, "exit_code": code}
    assert report("j", Seen("finished", {}, receipt), as_json=False) == 1
    assert "is no receipt" in capsys.readouterr().err
    assert report("j", Seen("failed", {"error": "x", "exit_code": code}, None), as_json=False) == 1


@pytest.mark.parametrize("value", ["\ud800", 10**30, [[[[1]]]] * 3, {"a": {1: 2}}], ids=range(4))
@pytest.mark.parametrize("as_json", [True, False])
def test_odd_values_are_one_line(value: Any, as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: FBT001
    """Printed, or told not to be printable."""
    deep: Any = 1
    for _ in range(400):
        deep = [deep]
    for odd in (value, deep):
        assert report("j", Seen("finished", {}, {"a": odd, "exit_code": 0}), as_json=as_json) in {0, 1}
        told = capsys.readouterr()
        assert (told.out + told.err).count("\n") == 1


@pytest.mark.parametrize("as_json", [True, False])
def test_what_a_job_says_moves_no_cursor(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: FBT001
    """Neither names nor values of a receipt, nor an error, nor a name of a job in it."""
    evil = "\x1b]0;x\x07\n\u202e\x9b2J"
    report("j", Seen("finished", {}, {evil: evil, "job": "other", "exit_code": 3}), as_json=as_json)
    report("j", Seen("failed", {"error": evil * 1_000}, None), as_json=as_json)
    report("j", Seen("failed", {}, None, evil), as_json=as_json)
    told = capsys.readouterr()
    lines = (told.out + told.err).splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() and len(line) < 8_000 for line in lines)
    assert lines[0].startswith('{"job":"j",' if as_json else "job j: ")


@pytest.mark.parametrize(
    "result",
    [
        {"type": "1", "return_value": "!!!"},
        {"type": "1", "return_value": b"\xff"},
        returned(b"["),
        returned(b"[" * 200_000),
        returned(b'{"a":' * 20_000 + b"1" + b"}" * 20_000),
        returned(b'"' + b"x" * 2 * MEGABYTE + b'"'),
        {"type": "2", "exc_string": b64encode(b"no zlib")},
    ],
    ids=range(7),
)
def test_results_that_cannot_be_read_are_an_error(client: redis.Redis, jobs: Jobs, result: dict[Any, Any]) -> None:
    """In one line."""
    put(client, result)
    with pytest.raises(WorldError, match="is not readable") as caught:
        jobs.see("j")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "fields",
    [
        {"dependency_ids": b"[" * 100_000},
        {"webhooks": b"[" * 100_000},
        {"created_at": b"\xff", "result_ttl": "x", "enqueue_at_front": ""},
        {"data": zlib.compress(bytes(10 * MEGABYTE)), "exc_info": zlib.compress(bytes(20 * MEGABYTE))},
        {"meta": b"[" * 100_000},
        {"meta": json.dumps({"records": "x" * 2 * MEGABYTE})},
        {"meta": "[1]"},
    ],
    ids=range(7),
)
def test_fields_that_are_not_needed_are_not_read(
    client: redis.Redis, jobs: Jobs, fields: dict[str, str | bytes]
) -> None:
    """The receipt is there, and little memory was taken."""
    put(client, {**returned({"exit_code": 0}), "exc_string": b64encode(zlib.compress(bytes(10 * MEGABYTE)))}, **fields)
    tracemalloc.start()
    try:
        seen = jobs.see("j")
        assert tracemalloc.get_traced_memory()[1] < 6 * MEGABYTE
    finally:
        tracemalloc.stop()
    assert (seen.status, seen.receipt) == ("finished", {"exit_code": 0})
    assert "records" not in seen.notes


@pytest.mark.parametrize("stands", ["list", "nothing", "heartbeat", "status", "results"])
def test_what_is_no_job_is_an_error(client: redis.Redis, jobs: Jobs, stands: str) -> None:
    """At once, and not taken for a server that is away."""
    if stands == "list":
        client.lpush("rq:job:j", "x")
    elif stands == "heartbeat":
        client.hset("rq:job:j", "last_heartbeat", "x")
    elif stands != "nothing":
        put(client, status="nonsense" if stands == "status" else "finished")
        client.set("rq:results:j", "x")
    for act in (jobs.see, jobs.stop):
        if stands != "results" or act == jobs.see:
            with pytest.raises((NotFound, WorldError)):
                act("j")


def test_a_slot_is_not_doubled_by_two_at_once(redis_url: str, client: redis.Redis) -> None:
    """Both see that its job is over; one deletes and enqueues, and the other does not delete what is new."""
    with closing(Jobs(redis_url)) as faster, closing(Jobs(redis_url)) as slower:
        assert slower.enqueue(SLOT) == SLOT.slot
        client.hset(f"rq:job:{SLOT.slot}", "status", "finished")
        fetch = slower._fetch
        found: list[str | None] = []

        def overtaken(job_id: str) -> RqJob:
            job = fetch(job_id)
            if not found:
                found.append(faster.enqueue(SLOT))
                client.hset(f"rq:job:{SLOT.slot}", "status", "started")
            return job

        slower._fetch = overtaken  # type: ignore[method-assign]
        assert slower.enqueue(SLOT) is None
    assert found == [SLOT.slot]
    assert client.hget(f"rq:job:{SLOT.slot}", "status") == b"started"


def test_what_rq_leaves_behind_blocks_no_slot(jobs: Jobs, client: redis.Redis) -> None:
    """A heartbeat that came after its job was deleted."""
    client.hset(f"rq:job:{SLOT.slot}", "last_heartbeat", "2026-01-01T00:00:00Z")
    assert jobs.enqueue(SLOT) == SLOT.slot
    assert jobs.enqueue(SLOT) is None
    assert client.lrange("rq:queue:upsertq", 0, -1) == [SLOT.slot.encode()]


@pytest.mark.parametrize(
    "arguments",
    [
        ("ingest", "s3://AKIA:hunter2@bucket/x.parquet"),
        ("ingest", "/a", "--ids", "s3://hunter2:x@bucket/x"),
        ("ingest", "/a", "--namespace", "see redis://:hunter2@h"),
        ("ingest", "/s3:/AKIA:hunter2@bucket/x.parquet"),
        ("ingest", ""),
        ("ingest", "/a\x1b[2Jb"),
        ("ingest", *(f"/{number:0100}" for number in range(1_000))),
        ("ingest", "/" + "x" * 5_000),
        ("ingest", "/a", "--id-column", "\u202e"),
        ("drain", "--index-host", "user:hunter2@h"),
        ("drain", "--index-host", "https://hunter2@h/"),
        ("drain", "--index-host", "h", "--queue", "../x"),
        ("drain", "--index-host", "h", "--seconds", "nan"),
        ("drain", "--index-host", "h", "--slots", "100000"),
        ("replay", "\x1b[2J"),
        ("replay", "1-1", "--reason", "refused"),
        ("audit", "extra"),
        ("audit", "--index-host", "h"),
    ],
    ids=range(18),
)
def test_wrong_input_is_refused_before_it_is_in_redis(
    client: redis.Redis, redis_url: str, arguments: tuple[str, ...]
) -> None:
    """With code 2, and without a secret in what is said."""
    told = complaint("submit", *arguments, url=redis_url, expect=2)
    assert "hunter2" not in told
    assert client.keys("rq:job:*") == []


@pytest.mark.parametrize("name", ["\x1b[2J", "../x", "a:b", "x" * 10_000, "", "é"], ids=range(6))
def test_names_that_no_job_has(redis_url: str, name: str) -> None:
    """They are shown, in part, and never as they are."""
    for command in ("wait", "stop"):
        told = complaint("submit", command, name, url=redis_url, expect=1)
        assert "there is no job" in told
        assert len(told) < 400


def test_a_stop_of_another_queue_is_told(client: redis.Redis, redis_url: str) -> None:
    """A job without a worker cannot be told to stop, one without a queue can be taken from it."""
    put(client, status="started", worker_name="")
    assert "refuses" in complaint("submit", "stop", "j", url=redis_url, expect=1)
    put(client, status="queued", origin="")
    call("submit", "stop", "j", url=redis_url)
    with closing(Jobs(redis_url)) as jobs, pytest.raises(UpsertqError, match="canceled"):
        jobs.stop("j")
