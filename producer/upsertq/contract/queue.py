"""Owns the producer's side of the queue on the server: creating it, finding it, its dimension, and enqueuing.

Everything here is a conversation (see `upsertq.contract.protocol`); it never opens a connection and never sleeps.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from upsertq.client.pack import Packer, Parcel
from upsertq.contract import books
from upsertq.contract.errors import NotFound, QueueFull, QueueLost, QueueMismatch, TooManyDead, UsageError
from upsertq.contract.figures import whole
from upsertq.contract.keys import MAX_SHARDS, QueueKeys
from upsertq.contract.protocol import (
    Argument,
    Conversation,
    Failed,
    Patience,
    Pause,
    Script,
    ask_all,
    ask_script,
    giving_up,
    persistently,
    refused,
    run_scripts,
    worst,
)
from upsertq.contract.wire import FORMAT, MAX_DIMENSION, encode, legible

DEFAULT_SHARDS: Final = 16
CALL_BYTES: Final = 2_000_000
"""Bytes after which one enqueue call to a shard is closed: enough to make the round trip cheap."""
CALL_ENTRIES: Final = 64
RUN_PLACE: Final = 5
"""Place of the run's books among the keys of the enqueue script."""
BACKLOG_FULL: Final = "the backlog is at its limit"
"""Why an enqueue pauses while workers have to make room."""

META: Final = ("format", "incarnation", "shards", "dimension", "state")
OTHER: Final = -1
"""What a script returns first where it was called with another incarnation than the keys': it did nothing."""
LOST: Final = "the server lost its data (flushed, evicted, restarted without persistence): load again what was pending"
"""What else it may be where something is not there that was."""

CREATE = Script.load("upsertq.contract", "create")
FOUND = Script.load("upsertq.contract", "found")
DIMENSION = Script.load("upsertq.contract", "dimension")
ENQUEUE = Script.load("upsertq.contract", "enqueue")


@dataclass(frozen=True, slots=True)
class QueueShape:
    """What a queue is: fixed at creation, but for the dimension, which its first dense record fixes.

    `incarnation` tells it from every queue that had its name before: scripts are called with it, and refuse another.
    """

    name: str
    shards: int
    dimension: int | None
    incarnation: str


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
    """Create the queue if it is not there; `shards` is what it must have, `None` for whatever it has (or 16).

    Raises:
        QueueMismatch: it has another number of shards, or a format that this program does not know.
        QueueLost: the server lost a part of it.
    """
    wanted = DEFAULT_SHARDS if shards is None else shards
    if not 1 <= wanted <= MAX_SHARDS:
        raise UsageError(f"a queue cannot have {wanted} shards: choose 1 to {MAX_SHARDS}")
    ask = ask_script(CREATE, [([keys.meta], [uuid.uuid4().hex, FORMAT, wanted, now_ms, ""])])
    (reply,) = yield from persistently(ask, patience, f"open the queue '{keys.queue}'")
    shape = _shape(keys, reply)
    if shards is not None and shape.shards != shards:
        raise QueueMismatch(
            f"queue '{keys.queue}' has {shape.shards} shards, not {shards}: the number is fixed at creation; "
            f"leave the option out, or choose another queue name"
        )
    yield from _check_shards(keys, shape, patience, complete=reply[4] == b"creating")
    return shape


def find_queue(keys: QueueKeys, patience: Patience) -> Conversation[QueueShape]:
    """What an existing queue is; `NotFound` when there is none, so that a mistyped name creates nothing.

    Raises as `open_queue`.
    """
    ask = ask_all([["HMGET", keys.meta, *META]])
    (reply,) = yield from persistently(ask, patience, f"read the queue '{keys.queue}'")
    if not any(reply):
        raise NotFound(
            f"there is no queue '{keys.queue}' on this server: check the names of queue and server, or load first"
        )
    shape = _shape(keys, reply)
    yield from _check_shards(keys, shape, patience, complete=reply[4] == b"creating")
    return shape


