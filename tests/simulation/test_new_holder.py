"""A new holder lets go all that an earlier one left: soon, in good batches, once each, and never an older version."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest

from scripted import SIZE, Reaction, World
from upsertq_worker.context import Settings
from upsertq_worker.suspicion import DEATHS

if TYPE_CHECKING:
    from scripted import Post, Worker

DOWN: Final = Reaction(503)
REFUSED: Final = Reaction(400, 0.3)
HANGS: Final = Reaction(0, 30.0)
PAGE: Final = Reaction(203)
IN_COMPANY: Final = "company"
SMALL: Final = 300_000
"""Bytes to read ahead: few entries."""


def test_what_newer_versions_shadow_is_probed_and_lands_once_the_service_takes_it_again() -> None:
    """A namespace that the service pauses is probed even if newer versions of what was let go are read later."""
    world = World()
    for entries, others in ((1, 60), (2, 130)):
        world.fill("a", entries, same_ids=True)
        world.fill("well", others)
    world.react = lambda post: REFUSED if post.namespace == "a" and world.loop.now < 60 else Reaction(seconds=0.3)

    async def story() -> None:
        world.orphan()
        world.hire("w1", read_ahead=SMALL)
        await world.until(lambda: not world.left("well"), seconds=60)
        assert world.left("a") == 3
        await world.until(lambda: not world.left(), seconds=120 - world.loop.now)
        assert world.landed["a"] == 25

    world.tell(story())


def test_what_is_paused_by_hand_while_newer_versions_are_read_lands_when_it_is_resumed() -> None:
    """After the resume everything lands, and a worker that drains until the queue is empty ends."""
    world = World()
    for others in (40, 5):
        for name in "abc":
            world.fill(name, 1, same_ids=True)
        world.fill("well", others)
    world.pause(*"abc")
    world.react = lambda _post: Reaction(seconds=0.3)

    async def story() -> None:
        world.orphan()
        for number in range(40):
            world.enqueue("well", *(f"{number * SIZE + row}" for row in range(SIZE)))
        worker = world.hire("w1", read_ahead=400_000, until_empty=True)
        await world.until(lambda: not world.left("well"), seconds=60)
        assert world.left() == 6
        world.resume()
        await world.until(worker.task.done, seconds=60)
        assert world.left() == 0

    world.tell(story())


def test_suspects_of_a_failing_namespace_keep_nobody_waiting() -> None:
    """What cannot show whether it kills, because the service fails, goes on in company while others are sent."""
    world = World()
    for number in range(100):
        world.enqueue("sick", f"{number}")
    world.react = lambda post: DOWN if post.namespace == "sick" else Reaction()

    async def story() -> None:
        world.orphan(IN_COMPANY)
        world.hire("w1")
        await asyncio.sleep(6)
        world.fill("well", 20)
        await world.until(lambda: not world.left("well"), seconds=60)

    world.tell(story())


def test_what_was_left_behind_the_long_tail_of_a_failing_namespace_lands_soon() -> None:
    """A namespace that fails fills the memory and nothing lands that could tell: what is behind it is reached."""
    world = World()
    world.enqueue("well", "first")
    for sick in (200, 300):
        world.fill("sick", sick)
        world.fill("well", 10)
    world.react = lambda post: DOWN if post.namespace == "sick" else Reaction()

    async def story() -> None:
        world.orphan()
        world.fill("well", 10)
        world.hire("w1", read_ahead=1_000_000)
        await world.until(lambda: not world.left("well"), seconds=60)

    world.tell(story())


def _requests_of_a_trickle(*, beside_a_paused_one: bool) -> int:
    """Requests for 2,000 records of a namespace that come one by one, in 20 seconds."""
    world = World()
    if beside_a_paused_one:
        world.fill("held", 4)
        world.pause("held")

    async def story() -> None:
        world.orphan()
        world.hire("w1")
        await asyncio.sleep(10)
        for number in range(2_000):
            world.enqueue("well", f"{number}")
            await asyncio.sleep(0.01)
        await world.until(lambda: not world.left("well"), seconds=10)

    world.tell(story())
    return world.requests


def test_an_inherited_paused_namespace_does_not_spoil_the_batches_of_another() -> None:
    """A trickle is collected into as large batches beside a paused namespace as without one."""
    without = _requests_of_a_trickle(beside_a_paused_one=False)
    assert _requests_of_a_trickle(beside_a_paused_one=True) <= 1.2 * without + 5


def test_a_death_while_the_queue_is_paused_makes_no_suspects() -> None:
    """Nobody is marked who cannot be sent, so that all goes in batches after a kill and the resume."""
    world = World()
    for number in range(20):
        world.fill(f"tenant-{number}", 4)
    world.pause()

    async def story() -> None:
        world.orphan()
        world.hire("w1")
        await asyncio.sleep(30)
        assert world.marks() == 0
        world.kill("w1")
        world.resume()
        world.hire("w2")
        await world.until(lambda: not world.left(), seconds=120)
        assert world.requests <= 80, "no more than one for each entry"

    world.tell(story())


def test_a_record_that_kills_is_found_beside_requests_that_hang() -> None:
    """A deadly record is dead after few workers, though another namespace's requests are in flight all the time."""
    world = World()
    world.fill("deadly", 4)
    deaths: list[int] = []

    def react(post: Post) -> Reaction:
        if post.namespace != "deadly":
            return HANGS
        if "57" in post.ids:
            deaths.append(len(post.ids))
            world.kill(post.worker)
        return Reaction()

    world.react = react

    async def story() -> None:
        world.orphan()
        lives = 0
        while world.left("deadly"):
            lives += 1
            assert lives <= 5, deaths
            worker = world.hire(f"w{lives}")
            for _ in range(60):
                if worker.process.dead or not world.left("deadly"):
                    break
                world.fill("hanging", 1)
                await asyncio.sleep(1)
            await asyncio.sleep(12)
        letters = [entry.ids for entry in world.queue.shards[0].letters.stream.values()]
        assert letters == [("57",)]
        assert world.landed["deadly"] >= 99

    world.tell(story())


