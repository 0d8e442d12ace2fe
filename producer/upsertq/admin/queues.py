"""Owns the list of the queues on a server; it reads alone. What is damaged, lost or of another format is named."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from upsertq.admin.workers import time_of, workers_of
from upsertq.contract import books, scanning
from upsertq.contract.errors import QueueLost, QueueMismatch, ServerRefused
from upsertq.contract.keys import EVERY_META, QueueKeys, queue_of
from upsertq.contract.printable import printable
from upsertq.contract.protocol import Conversation, Patience, ask_all, named, persistently
from upsertq.contract.queue import META, shape_of


@dataclass(frozen=True, slots=True)
class Listed:
    """A queue on the server.

    Attributes:
        queue: its name.
        format: the version of its format as it is noted; empty where none is.
        shards, pending, dead: numbers of shards and of records; `None` where they are not known.
        workers: how many are alive; `None` where that is not known.
        problem: why something is not known; empty where all is.
    """

    queue: str
    format: str = ""
    shards: int | None = None
    pending: int | None = None
    dead: int | None = None
    workers: int | None = None
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """One item of `queues --json`; what is not known is null."""
        return {**asdict(self), "problem": self.problem or None}


def queues(
    patience: Callable[[], Patience], watch: Callable[[int, int], None] = lambda *_: None
) -> Conversation[list[Listed]]:
    """All queues on the server by name; `watch` is told how many of its keys are looked at, and how many there are."""
    what = "look for queues"
    names, looked, keys = set[str](), 0, 0
    for node in (yield from scanning.nodes(patience(), what)):
        keys += sum((yield from persistently(ask_all([["DBSIZE"]], node), patience(), what)))

    def visit(found: Sequence[bytes]) -> Conversation[None]:
        nonlocal looked
        names.update(name for key in found if (name := queue_of(key.decode("utf-8", "replace"))))
        looked = min(looked + scanning.STEP, keys)
        watch(looked, keys)
        yield from ()

    yield from scanning.keys_like(EVERY_META, visit, patience, what)
    listed = []
    for name in sorted(names):
        one = yield from _listed(QueueKeys(name), patience)
        listed += [one] if one else []
    return listed


def _listed(keys: QueueKeys, patience: Callable[[], Patience]) -> Conversation[Listed | None]:
    """What is known of one queue; `None` where it is gone by now."""
    so_far = Listed(keys.queue)
    try:
        ask = ask_all([["HMGET", keys.meta, *META]])
        (meta,) = yield from persistently(ask, patience(), f"read the queue '{keys.queue}'")
        if not any(meta):
            return None
        so_far = replace(so_far, format=printable((meta[0] or b"").decode("ascii", "backslashreplace"))[:20])
        shape = shape_of(keys, meta)
        so_far = replace(so_far, shards=shape.shards)
        ask = ask_all([["TIME"], ["HGETALL", keys.workers]])
        told, beats = yield from persistently(ask, patience(), f"read the workers of queue '{keys.queue}'")
        alive = sum(not worker.gone for worker in workers_of(named(beats), time_of(told)))
        so_far = replace(so_far, workers=alive)
        found = yield from books.read(keys, shape.shards, "", patience(), shape.incarnation)
    except (QueueLost, QueueMismatch, ServerRefused) as error:
        return replace(so_far, problem=str(error))
    return replace(so_far, pending=found.pending, dead=found.dead)
