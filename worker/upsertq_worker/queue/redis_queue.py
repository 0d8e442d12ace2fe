"""Owns what a worker says to the queue's server: leases, reading, settling. It never decides what to send.

A failed call raises `ServerUnavailable` (try again), `ServerRefused` (it will not help), `ShardsDamaged` (some shards
are stopped) or `QueueLost` (the server has lost the queue's data); every call may be repeated.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from upsertq.contract.dead_letter import is_superseded, mark_field
from upsertq.contract.figures import counter
from upsertq.contract.protocol import RENAME, WRONG_TYPE, Argument, Failed, Script
from upsertq.contract.queue import QueueShape
from upsertq.contract.server import AsyncServer
from upsertq.contract.wire import Entry
from upsertq_worker.flow.usage import Metered
from upsertq_worker.queue.protocols import START, Counted, Delivery, Grant, LaneList, Read, Ring, Settled, Stream
from upsertq_worker.queue.redis_calls import Call, fault_of, key_of, name_of, sound, sound_shards, text_of
from upsertq_worker.queue.redis_notes import RedisNotes
from upsertq_worker.queue.redis_settle import SettleCall

LEASE: Final = Script.load("upsertq_worker", "lease")
RELEASE: Final = Script.load("upsertq_worker", "release")
MARK: Final = Script.load("upsertq_worker", "mark")
SETTLE: Final = Script.load("upsertq_worker", "settle")
SETTLE_ENTRIES: Final = 200
"""Entries of one settle call at most: bounds how long the server is busy with it."""
ELSEWHERE, OURS, RUNS_MISSING = 0, 1, 2
"""What the settle script answers first."""


class RedisQueue(RedisNotes):
    """A queue on a Redis or Valkey server, as worker `name` sees it."""

    def __init__(self, server: AsyncServer, shape: QueueShape, name: str, lease: float) -> None:
        super().__init__(server, shape, name)
        self._lease_ms = int(lease * 1000)
        self._settles: dict[int, tuple[int, int]] = {}
        """By shard: our epoch, and how many entries were ever settled there, as it was told last."""

    async def lease(self, wanted: Mapping[int, int], *, take: bool) -> list[Grant]:
        """As `Queue.lease`."""
        calls = {
            shard: self._books_call(
                shard, self.name, epoch, self._lease_ms, "1" if take else "0", _told(self._settles, shard, epoch)
            )
            for shard, epoch in wanted.items()
        }
        faults, replies = await self._calls.run(LEASE, calls, "take the shards' leases", partly=True)
        grants = [Grant(shard, 0, fault=fault) for shard, fault in faults.items()]
        silent = wanted.keys() - faults.keys() - replies.keys()
        grants += [Grant(shard, wanted[shard], silent=True) for shard in silent]
        return grants + [_grant(shard, reply) for shard, reply in replies.items()]

    async def release(self, held: Mapping[int, int], keep: Mapping[int, float]) -> None:
        """As `Queue.release`."""
        calls = {
            shard: self._books_call(shard, self._holder(epoch), int(keep.get(shard, 0.0) * 1000))
            for shard, epoch in held.items()
        }
        sound_shards((await self._calls.run(RELEASE, calls, "give the shards' leases up"))[0])

    async def lanes(self, shards: Sequence[int]) -> dict[int, LaneList]:
        """As `Queue.lanes`."""
        commands: list[list[Argument]] = []
        for shard in shards:
            keys = self._calls.keys.shard(shard)
            # the bell first: what enters the lanes later is heard behind this place
            commands += [["XREVRANGE", keys.bell, "+", "-", "COUNT", 1], ["SMEMBERS", keys.lanes]]
        replies = await self._calls.ask(*commands)
        of_shards = dict(zip(shards, zip(replies[::2], replies[1::2], strict=True), strict=True))
        sound_shards({shard: fault_of(bell) or fault_of(lanes) for shard, (bell, lanes) in of_shards.items()})
        sound(replies, "list the lanes")
        return {
            shard: LaneList(latest[0][0].decode() if latest else START, sorted(map(name_of, members)))
            for shard, (latest, members) in of_shards.items()
        }

    async def read(self, cursors: Mapping[Stream, str], bells: Mapping[int, str], count: int, wait: float) -> Read:
        """As `Queue.read`."""
        keys = self._calls.keys
        streams = {key_of(keys.shard(shard).stream(name)): (shard, name) for shard, name in cursors}
        shards = {keys.shard(shard).bell.encode(): shard for shard in bells}
        block: list[Argument] = ["BLOCK", max(1, int(wait * 1000))] if wait > 0 else []
        command: list[Argument] = ["XREAD", "COUNT", count, *block, "STREAMS"]
        (reply,) = await self._calls.ask([*command, *streams, *shards, *cursors.values(), *bells.values()])
        if isinstance(reply, Failed) and WRONG_TYPE in reply.message:
            return Read(faults=await self._no_streams(streams, shards))
        sound([reply], "read the queue")
        deliveries: list[Delivery] = []
        rings: list[Ring] = []
        for name, entries in reply or ():
            if name in shards:
                shard = shards[name]
                heard = [(place, fields.get(b"ns")) for place, fields in entries]
                rings += [Ring(shard, None if ns is None else name_of(ns), place.decode()) for place, ns in heard]
            else:
                shard, namespace = streams[name]
                deliveries += [Delivery(shard, namespace, place.decode(), fields) for place, fields in entries]
        return Read(deliveries, rings)

    async def mark(
        self, held: Mapping[int, int], marks: Mapping[int, str], deaths: int | None = None
    ) -> frozenset[int]:
        """As `Queue.mark`."""
        calls = {
            shard: self._books_call(shard, self._holder(held.get(shard, 0)), "" if deaths is None else deaths, text)
            for shard, text in marks.items()
        }
        faults, replies = await self._calls.run(MARK, calls, "mark what is sent alone")
        sound_shards(faults)
        return frozenset(shard for shard, (ours, *_) in replies.items() if not ours)

    async def settle(self, held: Mapping[int, int], settlements: Sequence[Metered]) -> Settled:
        """As `Queue.settle`."""
        left = {shard: list(group) for shard, group in groupby(sorted(settlements, key=_shard), key=_shard)}
        foreign: set[int] = set()
        faults: dict[int, str] = {}
        emptied: dict[Stream, str] = {}
        while left:
            wrong, replies = await self._settle(held, {shard: ones[:SETTLE_ENTRIES] for shard, ones in left.items()})
            faults |= wrong
            for shard, reply in replies.items():
                if reply[0] == ELSEWHERE:
                    foreign.add(shard)
                else:
                    self._settles[shard] = held[shard], reply[3]
                    emptied |= {(shard, name_of(namespace)): text_of(reply[2]) for namespace in reply[4:]}
            done = foreign | faults.keys()
            left = {shard: ones[SETTLE_ENTRIES:] for shard, ones in left.items() if shard not in done}
            left = {shard: ones for shard, ones in left.items() if ones}
        return Settled(frozenset(foreign), emptied, faults)

    async def counted(self, shards: Sequence[int]) -> dict[int, Counted]:
        """As `Queue.counted`."""
        commands = [["HMGET", self._calls.keys.shard(shard).books, "pending", "clock"] for shard in shards]
        replies = await self._calls.sure("read the books", *commands)
        return {
            shard: Counted(counter(pending) or 0, text_of(clock or b""))
            for shard, (pending, clock) in zip(shards, replies, strict=True)
        }

    async def streams(self, shard: int) -> list[str]:
        """As `Queue.streams`."""
        prefix, cursor, found = self._calls.keys.shard(shard).stream(""), b"0", set[str]()
        what = f"search for the streams of shard {shard}"
        while True:
            ((cursor, names),) = await self._calls.sure(what, ["SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", 1_000])
            found |= {name_of(name).removeprefix(prefix) for name in names}
            if int(cursor) == 0:
                return sorted(found)

    async def superseded(self, replayed: Sequence[tuple[int, Entry]]) -> list[bool]:
        """As `Queue.superseded`."""
        commands = [["HGET", self._calls.keys.shard(shard).dead_ids, mark_field(entry)] for shard, entry in replayed]
        marks = await self._calls.ask(*commands)
        sound_shards({shard: fault_of(mark) for (shard, _), mark in zip(replayed, marks, strict=True)})
        sound(marks, "look for newer versions of what is replayed")
        return [is_superseded(mark, entry.seq) for mark, (_, entry) in zip(marks, replayed, strict=True)]

    async def _settle(
        self, held: Mapping[int, int], groups: Mapping[int, Sequence[Metered]]
    ) -> tuple[dict[int, str], dict[int, list[Any]]]:
        """Settle each group in its shard, again with the books of runs that turn out to be concerned."""

        def call(shard: int, also: Sequence[str]) -> Call:
            epoch = held[shard]
            told = _told(self._settles, shard, epoch)
            head: list[Argument] = [self._shape.incarnation, self._holder(epoch), told]
            return SettleCall(self._calls.keys.shard(shard), head).of(groups[shard], also)

        faults, replies = await self._calls.run(SETTLE, {shard: call(shard, ()) for shard in groups}, "settle")
        while again := {shard: reply[1:] for shard, reply in replies.items() if reply[0] == RUNS_MISSING}:
            calls = {shard: call(shard, list(map(text_of, runs))) for shard, runs in again.items()}
            wrong, later = await self._calls.run(SETTLE, calls, "settle")
            faults |= wrong
            replies = {shard: reply for shard, reply in replies.items() if shard not in again} | later
        return faults, replies

    async def _no_streams(self, streams: Mapping[bytes, Stream], bells: Mapping[bytes, int]) -> dict[Stream, str]:
        """Which of these keys are no streams, by the stream that is not to be read; raises for a shard's bell."""
        names = [*streams, *bells]
        commands: list[list[Argument]] = [["TYPE", name] for name in names]
        kinds = await self._calls.sure("look", *commands)
        told = {
            name: f"{text_of(name)} is no stream: {RENAME}"
            for name, kind in zip(names, kinds, strict=True)
            if kind not in {b"stream", b"none", "stream", "none"}
        }
        sound_shards({bells[name]: why for name, why in told.items() if name in bells})
        return {streams[name]: why for name, why in told.items() if name in streams}

    def _books_call(self, shard: int, *arguments: Argument) -> Call:
        """A call of a script that touches a shard's lease and books."""
        keys = self._calls.keys.shard(shard)
        return [keys.lease, keys.books], [self._shape.incarnation, *arguments]

    def _holder(self, epoch: int) -> str:
        return f"{epoch}:{self.name}"


def _grant(shard: int, reply: Sequence[Any]) -> Grant:
    epoch, holder, clean, deaths, mark, clock = reply
    return Grant(shard, int(epoch), text_of(holder), bool(clean), int(deaths), text_of(mark), text_of(clock) or START)


def _told(settles: Mapping[int, tuple[int, int]], shard: int, epoch: int) -> int:
    """Entries that were ever settled in a shard, as far as was told under this epoch."""
    under, count = settles.get(shard, (0, 0))
    return count if under == epoch else 0


def _shard(metered: Metered) -> int:
    return metered.settlement.shard
