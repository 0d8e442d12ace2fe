"""Owns what workers note on the server for one another and for `upsertq status`: heartbeats, pauses, the pace; books.

Calls fail as those of `upsertq_worker.queue.redis_queue`, and each may be repeated.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import orjson

from upsertq.admin.workers import beat_at, forgotten, time_of, workers_of
from upsertq.contract.books import COUNTERS, Books, of_reply, total
from upsertq.contract.pauses import Paused, note
from upsertq.contract.pauses import of_reply as of_pauses
from upsertq.contract.protocol import Failed, Script, named
from upsertq.contract.queue import QueueShape
from upsertq.contract.server import AsyncServer
from upsertq_worker.pace import wire as pacing
from upsertq_worker.pace.lane import Ask, Given
from upsertq_worker.queue.protocols import Beats
from upsertq_worker.queue.redis_calls import Calls, fault_of, sound, text_of

if TYPE_CHECKING:
    from upsertq.contract.protocol import Argument
    from upsertq_worker.queue.redis_calls import Call

RENOTE: Final = Script.load("upsertq.contract", "renote")
TIDY_SECONDS: Final = 60.0
"""How often the heartbeats of workers that are long gone are taken away."""


class RedisNotes:
    """What workers note for one another and for `upsertq status`, as worker `name` sees it: beats and pauses; books."""

    def __init__(self, server: AsyncServer, shape: QueueShape, name: str) -> None:
        self._calls = Calls(server, shape)
        self._shape = shape
        self.name = name
        self._tidied_at = 0.0
        self._ahead: float | None = None
        """Seconds by which the server's clock is ahead of the reports', as it was last."""

    async def books(self) -> Books:
        """As `Notes.books`."""
        calls = self._calls
        names = [calls.keys.shard(shard).books for shard in range(self._shape.shards)]
        commands = [["HMGET", name, "incarnation", *COUNTERS] for name in names]
        *replies, meta = await calls.sure("read the books", *commands, calls.meta)
        calls.check_meta(meta)
        lost = [shard for shard, (found, *_) in enumerate(replies) if found != self._shape.incarnation.encode()]
        if lost:
            raise calls.lost(*lost)
        return total(of_reply(reply[1:], name) for reply, name in zip(replies, names, strict=True))

    async def note(self, changes: Mapping[str, Paused | None]) -> None:
        """As `Notes.note`."""
        calls, keys, what = self._calls, self._calls.keys, "note a pause"
        (reply,) = await calls.sure(what, ["HGETALL", keys.paused])
        noted, by_hand = named(reply), {scope for scope, paused in of_pauses(reply).items() if paused.by_hand}
        ended: list[Argument] = []
        for scope in changes.keys() & noted.keys() - by_hand:
            if changes[scope] is None:
                ended += [scope, noted[scope], ""]
        if ended:  # each as it was noted: what is paused by hand in this very moment ends by hand
            await calls.run_one(RENOTE, ([keys.meta, keys.paused], [self._shape.incarnation, *ended]), what)
        begun: list[list[Argument]] = [
            ["HSETNX", keys.paused, scope, note(why)] for scope, why in changes.items() if why is not None
        ]
        if begun:
            await calls.sure(what, *begun)

    async def pauses(self) -> dict[str, Paused]:
        """As `Notes.pauses`."""
        (reply,) = await self._calls.sure("read the paused lanes", ["HGETALL", self._calls.keys.paused])
        return of_pauses(reply)

    async def beat(self, report: Mapping[str, Any]) -> Beats:
        """As `Notes.beat`."""
        calls, key, what = self._calls, self._calls.keys.workers, "write the heartbeat"
        own = report.get("at", 0.0)
        if self._ahead is None:
            (told,) = await calls.sure(what, ["TIME"])
            self._ahead = time_of(told) - own
        written: list[Argument] = ["HSET", key, self.name, orjson.dumps(beat_at(report, own + self._ahead))]
        told, meta, done, reply = await calls.ask(["TIME"], calls.meta, written, ["HGETALL", key])
        sound([told, meta, reply], what)
        calls.check_meta(meta)
        now, beats = time_of(told), named(reply)
        self._ahead = now - own
        if abs(now - self._tidied_at) >= TIDY_SECONDS:
            if names := forgotten(beats, now):
                await calls.sure(what, ["HDEL", key, *names])
            self._tidied_at = now
        return Beats(workers_of(beats, now), f"cannot {what}: {done.message}" if isinstance(done, Failed) else "")

    async def holders(self, shards: Sequence[int]) -> dict[int, str]:
        """As `Notes.holders`."""
        calls = self._calls
        replies = await calls.by_shard({shard: ["GET", calls.keys.shard(shard).lease] for shard in shards})
        sound([reply for reply in replies.values() if not fault_of(reply)], "see which workers hold the shards")
        texts = [reply.partition(b":")[2] if isinstance(reply, bytes) else b"" for reply in replies.values()]
        return dict(zip(replies, map(text_of, texts), strict=True))

    async def leave(self) -> None:
        """As `Notes.leave`."""
        await self._calls.sure("take the heartbeat away", ["HDEL", self._calls.keys.workers, self.name])

    async def pace(self, asks: Sequence[Ask]) -> list[Given]:
        """As `Notes.pace`."""
        keys = self._calls.keys
        call: Call = ([keys.meta, keys.pace], [self._shape.incarnation, *pacing.arguments(asks)])
        return pacing.given_of(await self._calls.run_one(pacing.PACE, call, "share the pace"))
