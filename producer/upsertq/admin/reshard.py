"""Owns giving a drained queue twice its shards. Its books, runs and loads that can be resumed stay what they are.

The records of shard k go to k and to k + N from then on. What is counted stays where it was counted; the new shards get
the clocks and the ledgers of those from which their records come, once nothing can be added to these any more.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from upsertq.client.resume import ledger_tokens
from upsertq.contract import closing, scanning
from upsertq.contract.books import descends
from upsertq.contract.closing import next_incarnation
from upsertq.contract.errors import QueueFull, QueueInUse, QueueLost, ServerRefused, UsageError, WorldError
from upsertq.contract.keys import MAX_SHARDS, QueueKeys, queue_option
from upsertq.contract.protocol import Argument, Conversation, Patience, Script, ask_all, ask_script, persistently
from upsertq.contract.queue import OTHER, QueueShape, find_queue

GROW: Final = Script.load("upsertq.contract", "grow")
CALL_LEDGERS: Final = 100
"""Ledgers that are copied before the closing is prolonged."""
CALL_FIELDS: Final = 1_000
"""Namespaces of a ledger that are written in one call."""


def reshard(keys: QueueKeys, wanted: int, patience: Callable[[], Patience]) -> Conversation[int]:
    """Give the queue `wanted` shards, twice as many as it has; returns how many it had (`wanted`: nothing was done).

    Raises:
        UsageError: it is not twice as many, or too many.
        QueueInUse: something is pending, dead, leased or under way; the queue stays as it was.
        WorldError: keys stand where the new shards would be.
        NotFound, QueueLost, QueueMismatch, ServerRefused: as `find_queue`.
    """
    yield from closing.take_back(keys, patience(), at_once=True)
    shape = yield from find_queue(keys, patience())
    if shape.shards == wanted:
        return wanted
    _check(shape, wanted)
    use = yield from closing.use_of(keys, shape.shards, shape.incarnation, patience())
    if use.reasons:
        drain = f"drain it (`upsertq work{queue_option(keys.queue)} --until-empty`), replay or discard what is dead"
        raise QueueInUse(
            f"queue '{keys.queue}' cannot be resharded: {', '.join(use.reasons)}: {drain}, and stop its workers"
        )
    before = yield from _before(keys, shape, patience)
    following = next_incarnation(shape.incarnation)
    try:
        yield from _Growth(keys, shape, following, before, patience).run()
    except (QueueInUse, QueueLost, QueueFull, ServerRefused):
        yield from closing.take_back(keys, patience(), at_once=True)
        raise
    return shape.shards


def _check(shape: QueueShape, wanted: int) -> None:
    twice = 2 * shape.shards
    if twice > MAX_SHARDS:
        raise UsageError(f"queue '{shape.name}' has {shape.shards} shards, and {MAX_SHARDS} are the most: it stays")
    if wanted != twice:
        raise UsageError(
            f"queue '{shape.name}' has {shape.shards} shards and cannot be given {wanted}: they are doubled at a time, "
            f"give --shards {twice}"
        )


def _before(keys: QueueKeys, shape: QueueShape, patience: Callable[[], Patience]) -> Conversation[list[str]]:
    """The incarnations that stand where the new shards will be, left behind by earlier attempts; '' where none is."""
    names = [keys.shard(shard).books for shard in range(shape.shards, 2 * shape.shards)]
    ask = ask_all([["HMGET", name, "incarnation", "enqueued"] for name in names])
    replies = yield from persistently(ask, patience(), "look where the new shards will be")
    for name, (held, enqueued) in zip(names, replies, strict=True):
        if enqueued is not None or (held and not descends(held, shape.incarnation)):
            raise WorldError(f"queue '{shape.name}' cannot be resharded: the key '{name}' is there: RENAME or DEL it")
    return [(held or b"").decode("ascii", "replace") for held, _ in replies]


@dataclass(frozen=True, slots=True)
class _Growth:
    """The steps of one attempt; `before` has the incarnations that the books of the new shards have."""

    keys: QueueKeys
    shape: QueueShape
    following: str
    before: Sequence[str]
    patience: Callable[[], Patience]

    def run(self) -> Conversation[None]:
        """Close the queue, make the new shards, and complete it."""
        keys, shape = self.keys, self.shape
        use = yield from closing.close(keys, shape.shards, shape.incarnation, self.following, self.patience())
        yield from self._grow([(shard, "none", []) for shard in range(shape.shards)], use.clocks)
        tokens = yield from ledger_tokens(keys, self.patience())
        of_shards = [(token, shard) for token in tokens for shard in range(shape.shards)]
        for at in range(0, len(of_shards), CALL_LEDGERS):
            yield from closing.prolong(keys, shape.incarnation, self.following, self.patience())
            yield from self._copy(of_shards[at : at + CALL_LEDGERS], use.clocks)
        twice = 2 * shape.shards
        yield from closing.complete(keys, shape.incarnation, self.following, "ready", twice, self.patience())

    def _copy(self, ledgers: Sequence[tuple[str, int]], clocks: Sequence[str]) -> Conversation[None]:
        """Copy ledgers (token and shard) to where the other half of their records goes."""
        names = [self.keys.shard(shard).ledger(token) for token, shard in ledgers]
        ask = ask_all([["PTTL", name] for name in names])
        lives = yield from persistently(ask, self.patience(), "look at the ledgers of loads")
        for (token, shard), name, life in zip(ledgers, names, lives, strict=True):
            if life <= 0:
                continue
            fields = yield from scanning.fields_of(name, self.patience, "read the ledgers of loads")
            parts = _parts([part for item in fields.items() for part in item])
            yield from self._grow([(shard, token, [life, *part]) for part in parts], clocks)

    def _grow(self, parts: Sequence[tuple[int, str, Sequence[Argument]]], clocks: Sequence[str]) -> Conversation[None]:
        """Make the new shards that belong to these, with a part of a ledger where one is given."""
        calls: list[tuple[list[str], list[Argument]]] = []
        for shard, token, ledger in parts:
            own = self.keys.shard(shard + self.shape.shards)
            names = [own.books, own.ledger(token)]
            calls.append((names, [self.following, self.before[shard], clocks[shard], *ledger]))
        replies = yield from persistently(ask_script(GROW, calls), self.patience(), "make the new shards")
        if any(reply[0] == OTHER for reply in replies):
            raise QueueInUse(f"queue '{self.keys.queue}' is resharded or deleted by another command: try again")


def _parts(fields: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (fields[at : at + 2 * CALL_FIELDS] for at in range(0, len(fields), 2 * CALL_FIELDS))
