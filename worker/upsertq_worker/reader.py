"""Owns the reading of the shards held: first what an earlier holder left pending, in order, then what is new.

It reads ahead up to a budget of bytes, and never decides what to send.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from upsertq.errors import QueueDamaged, ServerUnavailable
from upsertq.wire import Entry, UnknownEntry, decode
from upsertq_worker.desk import Desk
from upsertq_worker.parking import Parking
from upsertq_worker.places import Place
from upsertq_worker.seams import NEW, Delivery, QueueSeam, ShardsDamaged
from upsertq_worker.versions import Settlement
from upsertq_worker.wait import Troubles, signalled

log = logging.getLogger("upsertq.worker")

READ_WAIT: Final = 0.5
"""Seconds that one read waits for new entries: short, for a read must not be cancelled when the worker stops."""
READ_ENTRIES: Final = 16
"""Entries a shard in one read at most."""


class Reader:
    """Reads entries into the hold."""

    def __init__(self, desk: Desk, queue: QueueSeam, parking: Parking) -> None:
        self._desk = desk
        self._queue = queue
        self._places: dict[int, Place] = {}
        self._parking = parking
        self._troubles = Troubles("read the queue", desk)

    async def run(self) -> None:
        """Read until the worker stops."""
        desk = self._desk
        while not desk.stopping.is_set():
            desk.readable.clear()
            self._follow_leases()
            try:
                read = await self._round()
                self._troubles.over()
            except (ServerUnavailable, QueueDamaged) as error:
                self._go_back()
                for shard, fault in error.faults.items() if isinstance(error, ShardsDamaged) else ():
                    desk.halt(shard, fault)
                await self._troubles.wait(error)
            else:
                if not read:
                    await signalled(desk.readable, 1.0)

    def forget(self, shards: Sequence[int]) -> None:
        """These shards were lost or gained anew: begin with what is pending when they are held again."""
        for shard in shards:
            self._places.pop(shard, None)

    def _follow_leases(self) -> None:
        epochs = self._desk.leases.epochs
        halted = {shard for shard in epochs if f"shard {shard}" in self._desk.alarms}
        over_at = self._desk.clock() + self._desk.settings.quarantine
        self._places = {shard: self._places.get(shard) or Place(over_at) for shard in epochs if shard not in halted}

    async def _round(self) -> bool:
        """Read once, if there is room; returns whether it did something."""
        if not self._places:
            return False
        count = self._room()
        if not count:
            self._parking.make_room(self._places)
            count = self._room()
        self._say_whether_catching_up(count)
        if not count:
            return False
        for place in self._places.values():
            self._parking.bring_back(place)
        read = await self._read(dict(self._places), count)
        self._say_whether_catching_up(count)
        return read or self._desk.outage is None or self._desk.catching_up

    def _say_whether_catching_up(self, count: int) -> None:
        """Until all is read of what earlier holders left, or as much as there is room for, none of it is let go."""
        desk = self._desk
        desk.catching_up = count > 0 and any(place.recovering for place in self._places.values())
        if not desk.catching_up and desk.hold.lines.barred:
            desk.allowable.set()

    def _room(self) -> int:
        """Entries a shard that may be read now."""
        hold, budget = self._desk.hold, self._desk.settings.read_ahead
        left = budget - hold.weight
        if left <= 0:
            # what is behind all that troubled namespaces have here may be for others
            return int(bool(hold.weights) and hold.weights.keys() <= self._parking.troubled())
        mean = hold.weight // hold.entries if hold.entries else budget // 64
        return max(1, min(READ_ENTRIES, left // (max(mean, 1) * len(self._places))))

    async def _read(self, places: Mapping[int, Place], count: int) -> bool:
        """Read up to `count` entries a shard; returns whether any was taken in."""
        cursors = {shard: place.cursor for shard, place in places.items()}
        waits = all(cursor == NEW for cursor in cursors.values())
        deliveries = await self._queue.read(cursors, count, READ_WAIT)
        idle = waits and not deliveries
        brought = await self._go_back_to_skipped(places, deliveries)
        deliveries = [one for one in deliveries if one.shard not in brought]
        # last: what is settled after this was asked must not be missed
        stale = await self._find_stale(deliveries)
        held = self._desk.hold.entries
        for delivery in deliveries:
            place = places[delivery.shard]
            if self._is_current(delivery.shard, place):
                brought.add(delivery.shard)
                self._admit(place, delivery, stale=(delivery.shard, delivery.stream_id) in stale)
        for shard, place in places.items():
            place.looked = place.looked or cursors[shard] == NEW
            place.cut_short()
            if shard not in brought and place.cursor != NEW:
                place.pass_over()
        if self._desk.hold.lines.stirred:
            self._desk.sendable.set()
        taken_in = self._desk.hold.entries > held
        if idle:
            await self._look_for_strays()
        return taken_in

    def _is_current(self, shard: int, place: Place) -> bool:
        return shard in self._desk.leases.epochs and self._places.get(shard) is place

    async def _find_stale(self, deliveries: Sequence[Delivery]) -> set[tuple[int, str]]:
        """Find the replayed entries of which a newer version was acknowledged: here, or by whoever settled it."""
        replayed = [(delivery, entry) for delivery in deliveries if (entry := _replayed(delivery)) is not None]
        if not replayed:
            return set()
        desk = self._desk
        desk.settled_meanwhile = []
        try:
            marked = await self._queue.superseded([(delivery.shard, entry) for delivery, entry in replayed])
            # what is on its way to the server may not be marked there yet
            settled = [*desk.settled_meanwhile, *desk.settling, *desk.hold.settlements]
        finally:
            desk.settled_meanwhile = None
        return {
            (delivery.shard, delivery.stream_id)
            for (delivery, entry), known in zip(replayed, marked, strict=True)
            if known or any(one.outdates(delivery.shard, entry) for one in settled)
        }

    async def _go_back_to_skipped(self, places: Mapping[int, Place], deliveries: Sequence[Delivery]) -> set[int]:
        """Find the shards of which a read that nobody answers for took older entries than these new ones.

        Such a read was ours and was carried out after we gave it up, or a former holder's. What it took is pending,
        behind the last entry that we saw, and must come first: a newer version may not overtake an older one unseen.
        Nothing older can be taken once these are delivered, so looking afterwards is in time.
        """
        new = [delivery for delivery in reversed(deliveries) if places[delivery.shard].cursor == NEW]
        first = {delivery.shard: delivery.stream_id for delivery in new}
        if not first:
            return set()
        oldest = await self._queue.oldest_pending({shard: places[shard].seen for shard in first})
        skipped = {shard for shard, stream_id in first.items() if oldest.get(shard) != stream_id}
        for shard in skipped:
            places[shard].cursor = places[shard].seen
        return skipped

    def _admit(self, place: Place, delivery: Delivery, *, stale: bool) -> None:
        """Take an entry in, or leave it on the server for now."""
        stream_id, namespace = delivery.stream_id, delivery.namespace
        if not place.expects(namespace, stream_id):
            place.pass_by(stream_id)
        elif delivery.fields is not None and not self._parking.has_room(place, namespace):
            place.park(namespace, stream_id, unseen=place.pass_by(stream_id))
        else:
            self._take_in(place, delivery, stale=stale)

    def _take_in(self, place: Place, delivery: Delivery, *, stale: bool) -> None:
        """Take an entry into the hold."""
        desk, shard, stream_id = self._desk, delivery.shard, delivery.stream_id
        recovered, barred = place.may_travel(stream_id, desk.clock()), place.is_inherited(stream_id)
        place.pass_by(stream_id)
        if delivery.fields is not None:
            place.take_up(delivery.namespace)
        else:
            log.error(
                "shard %d: entry %s is gone without being settled; `upsertq audit` will show it", shard, stream_id
            )
            desk.hold.settlements.append(Settlement(shard, stream_id, "", 0, 0, 0, 0))
            desk.settleable.set()
            return
        try:
            entry = decode(delivery.fields)
        except UnknownEntry as error:
            log.error("shard %d stops at entry %s: %s", shard, stream_id, error)  # noqa: TRY400 - the message is all
            desk.alarms[f"shard {shard}"] = f"entry {stream_id}: {error}"
            self._places.pop(shard, None)
            return
        try:
            desk.hold.admit(shard, stream_id, entry, desk.clock(), recovered=recovered, stale=stale, barred=barred)
        except Exception as error:  # noqa: BLE001 - no entry may end a worker
            self._places.pop(shard, None)
            desk.halt(
                shard, f"entry {stream_id} cannot be taken in ({error!r}); it stays in the queue: report this bug"
            )

    def _go_back(self) -> None:
        """After a failed read: what it delivered is pending under our name, behind the last entry that we saw."""
        for place in self._places.values():
            if place.cursor == NEW:
                place.cursor = place.seen

    async def _look_for_strays(self) -> None:
        """Find entries that a read took which nobody answers for: they are behind all that we saw."""
        backlog = await self._queue.backlog(list(self._places))
        for shard, place in self._places.items():
            here = self._desk.hold.count(shard) + place.parked_count
            place.strays = place.strays + 1 if backlog[shard] > here else 0
            if place.strays > 1 and not self._desk.unsettled:
                place.cursor, place.recovering, place.strays = place.seen, True, 0


def _replayed(delivery: Delivery) -> Entry | None:
    if delivery.fields is None or b"seq" not in delivery.fields:
        return None
    try:
        return decode(delivery.fields)
    except UnknownEntry:
        return None  # its turn to be complained of comes when it is admitted
