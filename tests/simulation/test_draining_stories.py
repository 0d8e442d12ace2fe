"""Draining in good times, one story each: handovers, hot ids, trickles, pauses and many lanes, by virtual time."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest

from story_world import SIZE, WALL, Reaction, World
from upsertq.contract.pauses import QUEUE, Paused, scope_of
from upsertq_worker.settings import BatchLimits, Settings

if TYPE_CHECKING:
    from story_world import Post


def test_a_rolling_handover_pauses_sending_for_a_second_at_most() -> None:
    """SIGTERM to a worker with 50,000 records before it, and a new worker: no care, no quarantine."""
    world = World(shards=4)
    world.fill("docs", 2_000)
    world.react = lambda _post: Reaction(seconds=0.3)

    async def story() -> None:
        one = world.start("w1")
        await asyncio.sleep(2)
        world.start("w2")
        one.worker.stop()
        await world.until(lambda: not world.left(), seconds=60)
        times = [post.at for post in world.posts]
        assert max(after - before for before, after in itertools.pairwise(times)) <= 1.0 + 0.3
        assert [model.deaths for model in world.queue.shards] == [0] * 4
        assert world.loop.now < 2_000 * SIZE / 100 / 16 * 0.3 + 6
        assert len(world.posts) < 2_000 * SIZE / 100 * 1.1

    world.tell(story())


def test_an_idle_worker_stops_at_once() -> None:
    """Nothing that it waits for keeps it: no entry that comes later, no next look at suspects or at the books."""
    world = World(shards=4)
    world.fill("docs", 4)

    async def story() -> None:
        one = world.start("w1")
        await world.until(lambda: not world.left(), seconds=60)
        await asyncio.sleep(3.1)
        one.worker.stop()
        assert await world.until(one.task.done, seconds=5, step=0.01) < 0.1

    world.tell(story())


def test_a_worker_that_drains_what_is_there_ends_with_it() -> None:
    """It ends when the last record is settled, not at some later look at the books."""
    world = World(shards=4)
    world.fill("docs", 40)

    async def story() -> None:
        one = world.start("w1", until_empty=True)
        await world.until(lambda: not world.left(), seconds=60, step=0.01)
        assert await world.until(one.task.done, seconds=5, step=0.01) < 0.1

    world.tell(story())


@pytest.mark.parametrize(("left", "beside"), [(5, ""), (0, ""), (0, "paused")])
def test_settlements_that_a_failover_undid_are_made_again(left: int, beside: str) -> None:
    """A replica that lagged behind takes over: entries stand in the stream again behind the place of their reader.

    Beside a paused namespace what is pending in the shard is not all missing, and no other settlement may follow there.
    """
    world = World()
    world.fill("docs", 40)
    if beside:
        world.fill(beside, 40)
        world.pause(beside)
    world.react = lambda _post: Reaction(seconds=0.2)

    async def story() -> None:
        one = world.start("w1", concurrency=1)
        await world.until(lambda: world.left("docs") <= 30, seconds=10)
        take_over = world.replica()
        await world.until(lambda: world.left("docs") <= left, seconds=10, step=0.01)
        take_over()
        await world.until(lambda: not world.left("docs"), seconds=30)
        assert not one.worker.report()["alarms"].keys() - {scope_of(beside)}

    world.tell(story())


def test_a_version_that_a_failover_brought_back_overwrites_no_newer_one() -> None:
    """Its settlement is lost; a newer one that comes then is not settled before it is read again."""
    world = World()
    world.react = lambda post: Reaction(seconds=10.0 if ("docs", "slow") in post.keys else 0.2)

    async def story() -> None:
        world.start("w1")
        world.enqueue("docs", "slow")
        await world.until(lambda: bool(world.posts), seconds=10)
        world.enqueue("docs", "a")
        take_over = world.replica()
        await world.until(lambda: world.left() == 1, seconds=10, step=0.01)
        take_over()
        world.enqueue("docs", "a")
        await world.until(lambda: not world.left(), seconds=60)
        assert world.index["docs", "a"] == 2

    world.tell(story())


@pytest.mark.slow
def test_a_hot_id_in_each_of_thousands_of_entries_is_fast() -> None:
    """Its versions supersede one another; the rest of the entries goes in full batches."""
    world = World()
    for number in range(16_000):
        world.enqueue("docs", "hot", f"{number}")
    world.react = lambda _post: Reaction(seconds=0.05)

    async def story() -> None:
        world.start("w1")
        await world.until(lambda: not world.left(), seconds=60)
        assert world.index["docs", "hot"] == 16_000
        assert len(world.posts) < 1_000

    world.tell(story())


def test_a_record_behind_a_bulk_backlog_is_acknowledged_within_a_second() -> None:
    """A bulk load of 100,000 records into one namespace does not delay another one's trickle."""
    world = World()
    world.fill("bulk", 4_000)
    world.react = lambda _post: Reaction(seconds=0.2)

    async def story() -> None:
        world.start("w1")
        await asyncio.sleep(3)
        for number in range(3):
            world.enqueue("trickle", f"{number}")
            assert await world.until(lambda: not world.left("trickle"), seconds=5, step=0.02) < 1.0
            assert world.left("bulk")

    world.tell(story())


