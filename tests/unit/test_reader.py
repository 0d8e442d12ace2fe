"""Reading goes on where it stood, whatever the order in which word of settling and of new entries arrives."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from upsertq.contract.wire import Entry, encode
from upsertq_worker.context import Context, Signals
from upsertq_worker.events import Events
from upsertq_worker.flow.pauses import Pauses
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.queue.lease import Leases
from upsertq_worker.queue.protocols import START, Delivery, Grant, LaneList, Read, Ring
from upsertq_worker.queue.reader import POLL_SECONDS, Reader
from upsertq_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from upsertq_worker.ordering.model import Held
    from upsertq_worker.queue.protocols import Stream


def fields(name: str, namespace: str = "", dimension: int = 1) -> dict[bytes, bytes]:
    """Return an entry of one record as the server holds it."""
    entry = Entry(namespace, (name,), dimension, bytes(4 * dimension))
    flat = [part if isinstance(part, bytes) else str(part).encode() for part in encode(entry)]
    return dict(zip(flat[::2], flat[1::2], strict=True))


def made(
    queue: Any,
    clock: Callable[[], float] = time.monotonic,
    hold: Hold | None = None,
    admitted: Callable[[Held], None] = lambda _: None,
) -> Reader:
    """Return a reader that holds the one shard of this queue."""
    context = Context("w", 1, Settings(), clock, time.time, random.Random(1), Events())
    leases = Leases(10.0, 5.0)
    leases.granted([Grant(0, 1)], 0.0, 0.0)
    reader = Reader(context, Signals(), queue, hold or Hold(5.0), leases, Pauses(), admitted, lambda _: None)
    reader._follow_leases()
    return reader


class Shard:
    """A queue of one shard with one lane, whose stream holds one entry."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def lanes(self, _: object) -> dict[int, LaneList]:
        """Return the lane."""
        return {0: LaneList(START, [""])}

    async def read(self, cursors: Mapping[Stream, str], *_: object) -> Read:
        """Return the entry where it was not read yet."""
        place = cursors.get((0, ""), "not asked")
        self.asked.append(place)
        return Read([Delivery(0, "", "10-0", fields("a"))] if place == START else [])


@pytest.mark.parametrize(("clock", "next_place"), [("9-0", "10-0"), ("10-0", "not asked")])
async def test_an_emptied_stream_that_is_there_again_is_not_read_anew(clock: str, next_place: str) -> None:
    """It was emptied at an earlier time than that of the entry that was read: the entry is of its next life."""
    queue: Any = Shard()
    admitted: list[Held] = []
    reader = made(queue, admitted=admitted.append)
    await reader._round()
    reader.emptied({(0, ""): clock})
    await reader._round()
    assert queue.asked == [START, next_place]
    assert [held.stream_id for held in admitted] == ["10-0"]


