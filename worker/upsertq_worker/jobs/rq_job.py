"""Owns a job as our rq worker takes it from Redis: a name of the table with JSON arguments, and nothing else is run.

Whatever stands in Redis is a stranger's. A job with a field that could make rq import, call or send something is
refused as a whole, and what is not known is not kept. No serializer but JSON is ever used, and none that Redis names.
"""

import inspect
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final, Self, cast
from urllib.parse import quote, urlencode

from redis import ResponseError, SSLConnection
from rq import Retry
from rq.exceptions import NoSuchJobError
from rq.job import Job as RqJob
from rq.job import JobStatus, validate_job_id
from rq.serializers import JSONSerializer

from upsertq.cli.exit_code import ExitCode, code_of
from upsertq.contract.errors import UpsertqError, UsageError, WorldError, shown
from upsertq.contract.printable import printable
from upsertq_worker.job_arguments import MOST_BYTES, check
from upsertq_worker.jobs.job_context import JobContext, active
from upsertq_worker.jobs.stopping import STOP, Stopped
from upsertq_worker.rq_queue import check_size

LOGGER: Final = logging.getLogger("upsertq.jobs")
HARMLESS: Final = {
    *("data", "origin", "status", "description", "worker_name", "meta"),
    *("created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat", "result_ttl", "failure_ttl", "ttl"),
    *("retries_left", "number_of_retries", "retry_intervals", "enqueue_at_front", "enqueue_at_front_on_retry"),
    *("dependency_id", "dependency_ids", "allow_dependency_failures", "repeats_left", "repeat_intervals"),
}
"""Fields that are kept: numbers, times, and names of jobs."""
UNUSED: Final = {"result", "exc_info", "timeout", "group_id"}
"""Fields that are passed over: a job is bounded by its own arguments, its results stand elsewhere, and to delete a job
of a group that is gone is an error to rq."""
DESCRIBED: Final = 200
MOST_NUMBER: Final = 10**9
"""Of seconds and of repetitions; what is beyond is an error to Redis, or to a clock."""
STATUSES: Final = {status.value.encode() for status in JobStatus}
MOST_STOPS: Final = 10_000
"""How often a job may go back to the queue."""
STOPPED_CODE: Final = 1
_LOGIN: Final = ("username", "password")


class JobRefused(UpsertqError):  # noqa: N818 - as its siblings
    """A job that is none of ours, or that wants more than to run."""


