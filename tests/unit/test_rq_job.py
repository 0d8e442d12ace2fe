"""What an rq worker of ours makes of whatever stands in Redis: a call of the table, or a refusal that runs nothing."""

from __future__ import annotations

import json
import pickle
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import fakeredis
import pytest
import rq
import rq.job
from rq.serializers import JSONSerializer

from upsertq.contract.address import Address
from upsertq.contract.errors import UsageError
from upsertq_worker.jobs import Job, Queue, Worker, audit
from upsertq_worker.jobs.rq_job import JobRefused, url_of
from upsertq_worker.jobs.rq_worker import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator

AUDIT: Final[list[Any]] = ["upsertq_worker.jobs.audit", None, ["default"], {}]


@pytest.fixture
def client() -> Iterator[fakeredis.FakeRedis]:
    """Provide a server without a server."""
    with fakeredis.FakeRedis() as client:
        yield client


def packed(call: Any) -> bytes:
    """The data of a job as rq keeps it."""
    return zlib.compress(json.dumps(call).encode())


def taken(client: fakeredis.FakeRedis, data: bytes, **fields: str | bytes) -> Job:
    """The job as a worker takes it from Redis."""
    mapping: dict[Any, Any] = {"data": data, "status": "queued", "origin": "upsertq", **fields}
    client.hset("rq:job:j", mapping=mapping)
    return Job.fetch("j", connection=client)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_call_of_the_table_is_taken(client: fakeredis.FakeRedis) -> None:
    """With its arguments, without rq's own time limit, and without the fields that rq leaves empty."""
    job = taken(client, packed(AUDIT), success_callback_name="", timeout="180", result_ttl="60", group_id="")
    assert (job.refusal, job.func, job.args, job.kwargs) == ("", audit, ["default"], {})
    assert (job.timeout, job.result_ttl) == (-1, 60)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (["os.system", None, ["touch /tmp/x"], {}], "it calls 'os.system'"),
        (
            ["upsertq_worker.jobs.loads.ingest", None, [["/a"], "q", None, {}], {}],
            "it calls 'upsertq_worker.jobs.loads",
        ),
        (["upsertq_worker.jobs.audit", "instance", [], {}], "it calls"),
        ([["upsertq_worker.jobs.audit"], None, [], {}], "it calls"),
        (["upsertq_worker.jobs.audit", None, ["a", "b"], {}], "its arguments do not fit"),
        (["upsertq_worker.jobs.audit", None, [], {"nonsense": 1}], "its arguments do not fit"),
        (["upsertq_worker.jobs.audit", None, 5, {}], "no JSON call"),
        (["upsertq_worker.jobs.audit", None, ["redis://:hunter2@h"], {}], "a URL with a login"),
        (["upsertq_worker.jobs.audit", None, ["x" * 200_000], {}], "more than 65,536 bytes"),
        (["upsertq_worker.jobs.audit"], "no JSON call"),
        ("text", "no JSON call"),
        (["upsertq_worker.jobs.audit", None, "ab", {}], "no JSON call"),
    ],
    ids=range(12),
)
def test_another_call_is_refused(client: fakeredis.FakeRedis, call: Any, said: str) -> None:
    """The reason names what was wrong, and performing the job is nothing but that reason."""
    job = taken(client, packed(call))
    assert said in job.refusal
    assert "hunter2" not in job.refusal
    with pytest.raises(JobRefused, match="refused|" + said.replace("'", ".")):
        job.perform()
    assert json.loads(client.hget("rq:job:j", "meta") or b"")["error"] == job.refusal


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("success_callback_name", "os.getpid"),
        ("failure_callback_name", "os.getpid"),
        ("stopped_callback_name", "os.getpid"),
        ("webhooks", json.dumps([{"url": "http://127.0.0.1:1/", "job_status": "failed"}])),
        ("rate_limit_key", "x"),
        ("of_a_later_version", "x"),
    ],
)
def test_what_would_do_more_is_refused(client: fakeredis.FakeRedis, field: str, value: str) -> None:
    """A callback, a webhook, a limit, and what is not known: the job is refused, and nothing of it is kept."""
    job = taken(client, packed(AUDIT), **{field: value})
    assert field in job.refusal
    assert not job.webhooks
    assert job.success_callback is job.failure_callback is job.stopped_callback is None
    assert not job.has_rate_limit


@pytest.mark.parametrize("field", ["data", "meta", "result", "exc_info", "of_a_stranger"])
def test_nothing_is_unpickled(client: fakeredis.FakeRedis, field: str, tmp_path: Path) -> None:
    """A pickle is data that cannot be read, wherever it stands; rq's own default would have made the file."""
    bomb = pickle.dumps(Bomb(tmp_path / "made"))
    job = taken(client, **{"data": packed(AUDIT), field: bomb})
    assert bool(job.refusal) == (field in {"data", "of_a_stranger"})
    assert not (tmp_path / "made").exists()
    if field == "data":
        with pytest.raises(rq.exceptions.DeserializationError):
            rq.job.Job.fetch("j", connection=client).func_name  # noqa: B018 - reading it is what unpickles
        assert (tmp_path / "made").exists()


def test_a_bomb_of_zeros_is_not_unpacked(client: fakeredis.FakeRedis) -> None:
    """Data that would take a gigabyte is cut off."""
    assert "more than 65,536 bytes" in taken(client, zlib.compress(b"[" * 200_000_000)).refusal


