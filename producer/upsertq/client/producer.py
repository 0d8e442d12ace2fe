"""Owns the producer that blocking code uses; what it does is decided in `upsertq.client.producer_core`."""

import os
import threading
import time
from collections.abc import Iterable
from typing import Any, Self

import numpy.typing as npt

from upsertq.client.enqueue import Limits
from upsertq.client.producer_core import Intake
from upsertq.client.receipt import Receipt
from upsertq.contract.books import Books
from upsertq.contract.circumstances import Circumstances
from upsertq.contract.connect import CredentialProvider
from upsertq.contract.keys import checked_name
from upsertq.contract.record import Metadata
from upsertq.contract.server import Server
from upsertq.contract.values import SparseValues, Values

DEFAULT_URL = "redis://localhost:6379/0"
DEFAULT_TIMEOUT = 60.0
DEFAULT_LIMITS = Limits()


def intake_of(
    queue: str, shards: int | None, limits: Limits, max_dead: int | None, timeout: float, *, allow_eviction: bool
) -> Intake:
    """The intake of a producer on the real clocks; arguments as `Producer`'s."""
    world = Circumstances(time.monotonic, time.time, process=os.getpid)
    return Intake(
        queue,
        shards=shards,
        limits=limits,
        max_dead=max_dead,
        timeout=timeout,
        world=world,
        allow_eviction=allow_eviction,
    )


class Producer:
    """Puts vector records into a queue; blocking, safe to share between threads.

    `put` validates and takes a record; it is durable once the `flush` that follows returns (leaving the `with` block
    flushes). Records are packed by 50, so flush after a piece of work, not after each record.

    After a fork parent and child may both go on with it. Flush before: what is not confirmed is enqueued by both. Fork
    while no other thread is in a call of it: the child would have it locked for ever.

    Args:
        queue: name of the queue, created when it is not there.
        url: the server (`redis://`, `rediss://`, `unix://`, `redis+sentinel://HOST:PORT,HOST:PORT/NAME`) or a node of a
            cluster, or a `Server`.
        shards: number of ordered streams, a power of two; fixed when the queue is created (16 unless given).
        limits: the backlog to stay under.
        max_dead: dead letters in the queue at which nothing more is enqueued and `TooManyDead` is raised; `None` for
            no limit. Nothing taken is dropped by that either: call again once they are replayed or discarded.
        timeout: seconds that a call waits for room in the backlog or for an absent server before it raises
            `QueueFull` or `ServerUnavailable`; 0 raises at once. Nothing taken is dropped by that: call again.
        allow_eviction: use also a server whose `maxmemory-policy` is `allkeys-…`, which removes records when its
            memory is full; `ServerUnfit` is raised for it otherwise.
        credential_provider: one of redis-py, which gives user and password for each connection; with a `url` alone.
    """

    def __init__(
        self,
        queue: str = "default",
        *,
        url: str | Server = DEFAULT_URL,
        shards: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
        max_dead: int | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        allow_eviction: bool = False,
        credential_provider: CredentialProvider | None = None,
    ) -> None:
        self._intake = intake_of(queue, shards, limits, max_dead, timeout, allow_eviction=allow_eviction)
        given = url if isinstance(url, Server) else None
        self._server = given or Server.at(str(url), credential_provider=credential_provider)
        self._lock = threading.RLock()

    def put(
        self,
        id: str,  # noqa: A002 - the contract's word
        values: Values | None = None,
        *,
        sparse_values: SparseValues | None = None,
        metadata: Metadata | None = None,
        namespace: str = "",
        run: str = "",
    ) -> None:
        """Validate one record and take it.

        Args:
            id: 1 to 512 ASCII characters.
            values: d numbers, cast to float32; `None` for a sparse-only record.
            sparse_values: `{"indices": [...], "values": [...]}`.
            metadata: flat names and values.
            namespace: `""` for the default one.
            run: the run that this record belongs to.

        Raises:
            InvalidRecord: a rule is broken; nothing was taken.
            QueueFull: no room within the timeout; this record was not taken.
            TooManyDead: the queue has `max_dead` dead letters; this record was not taken.
            ServerUnavailable: the server stayed away; this record was not taken.
        """
        with self._lock:
            self._server.hold(self._intake.put(id, values, sparse_values, metadata, namespace, run))

    def put_many(
        self,
        ids: Iterable[str | int],
        matrix: npt.NDArray[Any] | Iterable[Values] | None = None,
        *,
        sparse_values: Iterable[SparseValues | None] | None = None,
        metadata: Iterable[Metadata | None] | None = None,
        namespace: str | Iterable[str] = "",
        run: str = "",
    ) -> int:
        """Validate n records and take all of them, or none; returns n.

        Columns are paired by position, never by label; each may be a list, an iterator, or a column of NumPy, pandas,
        polars or Arrow.

        Args:
            ids: n ids; integers become their digits.
            matrix: n x d numbers (NumPy float32 is fastest; lists and data frames work), `None` for sparse-only
                records.
            sparse_values: n sparse values or nulls.
            metadata: n metadata or nulls.
            namespace: one for all, or n.
            run: the run that the records belong to.

        Raises:
            InvalidRecord: one breaks a rule (`index` says which); nothing was taken.
            QueueFull: no room within the timeout; nothing was taken.
            TooManyDead: the queue has `max_dead` dead letters; nothing was taken.
            ServerUnavailable: the server stayed away; nothing was taken.
        """
        with self._lock:
            return self._server.hold(self._intake.put_many(ids, matrix, sparse_values, metadata, namespace, run))

    def flush(self) -> int:
        """Enqueue everything taken; when it returns, all of it survives this process. Returns records confirmed.

        Raises:
            QueueFull: no room within the timeout; what is not confirmed is still here: flush again.
            TooManyDead: the queue has `max_dead` dead letters; the same.
            ServerUnavailable: the server stayed away; the same.
        """
        with self._lock:
            return self._server.hold(self._intake.flush())

    def books(self, run: str = "") -> Books:
        """The books of the queue, or of one run; `NotFound` where there is no queue (any more)."""
        with self._lock:
            return self._server.hold(self._intake.books(run))

    def receipt(self, run: str = "") -> Receipt:
        """What became of the queue, or of one run, so far: its books, why records are dead, requests, times.

        Raises:
            NotFound: there is no queue (any more).
        """
        with self._lock:
            return self._server.hold(self._intake.receipt(run))

    def wait(self, run: str = "", *, timeout: float | None = None) -> Books:
        """Flush, then wait until nothing of `run` (of the whole queue unless given) is pending; returns the books.

        A run to which this producer added is sealed first: what is put into it later opens it again.

        Raises:
            WaitTimeout: records were still pending after `timeout` seconds.
            RunOpen: all of the run is settled, but another producer, which has not sealed it, stands still.
            QueueLost: the server lost the queue, or a part of it.
            NotFound: there is no such queue or run.
        """
        with self._lock:
            self._server.hold(self._intake.flush())
            if run:
                self._server.hold(self._intake.seal(run))
        # outside the lock: others may put while this one waits
        return self._server.hold(self._intake.wait(run, timeout))

    def run(self, name: str) -> "Run":
        """A run: a label for what is put through it, with its own books. Use it in a `with` block."""
        return Run(self, name)

    def _begin(self, run: str) -> None:
        with self._lock:
            self._server.hold(self._intake.begin(run))

    @property
    def buffered(self) -> int:
        """Records taken and not yet confirmed by the server."""
        return self._intake.buffered

    def close(self) -> None:
        """Flush, seal the runs that records were put into, and disconnect.

        When one of these fails the connection is kept, so that it can be tried again.
        """
        self._close(seal=True)

    def _close(self, *, seal: bool) -> None:
        with self._lock:
            if self._intake.buffered:
                self._server.hold(self._intake.flush())
            if seal:
                self._server.hold(self._intake.seal())
            self._server.close()

    def _seal(self, run: str) -> None:
        with self._lock:
            self._server.hold(self._intake.flush())
            self._server.hold(self._intake.seal(run))

    def __enter__(self) -> Self:
        """Open the queue, so that a wrong address or shape shows before the first record."""
        with self._lock:
            try:
                self._server.hold(self._intake.open())
            except BaseException:
                self._server.close()  # nothing else would, for the block is not entered
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """As `close`; after an exception in the block the flush still happens, and its runs stay open."""
        self._close(seal=kind is None)


