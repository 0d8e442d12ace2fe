"""The search for refused records, as a story: what is bad is found, whatever else goes wrong meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from story_world import Reaction, World

if TYPE_CHECKING:
    from story_world import Post


def test_requests_that_are_repeated_do_not_count_as_requests_of_a_search() -> None:
    """Each fails at first: ten bad records cost twice their 91 requests, more than a search may take."""
    world = World()
    world.fill("docs", 4)
    bad = {("docs", str(number)) for number in (2, 13, 32, 38, 52, 67, 69, 77, 82, 96)}
    seen: set[frozenset[tuple[str, str]]] = set()

    def react(post: Post) -> Reaction:
        if post.keys not in seen:
            seen.add(post.keys)
            return Reaction(503)
        if not post.keys & bad:
            return Reaction()
        world.checker.blamed(post.records, "refused")
        return Reaction(400)

    world.react = react

    async def story() -> None:
        world.start("w1")
        await world.until(lambda: not world.left(), seconds=600)
        assert world.dead() == bad
        assert world.index.keys() == world.versions.keys() - bad
        assert len(world.posts) == 2 * 91

    world.tell(story())
