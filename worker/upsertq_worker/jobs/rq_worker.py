"""Owns the rq worker of our jobs: it stops the job that runs in good order, and takes jobs as `rq_job` has them.

`rq worker -w upsertq_worker.jobs.Worker upsertq` is all that is typed: the job class, the serializer and the queue
class are its own, whatever the command line says.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, NoReturn

from redis import Redis
from redis.exceptions import ConnectionError, ResponseError, TimeoutError  # noqa: A004 - these are not the builtins
from rq import Queue as RqQueue
from rq.registry import CanceledJobRegistry
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import Worker as RqWorker

from upsertq.contract.address import Address
from upsertq.contract.connect import client
from upsertq.contract.errors import UsageError
from upsertq.contract.printable import printable
from upsertq.contract.reply_errors import failed
from upsertq_worker.edge.process import log_to_stderr
from upsertq_worker.jobs.rq_job import Job, reason_of
from upsertq_worker.jobs.stopping import STOP, Stopped
from upsertq_worker.rq_queue import NO_CLUSTER

MAINTENANCE_SECONDS: Final = 60
"""How often jobs are looked for whose worker has died."""
DEQUEUE_MARGIN: Final = 15
"""An idle worker looks for such jobs when its wait for a job ends: so many seconds before its own time is up."""
AGAIN_SECONDS: Final = 5.0
TOLD: Final = (signal.SIGTERM, signal.SIGINT)


def _give_up(why: str) -> NoReturn:
    """End the process with one line, after a while: a pool starts another one at once."""
    with suppress(KeyboardInterrupt):
        sys.stderr.write(f"upsertq: {printable(why)}\n")
        time.sleep(AGAIN_SECONDS)
    raise SystemExit(1) from None


def _in_a_cluster(connection: Any) -> bool:
    """Whether the server says that it is a node of a cluster; one that may not be asked is taken as it is."""
    with suppress(ResponseError):
        return bool(connection.info("cluster").get("cluster_enabled"))
    return False


class Connection(Redis):
    """What `rq --connection-class` (RQ_CONNECTION_CLASS) takes: it also knows redis+sentinel:// URLs."""

    @classmethod
    def from_url(cls, url: str, **given: Any) -> Any:
        """A client of the server, or of the primary that Sentinels name."""
        try:
            address = Address.of(url)
            if not address.sentinels:
                return super().from_url(url, **given)
            return client(address, None)
        except (UsageError, ValueError) as error:
            raise SystemExit(f"upsertq: {error}") from None


class Queue(RqQueue):
    """The RQ queue of our jobs: whatever reads jobs from it reads them safely, `rq info --queue-class …` included."""

    job_class = Job

    def __init__(self, name: str = "upsertq", connection: Any = None, **given: Any) -> None:
        given |= {"job_class": Job, "serializer": JSONSerializer}
        super().__init__(name, connection, **given)

    @classmethod
    def dequeue_any(cls, *given: Any, **more: Any) -> Any:
        """The next job; what is no text in the list of ids is passed over."""
        while True:
            try:
                return super().dequeue_any(*given, **more)
            except UnicodeDecodeError:
                continue


