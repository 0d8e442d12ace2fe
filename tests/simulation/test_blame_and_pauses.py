"""What is known to kill is given up when it is read, however long its lane was paused before."""

from __future__ import annotations

import asyncio

from story_world import World
from upsertq_worker.recovery.suspects import ALONE, DEATHS

MOST_DEATHS = DEATHS + 1 + ALONE


def test_a_pause_does_not_wipe_out_what_five_workers_died_for() -> None:
    """An operator who sees workers die pauses the namespace; when it is resumed the record is given up at once."""
    world = World()
    deadly = "docs", "57"
    world.deadly = {deadly}
    world.fill("docs", 4)
    world.fill("images", 4)

    async def story() -> None:
        for number in range(MOST_DEATHS):
            one = world.start(f"w{number}")
            await world.until(lambda one=one: one.process.dead, seconds=60)  # type: ignore[misc]
        world.pause("docs")
        last = world.start("last")
        await world.until(lambda: not world.left("images"), seconds=60)
        await asyncio.sleep(30)
        assert world.left("docs")
        world.queue.paused.clear()
        await world.until(lambda: not world.left(), seconds=60)
        assert not last.process.dead
        assert world.dead() == {deadly}
        await world.until(lambda: not world.marks(), seconds=10)

    world.tell(story())
