"""Owns how records are gathered into entries before they are enqueued; it decides only and does no I/O.

The order of records of one (namespace, id) is kept: all of a lane's records of a shard leave in the order they came.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

from upsertq.contract import wire
from upsertq.contract.keys import shard_of
from upsertq.contract.wire import Entry, Record

HALF: Final = 50
"""Records of an entry at most that does not fill a request by itself: two such fit into one."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """One entry on its way to its shard, with the ordinals of its first and last record within its ledger.

    A shard remembers the last confirmed ordinal of every namespace, so a parcel that is sent twice is enqueued once.
    """

    shard: int
    entry: Entry
    first: int
    last: int


class _Open:
    """An entry in the making: records that share shard, namespace, run and dimension."""

    __slots__ = ("dim", "ordinals", "records", "run", "size")

    def __init__(self, record: Record, run: str, ordinal: int) -> None:
        self.records = [record]
        self.run = run
        self.dim = record.dim
        self.size = record.size
        self.ordinals = [ordinal]

    def is_full(self, most: int) -> bool:
        """Whether it has `most` records, or is a half, third, and so on of a request: the largest by its bytes."""
        count = len(self.records)
        parts = -(-wire.ENTRY_RECORDS * self.size // (count * wire.ENTRY_BYTES))
        return count >= min(most, wire.ENTRY_RECORDS // parts)

    def takes(self, record: Record, run: str) -> bool:
        return self.size + record.size <= wire.ENTRY_BYTES and self.run == run and self.dim == record.dim

    def add(self, record: Record, ordinal: int) -> None:
        self.records.append(record)
        self.size += record.size
        self.ordinals.append(ordinal)


class Packer:
    """Gathers records by shard and namespace into parcels of 100, 50, 33, and so on, and what is left of a flush.

    What is left, where it is more than 50 records, is cut in two.

    `add` files a record; `ready` holds, per shard, the closed parcels in the order in which they must be enqueued;
    what enqueued the first k of a shard calls `confirm(shard, k)`. Nothing leaves the packer in any other way.

    `most` are the records of an entry where the backlog is limited so that a full one would be too much at a time.
    """

    def __init__(self, shards: int, most: int = wire.ENTRY_RECORDS) -> None:
        self._shards = shards
        self._most = min(most, wire.ENTRY_RECORDS)
        self._open: dict[tuple[int, str], _Open] = {}
        self.ready: dict[int, deque[Parcel]] = {shard: deque() for shard in range(shards)}
        self.ready_records = 0
        self.ready_bytes = 0
        self.open_records = 0
        self.open_bytes = 0

    @property
    def records(self) -> int:
        """Records that are held here and not yet confirmed by the server."""
        return self.ready_records + self.open_records

    @property
    def bytes(self) -> int:
        """Bytes of the records held here."""
        return self.ready_bytes + self.open_bytes

    def add(self, record: Record, *, run: str, ordinal: int, at: int) -> None:
        """File one record; `ordinal` must grow with every record of this packer, `at` is the time in milliseconds."""
        lane = (shard_of(record.namespace, record.id, self._shards), record.namespace)
        gathering = self._open.get(lane)
        if gathering is not None and not gathering.takes(record, run):
            self._close(lane, at)
            gathering = None
        if gathering is None:
            gathering = self._open[lane] = _Open(record, run, ordinal)
        else:
            gathering.add(record, ordinal)
        self.open_records += 1
        self.open_bytes += record.size
        if gathering.is_full(self._most):
            self._close(lane, at)

    def close_all(self, at: int) -> None:
        """Close every open entry, so that all records held are ready to be enqueued."""
        for lane in list(self._open):
            self._close(lane, at)

    def confirm(self, shard: int, parcels: int) -> int:
        """Forget the first `parcels` ready ones of `shard`: the server has them. Returns their number of records."""
        count = 0
        for _ in range(parcels):
            entry = self.ready[shard].popleft().entry
            count += len(entry.ids)
            self.ready_bytes -= entry.size
        self.ready_records -= count
        return count

    def _close(self, lane: tuple[int, str], at: int) -> None:
        done = self._open.pop(lane)
        count, step = len(done.records), HALF if len(done.records) < wire.ENTRY_RECORDS else wire.ENTRY_RECORDS
        for start in range(0, count, step):
            records, ordinals = done.records[start : start + step], done.ordinals[start : start + step]
            entry = wire.pack(records, run=done.run, at=at)
            self.ready[lane[0]].append(Parcel(lane[0], entry, ordinals[0], ordinals[-1]))
            self.ready_bytes += entry.size
        self.open_records -= count
        self.open_bytes -= done.size
        self.ready_records += count
