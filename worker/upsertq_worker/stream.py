"""Owns what a worker says to the queue's server: leases, reading, settling, heartbeats. It never decides what to send.

A failed call raises `ServerUnavailable` (try again) or `ServerRefused` (it will not help); every call may be repeated.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import orjson

from upsertq.books import COUNTERS, Books, of_reply, total
from upsertq.errors import ServerUnavailable
from upsertq.exchange import (
    DAMAGED,
    WRONG_TYPE,
    Argument,
    Conversation,
    Failed,
    Hash,
    Script,
    Trouble,
    ask_all,
    named,
    refusal,
    run_scripts,
    worst,
)
from upsertq.keys import CONSUMER, GROUP, QueueKeys
from upsertq.letter import encode_letter, is_superseded, mark_field
from upsertq.pauses import Paused, note
from upsertq.pauses import of_reply as of_pauses
from upsertq.queue import QueueShape
from upsertq.server import AsyncServer
from upsertq.wire import Entry
from upsertq_worker.postage import Postage
from upsertq_worker.seams import Delivery, Grant, ShardsDamaged
from upsertq_worker.versions import Settlement

LEASE = Script.load("upsertq_worker", "lease")
RELEASE = Script.load("upsertq_worker", "release")
MARK = Script.load("upsertq_worker", "mark")
SETTLE = Script.load("upsertq_worker", "settle")
LATER = ("NOGROUP", "UNBLOCKED", WRONG_TYPE)
"""How the server says that a stream is gone with its group, or is none: the next round of leases makes both, or takes
the shard from us and says what is wrong."""
SETTLE_ENTRIES = 200
"""Entries of one settle call at most: bounds how long the server is busy with it."""
BOOKS_PLACE = 2
"""Place of the shard's books among the keys of the settle script."""


