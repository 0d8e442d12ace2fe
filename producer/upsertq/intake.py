"""Owns what a producer does, once for the blocking and the asyncio one: validate, pack, make room, enqueue, wait.

Everything that talks to the server is a conversation; `upsertq.client` and `upsertq.async_client` hold it.
"""

import random
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy.typing as npt

from upsertq import books, queue, receipt
from upsertq.books import Books
from upsertq.errors import InvalidRecord, ServerUnavailable, UsageError, WaitTimeout
from upsertq.exchange import Conversation, Patience, Pause
from upsertq.keys import QueueKeys, checked_name, queue_option
from upsertq.pack import Packer
from upsertq.pauses import QUEUE, read_pauses
from upsertq.queue import Enqueuer, Limits, QueueShape
from upsertq.receipt import Receipt
from upsertq.record import Metadata, SparseValues, Values, make_record, make_records
from upsertq.stall import Stall, told
from upsertq.wire import Record

SEND_RECORDS = 1_000
SEND_BYTES = 4_000_000
"""An enqueue begins when this much is packed: large enough to fill every shard's call, small beside any budget."""
LEDGER_MS = 24 * 3600 * 1000
OPEN_BYTES = 64_000_000
OPEN_RECORDS = 100_000
"""What may wait in entries that are not full: where records spread over very many namespaces few entries ever are."""
MAX_POLL = 1.0
PATIENCE_SECONDS = 30.0
"""How long a wait bears with an absent server."""


@dataclass(frozen=True)
class Circumstances:
    """What the world gives a producer: clocks and randomness. Tests give their own."""

    clock: Callable[[], float]
    """Seconds from any origin, never going back."""
    wall: Callable[[], float]
    """Seconds since 1970."""
    rng: random.Random = field(default_factory=random.Random)

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return int(self.wall() * 1000)

    def patience(self, seconds: float) -> Patience:
        """A patience of so many seconds from now."""
        return Patience(seconds, self.clock, self.rng)


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
        self._ledger_ms = ledger_ms
        self._max_dead = max_dead
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
        """Create or find the queue; a second time only returns it."""
        if self._shape is None:
            self._shape = yield from queue.open_queue(
                self.keys, self._wanted_shards, self._world.now_ms(), self._patience()
            )
            self._packer = Packer(self._shape.shards)
            self._enqueuer = Enqueuer(
                self.keys, self._shape.shards, self._limits, self._token, self._ledger_ms, self._max_dead
            )
        return self._shape

    def put(  # noqa: PLR0917 - only the clients call it
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

    def put_many(  # noqa: PLR0917 - only the clients call it
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
        if run and run not in self._runs:
            yield from queue.register_run(self.keys, checked_name("run", run), self._world.now_ms(), self._patience())
            self._runs.add(run)
        yield from self.make_room()
        at = self._world.now_ms()
        numbers = range(self._ordinal, self._ordinal + len(records)) if ordinals is None else ordinals
        for record, ordinal in zip(records, numbers, strict=True):
            self._packer.add(record, run=run, ordinal=ordinal, at=at)
            self._ordinal = ordinal + 1

    def fix_dimension(self, dimension: int) -> Conversation[int]:
        """Fix the queue's dimension if nothing fixed it yet; returns the one that holds."""
        shape = yield from self.open()
        if shape.dimension is None:
            found = yield from queue.claim_dimension(self.keys, dimension, self._patience())
            self._shape = shape = QueueShape(shape.name, shape.shards, found)
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
        yield from self.open()
        self._packer.close_all(self._world.now_ms())
        yield from self._send()
        confirmed, self.confirmed = self.confirmed, 0
        return confirmed

    def books(self, run: str) -> Conversation[Books]:
        """The books of the queue, or of `run`."""
        shape = yield from self.open()
        return (yield from books.read(self.keys, shape.shards, run, self._patience()))

    def receipt(self, run: str) -> Conversation[Receipt]:
        """The receipt of the queue, or of `run`."""
        shape = yield from self.open()
        return (yield from receipt.read(self.keys, shape.shards, run, self._patience()))

    def wait(self, run: str, timeout: float | None) -> Conversation[Books]:
        """Wait until nothing of `run` (of the queue where it is empty) is pending; returns its books."""
        shape = yield from self.open()
        found = yield from wait_until_settled(self.keys, shape.shards, run, timeout, self._world)
        return found

    def _send(self) -> Conversation[None]:
        assert self._enqueuer is not None  # noqa: S101 - `open` came first
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


def wait_until_settled(  # noqa: PLR0917 - the queue, the limit, the world
    keys: QueueKeys,
    shards: int,
    run: str,
    timeout: float | None,
    world: Circumstances,
    watch: Callable[[Books], None] = lambda _: None,
    pause_timeout: float | None = None,
) -> Conversation[Books]:
    """Poll the books until nothing is pending, telling `watch`; returns them.

    Raises:
        WaitTimeout: `timeout` seconds are over (`None`: never).
        LanePaused: the wait is stuck on a pause for `pause_timeout` seconds (`None`: never).
    """
    until = None if timeout is None else world.clock() + timeout
    stall = None if pause_timeout is None else Stall(keys, pause_timeout, world.wall())
    step = 0.05
    while True:
        left = PATIENCE_SECONDS if until is None else max(0.0, until - world.clock())
        found = yield from books.read(keys, shards, run, world.patience(min(left, PATIENCE_SECONDS)))
        watch(found)
        if found.pending == 0:
            return found
        if stall is not None:
            yield from stall.check(found, _waited(keys, run, found), world.wall(), world.patience(PATIENCE_SECONDS))
        if until is not None and world.clock() >= until:
            why = yield from _why_pending(keys, world.patience(0))
            raise WaitTimeout(f"{_waited(keys, run, found)} after {timeout:g} s: {why}")
        left = MAX_POLL if until is None else max(0.0, until - world.clock())
        yield Pause(min(step, left))
        step = min(step * 1.5, MAX_POLL)


def _why_pending(keys: QueueKeys, patience: Patience) -> Conversation[str]:
    """What keeps records pending: a pause of the queue; of namespaces it is not known whether they are theirs."""
    try:
        paused = yield from read_pauses(keys, patience)
    except ServerUnavailable:
        paused = {}
    if QUEUE in paused:
        return told(keys, QUEUE, paused[QUEUE])
    also = "".join(f"; {told(keys, *lane)}" for lane in islice(paused.items(), 1))
    return f"is a worker running? `upsertq status{queue_option(keys.queue)}` shows it{also}"


def _waited(keys: QueueKeys, run: str, found: Books) -> str:
    what = f"run '{run}'" if run else f"queue '{keys.queue}'"
    return f"{what} still has {found.pending:,} records pending"