def test_inherited_namespaces_that_are_slow_keep_no_fast_one_waiting() -> None:
    """Of a namespace whose requests take their time not so much is in work that nothing else is let go."""
    world = World()
    for _ in range(60):
        for number in range(4):
            world.fill(f"slow-{number}", 1)
        world.fill("well", 4)
    world.react = lambda post: Reaction(seconds=20.0) if post.namespace != "well" else Reaction()

    async def story() -> None:
        world.orphan()
        world.hire("w1")
        await world.until(lambda: not world.left("well"), seconds=120)

    world.tell(story())


def test_inherited_records_do_not_wait_for_requests_that_hang() -> None:
    """Of one namespace, most of what is in work at a time hangs until the timeout: the others land meanwhile."""
    world = World()
    world.fill("docs", 80)

    def react(post: Post) -> Reaction:
        return HANGS if {"0", "30", "60"} & set(post.ids) else Reaction()

    world.react = react

    async def story() -> None:
        world.orphan()
        world.hire("w1")
        await world.until(partial(_landed, world, 1_900), seconds=15)

    world.tell(story())


def test_what_hangs_is_not_suspected_of_a_death() -> None:
    """Requests of one namespace hang for long; of these nobody died, so only what is in work besides is marked."""
    world = World()
    world.fill("hanging", 200)
    world.fill("docs", 200)
    world.react = lambda post: HANGS if post.namespace == "hanging" else Reaction(seconds=0.5)

    async def story() -> None:
        world.orphan()
        world.hire("w1")
        marks = []
        for _ in range(28):
            await asyncio.sleep(1)
            marks.append(world.marks())
        assert 0 < max(marks) <= 2 * 400 / SIZE + 1

    world.tell(story())


def test_many_suspects_are_through_in_seconds() -> None:
    """They go entry by entry, so that a worker that is killed every few seconds does not hand all of them on."""
    world = World()
    world.fill("docs", 60)
    world.react = lambda _post: Reaction(seconds=0.1)

    async def story() -> None:
        world.orphan(IN_COMPANY)
        world.hire("w1")
        await world.until(lambda: not world.left(), seconds=20)
        assert world.requests <= 60

    world.tell(story())


def test_a_record_that_kills_is_found_among_many_suspects() -> None:
    """It takes one death more than among few, and its neighbours land all the same."""
    world = World()
    world.fill("docs", 60)

    def react(post: Post) -> Reaction:
        if "777" in post.ids:
            world.kill(post.worker)
        return Reaction(seconds=0.1)

    world.react = react

    async def story() -> None:
        world.orphan(IN_COMPANY)
        world.checker.died_over(0, list(world.queue.shards[0].pending))
        lives = 0
        while world.left():
            lives += 1
            assert lives <= DEATHS, "the entry, the record, the record again; then it is dead"
            worker = world.hire(f"w{lives}")
            await world.until(partial(_over, world, worker), seconds=60)
            await asyncio.sleep(12)
        letters = [entry.ids for entry in world.queue.shards[0].letters.stream.values()]
        assert letters == [("777",)]
        assert world.landed["docs"] >= 60 * SIZE - 1

    world.tell(story())


