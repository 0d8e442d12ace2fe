"""What is settled, and what an answer says that comes late."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from upsertq.contract.wire import Entry
from upsertq_worker.context import Context, Signals, Tally
from upsertq_worker.events import Events
from upsertq_worker.flow.usage import Meter
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.queue.lease import Leases
from upsertq_worker.queue.protocols import Grant, Settled
from upsertq_worker.queue.settler import Settler
from upsertq_worker.settings import Settings


class Slow:
    """A queue that denies every lease, and answers when it is let."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()

    async def settle(self, held: dict[int, int], _: object) -> Settled:
        """Deny all."""
        self.asked.set()
        await self.answers.wait()
        return Settled(frozenset(held))


async def test_a_late_denial_leaves_a_lease_that_was_taken_again() -> None:
    """Shard 0 was lost and taken again while the call travelled: only shard 1 is told as lost, and its work is void."""
    context = Context("w", 2, Settings(), lambda: 1.0, lambda: 1.0, random.Random(1), Events())
    hold, leases, told = Hold(5.0), Leases(100.0, 5.0), list[Settled]()
    leases.granted([Grant(0, 1), Grant(1, 1)], 0.0, 0.0)
    queue: Any = Slow()
    settler = Settler(context, Signals(), queue, hold, leases, Meter(), Tally(), told.append)

    def landed(shard: int, number: int) -> None:
        hold.admit(shard, f"{number}-0", Entry("", (f"{shard}{number}",), 1, bytes(4)), 1.0)
        (item,) = hold.ready.take_entry(hold.entries.of(shard)[0], 1.0)
        hold.acknowledge(item, 1.0)

    for shard in (0, 1):
        landed(shard, 1)
    settling = asyncio.create_task(settler.settle())
    await queue.asked.wait()
    leases.fenced(0)
    settler.forget([0])
    leases.granted([Grant(0, 2), Grant(1, 1)], 1.0, 1.0)
    landed(0, 2)
    queue.answers.set()
    assert await settling
    assert [one.foreign for one in told] == [{1}]
    assert leases.epochs == {0: 2, 1: 1}
    assert [one.stream_id for one in hold.settlements] == ["2-0"]
    assert settler.unsettled == 1
