"""Owns the RQ queue as those see it that hand jobs over: enqueues them by name, follows them, stops them.

Nothing that Redis names is imported here: of a job only its status, its notes and its receipt are read, as JSON, up to
a limit.
"""

import json
import zlib
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import RedisError, ResponseError, WatchError
from rq import Queue, Retry
from rq.command import send_command
from rq.exceptions import DuplicateJobError, InvalidJobOperation, NoSuchJobError
from rq.job import Job as RqJob
from rq.job import JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.worker import Worker

from upsertq.contract.address import Address
from upsertq.contract.connect import client
from upsertq.contract.errors import NotFound, ServerUnavailable, WorldError, shown
from upsertq.contract.reply_errors import failed
from upsertq_worker.job_arguments import check

NAME: Final = "upsertq"
"""Of the RQ queue."""
MODULE: Final = "upsertq_worker.jobs"
RESULT_SECONDS: Final = 86_400
FAILURE_SECONDS: Final = 7 * 86_400
DEATHS: Final = 3
"""How often a job is begun again after its process died."""
NO_CLUSTER: Final = (
    "RQ cannot keep its jobs in a Redis Cluster, for its transactions span slots: give RQ a server of its own "
    "(--redis-url or RQ_REDIS_URL); the queues stay where UPSERTQ_REDIS_URL says"
)
MOST_BYTES: Final = 1 << 20
"""Of what a job says, unpacked: its notes, its receipt, its error."""
MOST_STORED: Final = 32 << 20
"""Bytes of the server's memory that a job, or its results, may take; what is larger is not read."""
_STRANGE: Final = "what stands in Redis for this job is not readable"
_OVER: Final = {JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED}


@dataclass(frozen=True, slots=True)
class Call:
    """A job to enqueue: one of the four by name, its arguments, and how it is described in logs.

    With `slot` it has a fixed id: there is one such job at a time.
    """

    name: str
    arguments: tuple[Any, ...]
    description: str
    slot: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a job: its status in RQ's words, its notes, and once it is finished its receipt."""

    status: str
    notes: dict[str, Any]
    receipt: dict[str, Any] | None
    error: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing will come any more."""
        return self.status in _OVER


def check_size(connection: Any, key: str) -> None:
    """Raise `WorldError` where what stands there is too large to be read; a server that does not tell is trusted."""
    try:
        size = connection.memory_usage(key, samples=0) or 0
    except ResponseError:  # it does not know the command, or does not permit it
        return
    if size > MOST_STORED:
        raise WorldError(f"{_STRANGE}: {key} takes {size:,} bytes of at most {MOST_STORED:,}")


class Job(RqJob):
    """A job of which only what is needed is taken: to follow it, to stop it and to delete it."""

    def refresh(self) -> None:
        """Read it from Redis, up to a size."""
        check_size(self.connection, self.key)
        super().refresh()  # type: ignore[no-untyped-call]

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Take these fields; the data stays packed."""
        kept = {name: raw_data[name] for name in (b"status", b"origin", b"worker_name", b"meta") if name in raw_data}
        if len(kept.get(b"meta", b"")) > MOST_BYTES:
            del kept[b"meta"]
        super().restore({**kept, b"data": b""} if b"data" in raw_data else kept)