@pytest.mark.parametrize("field", ["created_at", "result_ttl", "status", "dependency_ids", "retries_left", "meta"])
def test_fields_that_cannot_be_read_end_no_worker(client: fakeredis.FakeRedis, field: str) -> None:
    """The job is refused, or the field is taken for empty."""
    job = taken(client, packed(AUDIT), **{field: b"\xff{nonsense"})
    assert (field == "meta") or "cannot be read" in job.refusal


def test_fields_that_are_nested_without_end_end_no_worker(client: fakeredis.FakeRedis) -> None:
    """Neither in the data nor in a list of rq's own."""
    deep = b"[" * 60_000
    assert "no JSON call" in taken(client, zlib.compress(deep)).refusal
    assert "cannot be read" in taken(client, packed(AUDIT), dependency_ids=deep).refusal


@pytest.mark.parametrize("stands", ["list", "heartbeat", "nothing", "name"])
def test_what_is_no_job_is_passed_over(client: fakeredis.FakeRedis, stands: str) -> None:
    """A key of another type, what rq itself leaves of a job, no key, and an id that can be none."""
    if stands == "list":
        client.lpush("rq:job:j", "x")
    if stands == "heartbeat":
        client.hset("rq:job:j", "last_heartbeat", "2026-01-01T00:00:00Z")
    with pytest.raises(rq.exceptions.NoSuchJobError):
        Job.fetch("a b" if stands == "name" else "j", connection=client)


def test_the_worker_uses_its_own_classes(client: fakeredis.FakeRedis) -> None:
    """Whatever the command line hands over: rq's own defaults are pickle and an import by name."""
    given = [rq.Queue("upsertq", connection=client)]
    worker = Worker(given, name="w", connection=client, job_class=rq.job.Job, queue_class=rq.Queue, serializer="pickle")
    assert worker.job_class is Job
    assert worker.serializer is JSONSerializer
    assert [(type(one), one.name, one.job_class, one.serializer) for one in worker.queues] == [
        (Queue, "upsertq", Job, JSONSerializer)
    ]
    assert Queue("upsertq", client, job_class=rq.job.Job, serializer="pickle").serializer is JSONSerializer


def test_a_secret_is_refused_before_it_is_in_redis(client: fakeredis.FakeRedis) -> None:
    """The queue of ours checks arguments where a job is made."""
    with pytest.raises(UsageError, match="a URL with a login"):
        Queue(connection=client).enqueue(audit, "redis://:hunter2@h")
    assert client.keys("rq:job:*") == []


def test_a_job_runs_in_our_worker_alone() -> None:
    """Called elsewhere, as by a plain `rq worker`, it says by what it is run."""
    with pytest.raises(UsageError, match=r"rq worker -w upsertq_worker\.jobs\.Worker upsertq"):
        audit("default")


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6400/3",
        "redis://us%2Fer:p%40ss@[::1]:6400/0",
        "redis://:p%2Fw@h:6379/0",
        "unix:///tmp/a%20b.sock?db=2",
        "rediss://h:6380/1?ssl_cert_reqs=none&ssl_ca_certs=%2Fca.pem",
    ],
)
def test_the_address_of_rqs_connection(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what a client of the same server is made from, unless the environment says otherwise."""
    import redis  # noqa: PLC0415 - of the test alone

    made, again = redis.Redis.from_url(url), redis.Redis.from_url(url_of(redis.Redis.from_url(url)))
    for name in ("host", "port", "path", "username", "password", "ssl_ca_certs", "ssl_cert_reqs"):
        assert (made.connection_pool.connection_kwargs.get(name) or "") == (
            again.connection_pool.connection_kwargs.get(name) or ""
        ), name
    assert made.connection_pool.connection_class is again.connection_pool.connection_class
    assert int(made.connection_pool.connection_kwargs.get("db", 0)) == again.connection_pool.connection_kwargs["db"]
    monkeypatch.setenv("UPSERTQ_REDIS_URL", "redis://elsewhere/0")
    assert url_of(made) == "redis://elsewhere/0"


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://h:1,[::1]:2/queues/3",
        "rediss+sentinel://u%40:p%2F@h:1/q?ssl_ca_certs=%2Fa+b&sentinel_username=s&sentinel_password=%26",
    ],
)
def test_the_address_of_rqs_connection_behind_sentinels(url: str) -> None:
    """Also of the connections that a pool makes anew for its workers."""
    import redis  # noqa: PLC0415 - of the test alone

    made = Connection.from_url(url)
    pool = made.connection_pool
    again = redis.Redis(
        connection_pool=redis.ConnectionPool(connection_class=pool.connection_class, **pool.connection_kwargs)
    )
    address, found = Address.of(url), Address.of(url_of(again))
    assert (found.sentinels, found.service) == (address.sentinels, address.service)
    said, expected = (redis.Redis.from_url(one.url).connection_pool.connection_kwargs for one in (found, address))
    for name in ("username", "password", "ssl_ca_certs", "sentinel_username", "sentinel_password"):
        assert said.get(name) == expected.get(name), name
    assert said["db"] == int(expected.get("db") or 0)
    assert url_of(made) == url_of(again)


def test_rqs_own_serializer_cannot_read_our_jobs(client: fakeredis.FakeRedis) -> None:
    """So a plain `rq worker` fails them, and runs nothing."""
    Queue(connection=client).enqueue(audit, job_id="j")
    with pytest.raises(rq.exceptions.DeserializationError):
        rq.job.Job.fetch("j", connection=client).func  # noqa: B018 - reading it is what would import
