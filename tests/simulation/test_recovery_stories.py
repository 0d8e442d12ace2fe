"""Recovery after deaths, one story each: deadly records are found, and nothing else waits or is given up for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest

from story_world import SIZE, Reaction, World
from upsertq.contract.keys import shard_of
from upsertq_worker.delivery.batch import HANGING
from upsertq_worker.recovery.careful import HANGS
from upsertq_worker.recovery.suspects import ALONE, DEATHS

if TYPE_CHECKING:
    from story_world import Post

MOST_DEATHS: Final = DEATHS + 1 + ALONE
"""Until care begins, with its entry, and alone."""


def test_after_one_unclean_death_draining_goes_on_at_full_pace() -> None:
    """Nothing is marked, and what was in flight goes in good batches beside all else."""
    world = World()
    world.fill("docs", 200)
    world.react = lambda _post: Reaction(seconds=0.5)

    async def story() -> None:
        world.start("w1")
        await asyncio.sleep(1.2)
        world.kill("w1")
        world.start("w2")
        await world.until(lambda: world.queue.holder(0) == "w2", seconds=12)
        requests = len(world.posts)
        assert await world.until(lambda: not world.left(), seconds=10) < 4
        assert world.marks() == set()
        assert len(world.posts) - requests <= 200 * SIZE / 100 + 5

    world.tell(story())


def test_after_two_unclean_deaths_suspects_go_one_entry_at_a_time() -> None:
    """While they do nothing else is in flight; then all goes on at full pace and the deaths are forgotten."""
    world = World()
    world.fill("docs", 400)
    flying: set[int] = set()
    alone: list[int] = []

    def react(post: Post) -> Reaction:
        if post.worker == "w3":
            flying.add(len(world.posts))
            world.loop.later(0.1, flying.discard, len(world.posts))
            if world.marks():
                alone.append(len(flying))
                assert len(post.records) <= SIZE
        return Reaction(seconds=0.1 if post.worker == "w3" else 5.0)

    world.react = react

    async def story() -> None:
        for name in ("w1", "w2"):
            world.start(name)
            await world.until(lambda name=name: bool(world.posts) and world.posts[-1].worker == name, seconds=15)  # type: ignore[misc]
            world.kill(name)
        world.start("w3")
        await world.until(lambda: not world.left(), seconds=60)
        assert alone
        assert set(alone) == {1}
        assert world.queue.shards[0].deaths == 0
        assert world.marks() == set()

    world.tell(story())


def test_suspects_of_other_shards_forget_no_accusation() -> None:
    """What was alone at a death goes first, wherever it is: another shard's suspects have a mark of their own."""
    world = World(shards=2)
    deadly = next(name for name in map(str, range(100)) if shard_of("docs", name, 2) == 1)
    others = (name for name in map(str, range(100, 10_000)) if shard_of("docs", name, 2) == 0)
    world.enqueue("docs", deadly, *(name for name in map(str, range(100)) if name != deadly))
    world.deadly = {("docs", deadly)}

    def over() -> bool:
        if not world.left():
            return True
        if len(world.hired) > started[-1]:
            started.append(len(world.hired))
            world.enqueue("docs", next(others))
        return False

    started = [0]

    async def story() -> None:
        assert await world.deaths_until(over, seconds=300) == MOST_DEATHS
        assert world.dead() == {("docs", deadly)}

    world.tell(story())


@pytest.mark.parametrize("entries", [4, 60])
def test_a_deadly_record_is_found_and_its_neighbours_land(entries: int) -> None:
    """It is dead after five deaths, whatever is around it."""
    world = World()
    world.fill("docs", entries)
    world.deadly = {("docs", "57")}

    async def story() -> None:
        assert await world.deaths_until(lambda: not world.left(), seconds=300) <= MOST_DEATHS
        assert world.dead() == world.deadly
        assert len(world.index) == entries * SIZE - (("docs", "57") not in world.index)

    world.tell(story())


def test_several_deadly_records_are_found_in_one_entry_and_in_several_lanes_and_shards() -> None:
    """Each of them, and no other record, is given up."""
    world = World(shards=4)
    for namespace in ("docs", "images", ""):
        world.fill(namespace, 8)
    world.deadly = {("docs", "3"), ("docs", "4"), ("images", "57"), ("", "101")}

    async def story() -> None:
        await world.deaths_until(lambda: not world.left(), seconds=1_000)
        assert world.dead() == world.deadly

    world.tell(story())