def test_a_paused_namespace_adds_nothing_and_delays_nothing() -> None:
    """Its backlog stays on the server, but for what it had in memory when it was paused."""
    world = World()
    world.fill("held", 2_000)
    world.fill("well", 200)
    world.pause("held")
    world.react = lambda _post: Reaction(seconds=0.2)

    async def story() -> None:
        one = world.start("w1", read_ahead=1_000_000)
        assert await world.until(lambda: not world.left("well"), seconds=10) < 3
        assert one.worker.hold.entries.weight <= Settings().read_ahead // 2
        assert one.worker.hold.entries.weights.get("held", 0) <= 16 * SIZE * 400
        assert world.landed["held"] == 0

    world.tell(story())


def test_hundreds_of_paused_namespaces_delay_no_other_by_a_second() -> None:
    """Each has a stream in every shard, all of which are held back: the one that is not is found among them."""
    world = World(shards=16)
    for name in (f"held {number}" for number in range(600)):
        world.enqueue(name, *map(str, range(SIZE)))
        world.pause(name)

    async def story() -> None:
        world.start("w1")
        await asyncio.sleep(3)
        for number in range(3):
            world.enqueue("trickle", f"{number}")
            assert await world.until(lambda: not world.left("trickle"), seconds=5, step=0.02) < 1.0
        assert set(world.landed) == {"trickle"}

    world.tell(story())


def test_a_pause_is_probed_by_a_worker_whose_batches_are_smaller_than_the_entries() -> None:
    """It came after the pause, and holds whole entries alone: one record of one of them is the probe."""
    world = World()
    world.fill("docs", 4)
    world.queue.paused[QUEUE] = Paused("unauthorized", "Invalid API key", WALL, "another worker")

    async def story() -> None:
        world.start("w1", batch=BatchLimits(records=3))
        await world.until(lambda: not world.left(), seconds=60)
        assert [len(post.records) for post in world.posts[:2]] == [1, 3]

    world.tell(story())


def test_each_probe_tries_another_record() -> None:
    """Also the one after that which took an entry apart: what is refused alone must not be what is tried again."""
    world = World(shards=4)
    world.enqueue("docs", *map(str, range(16)))
    world.queue.paused[scope_of("docs")] = Paused("systemic", "too many are refused", WALL, "another worker")
    world.react = lambda _post: Reaction(400 if len(world.posts) <= 12 else 200)

    async def story() -> None:
        world.start("w1")
        await world.until(lambda: not world.left(), seconds=300)
        probes = [post.records for post in world.posts[:12]]
        assert [len(records) for records in probes] == [1] * 12
        assert len(set(probes)) == 12

    world.tell(story())


def test_a_pause_ends_although_what_was_read_first_is_all_bad() -> None:
    """As after a takeover: the next worker reads no more of a paused lane than it needs to probe with."""
    world = World()
    world.enqueue("docs", *(f"bad-{number}" for number in range(40)))
    world.fill("docs", 50)
    world.queue.paused[scope_of("docs")] = Paused("systemic", "too many are refused", WALL, "another worker")
    world.react = lambda post: Reaction(400 if any(name.startswith("bad") for _, name in post.keys) else 200)

    async def story() -> None:
        world.start("w1")
        await world.until(lambda: world.landed["docs"] == 50 * SIZE, seconds=900)

    world.tell(story())


@pytest.mark.slow
def test_two_thousand_lanes_drain_in_about_as_many_requests() -> None:
    """Each lane needs a request of its own: none is sent twice, and none waits for the others to end."""
    world = World(shards=4)
    for number in range(2_000):
        world.enqueue(f"lane-{number}", *map(str, range(20)))
    world.react = lambda _post: Reaction(seconds=0.1)

    async def story() -> None:
        world.start("w1")
        took = await world.until(lambda: not world.left(), seconds=200)
        assert len(world.posts) <= 2_000 * 1.5
        assert took < len(world.posts) / 16 * 0.1 * 1.5 + 3

    world.tell(story())


def test_a_lane_of_few_records_goes_in_one_request() -> None:
    """Its part in the last shard is read with that in the first, though all that waits takes longer than the linger."""
    world = World(shards=16, latency=0.1)
    for number in range(100):
        world.enqueue(f"lane-{number}", *map(str, range(50)))

    async def story() -> None:
        world.start("w1")
        await world.until(lambda: not world.left(), seconds=60)
        assert len(world.posts) <= 100 + 3, "a read in the middle of which a lane stands may cut it"

    world.tell(story())


def test_lanes_that_the_bell_forgot_are_found() -> None:
    """More lanes get a stream between two reads than the bell keeps: the lanes are listed anew."""
    world = World(shards=2)

    async def story() -> None:
        world.start("w1")
        await asyncio.sleep(2)
        for burst in range(3):
            for number in range(150):
                world.enqueue(f"lane-{burst}-{number}", "a", "b", "c")
            await world.until(lambda: not world.left(), seconds=20)

    world.tell(story())


@pytest.mark.parametrize("gap", [0.0, 0.01, 0.03, 0.07, 0.31])
def test_lanes_are_emptied_and_filled_again_at_every_moment(gap: float) -> None:
    """A stream that goes with its last entry and comes again is read again, whenever that happens."""
    world = World()

    def react(post: Post) -> Reaction:
        world.loop.later(gap, refill, post.namespace)
        return Reaction(seconds=0.02)

    rounds = dict.fromkeys(("a", "b", "c"), 100)

    def refill(namespace: str) -> None:
        if rounds[namespace]:
            rounds[namespace] -= 1
            world.enqueue(namespace, "x", f"{rounds[namespace]}")

    world.react = react

    async def story() -> None:
        world.start("w1")
        for namespace in rounds:
            refill(namespace)
        await world.until(lambda: not any(rounds.values()) and not world.left(), seconds=200)

    world.tell(story())