class Job(RqJob):
    """A job that can run a function of the table `calls`, and refuses whatever else it was told to do.

    Attributes:
        calls: the functions by the name that a job gives.
        refusal: why it does not run; empty where it does.
    """

    calls: ClassVar[Mapping[str, Callable[..., Any]]] = {}
    refusal: str = ""

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None) -> None:  # noqa: A002, ARG002
        super().__init__(id, connection, JSONSerializer)

    @classmethod
    def create(  # type: ignore[override]  # the rest is as it is there
        cls, func: Any, args: Any = None, kwargs: Any = None, **given: Any
    ) -> Self:
        """A new job; raises `UsageError` where its arguments are not fit for Redis."""
        check([list(args or ()), dict(kwargs or {})])
        return cast("Self", super().create(func, args, kwargs, **given))

    @classmethod
    def fetch(cls, id: str, connection: Any = None, serializer: Any = None) -> Self:  # noqa: A002
        """The job of this id; `NoSuchJobError` also where what stands there is none: no worker ends for that."""
        try:
            check_size(connection, cls.key_for(id))
            return cast("Self", super().fetch(id, connection, serializer))
        except (ValueError, ResponseError, WorldError) as error:
            raise NoSuchJobError(printable(str(error))) from None

    @classmethod
    def fetch_many(  # type: ignore[override]  # of this class
        cls, job_ids: Iterable[str], connection: Any, serializer: Any = None
    ) -> list[Self | None]:
        """The jobs of these ids, with `None` where there is none."""
        found: list[Self | None] = []
        for job_id in job_ids:
            try:
                found.append(cls.fetch(job_id, connection, serializer))
            except NoSuchJobError:
                found.append(None)
        return found

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Take what is harmless of the fields in Redis, and note what is not as the reason to refuse the job."""
        fields = {printable(bytes(name).decode("utf-8", "replace")): value for name, value in raw_data.items()}
        unknown = sorted(name for name in fields.keys() - HARMLESS - UNUSED if fields[name])
        if not self._take({name.encode(): value for name, value in fields.items() if name in HARMLESS}):
            unknown.insert(0, "a field that cannot be read")
        self.timeout = -1
        self.description = printable(str(self.description))[:DESCRIBED]
        if not isinstance(self.meta, dict):
            self.meta = {}
        try:
            plain = _unpacked(fields.get("data", b""))
            self.data = plain
            if unknown:
                raise JobRefused(
                    f"it has {', '.join(unknown)[:DESCRIBED]}: callbacks, webhooks and the like are not run"
                )
            name, arguments, options = _call(plain, self.calls)
        except UpsertqError as error:
            self.refusal = str(error)
            name, arguments, options = "refused", [], {}
        self._func_name, self._instance, self._args, self._kwargs = name, None, arguments, options

    def _take(self, kept: dict[bytes, bytes]) -> bool:
        """Have rq parse the fields but for the data, which it would unpack without a limit; whether it could."""
        for name in kept.keys() & {b"origin", b"worker_name"}:  # rq shows them in logs and in the list of processes
            kept[name] = printable(kept[name].decode("utf-8", "replace"))[:DESCRIBED].encode()
        if b"data" in kept:
            kept[b"data"] = b""
        try:
            if len(kept.get(b"meta", b"")) > MOST_BYTES:
                raise ValueError  # noqa: TRY301 - as what cannot be parsed
            super().restore(kept)
            _check_numbers(self, self._dependency_ids)
        except NoSuchJobError:
            raise
        except Exception:  # noqa: BLE001 - rq parses a dozen fields, and each raises its own
            status = {b"status": kept[b"status"]} if kept.get(b"status") in STATUSES else {}
            super().restore({b"data": b"", b"origin": kept.get(b"origin", b""), **status})
            self.retry_intervals = self.repeat_intervals = self.repeats_left = None
            return False
        return True

    @property
    def func(self) -> Callable[..., Any]:
        """The function of the table; nothing is imported."""
        return self.calls[str(self.func_name)]

    @property
    def success_callback(self) -> None:
        """None, ever."""

    @property
    def failure_callback(self) -> None:
        """None, ever."""

    @property
    def stopped_callback(self) -> None:
        """None, ever."""

    def send_webhooks(self, *_: Any, **__: Any) -> None:
        """Send nothing."""

    def perform(self) -> Any:
        """Run the function; what it returns is the receipt.

        A job that is stopped since the worker shuts down goes back to the queue's head. One that is stopped for good
        ends its process, which the worker takes for what it is.
        """
        try:
            return self._run()
        except Stopped:
            LOGGER.info("job %s stops, as it was told to", self.id)
            if STOP.for_good:
                os._exit(STOPPED_CODE)
            return Retry(max=MOST_STOPS, enqueue_at_front=True)
        except Exception as error:
            self.retries_left = 0  # it would fail again: only a job whose process died is begun again
            self.meta |= {"error": reason_of(error), "exit_code": _code_of(error)}
            self._save_notes()
            raise

    def _run(self) -> Any:
        if self.refusal:
            raise JobRefused(self.refusal)
        with active(JobContext(url_of(self.connection), self.meta, self._save_notes)) as context:
            for stale in ("error", "exit_code"):
                self.meta.pop(stale, None)
            STOP.check()
            try:
                return super().perform()
            finally:
                context.save()

    def _save_notes(self) -> None:
        self.save_meta()  # type: ignore[no-untyped-call]


def reason_of(error: BaseException) -> str:
    """Why a job failed, in one line."""
    text = str(error) if isinstance(error, UpsertqError) else f"{type(error).__name__}: {error}"
    return printable(" ".join(text.split()))[:1000]


def _code_of(error: Exception) -> int:
    return code_of(error) if isinstance(error, UpsertqError) else ExitCode.FAILED


def _check_numbers(job: RqJob, dependencies: object) -> None:
    """Raise `ValueError` for numbers and lists at which rq or Redis would fail once the job has ended."""
    for intervals in (job.retry_intervals, job.repeat_intervals):
        if intervals is not None and (type(intervals) is not list or not intervals):
            raise ValueError
    if not isinstance(dependencies, list):
        raise ValueError  # noqa: TRY004 - as the others
    counts = [job.result_ttl, job.failure_ttl, job.ttl, job.retries_left, job.number_of_retries]
    for one in (*counts, *(job.retry_intervals or ()), *(job.repeat_intervals or ())):
        if one is not None and not (type(one) in {int, float} and -1 <= one <= MOST_NUMBER):
            raise ValueError
    for one in dependencies:
        validate_job_id(one)


def _call(plain: bytes, calls: Mapping[str, Callable[..., Any]]) -> tuple[str, list[Any], dict[str, Any]]:
    """The name and the arguments; raises `JobRefused` where they are not fit to be called."""
    try:
        name, instance, arguments, options = json.loads(plain)
        if not isinstance(arguments, list) or not isinstance(options, dict):
            raise TypeError  # noqa: TRY301 - as what cannot be unpacked
    except (ValueError, TypeError, RecursionError):
        raise JobRefused(
            "its data is no JSON call: enqueue it with `upsertq submit`, or with the JSON serializer"
        ) from None
    if not isinstance(name, str) or name not in calls or instance is not None:
        raise JobRefused(f"it calls {shown(name)}: this worker runs {', '.join(sorted(calls))}, nothing else")
    check([arguments, options])
    try:
        inspect.signature(calls[name]).bind(*arguments, **options)
    except TypeError as error:
        raise JobRefused(f"its arguments do not fit {name}: {error}") from None
    return name, arguments, options


def _unpacked(packed: bytes) -> bytes:
    """The data of a job, which rq compresses; cut off beyond what arguments may take."""
    try:
        unpacking = zlib.decompressobj()
        plain = unpacking.decompress(packed, 2 * MOST_BYTES)
    except zlib.error:
        plain = packed
    if len(plain) >= 2 * MOST_BYTES:
        raise JobRefused(f"its arguments take more than {MOST_BYTES:,} bytes")
    return plain


def url_of(connection: Any) -> str:
    """The address of the queue's server: UPSERTQ_REDIS_URL of this process, else that of rq's own connection."""
    if url := os.environ.get("UPSERTQ_REDIS_URL"):
        return url
    pool = connection.connection_pool
    to: dict[str, Any] = pool.connection_kwargs
    login = f"{quote(to.get('username') or '', '')}:{quote(to['password'], '')}@" if to.get("password") else ""
    query = {name: str(value) for name, value in to.items() if name.startswith("ssl_") and value is not None}
    scheme = "rediss" if issubclass(pool.connection_class, SSLConnection) else "redis"
    # not of the pool, which a worker of a pool makes anew
    if named := to.get("connection_pool"):
        manager = named.sentinel_manager
        query |= {f"sentinel_{name}": value for name in _LOGIN if (value := manager.sentinel_kwargs.get(name))}
        hosts = ",".join(_host(one.connection_pool.connection_kwargs) for one in manager.sentinels)
        where = f"{hosts}/{quote(named.service_name, '')}"
        return f"{scheme}+sentinel://{login}{where}/{to.get('db', 0)}?{urlencode(query)}".rstrip("?")
    if "path" in to:
        return f"unix://{login}{quote(to['path'])}?db={to.get('db', 0)}"
    if "host" not in to or to.get("credential_provider"):
        raise UsageError(
            "rq's connection cannot be written as a URL: set UPSERTQ_REDIS_URL in the environment of the rq worker"
        )
    return f"{scheme}://{login}{_host(to)}/{to.get('db', 0)}?{urlencode(query)}".rstrip("?")


def _host(to: Mapping[str, Any]) -> str:
    host = f"[{to['host']}]" if ":" in to["host"] else to["host"]
    return f"{host}:{to.get('port', 6379)}"
