"""Owns the producer that asyncio code uses; what it does is decided in `upsertq.client.producer_core`."""

import asyncio
from collections.abc import Iterable
from typing import Any, Self

import numpy.typing as npt

from upsertq.client.enqueue import Limits
from upsertq.client.producer import DEFAULT_LIMITS, DEFAULT_TIMEOUT, DEFAULT_URL, intake_of
from upsertq.client.receipt import Receipt
from upsertq.contract.books import Books
from upsertq.contract.connect import CredentialProvider
from upsertq.contract.keys import checked_name
from upsertq.contract.record import Metadata
from upsertq.contract.server import AsyncServer
from upsertq.contract.values import SparseValues, Values


class AsyncProducer:
    """As `Producer`, for asyncio: the same arguments and errors; belongs to one event loop."""

    def __init__(
        self,
        queue: str = "default",
        *,
        url: str | AsyncServer = DEFAULT_URL,
        shards: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
        max_dead: int | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        allow_eviction: bool = False,
        credential_provider: CredentialProvider | None = None,
    ) -> None:
        self._intake = intake_of(queue, shards, limits, max_dead, timeout, allow_eviction=allow_eviction)
        given = url if isinstance(url, AsyncServer) else None
        self._server = given or AsyncServer.at(str(url), credential_provider=credential_provider)
        self._lock = asyncio.Lock()

    async def put(
        self,
        id: str,  # noqa: A002 - the contract's word
        values: Values | None = None,
        *,
        sparse_values: SparseValues | None = None,
        metadata: Metadata | None = None,
        namespace: str = "",
        run: str = "",
    ) -> None:
        """As `Producer.put`."""
        async with self._lock:
            await self._server.hold(self._intake.put(id, values, sparse_values, metadata, namespace, run))

    async def put_many(
        self,
        ids: Iterable[str | int],
        matrix: npt.NDArray[Any] | Iterable[Values] | None = None,
        *,
        sparse_values: Iterable[SparseValues | None] | None = None,
        metadata: Iterable[Metadata | None] | None = None,
        namespace: str | Iterable[str] = "",
        run: str = "",
    ) -> int:
        """As `Producer.put_many`."""
        async with self._lock:
            return await self._server.hold(self._intake.put_many(ids, matrix, sparse_values, metadata, namespace, run))

    async def flush(self) -> int:
        """As `Producer.flush`."""
        async with self._lock:
            return await self._server.hold(self._intake.flush())

    async def books(self, run: str = "") -> Books:
        """As `Producer.books`."""
        async with self._lock:
            return await self._server.hold(self._intake.books(run))

    async def receipt(self, run: str = "") -> Receipt:
        """As `Producer.receipt`."""
        async with self._lock:
            return await self._server.hold(self._intake.receipt(run))

    async def wait(self, run: str = "", *, timeout: float | None = None) -> Books:  # noqa: ASYNC109 - as in `Producer`
        """As `Producer.wait`."""
        async with self._lock:
            await self._server.hold(self._intake.flush())
            if run:
                await self._server.hold(self._intake.seal(run))
        return await self._server.hold(self._intake.wait(run, timeout))

    def run(self, name: str) -> "AsyncRun":
        """As `Producer.run`; use it in an `async with` block."""
        return AsyncRun(self, name)

    async def _begin(self, run: str) -> None:
        async with self._lock:
            await self._server.hold(self._intake.begin(run))

    @property
    def buffered(self) -> int:
        """Records taken and not yet confirmed by the server."""
        return self._intake.buffered

    async def close(self) -> None:
        """As `Producer.close`."""
        await self._close(seal=True)

    async def _close(self, *, seal: bool) -> None:
        async with self._lock:
            if self._intake.buffered:
                await self._server.hold(self._intake.flush())
            if seal:
                await self._server.hold(self._intake.seal())
            await self._server.close()

    async def _seal(self, run: str) -> None:
        async with self._lock:
            await self._server.hold(self._intake.flush())
            await self._server.hold(self._intake.seal(run))

    async def __aenter__(self) -> Self:
        """As `Producer.__enter__`."""
        async with self._lock:
            try:
                await self._server.hold(self._intake.open())
            except BaseException:
                await self._server.close()  # nothing else would, for the block is not entered
                raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """As `Producer.__exit__`."""
        await self._close(seal=kind is None)


class AsyncRun:
    """One ingestion through an `AsyncProducer`: what is put here carries the run's name."""

    def __init__(self, producer: AsyncProducer, name: str) -> None:
        self._producer = producer
        self.name = checked_name("run", name)

    async def put(
        self,
        id: str,  # noqa: A002 - the contract's word
        values: Values | None = None,
        *,
        sparse_values: SparseValues | None = None,
        metadata: Metadata | None = None,
        namespace: str = "",
    ) -> None:
        """As `Producer.put`, in this run."""
        await self._producer.put(
            id, values, sparse_values=sparse_values, metadata=metadata, namespace=namespace, run=self.name
        )

    async def put_many(
        self,
        ids: Iterable[str | int],
        matrix: npt.NDArray[Any] | Iterable[Values] | None = None,
        *,
        sparse_values: Iterable[SparseValues | None] | None = None,
        metadata: Iterable[Metadata | None] | None = None,
        namespace: str | Iterable[str] = "",
    ) -> int:
        """As `Producer.put_many`, in this run."""
        return await self._producer.put_many(
            ids, matrix, sparse_values=sparse_values, metadata=metadata, namespace=namespace, run=self.name
        )

    async def flush(self) -> int:
        """As `Producer.flush`."""
        return await self._producer.flush()

    async def books(self) -> Books:
        """The run's books."""
        return await self._producer.books(self.name)

    async def receipt(self) -> Receipt:
        """As `Run.receipt`."""
        return await self._producer.receipt(self.name)

    async def wait(self, *, timeout: float | None = None) -> Books:  # noqa: ASYNC109 - as in `Producer`
        """As `Producer.wait`, for this run."""
        return await self._producer.wait(self.name, timeout=timeout)

    async def __aenter__(self) -> Self:
        """As `Run.__enter__`."""
        await self._producer._begin(self.name)  # noqa: SLF001 - of one make
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """As `Run.__exit__`."""
        if kind is None:
            await self._producer._seal(self.name)  # noqa: SLF001 - of one make
        else:
            await self._producer.flush()