class RedisQueue:
    """A queue on a Redis or Valkey server, as worker `name` sees it."""

    def __init__(self, server: AsyncServer, shape: QueueShape, name: str, lease: float) -> None:
        self._server = server
        self._keys = QueueKeys(shape.name)
        self._shape = shape
        self.name = name
        self._lease_ms = int(lease * 1000)

    async def lease(self, wanted: Mapping[int, int], *, take: bool) -> list[Grant]:
        """As `QueueSeam.lease`."""
        calls: list[tuple[list[str], list[Argument]]] = []
        for shard, epoch in wanted.items():
            keys = self._keys.shard(shard)
            arguments: list[Argument] = [GROUP, self.name, epoch, self._lease_ms, "1" if take else "0"]
            calls.append(([keys.lease, keys.books, keys.stream], arguments))
        faults, replies = await self._by_shard(run_scripts(LEASE, calls), list(wanted), "take the shards' leases")
        grants = [Grant(shard, 0, "", fault) for shard, fault in faults.items()]
        return grants + [
            Grant(shard, int(epoch), holder.decode("utf-8", "backslashreplace"))
            for shard, (epoch, holder) in replies.items()
        ]

    async def release(self, held: Mapping[int, int], keep: Mapping[int, float]) -> None:
        """As `QueueSeam.release`."""
        calls: list[tuple[list[str], list[Argument]]] = [
            ([self._keys.shard(shard).lease], [self._mark(epoch), int(keep.get(shard, 0.0) * 1000)])
            for shard, epoch in held.items()
        ]
        await self._sure(run_scripts(RELEASE, calls), "give the shards' leases up")

    async def read(self, cursors: Mapping[int, str], count: int, wait: float) -> list[Delivery]:
        """As `QueueSeam.read`."""
        shard_of = {self._keys.shard(shard).stream.encode(): shard for shard in cursors}
        command: list[Argument] = [
            *("XREADGROUP", "GROUP", GROUP, CONSUMER, "COUNT", count, "BLOCK", max(1, int(wait * 1000))),
            *("STREAMS", *(self._keys.shard(shard).stream for shard in cursors), *cursors.values()),
        ]
        (reply,) = await self._sure(ask_all([command])(), "read the queue")
        return [
            Delivery(shard_of[stream], stream_id.decode(), fields or None)
            for stream, entries in reply or []
            for stream_id, fields in entries
        ]

    async def oldest_pending(self, after: Mapping[int, str]) -> dict[int, str]:
        """As `QueueSeam.oldest_pending`."""
        ask = ask_all(
            [
                ["XPENDING", self._keys.shard(shard).stream, GROUP, _behind(seen), "+", 1]
                for shard, seen in after.items()
            ]
        )
        replies = await self._sure(ask(), "look for what is pending")
        return {shard: reply[0]["message_id"].decode() for shard, reply in zip(after, replies, strict=True) if reply}

    async def marks(self, shards: Sequence[int]) -> dict[int, dict[str, str]]:
        """As `QueueSeam.marks`."""
        ask = ask_all([["HGETALL", self._keys.shard(shard).suspects] for shard in shards])
        # a help, no condition: what is damaged holds none
        _, replies = await self._by_shard(ask(), shards, "read the marks of suspects")
        return {shard: _texts(replies[shard]) if shard in replies else {} for shard in shards}

    async def mark(self, held: Mapping[int, int], marks: Mapping[tuple[int, str], str]) -> None:
        """As `QueueSeam.mark`."""
        calls: list[tuple[list[str], list[Argument]]] = []
        for shard, ones in groupby(sorted(marks.items()), key=lambda item: item[0][0]):
            keys, ours = self._keys.shard(shard), self._mark(held.get(shard, 0))
            arguments = [argument for (_, stream_id), mark in ones for argument in (stream_id, mark)]
            calls.append(([keys.stream, keys.lease, keys.suspects], [GROUP, ours, f" by {self.name}", *arguments]))
        await self._sure(run_scripts(MARK, calls), "mark what is in work")

    async def settle(self, held: Mapping[int, int], settlements: Sequence[Settlement]) -> frozenset[int]:
        """As `QueueSeam.settle`."""
        left = {shard: list(group) for shard, group in groupby(sorted(settlements, key=_shard), key=_shard)}
        foreign: set[int] = set()
        faults: dict[int, str] = {}
        while left:
            calls = [self._settle_call(held[shard], group[:SETTLE_ENTRIES]) for shard, group in left.items()]
            wrong, replies = await self._by_shard(run_scripts(SETTLE, calls), list(left), "settle")
            faults |= wrong
            foreign |= {shard for shard, reply in replies.items() if not reply[0]}
            left = {shard: group[SETTLE_ENTRIES:] for shard, group in left.items() if group[SETTLE_ENTRIES:]}
            left = {shard: group for shard, group in left.items() if shard not in faults}
        if faults:
            raise ShardsDamaged(faults)
        return frozenset(foreign)

    async def backlog(self, shards: Sequence[int]) -> dict[int, int]:
        """As `QueueSeam.backlog`."""
        ask = ask_all([["XLEN", self._keys.shard(shard).stream] for shard in shards])
        return dict(zip(shards, await self._sure(ask(), "measure the backlog"), strict=True))

    async def books(self) -> Books:
        """As `QueueSeam.books`."""
        hashes = [self._keys.shard(k).books for k in range(self._shape.shards)]
        replies = await self._sure(ask_all([["HMGET", name, *COUNTERS] for name in hashes])(), "read the books")
        return total(of_reply(reply, name) for reply, name in zip(replies, hashes, strict=True))

    async def superseded(self, replayed: Sequence[tuple[int, Entry]]) -> list[bool]:
        """As `QueueSeam.superseded`."""
        commands: list[list[Argument]] = [
            ["HGET", self._keys.shard(shard).dead_ids, mark_field(entry)] for shard, entry in replayed
        ]
        marks = await self._server.hold(ask_all(commands)())
        wrong = zip((shard for shard, _ in replayed), marks, strict=True)
        if faults := {shard: fault for shard, mark in wrong if (fault := _fault(mark))}:
            raise ShardsDamaged(faults)
        _sound(marks, "look for newer versions of what is replayed")
        return [is_superseded(mark, entry.seq) for mark, (_, entry) in zip(marks, replayed, strict=True)]

    async def note(self, changes: Mapping[str, Paused | None]) -> None:
        """As `QueueSeam.note`."""
        lanes = self._keys.lanes
        # what was paused by hand meanwhile ends by hand
        by_hand = {scope for scope, paused in (await self.pauses()).items() if paused.by_hand}
        commands: list[list[Argument]] = [
            ["HDEL", lanes, scope] if why is None else ["HSETNX", lanes, scope, note(why)]
            for scope, why in changes.items()
            if scope not in by_hand
        ]
        if commands:
            await self._sure(ask_all(commands)(), "note a pause")

    async def pauses(self) -> dict[str, Paused]:
        """As `QueueSeam.pauses`."""
        (reply,) = await self._sure(ask_all([["HGETALL", self._keys.lanes]])(), "read the paused lanes")
        return of_pauses(reply)

    async def beat(self, report: Mapping[str, Any]) -> None:
        """As `QueueSeam.beat`."""
        ask = ask_all([["HSET", self._keys.workers, self.name, orjson.dumps(report)]])
        await self._sure(ask(), "write the heartbeat")

    async def leave(self) -> None:
        """As `QueueSeam.leave`."""
        await self._sure(ask_all([["HDEL", self._keys.workers, self.name]])(), "take the heartbeat away")

    def _mark(self, epoch: int) -> str:
        return f"{epoch}:{self.name}"

    def _settle_call(self, epoch: int, settlements: Sequence[Settlement]) -> tuple[list[str], list[Argument]]:
        shard = self._keys.shard(settlements[0].shard)
        keys = [shard.stream, shard.books, shard.lease, shard.dead, shard.dead_ids, shard.suspects]
        place: dict[str, int] = {"": 0}
        at = max(one.settled_ms for one in settlements)
        arguments: list[Argument] = [GROUP, self._mark(epoch), at, len(settlements)]
        for one in settlements:
            if one.run not in place:
                keys.append(shard.run(one.run))
                place[one.run] = len(keys)
            arguments += [one.stream_id, place[one.run], one.run, one.records, one.size, one.acked, one.superseded]
            figures = [*_figures(BOOKS_PLACE, one.queue_postage), *_figures(place[one.run], one.postage)]
            arguments += [one.sequence or one.stream_id, len(one.graves), len(figures) // 3]
            for grave in one.graves:
                fields = encode_letter(grave.entry, grave.verdict)
                arguments += [grave.row, grave.entry.seq, grave.verdict.reason, len(fields), *fields]
            arguments += figures
        return keys, arguments

    async def _sure(self, conversation: Conversation[list[Any]], what: str) -> list[Any]:
        return _sound(await self._server.hold(conversation), what)

    async def _by_shard(
        self, conversation: Conversation[list[Any]], shards: Sequence[int], what: str
    ) -> tuple[dict[int, str], dict[int, Any]]:
        """What is wrong with damaged shards, and the replies of the others, of a call for each shard."""
        replies = dict(zip(shards, await self._server.hold(conversation), strict=True))
        faults = {shard: fault for shard, reply in replies.items() if (fault := _fault(reply))}
        sound = {shard: reply for shard, reply in replies.items() if shard not in faults}
        _sound(list(sound.values()), what)
        return faults, sound


def _fault(reply: Any) -> str:
    """What is damaged, where that is the reply."""
    return reply.message.partition(DAMAGED)[2] if isinstance(reply, Failed) else ""


def _sound(replies: list[Any], what: str) -> list[Any]:
    """The replies; raises where one is a failure."""
    failure = worst(replies)
    if failure is None:
        return replies
    refuses = failure.trouble in {Trouble.REFUSED, Trouble.NO_SCRIPT}
    if refuses and not failure.message.startswith(LATER):
        raise refusal(failure, what)
    raise ServerUnavailable(f"cannot {what}: {failure.message}")


def _behind(stream_id: str) -> str:
    """The first id that can follow `stream_id`."""
    milliseconds, _, number = stream_id.partition("-")
    return f"{milliseconds}-{int(number) + 1}"


def _figures(place: int, postage: Postage | None) -> list[Argument]:
    """What requests took as the script has it: place of the books among its keys, name and value of each figure."""
    return [part for name, value in (postage.figures() if postage else {}).items() for part in (place, name, value)]


def _texts(reply: Hash) -> dict[str, str]:
    return {name: value.decode("ascii", "replace") for name, value in named(reply).items()}


def _shard(settlement: Settlement) -> int:
    return settlement.shard
