"""Recovery after deaths, one story each: deadly records are found, and nothing else waits or is given up for them."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import pytest

from story_world import SIZE, Reaction, World
from upsertq.contract.keys import shard_of
from upsertq_worker.delivery.batch import HANGING
from upsertq_worker.recovery.careful import HANGS
from upsertq_worker.recovery.suspects import ALONE, DEATHS

if TYPE_CHECKING:
    from collections.abc import Callable

    from checker import Key
    from story_world import Post

MOST_DEATHS: Final = DEATHS + 1 + ALONE
"""Of one record: until care begins, with its entry, and alone."""


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
    alone: list[Post] = []

    def react(post: Post) -> Reaction:
        if world.marks():
            alone.append(post)
        return Reaction(seconds=0.1 if post.worker == "w3" else 5.0)

    world.react = react

    async def story() -> None:
        await world.killed_in_flight("w1", "w2", seconds=15)
        world.start("w3")
        await world.until(lambda: not world.left(), seconds=60)
        assert min(two.at - one.at for one, two in pairwise(alone)) >= 0.1
        assert max(len(post.records) for post in alone) <= SIZE
        assert world.queue.shards[0].deaths == 0
        assert world.marks() == set()

    world.tell(story())


def several(world: World) -> None:
    """Lanes over several shards."""
    for namespace in ("docs", "images", ""):
        world.fill(namespace, 8)


def trickle(world: World) -> None:
    """A lane that has one entry beside a lane that has thousands."""
    world.fill("bulk", 2_000)
    world.enqueue("trickle", "deadly")
    world.react = lambda _post: Reaction(seconds=0.2)


def two(world: World) -> None:
    """Two of an id: neither may be sent until the quarantine ends, and care lasts until then."""
    world.enqueue("docs", "hot", "a")
    world.enqueue("docs", "hot", "b")


def hot(world: World) -> None:
    """The newest version that was read is sent first, and stands behind what may have been in flight besides."""
    for number in range(24):
        world.enqueue("docs", "hot", *(f"{number}-{row}" for row in range(SIZE - 1)))
    world.kills = lambda post: any(key[1] == "hot" and version >= 22 for key, version in post.records)


@pytest.mark.parametrize(
    ("fill", "deadly", "versions"),
    [
        (lambda world: world.fill("docs", 4), {("docs", "57")}, 1),
        (lambda world: world.fill("docs", 60), {("docs", "57")}, 1),
        (several, {("docs", "3"), ("docs", "4"), ("images", "57"), ("", "101")}, 4),
        (trickle, {("trickle", "deadly")}, 1),
        (two, {("docs", "hot")}, 2),
        (hot, {("docs", "hot")}, 3),
    ],
    ids=["small", "large", "several", "trickle", "two", "hot"],
)
def test_deadly_records_are_found_and_their_neighbours_land(
    fill: Callable[[World], None], deadly: set[Key], versions: int
) -> None:
    """Each version is dead after three deaths at most beside the first two, and no other record is given up."""
    world = World(shards=versions if len(deadly) > 1 else 1)
    world.deadly = deadly
    fill(world)

    async def story() -> None:
        deaths = await world.deaths_until(lambda: not world.left(), seconds=1_000, concurrency=2)
        assert deaths <= DEATHS + (1 + ALONE) * versions
        assert world.dead() == deadly
        assert {world.index.get(key, 0) for key in deadly} <= {0, *(world.versions[key] - versions for key in deadly)}
        assert world.index.keys() >= world.versions.keys() - deadly

    world.tell(story())


@pytest.mark.parametrize("shards", [1, 2])
def test_a_record_that_has_an_answer_between_two_deaths_alone_is_not_given_up(shards: int) -> None:
    """Of two suspects the first is answered, and each worker dies by chance when the second is alone."""
    world = World(shards)
    for shard, lane in enumerate(("docs", "images")):
        world.enqueue(lane, next(name for name in map(str, range(99)) if shard_of(lane, name, 2) == shard))
    for model in world.queue.shards:
        model.deaths, model.last_epoch = DEATHS - 1, 1
    first: dict[str, Post] = {}
    world.kills = lambda post: post.worker != "w4" and first.setdefault(post.worker, post).keys != post.keys
    world.react = lambda post: Reaction(200 if post.worker == "w4" else 503, 0.1)

    async def story() -> None:
        assert await world.deaths_until(lambda: not world.left(), seconds=300) == 3
        assert world.dead() == set()

    world.tell(story())


@pytest.mark.parametrize("reaction", [Reaction(503), Reaction(0, 30.0), None], ids=["503", "hangs", "paused"])
def test_suspects_of_a_lane_that_does_not_go_on_keep_nothing_waiting(reaction: Reaction | None) -> None:
    """What was answered, in whatever way, or hangs for five seconds, did not kill; what is paused is left out."""
    world = World()
    for namespace in ("failing", "well"):
        world.fill(namespace, 20)
    world.queue.shards[0].deaths, world.queue.shards[0].last_epoch = DEATHS - 1, 1
    if reaction is None:
        world.pause("failing")
    world.react = lambda post: reaction if reaction and post.namespace == "failing" else Reaction()

    async def story() -> None:
        world.start("w1")
        hangs = HANGS * HANGING if reaction and not reaction.status else 0
        assert await world.until(lambda: not world.left("well"), seconds=120) < 10 + hangs
        world.fill("new", 20)
        assert await world.until(lambda: not world.left("new"), seconds=60) < 5

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
