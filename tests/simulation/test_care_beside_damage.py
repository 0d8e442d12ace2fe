"""Care for one shard, in which something is damaged, keeps no other shard waiting."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from checker import Filed
from queue_link import QueueLink
from story_world import Reaction, World
from upsertq.contract import wire
from upsertq.contract.keys import shard_of
from upsertq_worker.queue.protocols import ShardsDamaged

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

DAMAGED = 0


def test_a_replayed_record_that_cannot_be_asked_about_ends_care(monkeypatch: pytest.MonkeyPatch) -> None:
    """The marks of its shard are damaged, so it is not sent; the other shard is drained all the same."""
    world = World(shards=2)
    ask = QueueLink.superseded
    sound: list[bool] = []

    async def superseded(link: QueueLink, replayed: Sequence[tuple[int, wire.Entry]]) -> list[bool]:
        if not sound and any(shard == DAMAGED for shard, _ in replayed):
            raise ShardsDamaged({DAMAGED: "the marks are no hash"})
        return await ask(link, replayed)

    monkeypatch.setattr(QueueLink, "superseded", superseded)
    key = "docs", next(name for name in map(str, range(100)) if shard_of("docs", name, 2) == DAMAGED)
    record = wire.Record(key[1], key[0], b"\0\0\x80?", b"", b'{"version":1}')
    entry = wire.pack([record], run="", at=0)._replace(seq="0-1-0", depth=1)
    world.checker.enqueued(DAMAGED, world.queue.enqueue(DAMAGED, entry), Filed("", entry.size, ((key, 1),)))
    world.fill("images", 4)
    world.react = lambda post: Reaction(seconds=0.05 if post.worker == "w3" else 5.0)

    async def story() -> None:
        await world.killed_in_flight("w1", "w2", seconds=40)
        world.start("w3")
        await world.until(lambda: bool(world.posts) and world.posts[-1].worker == "w3", seconds=40)
        await asyncio.sleep(20)
        world.fill("late", 4)
        await world.until(lambda: not world.queue.shards[1 - DAMAGED].streams, seconds=10)
        assert world.index.get(key) is None
        sound.append(True)
        await world.until(lambda: not world.left(), seconds=30)
        assert world.index[key] == 1

    world.tell(story())
