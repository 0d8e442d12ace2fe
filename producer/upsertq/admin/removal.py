"""Owns the removal of a whole queue: what would be lost, whether it may go, and taking every key of it away, no other.

First the queue gets an incarnation that nothing holds, in `meta` and in every shard: producers and workers that run say
`QueueLost`, and nothing is added any more. `meta`, which says that the queue is being deleted, goes last: until then no
other queue is made by this name, and what was killed in between is completed by the same command.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from upsertq.contract import books, closing, scanning
from upsertq.contract.closing import ADOPT, adopt, new_incarnation
from upsertq.contract.errors import QueueInUse, QueueLost, QueueMismatch, ServerRefused
from upsertq.contract.figures import whole
from upsertq.contract.keys import MAX_SHARDS, OF_THE_QUEUE, QueueKeys
from upsertq.contract.protocol import (
    WRONG_TYPE,
    Ask,
    Command,
    Conversation,
    Failed,
    Patience,
    Script,
    ask_all,
    ask_script,
    persistently,
)
from upsertq.contract.queue import DELETING, OTHER, QueueShape, find_queue
from upsertq.contract.wire import FORMAT

UNLINK: Final = Script.load("upsertq.contract", "unlink")
CALL_KEYS: Final = 100
"""Keys of one call at most, which the server carries out at once."""


@dataclass(frozen=True, slots=True)
class Stake:
    """What there is of a queue that is to be deleted.

    Attributes:
        queue: its name.
        held: the incarnation that `meta` has, whatever that is; empty where it has none.
        shape: what it is; `None` where that cannot be read, or its removal was begun.
        enqueued, pending, dead, runs, leases: numbers; 0 where they are not known.
        reasons: what keeps it from being deleted without force, in words.
        begun: whether its removal was begun before.
    """

    queue: str
    held: bytes
    shape: QueueShape | None = None
    enqueued: int = 0
    pending: int = 0
    dead: int = 0
    runs: int = 0
    leases: int = 0
    reasons: tuple[str, ...] = ()
    begun: bool = False

    def as_dict(self) -> dict[str, Any]:
        """What `delete-queue --json` tells of it."""
        return {name: value for name, value in asdict(self).items() if name not in {"held", "shape", "begun"}}


def stake(keys: QueueKeys, patience: Callable[[], Patience]) -> Conversation[Stake]:
    """What there is of the queue; `NotFound` where there is nothing of it."""
    held = b""
    try:
        yield from closing.take_back(keys, patience(), at_once=True)
        held, state = yield from _meta(keys, patience)
        if state == DELETING:
            return Stake(keys.queue, held, begun=True)
        shape = yield from find_queue(keys, patience())
        held = shape.incarnation.encode()
        use = yield from closing.use_of(keys, shape.shards, shape.incarnation, patience())
        counts = yield from books.read(keys, shape.shards, "", patience(), shape.incarnation)
        (runs,) = yield from persistently(ask_all([["HLEN", keys.runs]]), patience(), "count the runs")
    except (QueueMismatch, QueueLost, ServerRefused) as error:
        return Stake(keys.queue, held, reasons=(f"what it holds is not known: {error}",))
    numbers = (counts.enqueued, use.pending, use.dead, runs, len(use.leases))
    return Stake(keys.queue, held, shape, *numbers, reasons=use.reasons)


def delete(
    keys: QueueKeys,
    found: Stake,
    patience: Callable[[], Patience],
    watch: Callable[[int], None] = lambda _: None,
    *,
    force: bool,
) -> Conversation[int]:
    """Delete the queue, as it was `found`; returns how many keys were removed, of which `watch` is told.

    Raises:
        QueueInUse: it was made anew meanwhile, or, without `force`, is used again; it stays.
    """
    if found.begun or force or found.shape is None:
        incarnation = yield from _condemn(keys, found, patience)
    else:
        incarnation = yield from _close(keys, found.shape, patience)
    return (yield from _Removal(keys, incarnation, patience, watch).run())


def _close(keys: QueueKeys, shape: QueueShape, patience: Callable[[], Patience]) -> Conversation[str]:
    """Close the queue for good, if it is drained to the last record at that very moment; returns its incarnation."""
    following = new_incarnation()
    try:
        yield from closing.close(keys, shape.shards, shape.incarnation, following, patience())
    except (QueueInUse, ServerRefused):
        yield from closing.take_back(keys, patience(), at_once=True)
        raise
    state = DELETING.decode("ascii")
    yield from closing.complete(keys, shape.incarnation, following, state, shape.shards, patience())
    return following


def _condemn(keys: QueueKeys, found: Stake, patience: Callable[[], Patience]) -> Conversation[str]:
    """Note that the queue is being deleted, whatever it is, and close its shards; returns its incarnation."""
    following = found.held.decode("ascii", "replace")
    if not (found.begun and following.isalnum()):
        following = new_incarnation()
        ask = ask_script(ADOPT, [([keys.meta], [following, "1", 1, found.held, "state", DELETING, "format", FORMAT])])
        ((now,),) = yield from persistently(ask, patience(), f"delete the queue '{keys.queue}'")
        if now != following.encode():
            raise _other(keys)
    (told,) = yield from persistently(ask_all([["HGET", keys.meta, "shards"]]), patience(), "read the queue")
    yield from _adopt(keys, following, range(whole(told or b"", 1, MAX_SHARDS) or 0), patience, absent=False)
    return following


def _adopt(
    keys: QueueKeys, incarnation: str, shards: Sequence[int], patience: Callable[[], Patience], *, absent: bool
) -> Conversation[None]:
    """Give shards the incarnation of the deletion, if `absent` also those that have no books.

    What they have is read before `meta` is looked at again: another queue by this name is noted there first.
    """
    ask = _leniently([["HGET", keys.shard(shard).books, "incarnation"] for shard in shards])
    before = yield from persistently(ask, patience(), f"delete the queue '{keys.queue}'")
    held, _ = yield from _meta(keys, patience)
    if held != incarnation.encode():
        raise _other(keys)
    named = {shard: [one or b""] for shard, one in zip(shards, before, strict=True) if one or absent}
    yield from adopt(keys, named, incarnation, patience(), foreign=True)


def _meta(keys: QueueKeys, patience: Callable[[], Patience]) -> Conversation[tuple[bytes, bytes]]:
    """The incarnation and the state in `meta`, empty where there are none."""
    ask = _leniently([["HMGET", keys.meta, "incarnation", "state"]])
    (reply,) = yield from persistently(ask, patience(), f"read the queue '{keys.queue}'")
    incarnation, state = reply or (None, None)
    return incarnation or b"", state or b""


def _leniently(commands: Sequence[Command]) -> Callable[[], Conversation[list[Any]]]:
    """As `ask_all`, with `None` where a key is of another type."""

    def once() -> Conversation[list[Any]]:
        replies = yield Ask(commands)
        return [None if isinstance(reply, Failed) and WRONG_TYPE in reply.message else reply for reply in replies]

    return once


def _other(keys: QueueKeys) -> QueueInUse:
    return QueueInUse(f"queue '{keys.queue}' is deleted, or was made anew, by another command: look at it again")


class _Removal:
    """Takes away every key of a queue that has the incarnation of its deletion."""

    def __init__(
        self, keys: QueueKeys, incarnation: str, patience: Callable[[], Patience], watch: Callable[[int], None]
    ) -> None:
        self._keys = keys
        self._incarnation = incarnation
        self._patience = patience
        self._watch = watch
        self._shards = set[int]()
        self._removed = 0

    def run(self) -> Conversation[int]:
        """Remove what is found, then the books of the shards, then `meta`; returns how many keys it was."""
        keys = self._keys
        what = f"find the keys of queue '{keys.queue}'"
        yield from scanning.keys_like(keys.pattern, self._visit, self._patience, what)
        names = [keys.shard(shard).books for shard in sorted(self._shards)]
        yield from self._unlink([(name, [name]) for name in names])
        yield from self._unlink([(keys.meta, [keys.workers, keys.paused, keys.meta])])
        return self._removed

    def _visit(self, found: Sequence[bytes]) -> Conversation[None]:
        keys, of_shards = self._keys, defaultdict[int, list[str]](list)
        for key in found:
            name = key.decode("utf-8", "surrogateescape")
            shard = keys.shard_in(name)
            if shard is not None:
                of_shards[shard].append(name)
        new = sorted(of_shards.keys() - self._shards - {OF_THE_QUEUE})
        if new:
            yield from _adopt(keys, self._incarnation, new, self._patience, absent=True)
            self._shards.update(new)
        calls = []
        for shard, names in of_shards.items():
            holder = keys.meta if shard == OF_THE_QUEUE else keys.shard(shard).books
            left = [name for name in names if name != holder]
            calls += [(holder, left[at : at + CALL_KEYS]) for at in range(0, len(left), CALL_KEYS)]
        yield from self._unlink(calls)

    def _unlink(self, calls: Sequence[tuple[str, Sequence[str]]]) -> Conversation[None]:
        """Remove keys, those of each call if the hash that is named with them has our incarnation."""
        if not calls:
            return
        ask = ask_script(UNLINK, [([holder, *names], [self._incarnation]) for holder, names in calls])
        replies = yield from persistently(ask, self._patience(), f"remove keys of queue '{self._keys.queue}'")
        if any(reply[0] == OTHER and reply[1] for reply in replies):
            raise _other(self._keys)
        self._removed += sum(max(0, reply[0]) for reply in replies)
        self._watch(self._removed)