def test_a_deadly_record_in_a_trickle_behind_a_bulk_backlog_is_found() -> None:
    """A lane that has one entry beside a lane that has thousands is among what may have been in flight."""
    world = World()
    world.fill("bulk", 2_000)
    world.enqueue("trickle", "deadly")
    world.deadly = {("trickle", "deadly")}
    world.react = lambda _post: Reaction(seconds=0.2)

    async def story() -> None:
        await world.deaths_until(lambda: not world.left(), seconds=400)
        assert world.dead() == world.deadly

    world.tell(story())


def test_a_deadly_record_of_which_an_older_version_is_pending_is_found() -> None:
    """Until the quarantine ends neither version may be sent: care lasts until then."""
    world = World()
    world.enqueue("docs", "hot", "a")
    world.enqueue("docs", "hot", "b")
    world.deadly = {("docs", "hot")}

    async def story() -> None:
        await world.deaths_until(lambda: not world.left(), seconds=400)
        assert world.dead() == world.deadly
        assert {key[1] for key in world.index} >= {"a", "b"}

    world.tell(story())


def test_deadly_versions_of_a_hot_id_are_found_behind_the_heads_of_the_lanes() -> None:
    """The newest version that was read is sent first, and stands behind what may have been in flight besides."""
    world = World()
    for number in range(24):
        world.enqueue("docs", "hot", *(f"{number}-{row}" for row in range(SIZE - 1)))
    world.kills = lambda post: any(key[1] == "hot" and version >= 22 for key, version in post.records)

    async def story() -> None:
        assert await world.deaths_until(lambda: not world.left(), seconds=400, concurrency=2) <= MOST_DEATHS + 2 * 3
        assert world.dead() == {("docs", "hot")}
        assert world.index["docs", "hot"] == 21
        assert len(world.index) == 24 * (SIZE - 1) + 1

    world.tell(story())


@pytest.mark.parametrize("reaction", [Reaction(503), Reaction(0, 30.0)], ids=["503", "hangs"])
def test_suspects_of_a_failing_namespace_keep_nothing_waiting(reaction: Reaction) -> None:
    """What was answered, in whatever way, or hangs for five seconds, did not kill."""
    world = World()
    world.fill("failing", 20)
    world.fill("well", 20)
    world.queue.shards[0].deaths, world.queue.shards[0].last_epoch = DEATHS - 1, 1
    world.react = lambda post: reaction if post.namespace == "failing" else Reaction()

    async def story() -> None:
        world.start("w1")
        took = await world.until(lambda: not world.left("well"), seconds=120)
        assert took < 5 + HANGS * HANGING + 5 if reaction.status == 0 else took < 15

    world.tell(story())


def test_suspects_of_a_paused_lane_keep_nothing_waiting() -> None:
    """They are left out; the others go at once."""
    world = World()
    world.fill("held", 20)
    world.fill("well", 20)
    world.pause("held")
    world.queue.shards[0].deaths, world.queue.shards[0].last_epoch = DEATHS - 1, 1

    async def story() -> None:
        world.start("w1")
        assert await world.until(lambda: not world.left("well"), seconds=60) < 8
        world.fill("new", 20)
        assert await world.until(lambda: not world.left("new"), seconds=60) < 2

    world.tell(story())


def test_a_record_that_was_given_up_stays_so_over_another_death() -> None:
    """It is not sent again although the next holder dies before its entry is settled."""
    world = World()
    world.fill("docs", 1)
    world.fill("well", 40)
    world.deadly = {("docs", "3")}
    slow = Reaction(seconds=4.0)

    async def story() -> None:
        await world.deaths_until(lambda: len(world.hired) == MOST_DEATHS + 1, seconds=300)
        known = len(world.posts)
        world.react = lambda post: slow if post.namespace == "docs" else Reaction()
        await world.until(lambda: any(post.namespace == "docs" for post in world.posts[known:]), seconds=60)
        world.kill(world.hired[-1].process.name)
        world.react = lambda _post: Reaction()
        world.start("last")
        await world.until(lambda: not world.left(), seconds=60)
        assert not [post for post in world.posts[known:] if ("docs", "3") in post.keys]
        assert world.dead() == world.deadly

    world.tell(story())


def test_a_clean_stop_while_suspects_go_resets_the_count() -> None:
    """The next holder drains at full pace, and no death later is held against what was alone in flight then."""
    world = World()
    world.fill("docs", 100)
    world.queue.shards[0].deaths, world.queue.shards[0].last_epoch = DEATHS - 1, 1
    world.react = lambda _post: Reaction(seconds=0.5)

    async def story() -> None:
        one = world.start("w1")
        await world.until(lambda: bool(world.marks()), seconds=20)
        one.worker.stop()
        await world.until(one.task.done, seconds=30)
        assert world.marks() == set()
        world.start("w2")
        assert await world.until(lambda: not world.left(), seconds=30) < 6
        assert world.queue.shards[0].deaths == 0

    world.tell(story())