def _shape(keys: QueueKeys, reply: object) -> QueueShape:
    version, incarnation, shards, dimension, state = _texts(reply)
    if version != b"%d" % FORMAT:
        raise QueueMismatch(_other_format(keys, version))
    count = whole(shards, 1, MAX_SHARDS)
    if count is None:
        raise _damaged(keys, "shards", f"a number from 1 to {MAX_SHARDS}: that with which the queue was created")
    width = whole(dimension, 1, MAX_DIMENSION) if dimension else None
    if dimension and width is None:
        raise _damaged(keys, "dimension", f"a number from 1 to {MAX_DIMENSION}, or leave the field out (HDEL)")
    if not (incarnation.isalnum() and incarnation.isascii()):
        raise _damaged(keys, "incarnation", "what the books of every shard have as 'incarnation'")
    if state not in {b"creating", b"ready"}:
        raise _damaged(keys, "state", "'ready'")
    return QueueShape(keys.queue, count, width, incarnation.decode("ascii"))


def _other_format(keys: QueueKeys, version: bytes) -> str:
    known = whole(version, 1)
    cure = "choose another queue name: these keys were not made by upsertq"
    if known is not None:
        older = "drain it with the version of upsertq that made it, or choose another queue name"
        cure = "upgrade upsertq" if known > FORMAT else older
    found = legible((version or b"none").decode("ascii", "backslashreplace")).strip("'")
    return f"queue '{keys.queue}' has format version {found}, this program knows {FORMAT}: {cure}"


def _damaged(keys: QueueKeys, field: str, right: str) -> QueueMismatch:
    return QueueMismatch(
        f"queue '{keys.queue}' is damaged: {keys.meta} holds as '{field}' what cannot be; put there (HSET) {right}; or "
        "choose another queue name"
    )


def _texts(reply: object) -> tuple[bytes, ...]:
    """The fields of `META`, each empty where it is not there; what no server of ours says is no format."""
    if not isinstance(reply, list) or len(reply) < len(META):
        return (b"",) * len(META)
    return tuple(one if isinstance(one, bytes) else b"" for one in reply[: len(META)])


def _check_shards(keys: QueueKeys, shape: QueueShape, patience: Patience, *, complete: bool) -> Conversation[None]:
    """Hold every shard to the queue's incarnation, or first `complete` a creation that may have been interrupted."""
    arguments = [shape.incarnation, "1" if complete else ""]
    ask = ask_script(FOUND, [([keys.shard(shard).books], arguments) for shard in range(shape.shards)])
    replies = yield from persistently(ask, patience, f"look at the shards of queue '{keys.queue}'")
    books.check_incarnations(keys, {shard: found for shard, (found,) in enumerate(replies)}, shape.incarnation)
    if complete:
        ask = ask_script(CREATE, [([keys.meta], [shape.incarnation, FORMAT, shape.shards, 0, "ready"])])
        (reply,) = yield from persistently(ask, patience, f"create the queue '{keys.queue}'")
        if reply[1] != shape.incarnation.encode():
            raise _meta_lost(keys)


def _meta_lost(keys: QueueKeys) -> QueueLost:
    return QueueLost(keys.queue, f"the key '{keys.meta}' is gone, or is of another creation of the queue")


def claim_dimension(keys: QueueKeys, shape: QueueShape, dimension: int, patience: Patience) -> Conversation[int]:
    """Fix the queue's dimension unless it is fixed; returns the one that holds.

    Raises:
        QueueLost: the server lost the queue's meta data.
    """
    ask = ask_script(DIMENSION, [([keys.meta], [shape.incarnation, dimension])])
    (reply,) = yield from persistently(ask, patience, "fix the queue's dimension")
    if reply[0] == OTHER:
        raise _meta_lost(keys)
    width = whole(b"%d" % reply[0] if isinstance(reply[0], int) else reply[0], 1, MAX_DIMENSION)
    if width is None:
        raise _damaged(keys, "dimension", f"a number from 1 to {MAX_DIMENSION}, or leave the field out (HDEL)")
    return width


def presence(keys: QueueKeys, run: str) -> list[list[str]]:
    """The commands by whose replies `missing` tells whether the queue, and `run` where it is not empty, are there."""
    return [["HMGET", keys.meta, "incarnation", "created"], *([["HGET", keys.runs, run]] if run else [])]


def missing(keys: QueueKeys, shape: QueueShape, run: str, replies: Sequence[Any]) -> QueueLost | NotFound | None:
    """The error for a queue or run that is not there any more; `None` while both are."""
    if replies[0][0] != shape.incarnation.encode():
        return _meta_lost(keys)
    if run and replies[1] is None:
        return NotFound(f"queue '{keys.queue}' has no run '{run}' (any more): check the name, or {LOST}")
    return None