@pytest.mark.parametrize("seconds", [7, 12, 30, 60])
@pytest.mark.parametrize("reaction", [DOWN, HANGS])
def test_who_is_convicted_stays_so_while_nothing_of_its_namespace_passes(reaction: Reaction, seconds: int) -> None:
    """A record that was convicted is never sent again, however its entry goes on until its worker is killed, too."""
    world = World()
    world.fill("docs", 1)
    world.fill("well", 40)
    posts: list[Post] = []

    def react(post: Post) -> Reaction:
        posts.append(post)
        return reaction if post.namespace == "docs" and post.worker == "w1" else Reaction(seconds=0.1)

    world.react = react

    async def story() -> None:
        world.orphan()
        first, _ = next(iter(world.queue.shards[0].stream.items()))
        world.queue.shards[0].suspects[first] = "again at 3 by w0"
        world.checker.died_over(0, [first])
        world.checker.blamed([(("docs", "3"), 1)], "crash_loop")
        world.checker.blamed([(("docs", "3"), 1)], "crash_loop")
        world.hire("w1")
        await asyncio.sleep(seconds)
        world.kill("w1")
        world.hire("w2")
        await world.until(lambda: not world.left(), seconds=120)
        assert not [post for post in posts if post.namespace == "docs" and "3" in post.ids]

    world.tell(story())


def test_suspects_of_a_hanging_namespace_keep_others_waiting_for_half_a_minute_at_most() -> None:
    """After five in a row it is the service that hangs: the others go on in company, and what is new is sent."""
    world = World()
    for number in range(40):
        world.enqueue("hanging", f"{number}")
        world.enqueue("quick", f"{number}")
    world.react = lambda post: HANGS if post.namespace == "hanging" else Reaction()

    async def story() -> None:
        world.orphan(IN_COMPANY)
        world.hire("w1")
        await asyncio.sleep(10)
        world.fill("well", 4)
        await world.until(lambda: not world.left("well"), seconds=40)

    world.tell(story())


@pytest.mark.parametrize("mark", ["", IN_COMPANY, "alone at 3"])
def test_a_wrong_host_is_told_after_few_requests(mark: str) -> None:
    """Pages in place of answers pause the queue at the second one, while suspects go alone as at any time."""
    world = World()
    world.fill("docs", 60)
    world.react = lambda _post: PAGE

    async def story() -> None:
        world.orphan(mark)
        world.hire("w1")
        await world.until(lambda: bool(world.queue.paused), seconds=20)
        assert world.requests <= 2 * Settings().concurrency
        await asyncio.sleep(60)
        world.react = lambda _post: Reaction()
        await world.until(lambda: not world.left(), seconds=60 if not mark else 600)
        assert world.landed["docs"] >= 60 * SIZE

    world.tell(story())


def test_a_record_that_always_gets_a_page_harms_only_itself() -> None:
    """A proxy answers with a page whatever carries one record: it is dead as a short ack, and its neighbours land."""
    world = World()
    world.fill("docs", 8)
    world.react = lambda post: PAGE if "57" in post.ids and post.namespace == "docs" else Reaction(seconds=0.1)

    async def story() -> None:
        world.hire("w1")
        for number in range(600):
            world.enqueue("others", f"{number}")
            await asyncio.sleep(0.1)
        await world.until(lambda: not world.left(), seconds=60)
        letters = [entry.ids for entry in world.queue.shards[0].letters.stream.values()]
        assert letters == [("57",)]

    world.tell(story())


def test_a_new_holder_sends_no_older_version_than_an_earlier_one_did() -> None:
    """A record with a version in each entry never goes back in the index, wherever an earlier holder was killed."""
    world = World()
    for number in range(80):
        world.enqueue("docs", "hot", *(f"{number}-{row}" for row in range(24)))
    world.react = lambda _post: Reaction(seconds=1.0)

    async def story() -> None:
        for life, more in enumerate((1, 26, 3), start=1):
            world.hire(f"w{life}")
            enough = world.landed["docs"] + more
            await world.until(partial(_landed, world, enough), seconds=60)
            world.kill(f"w{life}")
            await asyncio.sleep(12)
            assert world.steps_back == []
        assert 1 < world.index["docs", "hot"] < 80, "a version between was applied"
        assert world.left() == 80, "and nothing is settled"
        world.react = lambda _post: Reaction()
        world.hire("w4")
        await world.until(lambda: not world.left(), seconds=120)
        assert world.steps_back == []
        assert world.index["docs", "hot"] == 80

    world.tell(story())


def _over(world: World, worker: Worker) -> bool:
    """Whether this worker is dead, or nothing is left to do."""
    return worker.process.dead or not world.left()


def _landed(world: World, records: int) -> bool:
    return world.landed["docs"] >= records
