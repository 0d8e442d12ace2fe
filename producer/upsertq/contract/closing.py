"""Owns how a queue is closed to all that hold its shape (for another shape, or for good), and how that is taken back.

Every shard's books get another incarnation, one after the other, each only while it is drained. `meta` notes that this
is under way and until when, and it decides: completing it, in one step, makes the queue what it is to be. Whatever
opens a queue that is closing waits, and takes it back when the time is over, so that one which was interrupted leaves
the queue as it was. No incarnation ever comes back: a queue that was taken back has a third one, and a command that
comes late does nothing.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from upsertq.contract.books import check_incarnations, descendant
from upsertq.contract.errors import QueueInUse, ServerUnavailable
from upsertq.contract.figures import whole
from upsertq.contract.keys import MAX_SHARDS, QueueKeys
from upsertq.contract.protocol import Argument, Conversation, Patience, Pause, Script, ask_all, ask_script, persistently

CLOSING: Final = Script.load("upsertq.contract", "closing")
CLOSE: Final = Script.load("upsertq.contract", "close")
ADOPT: Final = Script.load("upsertq.contract", "adopt")
UNDER_WAY: Final = frozenset({b"closing", b"reopening"})
"""States of a queue in which it is neither what it was nor what it is to be."""
SECONDS: Final = 4.0
"""For how long a closing may go without a word before it is taken back: shorter than a command is patient."""
OTHER: Final = -1


@dataclass(frozen=True, slots=True)
class Use:
    """What keeps a queue from being closed: records pending and dead, the lease of each shard, lanes with a stream."""

    pending: int = 0
    dead: int = 0
    lanes: int = 0
    leases: Mapping[int, str] = field(default_factory=dict)
    clocks: tuple[str, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """What keeps it from being closed, in words; empty where nothing does."""
        found = [f"{_counted(self.pending, 'record')} pending"] if self.pending else []
        if self.lanes and not self.pending:
            found.append(f"{_counted(self.lanes, 'stream')} there that the books do not count (see `upsertq audit`)")
        if self.dead:
            found.append(f"{_counted(self.dead, 'dead letter')} there")
        if self.leases:
            holders = ", ".join(sorted({value.partition(":")[2] or value for value in self.leases.values()})[:5])
            found.append(f"{_counted(len(self.leases), 'lease')} held ({holders})")
        return tuple(found)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'} {'is' if number == 1 else 'are'}"


def new_incarnation() -> str:
    """One that no queue has had."""
    return uuid.uuid4().hex


def next_incarnation(incarnation: str) -> str:
    """One for the same creation of a queue, in another shape."""
    return descendant(incarnation, uuid.uuid4().hex[:12])


def use_of(keys: QueueKeys, shards: int, incarnation: str, patience: Patience) -> Conversation[Use]:
    """What keeps the queue from being closed now; raises `QueueLost` and `QueueDamaged`."""
    return (yield from _shut(keys, shards, incarnation, "", patience))


def close(keys: QueueKeys, shards: int, incarnation: str, following: str, patience: Patience) -> Conversation[Use]:
    """Close the queue for `SECONDS`: until it is completed or taken back, nothing can be done with it.

    Raises:
        QueueInUse: it is not drained, or another closing is under way. It may have to be taken back.
    """
    reply = yield from _note(keys, incarnation, ["close", following, _ms()], patience)
    if not reply[0]:
        raise QueueInUse(f"queue '{keys.queue}' is {reply[1].decode('ascii', 'replace')} by another command: try again")
    use = yield from _shut(keys, shards, incarnation, following, patience)
    if use.reasons:
        raise QueueInUse(f"queue '{keys.queue}' is used meanwhile: {', '.join(use.reasons)}: it stays as it is")
    return use


def prolong(keys: QueueKeys, incarnation: str, following: str, patience: Patience) -> Conversation[None]:
    """Say that the closing is still under way; raises `QueueInUse` where it was taken back."""
    reply = yield from _note(keys, incarnation, ["prolong", following, _ms()], patience)
    if not reply[0]:
        raise _taken_back(keys)


def complete(
    keys: QueueKeys, incarnation: str, following: str, state: str, shards: int, patience: Patience
) -> Conversation[None]:
    """Give the queue its incarnation, state and shape, in one step; raises `QueueInUse` where it was taken back."""
    reply = yield from _note(keys, incarnation, ["complete", following, state, shards], patience)
    if not reply[0]:
        raise _taken_back(keys)


def take_back(keys: QueueKeys, patience: Patience, *, at_once: bool = False) -> Conversation[None]:
    """Wait until no closing of the queue is under way, and take it back when its time is over, or `at_once`.

    Raises:
        ServerUnavailable: it is still under way when the patience is over.
        QueueLost: a shard is not of this queue (any more).
    """
    while True:
        ask = ask_all([["HMGET", keys.meta, "incarnation", "state", "shards"]])
        ((incarnation, state, told),) = yield from persistently(ask, patience, f"read the queue '{keys.queue}'")
        shards = whole(told, 1, MAX_SHARDS)
        if state not in UNDER_WAY or shards is None:
            return
        held = (incarnation or b"").decode("ascii", "replace")
        third = next_incarnation(held)
        done, *found = yield from _note(keys, held, ["reopen", third, "1" if at_once else ""], patience)
        if done:
            yield from _reopen(keys, shards, held, [part.decode("ascii", "replace") for part in found[1:3]], patience)
        elif found[0] == b"closing":
            yield from _wait(keys, found[3], patience)


def _reopen(
    keys: QueueKeys, shards: int, incarnation: str, others: Sequence[str], patience: Patience
) -> Conversation[None]:
    following, former = others
    replies = yield from adopt(keys, dict.fromkeys(range(shards), (incarnation, former)), following, patience)
    check_incarnations(keys, replies, following)
    yield from _note(keys, incarnation, ["reopened", following], patience)


def adopt(
    keys: QueueKeys,
    shards: Mapping[int, Sequence[str | bytes]],
    following: str,
    patience: Patience,
    *,
    foreign: bool = False,
) -> Conversation[dict[int, bytes]]:
    """Give the books of shards the incarnation `following` where they have one of those named; returns what they have.

    With `foreign` a key of another type is replaced where '' is among those named.
    """
    calls: list[tuple[list[str], list[Argument]]] = [
        ([keys.shard(shard).books], [following, "1" if foreign else "", len(names), *names])
        for shard, names in shards.items()
    ]
    replies = yield from persistently(ask_script(ADOPT, calls), patience, f"close the queue '{keys.queue}'")
    return {shard: reply[0] for shard, reply in zip(shards, replies, strict=True)}


def _shut(keys: QueueKeys, shards: int, incarnation: str, following: str, patience: Patience) -> Conversation[Use]:
    of_shards = [keys.shard(shard) for shard in range(shards)]
    calls = [([own.books, own.lease, own.lanes, own.dead], [incarnation, following]) for own in of_shards]
    what = f"{'close' if following else 'look at'} the queue '{keys.queue}'"
    replies = yield from persistently(ask_script(CLOSE, calls), patience, what)
    check_incarnations(keys, {k: reply[1] for k, reply in enumerate(replies) if reply[0] == OTHER}, incarnation)
    return Use(
        pending=sum(reply[1] for reply in replies),
        dead=sum(reply[2] for reply in replies),
        lanes=sum(reply[3] for reply in replies),
        leases={k: reply[4].decode("utf-8", "backslashreplace") for k, reply in enumerate(replies) if reply[4]},
        clocks=tuple(reply[5].decode("ascii", "replace") for reply in replies),
    )


def _note(keys: QueueKeys, incarnation: str, verb: Sequence[Argument], patience: Patience) -> Conversation[list[Any]]:
    """Have `meta` note something; where it has the incarnation that follows already, an earlier call did it."""
    ask = ask_script(CLOSING, [([keys.meta], [incarnation, *verb])])
    (reply,) = yield from persistently(ask, patience, f"note what becomes of queue '{keys.queue}'")
    if reply[0] == OTHER:
        done = verb[0] in {"complete", "reopened"} and reply[1] == str(verb[1]).encode()
        return [int(done), b"", b"", b"", 0]
    return list(reply)


def _wait(keys: QueueKeys, left_ms: int, patience: Patience) -> Conversation[None]:
    pause = patience.pause()
    if pause is None:
        raise ServerUnavailable(
            f"queue '{keys.queue}' is being resharded or deleted: try again in {left_ms / 1000 + 1:.0f} s"
        )
    yield Pause(pause.seconds, f"queue '{keys.queue}' is being resharded or deleted", until_ready=True)


def _taken_back(keys: QueueKeys) -> QueueInUse:
    why = "this took too long, or another command came between: try again"
    return QueueInUse(f"queue '{keys.queue}' stays as it is: {why}")


def _ms() -> int:
    return int(SECONDS * 1000)
