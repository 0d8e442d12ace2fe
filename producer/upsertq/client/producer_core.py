"""Owns what a producer does, once for the blocking and the asyncio one: validate, pack, make room, enqueue, wait.

Everything that talks to the server is a conversation, which `upsertq.client.producer` and
`upsertq.client.async_producer` hold.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from upsertq.client import receipt
from upsertq.client.enqueue import Enqueuer, Limits
from upsertq.client.pack import Packer
from upsertq.client.receipt import Receipt
from upsertq.client.waiting import Wait, wait_until_settled
from upsertq.contract import books, fitness, queue, runs
from upsertq.contract.books import Books
from upsertq.contract.circumstances import Circumstances
from upsertq.contract.errors import InvalidRecord, UsageError
from upsertq.contract.keys import QueueKeys, checked_name
from upsertq.contract.protocol import Conversation, Patience
from upsertq.contract.queue import QueueShape
from upsertq.contract.record import Metadata, make_record, make_records
from upsertq.contract.values import SparseValues, Values
from upsertq.contract.wire import Record

SEND_RECORDS = 4_000
SEND_BYTES = 4_000_000
"""An enqueue begins when this much is packed: large enough to fill every shard's call, small beside any budget."""
LEDGER_MS = 24 * 3600 * 1000
OPEN_BYTES = 64_000_000
OPEN_RECORDS = 100_000
"""What may wait in entries that are not full: where records spread over very many namespaces few entries ever are."""


