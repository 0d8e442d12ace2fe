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
from upsertq_worker.queue.protocols import START, Delivery, Grant, LaneList, Read
from upsertq_worker.queue.reader import Reader
from upsertq_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from upsertq_worker.ordering.model import Held
    from upsertq_worker.queue.protocols import Stream


def fields(name: str) -> dict[bytes, bytes]:
    """Return an entry of one record as the server holds it."""
    flat = [part if isinstance(part, bytes) else str(part).encode() for part in encode(Entry("", (name,), 1, bytes(4)))]
    return dict(zip(flat[::2], flat[1::2], strict=True))


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
    context = Context("w", 1, Settings(), time.monotonic, time.time, random.Random(1), Events())
    leases = Leases(10.0, 5.0)
    leases.granted([Grant(0, 1)], 0.0, 0.0)
    admitted: list[Held] = []
    reader = Reader(context, Signals(), queue, Hold(5.0), leases, Pauses(), admitted.append, lambda _: None)
    reader._follow_leases()
    await reader._round()
    reader.emptied({(0, ""): clock})
    await reader._round()
    assert queue.asked == [START, next_place]
    assert [held.stream_id for held in admitted] == ["10-0"]
