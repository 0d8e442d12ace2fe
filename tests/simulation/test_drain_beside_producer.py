"""A drain beside a producer that still adds: it ends, and until then it sends no more requests than it must."""

from __future__ import annotations

import asyncio

import pytest

from story_world import Reaction, World

SECONDS = 2.0


def _requests(*, until_empty: bool, records: int, namespaces: int) -> int:
    """Requests of one worker while so many records come every 10 ms."""
    world = World(shards=4)
    world.fill("ns0", 8)
    world.react = lambda _post: Reaction(seconds=0.05)

    async def story() -> None:
        one = world.start("w1", until_empty=until_empty)
        number = 0
        while world.loop.now < SECONDS:
            for _ in range(records):
                number += 1
                world.enqueue(f"ns{number % namespaces}", f"new{number}")
            await asyncio.sleep(0.01)
        await world.until(lambda: not world.left(), seconds=5)
        if until_empty:
            await world.until(one.task.done, seconds=1)

    world.tell(story())
    return len(world.posts)


@pytest.mark.parametrize(("records", "namespaces"), [(1, 1), (5, 3)])
def test_what_still_comes_waits_for_company(records: int, namespaces: int) -> None:
    """A worker that is to stop when all is done fills its requests like any other."""
    most = _requests(until_empty=False, records=records, namespaces=namespaces)
    assert _requests(until_empty=True, records=records, namespaces=namespaces) <= most * 1.25
