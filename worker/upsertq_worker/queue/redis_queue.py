"""Owns what a worker says to the queue's server: leases, reading, settling, heartbeats. It never decides what to send.

A failed call raises `ServerUnavailable` (try again), `ServerRefused` (it will not help), `ShardsDamaged` (some shards
are stopped) or `QueueLost` (the server has lost the queue's data); every call may be repeated.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import orjson

from upsertq.admin.status import beat_at, forgotten, time_of
from upsertq.contract.books import COUNTERS, Books, check_reopened, of_reply, total
from upsertq.contract.dead_letter import encode_letter, is_superseded, mark_field
from upsertq.contract.errors import QueueLost
from upsertq.contract.figures import counter
from upsertq.contract.keys import QueueKeys
from upsertq.contract.pauses import Paused, note
from upsertq.contract.pauses import of_reply as of_pauses
from upsertq.contract.protocol import (
    DAMAGED,
    RENAME,
    WRONG_TYPE,
    Argument,
    Conversation,
    Failed,
    Script,
    ask_all,
    named,
    refused,
    run_scripts,
    unavailable,
    worst,
)
from upsertq.contract.queue import QueueShape
from upsertq.contract.server import AsyncServer
from upsertq.contract.wire import Entry
from upsertq_worker.queue.protocols import (
    START,
    Counted,
    Delivery,
    Grant,
    LaneList,
    Read,
    Ring,
    Settled,
    ShardsDamaged,
    Stream,
)
from upsertq_worker.queue.usage import Metered, Usage

LEASE: Final = Script.load("upsertq_worker", "lease")
RELEASE: Final = Script.load("upsertq_worker", "release")
MARK: Final = Script.load("upsertq_worker", "mark")
SETTLE: Final = Script.load("upsertq_worker", "settle")
TIDY_SECONDS: Final = 60.0
"""How often the heartbeats of workers that are long gone are taken away."""
SETTLE_ENTRIES: Final = 200
"""Entries of one settle call at most: bounds how long the server is busy with it."""
BOOKS_PLACE: Final = 2
"""Place of the shard's books among the keys of the settle script."""
ELSEWHERE, OURS, RUNS_MISSING, LOST = 0, 1, 2, -1
"""What the settle script answers first."""

Call = tuple[list[str], list[Argument]]


