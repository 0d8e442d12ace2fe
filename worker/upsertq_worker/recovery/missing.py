"""Owns the search for records that the books of a shard count as pending while nothing that is read holds them.

Where the server lost the set of a shard's lanes, the streams are found again; where it lost settlements, as a replica
that lagged behind and took over, what was read before is read again; where it lost a stream, an alarm says so.
It decides nothing while anything is left to do, and never changes what is on the server.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from upsertq.contract.errors import ServerRefused
from upsertq_worker.context import Context
from upsertq_worker.events import Event
from upsertq_worker.queue.cursors import Cursors
from upsertq_worker.queue.lease import Leases
from upsertq_worker.queue.protocols import Counted, Queue

LOOK_SECONDS: Final = 1.0
"""Between two looks at the books of shards of which everything is read."""
SEARCH_LOOKS: Final = 2
"""Looks at which a shard's books say the same, after which its streams are searched for: then less and less often."""
ALARM_LOOKS: Final = 3
"""Looks after which an alarm is raised."""


@dataclass(eq=False)
class Missing:
    """Looks for what is counted and not there, in the shards held."""

    _context: Context
    _queue: Queue
    _leases: Leases
    _cursors: Cursors
    _idle: Callable[[], bool]
    """Whether nothing that was read is left to do."""
    _alarms: dict[str, str]
    """What needs an operator, by what it concerns."""
    _seen: dict[int, tuple[Counted, int]] = field(init=False, default_factory=dict)
    """What the books of shards with something pending said last, and at how many looks in a row."""
    _told: set[int] = field(init=False, default_factory=set)
    _look_at: float = field(init=False, default=0.0)

    async def look(self) -> None:
        """Look, unless something is left to do, or it is too soon after the last time.

        Raises:
            ServerUnavailable: the server is away.
        """
        now = self._context.clock()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        shards = self._read_out()
        counted: dict[int, Counted] = {}
        with suppress(ServerRefused):  # what is damaged is told elsewhere
            counted = await self._queue.counted(shards) if shards else {}
        still = set(self._read_out())
        seen = {shard: one for shard, one in counted.items() if one.pending and shard in still}
        before, self._seen = self._seen, {}
        for shard, one in seen.items():
            last, looks = before.get(shard, (one, 0))
            self._seen[shard] = one, (looks + 1 if last == one else 1)
        for shard, (one, looks) in list(self._seen.items()):
            await self._suspect(shard, one, looks)
        for shard in self._told - self._seen.keys():
            self._told.discard(shard)
            if self._alarms.pop(_name(shard), None):
                self._context.events.tell(Event.RECORDS_FOUND, shard=shard)

    def _read_out(self) -> list[int]:
        return [shard for shard in self._leases.epochs if self._cursors.read_out(shard)] if self._idle() else []

    async def _suspect(self, shard: int, one: Counted, looks: int) -> None:
        # at the 2nd, 4th, 8th look, and so on: the search goes through all keys of the server
        if looks >= SEARCH_LOOKS and looks & (looks - 1) == 0:
            names: list[str] = []
            with suppress(ServerRefused):  # a login that may not search (ACL) has the alarm all the same
                names = await self._queue.streams(shard)
            if shard not in self._read_out():
                return  # something came meanwhile, which may be what these streams hold
            for name in names:
                self._cursors.again(shard, name)
            if names:
                self._context.events.tell(Event.LANES_FOUND, shard=shard, lanes=len(names))
                return
        if looks >= ALARM_LOOKS:
            self._alarms[_name(shard)] = fault = (
                f"its books count {one.pending:,} records as pending, and no stream holds them: the server lost them; "
                "`upsertq audit` tells how many; load again what was not acknowledged"
            )
            if shard not in self._told:
                self._told.add(shard)
                self._context.events.tell(Event.RECORDS_MISSING, shard=shard, error=fault)


def _name(shard: int) -> str:
    return f"shard {shard}: books"