class Run:
    """One ingestion through a `Producer`: what is put here carries the run's name."""

    def __init__(self, producer: Producer, name: str) -> None:
        self._producer = producer
        self.name = checked_name("run", name)

    def put(
        self,
        id: str,  # noqa: A002 - the contract's word
        values: Values | None = None,
        *,
        sparse_values: SparseValues | None = None,
        metadata: Metadata | None = None,
        namespace: str = "",
    ) -> None:
        """As `Producer.put`, in this run."""
        self._producer.put(
            id, values, sparse_values=sparse_values, metadata=metadata, namespace=namespace, run=self.name
        )

    def put_many(
        self,
        ids: Iterable[str | int],
        matrix: npt.NDArray[Any] | Iterable[Values] | None = None,
        *,
        sparse_values: Iterable[SparseValues | None] | None = None,
        metadata: Iterable[Metadata | None] | None = None,
        namespace: str | Iterable[str] = "",
    ) -> int:
        """As `Producer.put_many`, in this run."""
        return self._producer.put_many(
            ids, matrix, sparse_values=sparse_values, metadata=metadata, namespace=namespace, run=self.name
        )

    def flush(self) -> int:
        """As `Producer.flush`."""
        return self._producer.flush()

    def books(self) -> Books:
        """The run's books."""
        return self._producer.books(self.name)

    def receipt(self) -> Receipt:
        """What became of the run so far; after `wait` it is final but for what is done with dead letters."""
        return self._producer.receipt(self.name)

    def wait(self, *, timeout: float | None = None) -> Books:
        """As `Producer.wait`, for this run."""
        return self._producer.wait(self.name, timeout=timeout)

    def __enter__(self) -> Self:
        """Make the run known, so that it can be waited for also if nothing comes to it."""
        self._producer._begin(self.name)  # noqa: SLF001 - of one make
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Flush, and seal the run; after an exception in the block the flush still happens, and the run stays open."""
        if kind is None:
            self._producer._seal(self.name)  # noqa: SLF001 - of one make
        else:
            self._producer.flush()