class RedisQueue:
    """A queue on a Redis or Valkey server, as worker `name` sees it."""

    def __init__(self, server: AsyncServer, shape: QueueShape, name: str, lease: float) -> None:
        self._server = server
        self._keys = QueueKeys(shape.name)
        self._shape = shape
        self.name = name
        self._lease_ms = int(lease * 1000)
        self._tidied_at = 0.0

    async def lease(self, wanted: Mapping[int, int], *, take: bool) -> list[Grant]:
        """As `Queue.lease`."""
        calls: list[Call] = []
        for shard, epoch in wanted.items():
            keys = self._keys.shard(shard)
            arguments: list[Argument] = [self.name, epoch, self._lease_ms, "1" if take else "0"]
            calls.append(([keys.lease, keys.books], [self._shape.incarnation, *arguments]))
        faults, replies = await self._run(LEASE, calls, list(wanted), "take the shards' leases")
        grants = [Grant(shard, 0, fault=fault) for shard, fault in faults.items()]
        return grants + [_grant(shard, reply) for shard, reply in replies.items()]

    async def release(self, held: Mapping[int, int], keep: Mapping[int, float]) -> None:
        """As `Queue.release`."""
        calls: list[Call] = []
        for shard, epoch in held.items():
            keys = self._keys.shard(shard)
            arguments: list[Argument] = [self._holder(epoch), int(keep.get(shard, 0.0) * 1000)]
            calls.append(([keys.lease, keys.books], [self._shape.incarnation, *arguments]))
        _sound_shards((await self._run(RELEASE, calls, list(held), "give the shards' leases up"))[0])

    async def lanes(self, shards: Sequence[int]) -> dict[int, LaneList]:
        """As `Queue.lanes`."""
        commands: list[list[Argument]] = []
        for shard in shards:
            keys = self._keys.shard(shard)
            # the bell first: what enters the lanes later is heard behind this place
            commands += [["XREVRANGE", keys.bell, "+", "-", "COUNT", 1], ["SMEMBERS", keys.lanes]]
        replies = await self._server.hold(ask_all(commands)())
        of_shards = dict(zip(shards, zip(replies[::2], replies[1::2], strict=True), strict=True))
        _sound_shards({shard: _fault(bell) or _fault(lanes) for shard, (bell, lanes) in of_shards.items()})
        _sound(replies, "list the lanes")
        return {
            shard: LaneList(latest[0][0].decode() if latest else START, sorted(map(_name, members)))
            for shard, (latest, members) in of_shards.items()
        }

    async def read(self, cursors: Mapping[Stream, str], bells: Mapping[int, str], count: int, wait: float) -> Read:
        """As `Queue.read`."""
        streams = {_key(self._keys.shard(shard).stream(name)): (shard, name) for shard, name in cursors}
        shards = {self._keys.shard(shard).bell.encode(): shard for shard in bells}
        block: list[Argument] = ["BLOCK", max(1, int(wait * 1000))] if wait > 0 else []
        command: list[Argument] = ["XREAD", "COUNT", count, *block, "STREAMS"]
        ask = ask_all([[*command, *streams, *shards, *cursors.values(), *bells.values()]])
        (reply,) = await self._server.hold(ask())
        if isinstance(reply, Failed) and WRONG_TYPE in reply.message:
            return Read(faults=await self._no_streams(streams, shards))
        _sound([reply], "read the queue")
        deliveries: list[Delivery] = []
        rings: list[Ring] = []
        for name, entries in reply or ():
            if name in shards:
                rings += [
                    Ring(shards[name], _name(fields[b"ns"]), place.decode())
                    for place, fields in entries
                    if b"ns" in fields
                ]
            else:
                shard, namespace = streams[name]
                deliveries += [Delivery(shard, namespace, place.decode(), fields) for place, fields in entries]
        return Read(deliveries, rings)

    async def mark(
        self, held: Mapping[int, int], marks: Mapping[int, str], deaths: int | None = None
    ) -> frozenset[int]:
        """As `Queue.mark`."""
        calls: list[Call] = []
        for shard, text in marks.items():
            keys = self._keys.shard(shard)
            arguments: list[Argument] = [self._holder(held.get(shard, 0)), "" if deaths is None else deaths, text]
            calls.append(([keys.lease, keys.books], [self._shape.incarnation, *arguments]))
        faults, replies = await self._run(MARK, calls, list(marks), "mark what is sent alone")
        _sound_shards(faults)
        return frozenset(shard for shard, (ours, *_) in replies.items() if not ours)

    async def settle(self, held: Mapping[int, int], settlements: Sequence[Metered]) -> Settled:
        """As `Queue.settle`."""
        left = {shard: list(group) for shard, group in groupby(sorted(settlements, key=_shard), key=_shard)}
        foreign: set[int] = set()
        faults: dict[int, str] = {}
        emptied: dict[Stream, str] = {}
        while left:
            now = {shard: group[:SETTLE_ENTRIES] for shard, group in left.items()}
            wrong, replies = await self._settle(held, now)
            faults |= wrong
            for shard, reply in replies.items():
                if reply[0] == ELSEWHERE:
                    foreign.add(shard)
                else:
                    emptied |= {(shard, _name(namespace)): _text(reply[2]) for namespace in reply[3:]}
            left = {
                shard: group[SETTLE_ENTRIES:]
                for shard, group in left.items()
                if group[SETTLE_ENTRIES:] and shard not in foreign and shard not in faults
            }
        return Settled(frozenset(foreign), emptied, faults)

    async def books(self) -> Books:
        """As `Queue.books`."""
        ask = ask_all(
            [
                *(["HMGET", self._keys.shard(k).books, "incarnation", *COUNTERS] for k in range(self._shape.shards)),
                self._meta,
            ]
        )
        replies = await self._sure(ask(), "read the books")
        self._check_meta(replies.pop())
        for shard, (incarnation, *_) in enumerate(replies):
            if incarnation != self._shape.incarnation.encode():
                raise self._lost(shard)
        names = [self._keys.shard(k).books for k in range(self._shape.shards)]
        return total(of_reply(reply[1:], name) for reply, name in zip(replies, names, strict=True))

    async def counted(self, shards: Sequence[int]) -> dict[int, Counted]:
        """As `Queue.counted`."""
        ask = ask_all([["HMGET", self._keys.shard(shard).books, "pending", "clock"] for shard in shards])
        replies = await self._sure(ask(), "read the books")
        return {
            shard: Counted(counter(pending) or 0, _text(clock or b""))
            for shard, (pending, clock) in zip(shards, replies, strict=True)
        }

    async def streams(self, shard: int) -> list[str]:
        """As `Queue.streams`."""
        prefix, cursor, found = self._keys.shard(shard).stream(""), b"0", set[str]()
        while True:
            scan = ask_all([["SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", 1_000]])
            ((cursor, names),) = await self._sure(scan(), f"search for the streams of shard {shard}")
            found |= {_name(name).removeprefix(prefix) for name in names}
            if int(cursor) == 0:
                return sorted(found)

    async def superseded(self, replayed: Sequence[tuple[int, Entry]]) -> list[bool]:
        """As `Queue.superseded`."""
        commands: list[list[Argument]] = [
            ["HGET", self._keys.shard(shard).dead_ids, mark_field(entry)] for shard, entry in replayed
        ]
        marks = await self._server.hold(ask_all(commands)())
        _sound_shards({shard: _fault(mark) for (shard, _), mark in zip(replayed, marks, strict=True)})
        _sound(marks, "look for newer versions of what is replayed")
        return [is_superseded(mark, entry.seq) for mark, (_, entry) in zip(marks, replayed, strict=True)]

    async def note(self, changes: Mapping[str, Paused | None]) -> None:
        """As `Queue.note`."""
        paused_key = self._keys.paused
        # what was paused by hand meanwhile ends by hand
        by_hand = {scope for scope, paused in (await self.pauses()).items() if paused.by_hand}
        commands: list[list[Argument]] = [
            ["HDEL", paused_key, scope] if why is None else ["HSETNX", paused_key, scope, note(why)]
            for scope, why in changes.items()
            if scope not in by_hand
        ]
        if commands:
            await self._sure(ask_all(commands)(), "note a pause")

    async def pauses(self) -> dict[str, Paused]:
        """As `Queue.pauses`."""
        (reply,) = await self._sure(ask_all([["HGETALL", self._keys.paused]])(), "read the paused lanes")
        return of_pauses(reply)

    async def beat(self, report: Mapping[str, Any]) -> None:
        """As `Queue.beat`."""
        key, what = self._keys.workers, "write the heartbeat"
        told, held = await self._sure(ask_all([["TIME"], self._meta])(), what)
        self._check_meta(held)
        now = time_of(told)
        await self._sure(ask_all([["HSET", key, self.name, orjson.dumps(beat_at(report, now))]])(), what)
        if abs(now - self._tidied_at) >= TIDY_SECONDS:
            (beats,) = await self._sure(ask_all([["HGETALL", key]])(), what)
            if names := forgotten(named(beats), now):
                await self._sure(ask_all([["HDEL", key, *names]])(), what)
            self._tidied_at = now

    async def leave(self) -> None:
        """As `Queue.leave`."""
        await self._sure(ask_all([["HDEL", self._keys.workers, self.name]])(), "take the heartbeat away")

    async def _settle(
        self, held: Mapping[int, int], groups: Mapping[int, Sequence[Metered]]
    ) -> tuple[dict[int, str], dict[int, Any]]:
        """Settle each group in its shard, again with the books of runs that turn out to be concerned."""
        calls = [self._settle_call(held[shard], group, ()) for shard, group in groups.items()]
        faults, replies = await self._run(SETTLE, calls, list(groups), "settle")
        while again := {shard: reply[1:] for shard, reply in replies.items() if reply[0] == RUNS_MISSING}:
            calls = [
                self._settle_call(held[shard], groups[shard], list(map(_text, runs))) for shard, runs in again.items()
            ]
            wrong, later = await self._run(SETTLE, calls, list(again), "settle")
            faults |= wrong
            replies = {shard: reply for shard, reply in replies.items() if shard not in again} | later
        return faults, replies

    async def _no_streams(self, streams: Mapping[bytes, Stream], bells: Mapping[bytes, int]) -> dict[Stream, str]:
        """Which of these keys are no streams, by the stream that is not to be read; raises for a shard's bell."""
        names = [*streams, *bells]
        kinds = dict(zip(names, await self._sure(ask_all([["TYPE", name] for name in names])(), "look"), strict=True))
        wrong = [name for name, kind in kinds.items() if kind not in {b"stream", b"none", "stream", "none"}]
        told = {name: f"{_text(name)} is no stream: {RENAME}" for name in wrong}
        _sound_shards({bells[name]: told[name] for name in wrong if name in bells})
        return {streams[name]: told[name] for name in wrong if name in streams}

    def _settle_call(self, epoch: int, settlements: Sequence[Metered], also: Sequence[str]) -> Call:
        keys = self._keys.shard(_shard(settlements[0]))
        names = [keys.lease, keys.books, keys.lanes, keys.dead, keys.dead_ids]
        streams: dict[str, int] = {}
        runs: dict[str, int] = {"": 0}
        at = max(one.settled_ms for one in settlements)
        arguments: list[Argument] = [self._shape.incarnation, self._holder(epoch), at, len(settlements)]
        for metered in settlements:
            one = metered.settlement
            if one.namespace not in streams:
                names.append(keys.stream(one.namespace))
                streams[one.namespace] = len(names)
            if one.run not in runs:
                names.append(keys.run(one.run))
                runs[one.run] = len(names)
            figures: list[Argument] = []
            if metered.usage is not None or metered.queue_usage is not None:
                figures = [*_figures(BOOKS_PLACE, metered.queue_usage), *_figures(runs[one.run], metered.usage)]
            arguments += (
                *(one.stream_id, streams[one.namespace], one.namespace, runs[one.run], one.run, one.records, one.size),
                *(one.acked, one.superseded, one.sequence, len(one.dead), len(figures) // 3),
            )
            for dead in one.dead:
                fields = encode_letter(dead.entry, dead.verdict)
                arguments += [dead.row, dead.entry.seq, dead.verdict.reason, len(fields), *fields]
            arguments += figures
        if all(one.settlement.ids for one in settlements):
            arguments += ["ids", *(orjson.dumps(one.settlement.ids) for one in settlements)]
        for run in also:
            if run not in runs:
                names.append(keys.run(run))
                runs[run] = len(names)
        if also:
            arguments += ["also", *(part for run in also for part in (runs[run], run))]
        return names, arguments

    @property
    def _meta(self) -> list[Argument]:
        return ["HGET", self._keys.meta, "incarnation"]

    def _check_meta(self, held: bytes | None) -> None:
        """Raise `QueueLost` where the queue is not there any more, though its shards may be."""
        if held != self._shape.incarnation.encode():
            raise QueueLost(
                self._shape.name, f"the key '{self._keys.meta}' is gone, or is of another creation of the queue"
            )

    def _holder(self, epoch: int) -> str:
        return f"{epoch}:{self.name}"

    async def _run(
        self, script: Script, calls: Sequence[Call], shards: Sequence[int], what: str
    ) -> tuple[dict[int, str], dict[int, list[Any]]]:
        """What is wrong with damaged shards, and what a script replies to a call about each of the others.

        None of the replies says that the queue is lost.
        """
        replies = dict(zip(shards, await self._server.hold(run_scripts(script, calls)), strict=True))
        faults = {shard: fault for shard, reply in replies.items() if (fault := _fault(reply))}
        _sound([reply for shard, reply in replies.items() if shard not in faults], what)
        lost = [shard for shard, reply in replies.items() if isinstance(reply, list) and reply and reply[0] == LOST]
        if lost:
            check_reopened(self._keys, [replies[shard][1] for shard in lost], self._shape.incarnation)
            raise self._lost(*lost)
        return faults, {
            shard: reply if isinstance(reply, list) else [reply]
            for shard, reply in replies.items()
            if shard not in faults
        }

    def _lost(self, *shards: int) -> QueueLost:
        several = len(shards) > 1
        which = f"shard{'s' * several} {', '.join(map(str, shards))} {'are' if several else 'is'}"
        return QueueLost(self._shape.name, f"{which} gone, or of another creation of the queue")

    async def _sure(self, conversation: Conversation[list[Any]], what: str) -> list[Any]:
        return _sound(await self._server.hold(conversation), what)


def _fault(reply: Any) -> str:
    """What is damaged, where that is the reply."""
    return reply.message.partition(DAMAGED)[2] if isinstance(reply, Failed) else ""


def _sound_shards(faults: Mapping[int, str]) -> None:
    """Raise `ShardsDamaged` where there is a fault."""
    if damaged := {shard: fault for shard, fault in faults.items() if fault}:
        raise ShardsDamaged(damaged)


def _sound(replies: list[Any], what: str) -> list[Any]:
    """The replies; raises where one is a failure."""
    failure = worst(replies)
    if failure is None:
        return replies
    if failure.passes:
        raise unavailable(failure, what)
    raise refused(failure, what)


def _grant(shard: int, reply: Sequence[Any]) -> Grant:
    epoch, holder, clean, deaths, mark, clock = reply
    return Grant(shard, int(epoch), _text(holder), bool(clean), int(deaths), _text(mark), _text(clock) or START)


def _figures(place: int, usage: Usage | None) -> list[Argument]:
    """What requests took as the script has it: place of the books among its keys, name and value of each figure."""
    return [part for name, value in (usage.figures() if usage else {}).items() for part in (place, name, value)]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _name(value: bytes) -> str:
    """A namespace as it is written in keys, whatever it is made of."""
    return value.decode("utf-8", "surrogateescape")


def _key(name: str) -> bytes:
    """A key with a namespace in it as the server has it, whatever that is made of."""
    return name.encode("utf-8", "surrogateescape")


def _shard(metered: Metered) -> int:
    return metered.settlement.shard
