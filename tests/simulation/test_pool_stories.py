"""Stories of workers that share a queue: joins, leaves and deaths, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from story_world import LEASE, QUARANTINE, SIZE, Reaction, World
from upsertq_worker.settings import BatchLimits

if TYPE_CHECKING:
    from story_world import Hired, Post

SHARDS = 4


def held(world: World) -> list[int]:
    """How many shards each of the workers alive holds."""
    return [
        len(world.queue.held_by(one.process.name)) for one in world.hired if not (one.task.done() or one.process.dead)
    ]


def sent(world: World) -> int:
    """Records in all requests."""
    return sum(len(post.records) for post in world.posts)


@pytest.mark.parametrize("joins_after", [0.5, 1.0, 1.2])
def test_a_join_is_balanced_soon_and_nothing_is_sent_twice(joins_after: float) -> None:
    """Each of two gets its half within three seconds, and both work; requests take parts of entries all along."""
    world = World(SHARDS)
    world.fill("docs", 400)
    world.react = lambda _post: Reaction(seconds=0.1)

    async def story() -> None:
        world.start("w1", concurrency=2, batch=BatchLimits(records=10))
        await world.until(lambda: held(world) == [4], seconds=1)
        await asyncio.sleep(joins_after)
        world.start("w2", concurrency=2, batch=BatchLimits(records=10))
        assert await world.until(lambda: held(world) == [2, 2], seconds=3) > 0
        assert [model.deaths for model in world.queue.shards] == [0] * SHARDS
        await world.until(lambda: not world.left(), seconds=100)
        assert sent(world) == 400 * SIZE
        assert {post.worker for post in world.posts} == {"w1", "w2"}

    world.tell(story())


def test_a_leave_and_a_death_are_balanced_soon() -> None:
    """What ends in good order within three seconds, what dies once its lease is over."""
    world = World(8)

    async def story() -> None:
        one, *_ = [world.start(f"w{number}") for number in range(4)]
        await world.until(lambda: held(world) == [2] * 4, seconds=10)
        one.worker.stop()
        await world.until(lambda: sorted(held(world)) == [2, 3, 3], seconds=3)
        world.kill("w1")
        await world.until(lambda: held(world) == [4, 4], seconds=LEASE + 3)

    world.tell(story())


def test_a_request_that_hangs_is_given_up_for_a_join() -> None:
    """After `handover` seconds its shard goes, but only when the quarantine is over; the rest goes at once."""
    world = World(SHARDS)
    world.fill("docs", SHARDS)
    hung: list[Post] = []

    def react(post: Post) -> Reaction:
        if not hung:
            hung.append(post)
        return Reaction(0, 100.0) if post in hung else Reaction()

    world.react = react

    async def story() -> None:
        world.start("w1", handover=2.0)
        await world.until(lambda: bool(hung), seconds=5)
        world.start("w2")
        assert await world.until(lambda: held(world) == [2, 2], seconds=2 + 3 + QUARANTINE) > 2 + QUARANTINE
        await world.until(lambda: not world.left(), seconds=150)

    world.tell(story())


def test_what_need_not_be_given_back_any_more_is_sent_again() -> None:
    """The newcomer is gone before anything was handed over: the shards that were on their way stay, and are drained."""
    world = World(SHARDS)
    world.fill("docs", 200)
    world.react = lambda _post: Reaction(seconds=3.0)

    async def story() -> None:
        one = world.start("w1", concurrency=4)
        await world.until(lambda: len(world.posts) >= 4, seconds=5)
        other = world.start("w2")
        await world.until(lambda: bool(one.worker.leases.draining), seconds=2)
        other.worker.stop()
        await world.until(lambda: not one.worker.leases.draining, seconds=2)
        world.react = lambda _post: Reaction()
        await world.until(lambda: not world.left(), seconds=30)
        assert {model.last_epoch for model in world.queue.shards} == {1}, "nothing changed hands"
        assert sent(world) == 200 * SIZE

    world.tell(story())


def test_the_quarantine_of_the_dead_outlasts_an_heir_that_stops() -> None:
    """What took over from the dead and ends at once keeps the leases for as long as requests of the dead may travel."""
    world = World(1)
    world.fill("docs", 50)
    world.react = lambda _post: Reaction(seconds=1.0)

    async def story() -> None:
        world.start("w1", concurrency=1)
        await world.until(lambda: bool(world.posts), seconds=5)
        world.kill("w1")
        heir = world.start("w2", concurrency=1)
        await world.until(lambda: held(world) == [1], seconds=LEASE + 1)
        taken = world.loop.now
        heir.worker.stop()
        await heir.task
        assert world.queue.shards[0].expires_at >= taken + QUARANTINE - 0.1

    world.tell(story())


def test_a_shard_whose_holders_died_stays_where_it_is() -> None:
    """A clean handover would forget the deaths, and a record that kills could go on for ever."""
    world = World(SHARDS)

    async def story() -> None:
        world.start("w1")
        await world.until(lambda: held(world) == [4], seconds=2)
        world.kill("w1")
        world.start("w2")
        await world.until(lambda: held(world) == [4], seconds=LEASE + 2)
        assert {model.deaths for model in world.queue.shards} == {1}
        world.start("w3")
        await asyncio.sleep(2 * LEASE)
        assert held(world) == [4, 0]
        await world.until(lambda: held(world) == [2, 2], seconds=LEASE + 3)
        assert {model.deaths for model in world.queue.shards} == {0}

    world.tell(story())


def test_more_workers_than_shards() -> None:
    """Some stand by, and say so; one that ends is followed by one of them."""
    world = World(SHARDS)
    told: Counter[str] = Counter()

    async def story() -> None:
        workers = [_listened(world.start(f"w{number}"), told) for number in range(7)]
        await world.until(lambda: sorted(held(world)) == [0, 0, 0, 1, 1, 1, 1], seconds=10)
        await world.until(lambda: told["STANDING_BY"] == 3, seconds=10)
        next(one for one in workers if one.worker.leases.epochs).worker.stop()
        await world.until(lambda: sorted(held(world)) == [0, 0, 1, 1, 1, 1], seconds=3)
        assert told["STANDING_BY"] == 3, "and it is said once"

    world.tell(story())


def _listened(hired: Hired, told: Counter[str]) -> Hired:
    hired.worker.context.events.listen(lambda event, _: told.update([event.name]))
    return hired


def test_workers_that_drain_to_the_end_wait_for_one_another() -> None:
    """None ends before the whole queue is empty, though its own shards are."""
    world = World(SHARDS)
    world.react = lambda post: Reaction(seconds=5.0 if post.worker == "w1" else 0.05)

    async def story() -> None:
        workers = [world.start(name, until_empty=True, concurrency=1) for name in ("w1", "w2")]
        world.fill("docs", 40)
        await world.until(lambda: held(world) == [2, 2], seconds=10)
        ended = []
        for one in workers:
            one.task.add_done_callback(lambda _: ended.append(world.left()))
        await world.until(lambda: len(ended) == len(workers), seconds=400)
        assert ended == [0, 0]

    world.tell(story())
