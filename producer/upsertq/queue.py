"""Owns the producer's side of the queue on the server: creating it, its dimension, its runs, and enqueuing.

Everything here is a conversation (see `upsertq.exchange`); it never opens a connection and never sleeps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from upsertq import books
from upsertq.errors import NotFound, QueueFull, QueueMismatch, TooManyDead, UsageError
from upsertq.exchange import (
    Argument,
    Conversation,
    Failed,
    Patience,
    Pause,
    Script,
    Trouble,
    ask_all,
    giving_up,
    persistently,
    refusal,
    run_scripts,
    worst,
)
from upsertq.figures import LAST_MS, whole
from upsertq.keys import MAX_SHARDS, QueueKeys
from upsertq.pack import Packer, Parcel
from upsertq.wire import FORMAT, MAX_DIMENSION, encode, legible

DEFAULT_SHARDS: Final = 8
CALL_BYTES: Final = 2_000_000
"""Bytes after which one enqueue call to a shard is closed: enough to make the round trip cheap."""
CALL_ENTRIES: Final = 64
BACKLOG_FULL: Final = "the backlog is at its limit"
"""Why an enqueue pauses while workers have to make room."""

CREATE = Script.load("upsertq", "create")
ENQUEUE = Script.load("upsertq", "enqueue")


@dataclass(frozen=True, slots=True)
class QueueShape:
    """What a queue is: fixed at creation, but for the dimension, which its first dense record fixes."""

    name: str
    shards: int
    dimension: int | None


@dataclass(frozen=True, slots=True)
class Limits:
    """The backlog that a producer may build up, in records and bytes of payload; `None` is no limit.

    Each shard is allowed its equal part, so a queue never exceeds a limit by more than an entry a shard.
    """

    records: int | None = None
    bytes: int | None = 4 * 2**30

    def of_shard(self, shards: int) -> tuple[int, int]:
        """The part of one shard; 0 for no limit."""
        return _part(self.records, shards), _part(self.bytes, shards)


def _part(limit: int | None, shards: int) -> int:
    return 0 if limit is None else max(1, limit // shards)


def open_queue(keys: QueueKeys, shards: int | None, now_ms: int, patience: Patience) -> Conversation[QueueShape]:
    """Create the queue if it is not there; `shards` is what it must have, `None` for whatever it has (or 8).

    Raises:
        QueueMismatch: it has another number of shards, or a format that this program does not know.
    """
    wanted = DEFAULT_SHARDS if shards is None else shards
    if not 1 <= wanted <= MAX_SHARDS:
        raise UsageError(f"a queue cannot have {wanted} shards: choose 1 to {MAX_SHARDS}")

    def ask() -> Conversation[list[Any]]:
        return (yield from run_scripts(CREATE, [([keys.meta], [FORMAT, wanted, now_ms])]))

    (reply,) = yield from persistently(ask, patience, f"open the queue '{keys.queue}'")
    shape = _shape(keys, reply)
    if shards is not None and shape.shards != shards:
        raise QueueMismatch(
            f"queue '{keys.queue}' has {shape.shards} shards, not {shards}: the number is fixed at creation; "
            f"leave the option out, or choose another queue name"
        )
    return shape


def find_queue(keys: QueueKeys, patience: Patience) -> Conversation[QueueShape]:
    """What an existing queue is; `NotFound` when there is none, so that a mistyped name creates nothing."""
    ask = ask_all([["HMGET", keys.meta, "format", "shards", "dimension"]])
    (reply,) = yield from persistently(ask, patience, f"read the queue '{keys.queue}'")
    if reply[0] is None and reply[1] is None:
        raise NotFound(
            f"there is no queue '{keys.queue}' on this server: check the names of queue and server, or load first"
        )
    return _shape(keys, reply)


def _shape(keys: QueueKeys, reply: Sequence[Any]) -> QueueShape:
    version, shards, dimension = reply[:3]
    if version != b"%d" % FORMAT:
        known = whole(version)
        newer = known is not None and known > FORMAT
        cure = "upgrade upsertq" if newer else "choose another queue name: these keys were not made by upsertq"
        found = legible((version or b"none").decode("ascii", "backslashreplace")).strip("'")
        raise QueueMismatch(f"queue '{keys.queue}' has format version {found}, this program knows {FORMAT}: {cure}")
    count = whole(shards, 1, MAX_SHARDS)
    if count is None:
        raise _damaged(keys, "shards", f"a number from 1 to {MAX_SHARDS}: that with which the queue was created")
    width = whole(dimension, 1, MAX_DIMENSION) if dimension else None
    if dimension and width is None:
        raise _damaged(keys, "dimension", f"a number from 1 to {MAX_DIMENSION}, or leave the field out (HDEL)")
    return QueueShape(keys.queue, count, width)


def _damaged(keys: QueueKeys, field: str, right: str) -> QueueMismatch:
    return QueueMismatch(
        f"queue '{keys.queue}' is damaged: {keys.meta} holds as '{field}' what cannot be; put there (HSET) {right}; or "
        "choose another queue name"
    )


def claim_dimension(keys: QueueKeys, dimension: int, patience: Patience) -> Conversation[int]:
    """Fix the queue's dimension unless it is fixed; returns the one that holds."""
    ask = ask_all([["HSETNX", keys.meta, "dimension", dimension], ["HGET", keys.meta, "dimension"]])
    replies = yield from persistently(ask, patience, "fix the queue's dimension")
    width = whole(replies[1], 1, MAX_DIMENSION)
    if width is None:
        raise _damaged(keys, "dimension", f"a number from 1 to {MAX_DIMENSION}, or leave the field out (HDEL)")
    return width


