"""Owns what a queue knows of its runs: when each began, and whether it is sealed, so that nothing more is to come.

A run is done when it is sealed and nothing of it is pending. What is added after it was sealed opens it again.
Everything here is a conversation.
"""

from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import orjson

from upsertq.contract import books
from upsertq.contract.errors import NotFound, QueueLost, ServerRefused
from upsertq.contract.figures import LAST_MS, MOST
from upsertq.contract.keys import QueueKeys, queue_option
from upsertq.contract.protocol import Conversation, Patience, Script, ask_all, ask_script, persistently
from upsertq.contract.queue import OTHER, QueueShape, meta_lost, missing, presence

RUN: Final = Script.load("upsertq.contract", "run")


@dataclass(frozen=True, slots=True)
class RunState:
    """What is noted of a run.

    Attributes:
        begun: when it was first used, in milliseconds by its producer's clock.
        sealed: when it was sealed, in milliseconds by the server's clock; `None` while it is open.
        records: how many it had at least when it was last sealed.
        purged: its books are being removed.
    """

    begun: int
    sealed: int | None
    records: int = 0
    purged: bool = False

    def is_sealed(self, enqueued: int) -> bool:
        """Whether nothing more is to come of the run, which has `enqueued` records by its books, read after this.

        With more than were counted at its sealing it is open again: their producer did not know of the seal.
        """
        return self.sealed is not None and enqueued <= self.records


def decode_run(noted: bytes) -> RunState:
    """The run as it is noted; `ValueError` where that cannot be read."""
    document: Any = orjson.loads(noted)
    if not isinstance(document, dict):
        raise ValueError("a run is noted as a JSON object")  # noqa: TRY004 - one error for every kind of damage
    begun, sealed, records = document.get("begun"), document.get("sealed"), document.get("records", 0)
    if not (_is_whole(begun, LAST_MS) and (sealed is None or _is_whole(sealed, LAST_MS)) and _is_whole(records, MOST)):
        raise ValueError("its times are milliseconds since 1970, and its records a number")
    return RunState(begun, sealed, records, document.get("purged") is True)


def _is_whole(value: object, most: int) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= most


def register_run(
    keys: QueueKeys, shape: QueueShape, run: str, now_ms: int, patience: Patience
) -> Conversation[RunState]:
    """Make the run known to the queue, or open it again if it is sealed; it keeps the time when it began.

    Raises:
        QueueLost: the server lost the queue's meta data.
    """
    return (yield from _note(keys, shape, run, [now_ms, "open", 0], patience))


def seal_run(
    keys: QueueKeys, shape: QueueShape, run: str, now_ms: int, patience: Patience, least: int = 0
) -> Conversation[RunState]:
    """Say that nothing more comes of the run, and note how many records it has.

    Raises:
        QueueLost: the server lost the queue's meta data, or books of the run, which had `least` records.
    """
    found = yield from books.read(keys, shape.shards, run, patience, shape.incarnation)
    if found.enqueued < least:
        raise QueueLost(keys.queue, f"run '{run}' had {least:,} records and has {found.enqueued:,} now")
    return (yield from _note(keys, shape, run, [now_ms, "seal", found.enqueued], patience))


def find_run(keys: QueueKeys, shape: QueueShape, run: str, patience: Patience) -> Conversation[RunState]:
    """What is known of the run.

    Raises:
        NotFound: the queue does not know it.
        QueueLost: the server lost the queue, and what it knew with it.
    """
    replies = yield from persistently(ask_all(presence(keys, run)), patience, f"find the run '{run}'")
    lost = missing(keys, shape, "", replies)
    if lost is not None:
        raise lost
    if replies[1] is None:
        told = f"`upsertq status{queue_option(keys.queue)}`"
        raise NotFound(f"queue '{keys.queue}' has no run '{run}': check the name with {told}")
    return _decoded(keys, run, replies[1])


def _note(
    keys: QueueKeys, shape: QueueShape, run: str, now: list[str | bytes | int], patience: Patience
) -> Conversation[RunState]:
    ask = ask_script(RUN, [([keys.meta, keys.runs], [shape.incarnation, run, *now])])
    (reply,) = yield from persistently(ask, patience, f"note the run '{run}'")
    if reply[0] == OTHER:
        raise meta_lost(keys, None, shape, reply[1])
    return _decoded(keys, run, reply[0])


def _decoded(keys: QueueKeys, run: str, noted: bytes) -> RunState:
    try:
        return decode_run(noted)
    except ValueError as error:
        raise ServerRefused(f"run '{run}' in the key '{keys.runs}' cannot be read: {error}") from error
