"""Owns how a paused lane is noted on the server: its scope, since when, why, and by whom. It does no I/O itself."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from upsertq.exchange import Conversation, Patience, ask_all, persistently
from upsertq.keys import QueueKeys

QUEUE: Final = "queue"
"""The scope of the whole queue."""


def scope_of(namespace: str) -> str:
    """The scope of one namespace."""
    return f"namespace:{namespace}"


@dataclass(frozen=True, slots=True)
class Paused:
    """Why a scope is paused.

    Attributes:
        reason: a word for programs (`unauthorized`, `quota`, `systemic`, `by_hand`, …).
        message: a line for people: what was said and what to do.
        since: seconds since 1970.
        by: the worker that noticed, or who paused it by hand.
        by_hand: it ends by hand only.
    """

    reason: str
    message: str
    since: float
    by: str
    by_hand: bool = False


def read_pauses(keys: QueueKeys, patience: Patience) -> Conversation[dict[str, Paused]]:
    """Every paused scope."""
    (reply,) = yield from persistently(ask_all([["HGETALL", keys.lanes]]), patience, "read the paused lanes")
    return of_reply(reply)


def of_reply(reply: Mapping[bytes, bytes]) -> dict[str, Paused]:
    """The pauses out of an HGETALL; a note that cannot be read is passed over."""
    found = {}
    for scope, note in reply.items():
        paused = _read(note)
        if paused is not None:
            found[scope.decode()] = paused
    return found


def _read(note: bytes) -> Paused | None:
    try:
        document: dict[str, Any] = orjson.loads(note)
        return Paused(
            str(document["reason"]),
            str(document["message"]),
            float(document["since"]),
            str(document["by"]),
            bool(document.get("by_hand", False)),
        )
    except (ValueError, KeyError, TypeError):
        return None


def note(paused: Paused) -> bytes:
    """The pause as it is noted."""
    return orjson.dumps(asdict(paused))
