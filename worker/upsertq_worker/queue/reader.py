"""Owns the reading of the shards held: each lane's stream from its first entry on, in turns, up to a budget of memory.

Reading has no side effect on the server: whatever is in a stream is unsettled, and is read anew by a new holder. A lane
that is paused or has its share here is not read. It never decides what to send.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import InitVar, dataclass, field
from math import inf
from typing import Final

from upsertq.contract.errors import QueueDamaged, ServerUnavailable
from upsertq.contract.pauses import scope_of, spoken
from upsertq.contract.wire import UnknownEntry, decode
from upsertq_worker.absence import Absence
from upsertq_worker.context import Context, Signals, signalled
from upsertq_worker.damage import AGAIN_SECONDS, Damage
from upsertq_worker.events import Event
from upsertq_worker.flow.pauses import Pauses
from upsertq_worker.flow.share import Share
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import Held
from upsertq_worker.queue.cursors import READ_STREAMS, SEARCHED, Cursor, Cursors, Shard
from upsertq_worker.queue.lease import Leases, place_of
from upsertq_worker.queue.protocols import Delivery, Queue, Read, ShardsDamaged, Stream
from upsertq_worker.queue.replays import Replays

READ_WAIT: Final = 0.5
"""Seconds that one read waits for new entries."""
POLL_SECONDS: Final = 0.2
"""Between two looks for new entries behind those read while there is more to read elsewhere, or no room for it."""
SEARCH_SECONDS: Final = 0.01
"""Between two looks for streams that may be read now, at least, while those looked at are held back."""


@dataclass(eq=False)
class Reader:
    """Reads entries into the hold."""

    _context: Context
    _signals: Signals
    _queue: Queue
    _hold: Hold
    _leases: Leases
    pauses: InitVar[Pauses]
    _admitted: Callable[[Held], None]
    """Told of each entry that was taken in, before any of it can be sent."""
    _expect: Callable[[bool], None]
    """Told after each read whether more is to come."""
    _came_at: float = field(init=False, default=-inf)
    """When something came last although all had been read: its producer is at work."""

    def __post_init__(self, pauses: Pauses) -> None:
        context, signals, hold = self._context, self._signals, self._hold
        self._absence = Absence("read the queue", context, signals)
        self._damage = Damage(context, signals)
        self._share = Share(context.settings, hold.entries, hold.ready, pauses)
        self.cursors = Cursors(self._share.wants, self._damage, self._leases.draining)
        """Where reading stands."""
        self._replays = Replays(context, signals, self._queue, hold, self._damage)

    async def run(self) -> None:
        """Read until the worker stops."""
        signals = self._signals
        while not signals.stopping.is_set():
            signals.readable.clear()
            self._follow_leases()
            try:
                await self._replays.check()
                pause = await self._round()
                self._absence.over()
            except ShardsDamaged as error:
                self._damage.found(error.faults)  # the next round goes without them
            except (ServerUnavailable, QueueDamaged) as error:
                await self._absence.wait(error)
            else:
                if pause:
                    await signalled(signals.readable, pause)

    def forget(self, shards: Iterable[int]) -> None:
        """These shards were lost or gained anew: begin with their first entries when they are held again."""
        shards = list(shards)
        self._damage.forget(shards)
        for shard in shards:
            self.cursors.drop(shard)
            for name in [name for name in self._signals.alarms if f"{name}:".startswith(f"shard {shard}:")]:
                del self._signals.alarms[name]

    def emptied(self, streams: Mapping[Stream, str]) -> None:
        """These streams are gone with their last entry; the shard's clock then is given."""
        for (shard, namespace), clock in streams.items():
            if cursor := self.cursors.emptied(shard, namespace, clock):
                self._go_on(cursor)

    def halt(self, shard: int, namespace: str) -> None:
        """Read nothing more of this lane while the shard is held."""
        if cursor := self.cursors.find(shard, namespace):
            cursor.again_at = inf

    @property
    def exhausted(self) -> bool:
        """Whether all streams of the shards held were read to their end or to an entry that is not understood."""
        held = self._leases.epochs.keys()
        return self.cursors.shards.keys() == held and all(map(self.cursors.exhausted, held))

    def _follow_leases(self) -> None:
        takeovers, shards = self._leases.takeovers, self.cursors.shards
        self.forget([shard for shard, known in shards.items() if takeovers.get(shard) is not known.takeover])
        for shard, takeover in takeovers.items():
            if shard not in shards:
                shards[shard] = Shard(takeover)

    async def _round(self) -> float:
        """Read once; returns the seconds to wait before the next time, 0 for none."""
        await self._list_lanes()
        bells = {shard: known.bell for shard, known in self.cursors.readable().items() if known.bell is not None}
        if not bells:
            return 1.0
        now = self._context.clock()
        behind = self.cursors.take_behind(now)
        held_back = bool(self.cursors.behind)
        due = self.cursors.looked_at + POLL_SECONDS - now
        # one look goes through a part of a long line, and what may be read now may stand at its end
        looks = len(self.cursors.behind) / (SEARCHED * READ_STREAMS)
        search = max(SEARCH_SECONDS, POLL_SECONDS / max(1.0, looks))
        if due > 0 and held_back and not behind:
            return min(due, search)
        at_end = self.cursors.take_at_end(now) if due <= 0 or not behind else ()
        cursors = {(one.shard, one.namespace): one for one in (*behind, *at_end)}
        places = {stream: one.place for stream, one in cursors.items()}
        count = self._share.of_each(len(cursors))
        try:
            read = await self._queue.read(places, bells, count, 0.0 if behind or held_back else READ_WAIT)
            self._take_in(read, cursors, bells, count)
        finally:
            self.cursors.line_up(cursors.values())
        if not behind and (read.deliveries or read.rings):
            self._came_at = self._context.clock()
        settings, lingered = self._context.settings, self._context.clock() - self._came_at
        drained = settings.until_empty and lingered >= settings.batch.linger and self.exhausted
        self._expect(not drained)
        if self._hold.ready.stirred or drained:
            self._signals.sendable.set()
        return search if held_back and not (read.deliveries or read.faults) else 0.0

    async def _list_lanes(self) -> None:
        shards = {shard: known for shard, known in self.cursors.readable().items() if known.bell is None}
        if not shards:
            return
        found: dict[str, list[tuple[int, str]]] = {}
        for shard, lanes in (await self._queue.lanes(list(shards))).items():
            if self.cursors.shards.get(shard) is shards[shard]:
                shards[shard].bell = lanes.place
                for namespace in lanes.namespaces:
                    found.setdefault(namespace, []).append((shard, lanes.place))
        # a lane's streams one after another: what is read in one turn is sent in one batch
        for namespace, ones in found.items():
            for shard, place in ones:  # a ring up to here, maybe of this very stream, is heard no more
                self.cursors.follow(shard, namespace, place_of(place))

    def _take_in(self, read: Read, cursors: Mapping[Stream, Cursor], bells: Mapping[int, str], count: int) -> None:
        for stream, fault in read.faults.items():
            self._halt(cursors[stream], fault)
        if read.faults:
            return
        self._damage.sound(bells)
        self.cursors.hear(read.rings, bells, count)
        now = self._context.clock()
        for delivery in read.deliveries:
            cursor = cursors[delivery.shard, delivery.namespace]
            if not cursor.gone and cursor.again_at <= now:
                self._take_in_entry(delivery, cursor, now)
        found = Counter((one.shard, one.namespace) for one in read.deliveries)
        for stream, cursor in cursors.items():
            cursor.behind = found[stream] >= count or bool(cursor.again_at)

    def _take_in_entry(self, delivery: Delivery, cursor: Cursor, now: float) -> None:
        try:
            self._admit(delivery, now)
        except UnknownEntry as error:
            self._halt(cursor, f"entry {delivery.stream_id}: {error}")
        except Exception as error:  # noqa: BLE001 - no entry may end a worker
            fault = f"entry {delivery.stream_id} cannot be taken in ({error!r}) and stays: report this bug"
            self._halt(cursor, fault)
        else:
            cursor.place = delivery.stream_id
            self._go_on(cursor)

    def _admit(self, delivery: Delivery, now: float) -> None:
        entry = decode(delivery.fields)
        if entry.namespace != delivery.namespace:
            raise UnknownEntry(f"it belongs to {spoken(scope_of(entry.namespace))}")
        takeover = self.cursors.shards[delivery.shard].takeover
        until = takeover.quarantined_until
        if until is not None and place_of(delivery.stream_id) > takeover.boundary:
            until = None
        held = self._hold.admit(delivery.shard, delivery.stream_id, entry, now, until)
        self._admitted(held)
        if entry.seq:
            self._replays.add(held)

    def _halt(self, cursor: Cursor, fault: str) -> None:
        """Read no further in this stream until it is mended: what is not understood is never passed over."""
        cursor.again_at = self._context.clock() + AGAIN_SECONDS
        lane = spoken(scope_of(cursor.namespace))
        name = f"shard {cursor.shard}: {lane}"
        if self._signals.alarms.get(name) != fault:
            self._context.events.tell(Event.STREAM_HALTED, shard=cursor.shard, lane=lane, error=fault)
        self._signals.alarms[name] = fault

    def _go_on(self, cursor: Cursor) -> None:
        """This stream is sound, or gone: it needs no operator any more."""
        if cursor.again_at:
            cursor.again_at = 0.0
            lane = spoken(scope_of(cursor.namespace))
            self._signals.alarms.pop(f"shard {cursor.shard}: {lane}", None)
            self._context.events.tell(Event.LANE_MENDED, shard=cursor.shard, lane=lane)