class Backlog:
    """A queue of one shard with two lanes, of which one has an entry, and the other no end of them."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []

    async def lanes(self, _: object) -> dict[int, LaneList]:
        """Return the lanes."""
        return {0: LaneList(START, ["few", "many"])}

    async def read(self, cursors: Mapping[Stream, str], _bells: object, count: int, wait: float) -> Read:
        """Return what was asked for of `many`, and an entry of `few` at first."""
        assert wait == 0
        self.asked.append({namespace for _, namespace in cursors})
        found = []
        for (shard, namespace), place in cursors.items():
            first = int(place.split("-")[0]) + 1
            numbers = range(first, first + count) if namespace == "many" else range(first, 2)
            found += [Delivery(shard, namespace, f"{n}-0", fields(f"{n}", namespace)) for n in numbers]
        return Read(found)


async def test_streams_at_their_end_are_not_looked_at_in_each_read() -> None:
    """While there is more to read elsewhere they have their turn now and then: lanes can be many."""
    queue: Any = Backlog()
    now = 100.0
    reader = made(queue, lambda: now)
    for seconds in (0.0, 0.0, POLL_SECONDS / 2, POLL_SECONDS, 0.0):
        now += seconds
        await reader._round()
    assert queue.asked == [{"few", "many"}, {"few", "many"}, {"many"}, {"few", "many"}, {"many"}]


class Burst:
    """A queue of one shard with 500 lanes, each of which has an entry of 80 kB at first, and then many."""

    def __init__(self) -> None:
        self.lengths = 1

    async def lanes(self, _: object) -> dict[int, LaneList]:
        """Return the lanes."""
        return {0: LaneList(START, [f"{lane}" for lane in range(500)])}

    async def read(self, cursors: Mapping[Stream, str], _bells: object, count: int, _wait: object) -> Read:
        """Return what was asked for."""
        found = []
        for (shard, namespace), place in cursors.items():
            first = int(place.split("-")[0]) + 1
            for number in range(first, min(first + count - 1, self.lengths) + 1):
                entry = fields(f"{number}", namespace, dimension=20_000)
                found.append(Delivery(shard, namespace, f"{number}-{namespace}", entry))
        return Read(found)


async def test_a_burst_in_streams_that_were_read_to_their_end_is_read_within_the_memory_for_it() -> None:
    """As after an outage of the index, in which all of them grew: a read is bounded by all that it may bring."""
    queue: Any = Burst()
    hold = Hold(5.0)
    reader = made(queue, hold=hold)
    while hold.entries.weight < 500 * 80_000 or reader.cursors.behind:
        await reader._round()
    queue.lengths = 100
    for _ in range(5):
        await reader._round()
    assert hold.entries.weight < 2 * Settings().read_ahead


class Relisted:
    """A queue of one shard: a lane gets its stream anew while more rings come than one read brings."""

    def __init__(self) -> None:
        self.listed = 0
        self.asked: list[set[str]] = []

    async def lanes(self, _: object) -> dict[int, LaneList]:
        """Return the lane; the second time its new stream is there, and its ring was the latest."""
        self.listed += 1
        return {0: LaneList(START, ["again"]) if self.listed == 1 else LaneList("30-0", ["again", "other"])}

    async def read(self, cursors: Mapping[Stream, str], _bells: object, count: int, _wait: object) -> Read:
        """Return the lane's first entry, then as many rings as were asked for, then nothing."""
        self.asked.append({namespace for _, namespace in cursors})
        if len(self.asked) == 1:
            return Read([Delivery(0, "again", "10-0", fields("a", "again"))])
        new = len(self.asked) == 2
        return Read(rings=[Ring(0, "other", f"{20 + number}-0") for number in range(count) if new])


async def test_a_lane_that_is_there_again_when_all_are_listed_is_read_on() -> None:
    """Its first stream was emptied at 15, which is told after its second one was listed: its ring is not heard."""
    queue: Any = Relisted()
    now = 100.0
    reader = made(queue, lambda: now)
    await reader._round()
    await reader._round()
    await reader._list_lanes()
    reader.emptied({(0, "again"): "15-0"})
    now += POLL_SECONDS
    await reader._round()
    assert queue.listed == 2
    assert queue.asked[-1] == {"again", "other"}


class Tampered:
    """A queue of one shard, in whose bell something stands that is no word of a lane."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def lanes(self, _: object) -> dict[int, LaneList]:
        """Return no lane."""
        return {0: LaneList(START, [])}

    async def read(self, _: object, bells: Mapping[int, str], *_arguments: object) -> Read:
        """Return what is behind the place in the bell."""
        self.heard.append(bells[0])
        return Read(rings=[Ring(0, None, "20-0")]) if bells[0] == START else Read()


async def test_what_rings_for_no_lane_is_passed() -> None:
    """Each read that waits would find it again, and end at once."""
    queue: Any = Tampered()
    hold = Hold(5.0)
    hold.admit(0, "1-0", Entry("", ("a",), 1, bytes(4)), 0.0)
    reader = made(queue, hold=hold)
    await reader._round()
    await reader._round()
    assert queue.heard == [START, "20-0"]
    assert not reader.cursors.behind
