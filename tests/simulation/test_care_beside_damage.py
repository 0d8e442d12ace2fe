"""One shard, in which something is damaged, keeps no other shard waiting, nor the end of a drain or of a handover."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from checker import Filed
from queue_link import QueueLink
from story_world import Reaction, World
from upsertq.contract import wire
from upsertq.contract.keys import shard_of
from upsertq_worker.queue.protocols import Settled, ShardsDamaged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pytest

    from upsertq_worker.flow.usage import Metered

DAMAGED = 0


def _replayed(world: World) -> tuple[str, str]:
    """Put a record that was replayed into the damaged shard; returns its key."""
    key = "docs", next(name for name in map(str, range(100)) if shard_of("docs", name, 2) == DAMAGED)
    record = wire.Record(key[1], key[0], b"\0\0\x80?", b"", b'{"version":1}')
    entry = wire.pack([record], run="", at=0)._replace(seq="0-1-0", depth=1)
    world.checker.enqueued(DAMAGED, world.queue.enqueue(DAMAGED, entry), Filed("", entry.size, ((key, 1),)))
    return key


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
    key = _replayed(world)
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


async def _ends_and_tells(world: World) -> None:
    """A drain ends, with what is damaged, once the other shard is drained."""
    one = world.start("w1", until_empty=True)
    await world.until(one.task.done, seconds=30)
    assert not world.queue.shards[1 - DAMAGED].streams
    assert "shard 0 stopped: no hash" in str(one.task.exception())
    world.hired.remove(one)


def test_a_drain_ends_where_nothing_can_be_settled_in_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its records are in the index, and stay pending: only the keys of its dead letters are damaged."""
    world = World(shards=2)
    settle = QueueLink.settle

    async def settled(link: QueueLink, held: Mapping[int, int], ones: Sequence[Metered]) -> Settled:
        sound = [one for one in ones if one.settlement.shard != DAMAGED]
        came_of_it = await settle(link, held, sound) if sound else Settled(frozenset())
        return replace(came_of_it, faults={DAMAGED: "no hash"} if len(sound) < len(ones) else {})

    monkeypatch.setattr(QueueLink, "settle", settled)
    world.fill("docs", 4)
    world.tell(_ends_and_tells(world))


def test_a_drain_ends_where_nothing_replayed_can_be_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not sent, and waits for its marks to be mended."""
    world = World(shards=2)

    async def superseded(_: QueueLink, replayed: Sequence[tuple[int, wire.Entry]]) -> list[bool]:
        raise ShardsDamaged({shard: "no hash" for shard, _ in replayed})

    monkeypatch.setattr(QueueLink, "superseded", superseded)
    _replayed(world)
    world.fill("images", 4)
    world.tell(_ends_and_tells(world))


def test_a_shard_that_is_damaged_when_it_is_handed_over_ends_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was sound when its lease was prolonged last; it is let go, and its lease runs out."""
    world = World(shards=4)
    release = QueueLink.release
    damaged: list[int] = []

    async def released(link: QueueLink, held: Mapping[int, int], keep: Mapping[int, float]) -> None:
        if damaged:
            await release(link, held, keep)
            return
        damaged.append(min(held))
        await release(link, {shard: epoch for shard, epoch in held.items() if shard not in damaged}, keep)
        raise ShardsDamaged(dict.fromkeys(damaged, "no hash"))

    monkeypatch.setattr(QueueLink, "release", released)

    async def story() -> None:
        first = world.start("w1")
        await world.until(lambda: len(world.queue.held_by("w1")) == world.shards, seconds=10)
        world.start("w2")
        await world.until(lambda: bool(damaged), seconds=10)
        await world.until(lambda: len(world.queue.held_by("w2")) == world.shards // 2, seconds=20)
        assert not first.task.done()

    world.tell(story())