def check_present(keys: QueueKeys, shape: QueueShape, run: str, patience: Patience) -> Conversation[None]:
    """Raise `QueueLost` where the queue, `NotFound` where `run` (unless it is empty), is not there any more."""
    replies = yield from persistently(ask_all(presence(keys, run)), patience, f"read the queue '{keys.queue}'")
    error = missing(keys, shape, run, replies)
    if error is not None:
        raise error


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
    letters in the queue at which nothing more is enqueued; `None` is no limit. `confirmed` counts the records of each
    shard that were confirmed to this producer, `pending` all that were pending there at the last call.
    """

    keys: QueueKeys
    shape: QueueShape
    limits: Limits
    token: str
    ledger_ms: int
    max_dead: int | None = None
    confirmed: dict[int, int] = field(default_factory=dict)
    pending: dict[int, int] = field(default_factory=dict)

    @property
    def at_risk(self) -> int:
        """Records confirmed to this producer that are pending at most, as far as it was told."""
        return sum(min(confirmed, self.pending[shard]) for shard, confirmed in self.confirmed.items())

    def enqueue(self, packer: Packer, patience: Callable[[], Patience]) -> Conversation[None]:
        """Enqueue all ready parcels, in order within each shard; whatever is not confirmed stays in the packer.

        Each success renews the patience.

        Raises:
            QueueFull: the backlog stayed at its limit, or the server out of memory.
            TooManyDead: the queue has `max_dead` dead letters or more; at once, for waiting does not help.
            QueueLost: the server lost the queue, or a shard of it; at once.
            ServerUnavailable: the server stayed away.
            ServerRefused: the server refused.
        """
        waiting = patience()
        while packer.ready_records:
            yield from self._check_dead(waiting)
            sent = self._calls(packer)
            replies = yield from run_scripts(ENQUEUE, [self._call(parcels) for parcels in sent])
            progress, full = self._confirm(packer, sent, replies)
            failure = worst(replies)
            if failure is not None and not failure.passes:
                raise refused(failure, "enqueue")
            if progress:
                waiting = patience()
            if failure is None and not full:
                continue
            pause = waiting.pause()
            if pause is None:
                raise self._giving_up(failure, waiting, packer)
            if failure is None:
                yield Pause(pause.seconds, BACKLOG_FULL)
            else:
                yield Pause(pause.seconds, f"cannot enqueue: {failure.message}", until_ready=True)

    def _confirm(self, packer: Packer, sent: Sequence[Sequence[Parcel]], replies: Sequence[Any]) -> tuple[int, bool]:
        """Tell the packer what is enqueued: returns how many records, and whether a shard left some out."""
        progress, full, lost = 0, False, dict[int, bytes]()
        for parcels, reply in zip(sent, replies, strict=True):
            shard = parcels[0].shard
            if isinstance(reply, Failed):
                continue
            if reply[0] == OTHER:
                lost[shard] = reply[1]
                continue
            records = packer.confirm(shard, int(reply[0]))
            self.confirmed[shard] = self.confirmed.get(shard, 0) + records
            self.pending[shard] = int(reply[1])
            progress += records
            full = full or int(reply[0]) < len(parcels)
        books.check_incarnations(self.keys, lost, self.shape.incarnation, self.at_risk)
        return progress, full

    def _check_dead(self, patience: Patience) -> Conversation[None]:
        """Count the queue's dead letters before each round of calls: the limit is of the whole queue, exactly."""
        if self.max_dead is None:
            return
        found = yield from books.read(self.keys, self.shape.shards, "", patience, self.shape.incarnation)
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
        names = [shard.books, shard.lanes, shard.bell, shard.ledger(self.token)]
        run = parcels[0].entry.run
        if run:
            names.append(shard.run(run))
        spaces = dict.fromkeys(parcel.entry.namespace for parcel in parcels)
        places = {space: at for at, space in enumerate(spaces, len(names) + 1)}
        records, size = self.limits.of_shard(self.shape.shards)
        arguments: list[Argument] = [self.shape.incarnation, records, size, self.ledger_ms, RUN_PLACE if run else 0]
        arguments.append(len(parcels))
        for parcel in parcels:
            entry, fields = parcel.entry, encode(parcel.entry)
            arguments += [places[entry.namespace], entry.namespace, parcel.first, parcel.last]
            arguments += [len(entry.ids), entry.size, len(fields), *fields]
        return [*names, *map(shard.stream, spaces)], arguments

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
