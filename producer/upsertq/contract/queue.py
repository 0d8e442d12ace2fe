"""Owns what a queue is on the server: creating it, finding it, its dimension, and whether it is still there.

Everything here is a conversation (see `upsertq.contract.protocol`); it never opens a connection and never sleeps.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from upsertq.contract import books, closing, scanning
from upsertq.contract.errors import NotFound, QueueLost, QueueMismatch, QueueReopened, UsageError
from upsertq.contract.figures import whole
from upsertq.contract.keys import MAX_SHARDS, QueueKeys
from upsertq.contract.protocol import Conversation, Patience, Script, ask_all, ask_script, persistently
from upsertq.contract.wire import FORMAT, MAX_DIMENSION, legible

DEFAULT_SHARDS: Final = 16

META: Final = ("format", "incarnation", "shards", "dimension", "state")
DELETING: Final = b"deleting"
"""The state of a queue that is to be deleted: it cannot be opened any more."""
OTHER: Final = -1
"""What a script returns first where it was called with another incarnation than the keys': it did nothing."""
LOST: Final = "the server lost its data (flushed, evicted, restarted without persistence): load again what was pending"
"""What else it may be where something is not there that was."""

CREATE = Script.load("upsertq.contract", "create")
FOUND = Script.load("upsertq.contract", "found")
DIMENSION = Script.load("upsertq.contract", "dimension")


@dataclass(frozen=True, slots=True)
class QueueShape:
    """What a queue is: fixed at creation, but for the dimension, which its first dense record fixes.

    `incarnation` tells it from every queue that had its name before: scripts are called with it, and refuse another.
    """

    name: str
    shards: int
    dimension: int | None
    incarnation: str


def open_queue(keys: QueueKeys, shards: int | None, now_ms: int, patience: Patience) -> Conversation[QueueShape]:
    """Create the queue if it is not there; `shards` is what it must have, `None` for whatever it has (or 16).

    Raises:
        UsageError: `shards` is no power of two up to `MAX_SHARDS`.
        QueueMismatch: it has another number of shards, or a format that this program does not know.
        QueueLost: the server lost a part of it.
    """
    wanted = DEFAULT_SHARDS if shards is None else shards
    # another type would be noted as it is
    if type(wanted) is not int or not 1 <= wanted <= MAX_SHARDS or wanted.bit_count() != 1:
        raise UsageError(f"a queue cannot have {wanted!r} shards: choose a power of two from 1 to {MAX_SHARDS}")
    yield from read_meta(keys, patience)
    ask = ask_script(CREATE, [([keys.meta], [uuid.uuid4().hex, FORMAT, wanted, now_ms, ""])])
    (reply,) = yield from persistently(ask, patience, f"open the queue '{keys.queue}'")
    if reply[4] in closing.UNDER_WAY:
        reply = yield from read_meta(keys, patience)
    shape = shape_of(keys, reply)
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
    reply = yield from read_meta(keys, patience)
    if not any(reply):
        raise NotFound(
            f"there is no queue '{keys.queue}' on this server: check the names of queue and server, or load first"
        )
    shape = shape_of(keys, reply)
    yield from _check_shards(keys, shape, patience, complete=reply[4] == b"creating")
    return shape


def read_meta(keys: QueueKeys, patience: Patience) -> Conversation[Any]:
    """The fields of `META` as they stand, once no closing is under way.

    Raises:
        QueueLost: they are gone and a shard is not.
        ServerUnavailable: the queue is closing for longer than `patience`.
    """
    ask = ask_all([["HMGET", keys.meta, *META], ["EXISTS", keys.shard(0).books]])
    while True:
        reply, shard = yield from persistently(ask, patience, f"read the queue '{keys.queue}'")
        if not any(reply) and shard:
            raise meta_lost(keys)
        if reply[4] not in closing.UNDER_WAY:
            return reply
        shape_of(keys, [*reply[:4], b"ready"])
        yield from closing.take_back(keys, patience)


def shape_of(keys: QueueKeys, reply: object) -> QueueShape:
    """The shape that the fields of `META` tell; `QueueMismatch` where they tell none that this program can use."""
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
    if state == DELETING:
        goes_on = f"`upsertq delete-queue {keys.queue}` goes on"
        raise QueueMismatch(f"queue '{keys.queue}' is being deleted, and not all of it is gone: {goes_on}")
    if state not in {b"creating", b"ready", *closing.UNDER_WAY}:
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
            raise meta_lost(keys)


def meta_lost(
    keys: QueueKeys, pending: int | None = None, shape: QueueShape | None = None, found: bytes | None = None
) -> QueueLost:
    """The error for a queue of which the meta data are gone, or are those of another incarnation than `shape`'s.

    `pending` is as `QueueLost` has it, `found` the incarnation in the meta data.
    """
    if shape and found and books.descends(found, shape.incarnation):
        return QueueReopened(keys.queue, pending)
    return QueueLost(keys.queue, f"the key '{keys.meta}' is gone, or is of another creation of the queue", pending)


def claim_dimension(keys: QueueKeys, shape: QueueShape, dimension: int, patience: Patience) -> Conversation[int]:
    """Fix the queue's dimension unless it is fixed; returns the one that holds.

    Raises:
        QueueLost: the server lost the queue's meta data.
    """
    ask = ask_script(DIMENSION, [([keys.meta], [shape.incarnation, dimension])])
    (reply,) = yield from persistently(ask, patience, "fix the queue's dimension")
    if reply[0] == OTHER:
        raise meta_lost(keys, None, shape, reply[1])
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
        return meta_lost(keys, None, shape, replies[0][0])
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

    def remove(found: Sequence[bytes]) -> Conversation[None]:
        ours = [key for key in found if keys.shard_in(key.decode("utf-8", "surrogateescape")) is not None]
        if ours:
            unlink = ask_all([["UNLINK", key] for key in ours])
            yield from persistently(unlink, patience, f"remove queue '{keys.queue}'")

    yield from scanning.keys_like(keys.pattern, remove, lambda: patience, f"find the keys of queue '{keys.queue}'")
