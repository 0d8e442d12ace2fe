"""Owns what is done with planned dead letters: replay them, discard them, and wait until replayed ones are settled.

Everything that talks to the server is a conversation. A letter that is found gone is left out and counted.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from upsertq.client.waiting import MAX_POLL, PATIENCE_SECONDS
from upsertq.contract.books import check_incarnations
from upsertq.contract.circumstances import Circumstances
from upsertq.contract.dead_letter import Reason, decode_head
from upsertq.contract.errors import WaitTimeout
from upsertq.contract.keys import QueueKeys, ShardKeys, queue_option
from upsertq.contract.protocol import (
    Argument,
    Conversation,
    Failed,
    Patience,
    Pause,
    Script,
    Trouble,
    ask_all,
    ask_script,
    bear,
    is_trouble,
    persistently,
    run_scripts,
    worst,
)
from upsertq.contract.queue import OTHER, QueueShape
from upsertq.contract.wire import UnknownEntry, is_sequence
from upsertq.dead.choice import HEADS
from upsertq.dead.finding import Pick

REPLAY: Final = Script.load("upsertq.contract", "replay")
DISCARD: Final = Script.load("upsertq.contract", "discard")
STAYS: Final = 2
"""What `replay.lua` says of a letter that is damaged."""
CALL_LETTERS: Final = 100
"""Letters of one shard that one script call moves, while the server does nothing else."""
CALL_SHARDS: Final = 16
"""Shards that are spoken to in one round trip."""


@dataclass(slots=True)
class Tally:
    """What became of a plan so far: letters moved (replayed or discarded), and how many were gone, or stay damaged."""

    moved: list[Pick] = field(default_factory=list)
    gone: int = 0
    damaged: int = 0

    @property
    def done(self) -> int:
        """Letters dealt with."""
        return len(self.moved) + self.gone + self.damaged


def _ignore(_: Tally) -> None:
    """Watch nothing."""


def replay(
    keys: QueueKeys,
    shape: QueueShape,
    picks: Sequence[Pick],
    tally: Tally,
    patience: Callable[[], Patience],
    watch: Callable[[Tally], None] = _ignore,
) -> Conversation[None]:
    """Move letters to the tails of their streams, in order within each shard, and count them in `tally`.

    Each letter is in one place at any instant. Each success renews the patience.

    Raises:
        QueueFull: the server stayed out of memory.
        QueueLost: the server lost the queue, or a shard of it.
        ServerUnavailable: the server stayed away.
        ServerRefused: the server refused.
    """
    yield from _Move(REPLAY, _replay_call, "replay dead letters", keys, shape, tally).all(picks, patience, watch)


def discard(
    keys: QueueKeys,
    shape: QueueShape,
    picks: Sequence[Pick],
    tally: Tally,
    patience: Callable[[], Patience],
    watch: Callable[[Tally], None] = _ignore,
) -> Conversation[None]:
    """Remove letters for good, and count them in `tally`; raises as `replay`."""
    yield from _Move(DISCARD, _discard_call, "discard dead letters", keys, shape, tally).all(picks, patience, watch)


@dataclass(slots=True)
class _Move:
    """One pass over a plan. `unsure` are calls without an answer: what is gone at their repetition, they moved."""

    script: Script
    call: Callable[[ShardKeys, str, Sequence[Pick]], tuple[list[str], list[Argument]]]
    what: str
    keys: QueueKeys
    shape: QueueShape
    tally: Tally
    unsure: set[int] = field(default_factory=set)

    def all(
        self, picks: Sequence[Pick], patience: Callable[[], Patience], watch: Callable[[Tally], None]
    ) -> Conversation[None]:
        waiting = _by_shard(picks)
        patient = patience()
        while waiting:
            shards = list(waiting)[:CALL_SHARDS]
            calls = [waiting[shard][:CALL_LETTERS] for shard in shards]
            named = zip(map(self.keys.shard, shards), calls, strict=True)
            replies = yield from run_scripts(
                self.script, [self.call(keys, self.shape.incarnation, call) for keys, call in named]
            )
            before = self.tally.done
            for shard, call, reply in zip(shards, calls, replies, strict=True):
                if isinstance(reply, Failed):
                    if is_trouble(reply, Trouble.AWAY):
                        self.unsure.add(shard)
                    continue
                if reply[0] == OTHER:
                    check_incarnations(self.keys, {shard: reply[1]}, self.shape.incarnation)
                self._count(call, reply, sure=shard not in self.unsure)
                self.unsure.discard(shard)
                del waiting[shard][: len(call)]
                if not waiting[shard]:
                    del waiting[shard]
            if self.tally.done > before:
                patient = patience()
                watch(self.tally)
            failure = worst(replies)
            if failure is not None:
                yield from bear(failure, patient, self.what)

    def _count(self, call: Sequence[Pick], reply: Sequence[int], *, sure: bool) -> None:
        for pick, moved in zip(call, reply, strict=True):
            if moved == STAYS:
                self.tally.damaged += 1
            elif moved or not sure:
                self.tally.moved.append(pick)
            else:
                self.tally.gone += 1


def _replay_call(shard: ShardKeys, incarnation: str, picks: Sequence[Pick]) -> tuple[list[str], list[Argument]]:
    names = [shard.books, shard.lanes, shard.bell, shard.dead, shard.dead_ids]
    spaces = _places((pick.namespace for pick in picks), len(names) + 1)
    runs = _places((pick.run for pick in picks if pick.run), len(names) + len(spaces) + 1)
    arguments: list[Argument] = [incarnation, len(picks)]
    for pick in picks:
        arguments += [pick.stream_id, spaces[pick.namespace], runs.get(pick.run, 0), pick.namespace, pick.run]
    return [*names, *map(shard.stream, spaces), *map(shard.run, runs)], arguments


def _discard_call(shard: ShardKeys, incarnation: str, picks: Sequence[Pick]) -> tuple[list[str], list[Argument]]:
    names = [shard.books, shard.dead, shard.dead_ids]
    runs = _places((pick.run for pick in picks if pick.run), len(names) + 1)
    arguments: list[Argument] = [incarnation]
    for pick in picks:
        arguments += [pick.stream_id, runs.get(pick.run, 0), pick.run]
    return [*names, *map(shard.run, runs)], arguments


def _places(names: Iterable[str], first: int) -> dict[str, int]:
    """The place of each name, once, among the keys of a script."""
    return {name: place for place, name in enumerate(dict.fromkeys(names), first)}


def _by_shard(picks: Sequence[Pick]) -> dict[int, list[Pick]]:
    shards = defaultdict(list)
    for pick in picks:
        shards[pick.shard].append(pick)
    return dict(shards)


def wait_until_replayed(
    keys: QueueKeys,
    picks: Sequence[Pick],
    timeout: float,
    world: Circumstances,
    watch: Callable[[int], None] = lambda _: None,
) -> Conversation[list[tuple[Pick, Reason]]]:
    """Wait until none of these replayed letters is pending; returns those that died again, with their new reasons.

    Tells `watch` how many are settled. `WaitTimeout` after `timeout` seconds.
    """
    until = world.clock() + timeout
    left, died, step = list(picks), list[tuple[Pick, Reason]](), 0.05
    while True:
        patience = world.patience(min(PATIENCE_SECONDS, max(0.0, until - world.clock())))
        left, buried = yield from _look(keys, left, patience)
        for pick, stream_id in buried:
            reason = yield from _reason(keys, pick.shard, stream_id, patience)
            if reason is not None:
                died.append((pick, reason))
        watch(len(picks) - len(left))
        if not left:
            return died
        remaining = until - world.clock()
        if remaining <= 0:
            shows = f"`upsertq status{queue_option(keys.queue)}` shows it"
            raise WaitTimeout(
                f"{len(left):,} of the first {len(picks):,} replayed records are still pending after {timeout:g} s: is "
                f"a worker running? {shows}; the rest of the dead letters were left as they are"
            )
        yield Pause(min(step, remaining))
        step = min(step * 1.5, MAX_POLL)


def _look(
    keys: QueueKeys, picks: Sequence[Pick], patience: Patience
) -> Conversation[tuple[list[Pick], list[tuple[Pick, str]]]]:
    """Which letters are still pending, and which died again, with their new stream ids: their marks tell."""
    pending: list[Pick] = []
    buried: list[tuple[Pick, str]] = []
    for shard, some in _by_shard(picks).items():
        ask = ask_all([["HMGET", keys.shard(shard).dead_ids, *(pick.mark for pick in some)]])
        (marks,) = yield from persistently(ask, patience, "read the marks of replayed records")
        for pick, mark in zip(some, marks, strict=True):
            tokens = [token.split(",", 3) for token in (mark or b"").decode("ascii", "replace").split()]
            if ["R", pick.seq] in tokens:
                pending.append(pick)
            # a mark that cannot be read says nothing
            died = (token[2] for token in tokens if token[:2] == ["D", pick.seq] and len(token) > 2)  # noqa: PLR2004
            buried += [(pick, stream_id) for stream_id in died if is_sequence(stream_id)]
    return pending, buried


def _reason(keys: QueueKeys, shard: int, stream_id: str, patience: Patience) -> Conversation[Reason | None]:
    """Why the letter died; `None` when it is gone meanwhile."""
    ask = ask_script(HEADS, [([keys.shard(shard).dead], [stream_id, stream_id, 1])])
    (reply,) = yield from persistently(ask, patience, "read the dead letters")
    try:
        return decode_head(shard, stream_id, dict(zip(reply[0][1][::2], reply[0][1][1::2], strict=True))).verdict.reason
    except (IndexError, UnknownEntry):
        return None
