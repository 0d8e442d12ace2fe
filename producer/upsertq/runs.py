"""Owns what a queue knows of its runs: when each began, and whether it is sealed, so that nothing more is to come.

A run is done when it is sealed and nothing of it is pending. Everything here is a conversation.
"""

from dataclasses import dataclass
from typing import Any, Final

import orjson

from upsertq.errors import NotFound, QueueLost, ServerRefused
from upsertq.exchange import Conversation, Patience, Script, ask_all, ask_script, persistently
from upsertq.keys import QueueKeys, queue_option
from upsertq.queue import OTHER, QueueShape

RUN: Final = Script.load("upsertq", "run")


@dataclass(frozen=True, slots=True)
class RunState:
    """When the run was first used and when it was sealed, in milliseconds; `None` while it is open."""

    begun: int
    sealed: int | None


def decode_run(noted: bytes) -> RunState:
    """The run as it is noted; `ValueError` where that cannot be read."""
    document: Any = orjson.loads(noted)
    if not isinstance(document, dict):
        raise ValueError("a run is noted as a JSON object")  # noqa: TRY004 - one error for every kind of damage
    begun, sealed = document.get("begun"), document.get("sealed")
    if type(begun) is not int or (sealed is not None and type(sealed) is not int):
        raise ValueError("the times of a run are whole numbers")
    return RunState(begun, sealed)


def register_run(
    keys: QueueKeys, shape: QueueShape, run: str, now_ms: int, patience: Patience
) -> Conversation[RunState]:
    """Make the run known to the queue, or open it again if it is sealed; it keeps the time when it began.

    Raises:
        QueueLost: the server lost the queue's meta data.
    """
    return (yield from _note(keys, shape, run, [now_ms, "open"], patience))


def seal_run(keys: QueueKeys, shape: QueueShape, run: str, now_ms: int, patience: Patience) -> Conversation[RunState]:
    """Say that nothing more comes of the run; a second time changes nothing. Raises as `register_run`."""
    return (yield from _note(keys, shape, run, [now_ms, "seal"], patience))


def find_run(keys: QueueKeys, run: str, patience: Patience) -> Conversation[RunState]:
    """What is known of the run; `NotFound` when the queue does not know it."""
    ask = ask_all([["HGET", keys.runs, run]])
    (reply,) = yield from persistently(ask, patience, f"find the run '{run}'")
    if reply is None:
        told = f"`upsertq status{queue_option(keys.queue)}`"
        raise NotFound(f"queue '{keys.queue}' has no run '{run}': check the name with {told}")
    return _decoded(keys, run, reply)


def _note(
    keys: QueueKeys, shape: QueueShape, run: str, now: list[str | bytes | int], patience: Patience
) -> Conversation[RunState]:
    ask = ask_script(RUN, [([keys.meta, keys.runs], [shape.incarnation, run, *now])])
    (reply,) = yield from persistently(ask, patience, f"note the run '{run}'")
    if reply[0] == OTHER:
        raise QueueLost(keys.queue, f"the key '{keys.meta}' is gone, or is of another creation of the queue")
    return _decoded(keys, run, reply[0])


def _decoded(keys: QueueKeys, run: str, noted: bytes) -> RunState:
    try:
        return decode_run(noted)
    except ValueError as error:
        raise ServerRefused(f"run '{run}' in the key '{keys.runs}' cannot be read: {error}") from error
