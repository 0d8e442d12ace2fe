"""Owns the reading of the shards held: each lane's stream from its first entry on, in turns, up to a budget of memory.

Reading has no side effect on the server: whatever is in a stream is unsettled, and is read anew by a new holder. A lane
that is paused or has its share here is not read. It never decides what to send.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

from upsertq.contract.errors import QueueDamaged, ServerUnavailable
from upsertq.contract.pauses import scope_of, spoken
from upsertq.contract.wire import Entry, UnknownEntry, decode
from upsertq_worker.absence import Absence
from upsertq_worker.context import Context, Signals, signalled
from upsertq_worker.events import Event
from upsertq_worker.flow.pauses import Pauses
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import Held
from upsertq_worker.queue.damage import AGAIN_SECONDS, Damage
from upsertq_worker.queue.lease import Leases, Takeover, place_of
from upsertq_worker.queue.protocols import START, Delivery, Queue, Ring, ShardsDamaged, Stream

READ_WAIT: Final = 0.5
"""Seconds that one read waits for new entries."""
POLL_SECONDS: Final = 0.05
"""Between two looks for new entries while some lanes have their share and wait for room."""
READ_ENTRIES: Final = 16
"""Entries a stream in one read at most."""
READ_STREAMS: Final = 256
"""Streams in one read at most of which there may be more: lanes can be many, and they take turns."""
WATCHED_STREAMS: Final = 1_024
"""Streams in one read at most that were read to their end."""
READ_BYTES: Final = 16_000_000
"""Bytes that one read should bring at most, about."""
FIRST_MEAN: Final = 100_000
"""Bytes of an entry, about, before one was seen."""
BATCHES_AHEAD: Final = 4
"""Batches a lane may have here for each request that may be in flight: what is more only costs memory."""


@dataclass(eq=False, slots=True)
class _Cursor:
    """Where reading stands in one stream."""

    shard: int
    namespace: str
    place: str = START
    rung: tuple[int, int] = (0, 0)
    """The latest word that the namespace got a stream."""
    behind: bool = True
    """There may be more than was read."""
    gone: bool = False
    """The stream is gone, or not ours any more."""
    again_at: float = 0.0
    """Until then it is not read: its next entry was not understood, or it is no stream."""


@dataclass(eq=False, slots=True)
class _Shard:
    """Where reading stands in one shard."""

    takeover: Takeover
    bell: str | None = None
    """The place in its bell; `None`: its lanes are to be listed."""
    cursors: dict[str, _Cursor] = field(default_factory=dict)


class Reader:
    """Reads entries into the hold.

    Args:
        context: of the worker.
        signals: of the worker.
        queue: the queue.
        hold: takes what is read.
        leases: the shards to read.
        pauses: the lanes that are not to be read.
        alarms: what needs an operator, by what it concerns.
        admitted: told of each entry that was taken in, before any of it can be sent.
    """

    def __init__(
        self,
        context: Context,
        signals: Signals,
        queue: Queue,
        hold: Hold,
        leases: Leases,
        pauses: Pauses,
        alarms: dict[str, str],
        admitted: Callable[[Held], None],
    ) -> None:
        self._context = context
        self._signals = signals
        self._queue = queue
        self._hold = hold
        self._leases = leases
        self._pauses = pauses
        self._alarms = alarms
        self._admitted = admitted
        self._absence = Absence("read the queue", context, signals)
        self._damage = Damage(context, alarms)
        self._shards: dict[int, _Shard] = {}
        self._behind: deque[_Cursor] = deque()
        """Streams that may have more than was read, in turn."""
        self._at_end: deque[_Cursor] = deque()
        """Streams that were read to their end, in turn."""
        self._unchecked: list[Held] = []
        """Replayed entries of which it is not known yet whether a newer version was acknowledged."""
        self._looked_at = -POLL_SECONDS
        """When the streams that were read to their end were looked at last."""

    async def run(self) -> None:
        """Read until the worker stops."""
        signals = self._signals
        while not signals.stopping.is_set():
            signals.readable.clear()
            self._follow_leases()
            try:
                await self._check_replayed()
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
            known = self._shards.pop(shard, None)
            for cursor in known.cursors.values() if known else ():
                cursor.gone = True
            for name in [name for name in self._alarms if f"{name}:".startswith(f"shard {shard}:")]:
                del self._alarms[name]

    def emptied(self, streams: Mapping[Stream, str]) -> None:
        """These streams are gone with their last entry, unless they are there again: a bell or an entry tells."""
        for (shard, namespace), clock in streams.items():
            known = self._shards.get(shard)
            cursor = known.cursors.get(namespace) if known else None
            if known is not None and cursor is not None and max(cursor.rung, place_of(cursor.place)) <= place_of(clock):
                cursor.gone = True
                del known.cursors[namespace]
                self._go_on(cursor)

    def halt(self, shard: int, namespace: str) -> None:
        """Read nothing more of this lane while the shard is held."""
        known = self._shards.get(shard)
        if known is not None and namespace in known.cursors:
            known.cursors[namespace].again_at = inf

    def caught_up(self, shard: int) -> bool:
        """Whether all is read of what stood in the shard at its takeover, but for lanes that are not read now."""
        known = self._shards.get(shard)
        if known is not None and shard in self._damage:
            return True  # no more of it can be read now, and the other shards need not wait for it
        if known is None or known.bell is None:
            return False
        boundary = known.takeover.boundary
        return not any(
            cursor.behind
            and place_of(cursor.place) < boundary
            and not (cursor.gone or cursor.again_at)
            and self._wanted(cursor.namespace)
            for cursor in known.cursors.values()
        )

    def read_out(self, shard: int) -> bool:
        """Whether everything in the shard is read: no lane of it is held back, or has more than was read."""
        known = self._shards.get(shard)
        return (
            known is not None
            and known.bell is not None
            and not any(one.behind or one.again_at or not self._wanted(one.namespace) for one in known.cursors.values())
        )

    def follow(self, shard: int, namespaces: Iterable[str]) -> list[str]:
        """Read these lanes of the shard, too; returns those that were not read."""
        known = self._shards.get(shard)
        fresh = [] if known is None else [name for name in namespaces if name not in known.cursors]
        if known is not None:
            for namespace in fresh:
                self._follow(known, shard, namespace, (0, 0))
        self._signals.readable.set()
        return fresh

    @property
    def exhausted(self) -> bool:
        """Whether all streams of the shards held were read to their end or to an entry that is not understood."""
        return self._shards.keys() == self._leases.epochs.keys() and all(
            shard in self._damage
            or (
                known.bell is not None
                and all(cursor.again_at or not cursor.behind for cursor in known.cursors.values())
            )
            for shard, known in self._shards.items()
        )

    def _follow_leases(self) -> None:
        takeovers = self._leases.takeovers
        self.forget([shard for shard, known in self._shards.items() if takeovers.get(shard) is not known.takeover])
        for shard, takeover in takeovers.items():
            if shard not in self._shards:
                self._shards[shard] = _Shard(takeover)

    async def _round(self) -> float:
        """Read once; returns the seconds to wait before the next time, 0 for none."""
        await self._list_lanes()
        bells = {
            shard: known.bell
            for shard, known in self._shards.items()
            if known.bell is not None and not self._damage.waits(shard)
        }
        if not bells:
            return 1.0
        now = self._context.clock()
        behind = self._turns(self._behind, READ_STREAMS, now)
        held_back = bool(self._behind)
        if held_back and not behind and now < self._looked_at + POLL_SECONDS:
            return self._looked_at + POLL_SECONDS - now
        self._looked_at = now
        at_end = self._turns(self._at_end, WATCHED_STREAMS, now)
        cursors = {(one.shard, one.namespace): one for one in (*behind, *at_end)}
        places = {stream: one.place for stream, one in cursors.items()}
        count = self._count(len(behind))
        try:
            read = await self._queue.read(places, bells, count, 0.0 if behind or held_back else READ_WAIT)
        except (ServerUnavailable, QueueDamaged):
            self._line_up(cursors.values())
            raise
        for stream, fault in read.faults.items():
            self._halt(cursors[stream], fault)
        if read.faults:
            self._line_up(cursors.values())
            return 0.0
        self._damage.sound(bells)
        self._take_in_rings(read.rings, bells, count)
        self._take_in(read.deliveries, cursors)
        found = Counter((one.shard, one.namespace) for one in read.deliveries)
        for stream, cursor in cursors.items():
            cursor.behind = found[stream] >= count or bool(cursor.again_at)
        self._line_up(cursors.values())
        if self._hold.ready.stirred:
            self._signals.sendable.set()
        return POLL_SECONDS if held_back and not read.deliveries else 0.0

    async def _list_lanes(self) -> None:
        shards = {
            shard: known
            for shard, known in self._shards.items()
            if known.bell is None and not self._damage.waits(shard)
        }
        if not shards:
            return
        for shard, lanes in (await self._queue.lanes(list(shards))).items():
            known = shards[shard]
            if self._shards.get(shard) is not known:
                continue
            known.bell = lanes.place
            for namespace in lanes.namespaces:
                self._follow(known, shard, namespace, (0, 0))

    def _follow(self, known: _Shard, shard: int, namespace: str, rung: tuple[int, int]) -> None:
        """Read this lane's stream, too."""
        cursor = known.cursors.get(namespace)
        if cursor is not None:
            cursor.rung = max(cursor.rung, rung)
            return
        known.cursors[namespace] = cursor = _Cursor(shard, namespace, rung=rung)
        self._behind.append(cursor)

    def _turns(self, line: deque[_Cursor], most: int, now: float) -> list[_Cursor]:
        """Take up to `most` streams that may be read now out of a line; the others stay."""
        taken: list[_Cursor] = []
        wanted: dict[str, bool] = {}
        for _ in range(min(len(line), 4 * most)):
            cursor = line.popleft()
            if cursor.gone:
                continue
            if cursor.namespace not in wanted:
                wanted[cursor.namespace] = self._wanted(cursor.namespace)
            if wanted[cursor.namespace] and cursor.again_at <= now and not self._damage.waits(cursor.shard):
                taken.append(cursor)
                if len(taken) == most:
                    break
            else:
                line.append(cursor)
        return taken

    def _line_up(self, cursors: Iterable[_Cursor]) -> None:
        for cursor in cursors:
            if not cursor.gone:
                (self._behind if cursor.behind else self._at_end).append(cursor)

    def _wanted(self, namespace: str) -> bool:
        """Whether more of this namespace may be read now: each has its share of the memory, and none is shut out."""
        entries, settings = self._hold.entries, self._context.settings
        weight = entries.weights.get(namespace, 0)
        if self._pauses.holds(namespace):
            return not weight and self._pauses.probes(namespace)  # something is needed to probe with
        if not weight:
            return entries.weight < 2 * settings.read_ahead
        share = settings.read_ahead // (1 + len(entries.weights))
        most = BATCHES_AHEAD * settings.concurrency * settings.batch.records
        if entries.weight >= settings.read_ahead or weight >= share * 3 // 4:
            return False
        return entries.records[namespace] < most * 3 // 4

    def _count(self, behind: int) -> int:
        """Entries to read of each stream."""
        entries = self._hold.entries
        room = min(READ_BYTES, self._context.settings.read_ahead - entries.weight)
        mean = max(1, entries.weight // len(entries) if entries else FIRST_MEAN)
        return max(1, min(READ_ENTRIES, room // (mean * max(1, behind))))

    def _take_in_rings(self, rings: Sequence[Ring], bells: Mapping[int, str], count: int) -> None:
        heard: dict[int, list[Ring]] = {}
        for ring in rings:
            heard.setdefault(ring.shard, []).append(ring)
        for shard, ones in heard.items():
            known = self._shards.get(shard)
            if known is None or known.bell != bells[shard]:
                continue  # it was lost and gained anew meanwhile
            for ring in ones:
                self._follow(known, shard, ring.namespace, place_of(ring.place))
            # the bell keeps the latest words only: where there may be more, the lanes are listed
            known.bell = ones[-1].place if len(ones) < count else None

    def _take_in(self, deliveries: Sequence[Delivery], cursors: Mapping[Stream, _Cursor]) -> None:
        now = self._context.clock()
        for delivery in deliveries:
            cursor = cursors[delivery.shard, delivery.namespace]
            if cursor.gone or cursor.again_at > now:
                continue
            try:
                entry = decode(delivery.fields)
                if entry.namespace != delivery.namespace:
                    raise UnknownEntry(f"it belongs to {spoken(scope_of(entry.namespace))}")  # noqa: TRY301
                self._admit(delivery, entry, now)
            except UnknownEntry as error:
                self._halt(cursor, f"entry {delivery.stream_id}: {error}")
            except Exception as error:  # noqa: BLE001 - no entry may end a worker
                self._halt(
                    cursor,
                    f"entry {delivery.stream_id} cannot be taken in ({error!r}) and stays: report this bug",
                )
            else:
                cursor.place = delivery.stream_id
                self._go_on(cursor)

    def _admit(self, delivery: Delivery, entry: Entry, now: float) -> None:
        takeover = self._shards[delivery.shard].takeover
        until = takeover.quarantined_until
        if until is not None and place_of(delivery.stream_id) > takeover.boundary:
            until = None
        held = self._hold.admit(delivery.shard, delivery.stream_id, entry, now, until)
        self._admitted(held)
        if entry.seq:
            self._unchecked.append(held)

    def _halt(self, cursor: _Cursor, fault: str) -> None:
        """Read no further in this stream until it is mended: what is not understood is never passed over."""
        cursor.again_at = self._context.clock() + AGAIN_SECONDS
        lane = spoken(scope_of(cursor.namespace))
        name = f"shard {cursor.shard}: {lane}"
        if self._alarms.get(name) != fault:
            self._context.events.tell(Event.STREAM_HALTED, shard=cursor.shard, lane=lane, error=fault)
        self._alarms[name] = fault

    def _go_on(self, cursor: _Cursor) -> None:
        """This stream is sound, or gone: it needs no operator any more."""
        if cursor.again_at:
            cursor.again_at = 0.0
            lane = spoken(scope_of(cursor.namespace))
            self._alarms.pop(f"shard {cursor.shard}: {lane}", None)
            self._context.events.tell(Event.LANE_MENDED, shard=cursor.shard, lane=lane)

    async def _check_replayed(self) -> None:
        """Let replayed entries be sent, or end them where a newer version of their record was acknowledged.

        They are asked for after they were taken in: a version that was acknowledged before is marked on the server, or
        still known to the hold.
        """
        unchecked: list[Held] = []
        waiting: list[Held] = []
        for held in self._unchecked:
            if not held.dropped:
                (waiting if self._damage.waits(held.shard) else unchecked).append(held)
        if unchecked:
            stale = await self._queue.superseded([(held.shard, held.entry) for held in unchecked])
            now = self._context.clock()
            for held, outdated in zip(unchecked, stale, strict=True):
                self._hold.checked(held, now, superseded=outdated)
            self._signals.sendable.set()
            self._signals.settleable.set()
        self._unchecked = waiting