class Worker(RqWorker):
    """Runs each job in a process of its own, which is told to stop with the worker, and when the job is stopped."""

    job_class = Job
    queue_class: type[RqQueue] = Queue

    def __init__(self, queues: Any, name: str | None = None, **given: Any) -> None:
        listed = [queues] if isinstance(queues, str | RqQueue) else list(queues) if isinstance(queues, Iterable) else []
        names = [one if isinstance(one, str) else one.name for one in listed]
        connection = given.pop("connection", None) or next(
            one.connection for one in listed if hasattr(one, "connection")
        )
        given |= {"job_class": Job, "queue_class": Queue, "serializer": JSONSerializer}
        try:
            if _in_a_cluster(connection):
                _give_up(NO_CLUSTER)
            super().__init__(names, name, connection=connection, **given)
        except (ConnectionError, TimeoutError) as error:
            _give_up(f"the server of the rq jobs does not answer: {failed(error).message}")
        self.maintenance_interval = min(self.maintenance_interval, MAINTENANCE_SECONDS)
        self.worker_ttl = min(self.worker_ttl, MAINTENANCE_SECONDS + DEQUEUE_MARGIN)

    def run_maintenance_tasks(self) -> None:
        """Look after the registries; what a stranger left in them ends no worker."""
        try:
            super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:  # noqa: BLE001 - rq reads them as if all was its own
            self.last_cleaned_at = now()  # type: ignore[assignment]  # declared as None
            self.log.warning("Worker %s: the registries in Redis cannot be read: %s", self.name, reason_of(error))

    def handle_payload(self, message: Any) -> None:
        """Take a command that was published; one that cannot be read would end the thread that takes them."""
        try:
            super().handle_payload(message)  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            self.log.warning("Worker %s: a command cannot be read: %s", self.name, reason_of(error))

    def maintain_heartbeats(self, job: Any, execution: Any) -> None:
        """Say that the job runs; a server that is away for a moment ends neither worker nor job."""
        try:
            super().maintain_heartbeats(job, execution)
        except (ConnectionError, TimeoutError) as error:
            self.log.warning("Worker %s: no heartbeat for job %s: %s", self.name, job.id, failed(error).message)

    def execute_job(self, job: Any, queue: Any) -> None:
        """Run a job to its end."""
        self._stopped_job_id = None  # of an earlier job, which ended before it was told
        super().execute_job(job, queue)

    def fork_work_horse(self, job: Any, queue: Any) -> None:
        """Begin the process of the job, and pass on the word that came before it could take one."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, TOLD)
        try:
            super().fork_work_horse(job, queue)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if self._stopped_job_id == job.id:
            self._tell(signal.SIGINT)
        elif self._stop_requested:
            self._tell(signal.SIGTERM)

    def prepare_job_execution(self, job: Any, *given: Any, **more: Any) -> None:
        """Note that the job runs; raises `Stopped` where it was taken out of the queue while it was in our hands."""
        super().prepare_job_execution(job, *given, **more)
        # after the note: what is to stop the job from now on sees that it runs, and tells us
        canceled = CanceledJobRegistry(job.origin, self.connection, job_class=Job, serializer=JSONSerializer)
        if self.connection.zrem(canceled.key, job.id):
            self._stopped_job_id = job.id
            raise Stopped

    def setup_work_horse_signals(self) -> None:
        """Let the process of the job take its own signals, those that came meanwhile included."""
        STOP.listen(self.pid or os.getppid())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD)
        log_to_stderr()

    def handle_warm_shutdown_request(self) -> None:
        """Tell the job that runs to stop: it goes back to the queue."""
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]
        self._tell(signal.SIGTERM)

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Tell a job to stop that is stopped by its id; kill its process where rq means that."""
        if self._stopped_job_id:
            self._tell(signal.SIGINT)
        else:
            super().kill_horse(sig)

    def handle_work_horse_killed(self, job: Any, *died: Any) -> None:
        """Read the notes of a job whose process died: rq saves those of before when it enqueues the job again."""
        with suppress(ValueError, RecursionError):
            noted = job.meta
            job.get_meta()
        if not isinstance(job.meta, dict):
            job.meta = noted
        super().handle_work_horse_killed(job, *died)  # type: ignore[no-untyped-call]

    def handle_exception(self, job: Any, *exc_info: Any) -> None:
        """Say in one line why a job failed; the traceback is kept with its result."""
        if isinstance(exc_info[1], Stopped):
            self.log.info("Worker %s: job %s was stopped before it began", self.name, job.id)
            return
        self.log.error("Worker %s: job %s (%s) failed: %s", self.name, job.id, job.func_name, reason_of(exc_info[1]))
        for handler in self._exc_handlers:
            if handler(job, *exc_info) is False:
                break

    def _tell(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            if self.horse_pid:
                os.kill(self.horse_pid, number)