class Jobs:
    """The jobs of the server at `url`."""

    def __init__(self, url: str) -> None:
        connection: Any = client(Address.of(url), None)
        self._connection = connection
        self._queue = Queue(NAME, connection=connection, serializer=JSONSerializer)

    def close(self) -> None:
        """Close every connection."""
        self._connection.close()

    def enqueue(self, call: Call) -> str | None:
        """Enqueue a job and return its id; `None` where its slot is taken by a job that is not over.

        Raises:
            UsageError: the arguments are not fit for Redis.
            ServerUnavailable: the server does not answer.
        """
        check(list(call.arguments))
        with _mapped():
            try:
                return self._enqueue(call)
            except DuplicateJobError:
                if not self._cleared(call.slot):
                    return None
            try:
                return self._enqueue(call)
            except DuplicateJobError:
                return None  # another one was faster

    def listening(self) -> int:
        """How many rq workers listen on the queue, as far as RQ knows."""
        with _mapped():
            return Worker.count(queue=self._queue)

    def see(self, job_id: str) -> Seen:
        """What is known of a job; `NotFound` where there is none (any more)."""
        with _mapped():
            return self._see(job_id)

    def stop(self, job_id: str) -> None:
        """Have a job stopped by its worker, or taken from the queue; one that begins meanwhile counts as begun."""
        with _mapped(), self._connection.pipeline() as pipe:
            while True:
                pipe.watch(Job.key_for(job_id))
                job = self._fetch(job_id)
                status = job.get_status(refresh=False)
                if status in _OVER:
                    raise WorldError(f"job {job_id} is over already: it is {status.value}")
                if status == JobStatus.STARTED:
                    if not job.worker_name:
                        raise InvalidJobOperation(f"job {job_id} has no worker")
                    send_command(self._connection, job.worker_name, "stop-job", job_id=job_id)
                    return
                pipe.multi()
                job.cancel(pipeline=pipe)
                with suppress(WatchError):
                    pipe.execute()
                    return

    def _cleared(self, job_id: str) -> bool:
        """Delete a job that is over; `False` where it is not, or where it was replaced meanwhile."""
        with self._connection.pipeline() as pipe:
            pipe.watch(Job.key_for(job_id))
            try:
                job = self._fetch(job_id)
            except NotFound:
                job = None  # rq leaves a heartbeat behind
            if job is not None and job.get_status(refresh=False) not in _OVER:
                return False
            pipe.multi()
            if job is None:
                pipe.delete(Job.key_for(job_id))
            else:
                job.delete(pipeline=pipe)
            try:
                pipe.execute()
            except WatchError:
                return False
        return True

    def _enqueue(self, call: Call) -> str:
        job = self._queue.enqueue_call(
            f"{MODULE}.{call.name}",
            args=list(call.arguments),
            timeout=-1,
            result_ttl=RESULT_SECONDS,
            failure_ttl=FAILURE_SECONDS,
            description=call.description,
            job_id=call.slot or None,
            unique=bool(call.slot),
            retry=Retry(max=DEATHS),
        )
        return job.id

    def _fetch(self, job_id: str) -> RqJob:
        try:
            return Job.fetch(job_id, connection=self._connection, serializer=JSONSerializer)
        except (NoSuchJobError, ValueError):  # the latter for what cannot be an id
            raise NotFound(
                f"there is no job {shown(job_id)} on this server (any more): receipts are kept for a day, see also "
                f"`rq info {NAME}`"
            ) from None

    def _see(self, job_id: str) -> Seen:
        job = self._fetch(job_id)
        status = job.get_status(refresh=False)
        noted: Any = job.meta
        notes = noted if isinstance(noted, dict) else {}
        if status not in _OVER:
            return Seen(status.value, notes, None)
        check_size(self._connection, Result.get_key(job_id))  # type: ignore[no-untyped-call]
        entries = self._connection.xrevrange(Result.get_key(job_id), count=1)  # type: ignore[no-untyped-call]
        result: dict[bytes, bytes] = entries[0][1] if entries else {}
        receipt: Any = None
        if status == JobStatus.FINISHED and b"return_value" in result:
            receipt = json.loads(_limited(b64decode(result[b"return_value"])))
        told = zlib.decompressobj().decompress(b64decode(result.get(b"exc_string", b"")), MOST_BYTES)
        error = told.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return Seen(status.value, notes, receipt if isinstance(receipt, dict) else None, error)


def _limited(text: bytes) -> bytes:
    if len(text) > MOST_BYTES:
        raise ValueError(f"the receipt has {len(text):,} bytes")
    return text


def _unable(error: Exception) -> ServerUnavailable:
    return ServerUnavailable(f"the server of the rq jobs does not do its part: {failed(error).message}")


@contextmanager
def _mapped() -> Iterator[None]:
    """Turn what redis-py and rq raise into our errors."""
    try:
        yield
    except ResponseError as error:
        if str(error).startswith("WRONGTYPE"):
            raise WorldError(f"{_STRANGE}: {error}") from None
        raise _unable(error) from None
    except RedisError as error:
        raise _unable(error) from None
    except InvalidJobOperation as error:
        raise WorldError(f"rq refuses: {error}") from None
    except (ValueError, TypeError, LookupError, RecursionError, zlib.error) as error:
        raise WorldError(f"{_STRANGE}: {error}") from None
