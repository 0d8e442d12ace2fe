"""What a worker does about 429s, a story each: what was refused is sent again, no other namespace waits for it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

from pace_world import Bucket
from story_world import SIZE, Reaction, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from story_world import Post

THROTTLED = 429


def limited(rate: float, burst: float = 0.5) -> Callable[[Post], Reaction]:
    """A service that takes so many requests a second of each namespace."""
    buckets: dict[str, Bucket] = defaultdict(lambda: Bucket(rate, burst, rate * burst))
    return lambda post: Reaction() if buckets[post.namespace].takes(post.at, 1) else Reaction(THROTTLED, 0.02)


def test_one_batch_that_is_refused_is_sent_again() -> None:
    """Nothing else waits in its namespace, so nothing else asks for a slot."""
    world = World()
    world.fill("docs", 1)
    world.react = lambda _: Reaction(THROTTLED if len(world.posts) < 4 else 200)

    async def story() -> None:
        world.start("w1")
        assert await world.until(lambda: not world.left(), seconds=60) < 20
        assert len(world.posts) == 4
        assert world.landed["docs"] == SIZE

    world.tell(story())


def test_a_backlog_is_sent_at_the_limit_and_another_namespace_at_once() -> None:
    """No batch is given up for 429s, few are refused, and a trickle waits for less than a second."""
    world = World()
    world.fill("bulk", 1_600)
    world.react = limited(20)
    waits: list[float] = []

    async def story() -> None:
        world.start("w1")
        await asyncio.sleep(3)
        for _ in range(20):
            world.fill("trickle", 1)
            waits.append(await world.until(lambda: not world.left("trickle"), seconds=20))
        world.start("w2")
        await world.until(lambda: not world.left(), seconds=60)
        assert world.dead() == set()
        assert max(waits) < 1.0
        # 400 requests at 20 a second
        assert world.loop.now < 20 + 10
        bulk = [post for post in world.posts if post.namespace == "bulk"]
        assert len(bulk) < 400 * 1.15

    world.tell(story())


def test_a_worker_that_takes_over_knows_the_pace() -> None:
    """The lane's pace is the fleet's: a successor that is refused once keeps to it, and does not look for it anew."""
    world = World()
    world.fill("bulk", 4_000)
    world.react = limited(40, 0.1)

    async def story() -> None:
        one = world.start("w1")
        await asyncio.sleep(12)
        world.start("w2")
        one.worker.stop()
        await world.until(lambda: world.queue.holder(0) == "w2", seconds=30)
        await asyncio.sleep(1)
        before = len(world.posts)
        await asyncio.sleep(5)
        assert 0.7 * 40 * 5 <= len(world.posts) - before <= 1.15 * 40 * 5

    world.tell(story())