def register_run(keys: QueueKeys, run: str, now_ms: int, patience: Patience) -> Conversation[None]:
    """Make the run known to the queue; a second time changes nothing."""
    yield from persistently(ask_all([["HSETNX", keys.runs, run, now_ms]]), patience, f"register the run '{run}'")


def find_run(keys: QueueKeys, run: str, patience: Patience) -> Conversation[int]:
    """When the run was first used, in milliseconds (0 where its note is no time); `NotFound` for an unknown one."""
    ask = ask_all([["HGET", keys.runs, run]])
    (reply,) = yield from persistently(ask, patience, f"find the run '{run}'")
    if reply is None:
        raise NotFound(f"queue '{keys.queue}' has no run '{run}': check the name with `upsertq status`")
    return whole(reply, most=LAST_MS) or 0


def remove_queue(keys: QueueKeys, patience: Patience) -> Conversation[None]:
    """Remove every key of the queue, records included: for queues that were made to be thrown away."""
    for pattern in keys.patterns:
        cursor: Any = b"0"
        while True:
            scan = ask_all([["SCAN", cursor, "MATCH", pattern, "COUNT", 1_000]])
            ((cursor, found),) = yield from persistently(scan, patience, f"find the keys of queue '{keys.queue}'")
            if found:
                yield from persistently(ask_all([["UNLINK", *found]]), patience, f"remove queue '{keys.queue}'")
            if int(cursor) == 0:
                break


@dataclass(frozen=True, slots=True)
class Enqueuer:
    """What every enqueue call of one producer shares.

    `token` names its ledger on the server and `ledger_ms` how long that lives after the last call: until then a call
    that is repeated, by this process or by its successor, enqueues nothing twice. `max_dead` is the number of dead
    letters in the queue at which nothing more is enqueued; `None` is no limit.
    """

    keys: QueueKeys
    shards: int
    limits: Limits
    token: str
    ledger_ms: int
    max_dead: int | None = None

    def enqueue(self, packer: Packer, patience: Callable[[], Patience]) -> Conversation[None]:
        """Enqueue all ready parcels, in order within each shard; whatever is not confirmed stays in the packer.

        Each success renews the patience.

        Raises:
            QueueFull: the backlog stayed at its limit, or the server out of memory.
            TooManyDead: the queue has `max_dead` dead letters or more; at once, for waiting does not help.
            ServerUnavailable: the server stayed away.
            ServerRefused: the server refused.
        """
        waiting = patience()
        while packer.ready_records:
            yield from self._check_dead(waiting)
            sent = self._calls(packer)
            replies = yield from run_scripts(ENQUEUE, [self._call(parcels) for parcels in sent])
            progress, full = 0, False
            for parcels, reply in zip(sent, replies, strict=True):
                if not isinstance(reply, Failed):
                    progress += packer.confirm(parcels[0].shard, int(reply[0]))
                    full = full or int(reply[0]) < len(parcels)
            failure = worst(replies)
            if failure is not None and failure.trouble in {Trouble.REFUSED, Trouble.NO_SCRIPT}:
                raise refusal(failure, "enqueue")
            if progress:
                waiting = patience()
            if failure is None and not full:
                continue
            pause = waiting.pause()
            if pause is None:
                raise self._giving_up(failure, waiting, packer)
            yield Pause(pause.seconds, BACKLOG_FULL if failure is None else failure.message)

    def _check_dead(self, patience: Patience) -> Conversation[None]:
        """Count the queue's dead letters before each round of calls: the limit is of the whole queue, exactly."""
        if self.max_dead is None:
            return
        found = yield from books.read(self.keys, self.shards, "", patience)
        if found.dead >= self.max_dead:
            raise TooManyDead(self.keys.queue, found.dead, self.max_dead)

    def _calls(self, packer: Packer) -> list[list[Parcel]]:
        """The next parcels of every shard: of one run each, so that one script call touches one run's books."""
        calls = []
        for ready in packer.ready.values():
            parcels: list[Parcel] = []
            size = 0
            for parcel in islice(ready, CALL_ENTRIES):
                if parcels and (parcel.entry.run != parcels[0].entry.run or size + parcel.entry.size > CALL_BYTES):
                    break
                parcels.append(parcel)
                size += parcel.entry.size
            if parcels:
                calls.append(parcels)
        return calls

    def _call(self, parcels: Sequence[Parcel]) -> tuple[list[str], list[Argument]]:
        shard = self.keys.shard(parcels[0].shard)
        keys = [shard.stream, shard.books, shard.ledger(self.token)]
        if parcels[0].entry.run:
            keys.append(shard.run(parcels[0].entry.run))
        records, size = self.limits.of_shard(self.shards)
        arguments: list[Argument] = [records, size, self.ledger_ms, len(parcels)]
        for parcel in parcels:
            fields = encode(parcel.entry)
            arguments += [parcel.entry.namespace, parcel.first, parcel.last, len(parcel.entry.ids), parcel.entry.size]
            arguments += [len(fields), *fields]
        return keys, arguments

    def _giving_up(self, failure: Failed | None, waited: Patience, packer: Packer) -> Exception:
        if failure is not None:
            return giving_up(failure, "enqueue", waited)
        limits = ", ".join(
            f"{limit:,} {unit}"
            for limit, unit in ((self.limits.records, "records"), (self.limits.bytes, "bytes"))
            if limit is not None
        )
        return QueueFull(
            f"queue '{self.keys.queue}' is at its limit ({limits}) and stayed there for {waited.seconds:g} s; "
            f"{packer.records:,} records wait in this process: start more workers, or raise the limit"
        )