class Intake:
    """The state of one producer: its queue, its packer, its ledger token and the ordinal of its next record.

    Args:
        queue_name: the queue.
        shards: what the queue must have; `None` for whatever it has.
        limits: the backlog to stay under.
        timeout: seconds to wait for room or for the server; 0 raises at once.
        token: the ledger to continue, by records with the ordinals that they had; a fresh one unless given.
        ledger_ms: how long, in milliseconds, the ledger outlives the last enqueue.
        max_dead: dead letters in the queue at which nothing more is enqueued; `None` for no limit.
        allow_eviction: enqueue also on a server that evicts keys when its memory is full.

    Raises:
        UsageError: `max_dead` is below 1, at which nothing could ever be enqueued.
    """

    def __init__(
        self,
        queue_name: str,
        *,
        shards: int | None,
        limits: Limits,
        timeout: float,
        world: Circumstances,
        token: str | None = None,
        ledger_ms: int = LEDGER_MS,
        max_dead: int | None = None,
        allow_eviction: bool = False,
    ) -> None:
        if max_dead is not None and max_dead < 1:
            raise UsageError(f"a limit of {max_dead} dead letters allows no record: choose 1 or more, or none")
        self.keys = QueueKeys(checked_name("queue", queue_name))
        self.timeout = timeout
        self.confirmed = 0
        self._wanted_shards = shards
        self._limits = limits
        self._world = world
        self._token = token or uuid.uuid4().hex
        self._process = world.process()
        self._ledger_ms = ledger_ms
        self._max_dead = max_dead
        self._allow_eviction = allow_eviction
        self._shape: QueueShape | None = None
        self._packer = Packer(1)
        self._enqueuer: Enqueuer | None = None
        self._runs: set[str] = set()
        self._ordinal = 0

    @property
    def dimension(self) -> int | None:
        """The queue's dimension, `None` while no dense record fixed it."""
        return self._shape.dimension if self._shape else None

    @property
    def buffered(self) -> int:
        """Records taken by `put` and not yet confirmed by the server."""
        return self._packer.records

    def open(self) -> Conversation[QueueShape]:
        """Create or find the queue, on a server that is fit for it; a second time only returns it."""
        if self._shape is None:
            opening = f"open the queue '{self.keys.queue}'"
            yield from fitness.check(self._patience(), opening, allow_eviction=self._allow_eviction)
            self._shape = yield from queue.open_queue(
                self.keys, self._wanted_shards, self._world.now_ms(), self._patience()
            )
            self._packer = Packer(self._shape.shards, self._limits.of_entry(self._shape.shards))
            self._enqueuer = Enqueuer(
                self.keys, self._shape, self._limits, self._token, self._ledger_ms, self._max_dead
            )
        return self._shape

    def put(
        self,
        record_id: str,
        values: Values | None,
        sparse_values: SparseValues | None,
        metadata: Metadata | None,
        namespace: str,
        run: str,
    ) -> Conversation[None]:
        """Validate one record and take it; see `Producer.put`."""
        shape = yield from self.open()
        record = make_record(
            record_id,
            values,
            sparse_values=sparse_values,
            metadata=metadata,
            namespace=namespace,
            dimension=shape.dimension,
        )
        yield from self.take([record], run, several=False)

    def put_many(
        self,
        ids: Iterable[str | int],
        matrix: npt.NDArray[Any] | Iterable[Values] | None,
        sparse_values: Iterable[SparseValues | None] | None,
        metadata: Iterable[Metadata | None] | None,
        namespace: str | Iterable[str],
        run: str,
    ) -> Conversation[int]:
        """Validate all, then take all; see `Producer.put_many`."""
        shape = yield from self.open()
        records: list[Record] = []
        for record in make_records(
            ids,
            matrix,
            sparse_values=sparse_values,
            metadata=metadata,
            namespaces=namespace,
            dimension=shape.dimension,
        ):
            if isinstance(record, InvalidRecord):
                raise record
            records.append(record)
        yield from self.take(records, run)
        return len(records)

    def take(
        self, records: Sequence[Record], run: str, ordinals: Iterable[int] | None = None, *, several: bool = True
    ) -> Conversation[None]:
        """Make room, then take valid records, all or none.

        `ordinals` place them in a ledger that outlives us; `several` says that errors shall number the records.
        """
        yield from self.open()
        yield from self._fix_dimension(records, several)
        yield from self.begin(run)
        yield from self.make_room()
        at = self._world.now_ms()
        numbers = range(self._ordinal, self._ordinal + len(records)) if ordinals is None else ordinals
        for record, ordinal in zip(records, numbers, strict=True):
            self._packer.add(record, run=run, ordinal=ordinal, at=at)
            self._ordinal = ordinal + 1

    def begin(self, run: str) -> Conversation[None]:
        """Make `run` known to the queue, unless it is empty; once, so that a server that lost its data is noticed."""
        shape = yield from self.open()
        if run and run not in self._runs:
            now = self._world.now_ms()
            yield from runs.register_run(self.keys, shape, checked_name("run", run), now, self._patience())
            self._runs.add(run)

    def fix_dimension(self, dimension: int) -> Conversation[int]:
        """Fix the queue's dimension if nothing fixed it yet; returns the one that holds."""
        shape = yield from self.open()
        if shape.dimension is None:
            found = yield from queue.claim_dimension(self.keys, shape, dimension, self._patience())
            self._shape = shape = replace(shape, dimension=found)
        assert shape.dimension is not None  # noqa: S101 - it was there or was claimed
        return shape.dimension

    def make_room(self) -> Conversation[None]:
        """Enqueue what is packed once there is enough of it; an error leaves everything held."""
        if self._packer.open_bytes >= OPEN_BYTES or self._packer.open_records >= OPEN_RECORDS:
            self._packer.close_all(self._world.now_ms())
        if self._packer.ready_records >= SEND_RECORDS or self._packer.ready_bytes >= SEND_BYTES:
            yield from self._send()

    def flush(self) -> Conversation[int]:
        """Enqueue everything taken so far; returns the number of records confirmed since the last flush."""
        if self._shape is None:
            return 0  # nothing was taken: a queue that is not there is not made by the way
        self._packer.close_all(self._world.now_ms())
        yield from self._send()
        confirmed, self.confirmed = self.confirmed, 0
        return confirmed

    def books(self, run: str) -> Conversation[Books]:
        """The books of the queue, or of `run`; `NotFound` where there is no queue."""
        shape = yield from self._find()
        return (yield from books.read(self.keys, shape.shards, run, self._patience(), shape.incarnation))

    def receipt(self, run: str) -> Conversation[Receipt]:
        """The receipt of the queue, or of `run`; `NotFound` where there is no queue."""
        shape = yield from self._find()
        return (yield from receipt.read(self.keys, shape, run, self._patience()))

    def wait(self, run: str, timeout: float | None) -> Conversation[Books]:
        """Wait until nothing of `run` (of the queue where it is empty) is pending; returns its books."""
        shape = yield from self._find()
        return (yield from wait_until_settled(Wait(self.keys, shape, run, timeout), self._world))

    def seal(self, run: str = "") -> Conversation[None]:
        """Seal the run, all where it is empty, if records were put into it here; it opens again with the next one."""
        for name in [run] if run else sorted(self._runs):
            if name in self._runs:
                assert self._shape is not None  # noqa: S101 - `begin` opened it
                least = self._enqueuer.of_runs.get(name, 0) if self._enqueuer else 0
                yield from runs.seal_run(self.keys, self._shape, name, self._world.now_ms(), self._patience(), least)
                self._runs.discard(name)

    def _find(self) -> Conversation[QueueShape]:
        """The queue, which must be there."""
        return self._shape or (yield from queue.find_queue(self.keys, self._patience()))

    def _send(self) -> Conversation[None]:
        assert self._enqueuer is not None  # noqa: S101 - `open` came first
        if self._process != self._world.process():
            # parent and child number on from the same ordinal: in one ledger the records of one would pass for enqueued
            self._process = self._world.process()
            self._enqueuer = replace(self._enqueuer, token=uuid.uuid4().hex)
        before = self._packer.ready_records
        try:
            yield from self._enqueuer.enqueue(self._packer, self._patience)
        finally:
            self.confirmed += before - self._packer.ready_records

    def _patience(self) -> Patience:
        return self._world.patience(self.timeout)

    def _fix_dimension(self, records: Sequence[Record], several: bool) -> Conversation[None]:  # noqa: FBT001
        """Hold every dense record to the queue's dimension, which the first of all fixes once these agree."""
        assert self._shape is not None  # noqa: S101 - `open` came first
        first = next((record.dim for record in records if record.values), None)
        if first is None:
            return
        agreed = self._shape.dimension
        _hold_to(agreed or first, records, several, "the queue holds" if agreed else "this call begins with")
        if agreed is None:
            found = yield from self.fix_dimension(first)
            _hold_to(found, records, several, "the queue holds")


def _hold_to(dimension: int, records: Sequence[Record], several: bool, what: str) -> None:  # noqa: FBT001
    for index, record in enumerate(records):
        if record.values and record.dim != dimension:
            reason = f"has {record.dim} dimensions, but {what} records of {dimension}"
            raise InvalidRecord(record.id, "values", reason, index=index if several else None)
