"""Owns those who use the queue under test: producers that repeat themselves, and workers that keep to the hold's rules.

They speak through upsertq's own code, and say what the model must then expect.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from transitions_model import Fate, Outcome, Version
from transitions_raw import contents, entry_at, metadata_of, sparse_of
from upsertq.client.producer_core import Intake
from upsertq.contract.circumstances import Circumstances
from upsertq.contract.dead_letter import Reason, Verdict, encode_letter
from upsertq.contract.errors import QueueFull, ServerRefused, ServerUnavailable
from upsertq.contract.keys import shard_of
from upsertq.contract.record import make_records
from upsertq.contract.wire import Record, one_record
from worker_scripts import DeadRow, Settling, ShardWorker

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from transitions_model import Key, Shard
    from transitions_raw import LossyServer, RawShard
    from upsertq.client.enqueue import Limits
    from upsertq.contract.keys import QueueKeys
    from upsertq.contract.queue import QueueShape
    from upsertq.contract.server import Server
    from upsertq.contract.wire import Entry

WORLD = Circumstances(time.monotonic, time.time, random.Random(7))


@dataclass(frozen=True)
class Putting:
    """Records that were put together, each with a number of its own; `first` is the first one's ordinal."""

    ids: Sequence[str]
    namespace: str
    run: str
    numbers: Sequence[int]
    first: int


@dataclass
class Lane:
    """What a producer put into one shard and namespace, and how many of these are enqueued."""

    numbers: list[int] = field(default_factory=list)
    done: int = 0


class Loader:
    """One producer and, after its death, its successors: they share a ledger."""

    def __init__(self, server: LossyServer, queue: str, shards: int, limits: Limits, token: str) -> None:
        self.limits = limits
        self.lanes: dict[tuple[int, str], Lane] = {}
        self.history: list[Putting] = []
        self._server = server
        self._queue = queue
        self._shards = shards
        self._token = token
        self._succeeded = False
        self._begin()

    def _begin(self) -> None:
        self._intake = Intake(
            self._queue, shards=self._shards, limits=self.limits, timeout=0, world=WORLD, token=self._token
        )

    def put(self, ids: Sequence[str], namespace: str, run: str, first_number: int) -> None:
        """Take records that nobody had before."""
        numbers = range(first_number, first_number + len(ids))
        before = self.history[-1].first + len(self.history[-1].ids) if self.history else 0
        self.history.append(Putting(ids, namespace, run, numbers, before))
        for record_id, number in zip(ids, numbers, strict=True):
            lane = (shard_of(namespace, record_id, self._shards), namespace)
            self.lanes.setdefault(lane, Lane()).numbers.append(number)
        if self._succeeded:
            self._retake(self.history[-1])
            return
        sparse = [sparse_of(number) for number in numbers]
        metadata = [metadata_of(number) or None for number in numbers]
        conversation = self._intake.put_many(ids, _matrix(numbers), sparse, metadata, namespace, run)
        self._server.hold(conversation)

    def die(self, first: int) -> None:
        """A successor takes the same records again, from this call of `put` on."""
        self._begin()
        self._succeeded = True
        for putting in self.history[first:]:
            self._retake(putting)

    def _retake(self, putting: Putting) -> None:
        """Take records by their ordinals, as whoever shares a ledger with a predecessor must."""
        made = make_records(
            putting.ids,
            _matrix(putting.numbers),
            sparse_values=[sparse_of(number) for number in putting.numbers],
            metadata=[metadata_of(number) or None for number in putting.numbers],
            namespaces=putting.namespace,
            dimension=1,
        )
        records = [record for record in made if isinstance(record, Record)]
        ordinals = range(putting.first, putting.first + len(putting.ids))
        self._server.hold(self._intake.take(records, putting.run, ordinals))

    def needed(self) -> int:
        """The newest call of `put` from which a successor may go on: everything before it is enqueued."""
        missing = {number for lane in self.lanes.values() for number in lane.numbers[lane.done :]}
        return next((at for at, one in enumerate(self.history) if missing & set(one.numbers)), len(self.history))

    def flush(self) -> Exception | None:
        """Enqueue what was taken; returns what went wrong."""
        try:
            self._server.hold(self._intake.flush())
        except (QueueFull, ServerUnavailable, ServerRefused) as error:
            return error
        assert self._intake.buffered == 0
        return None

    def unfit(self, model: list[Shard], raw: list[RawShard]) -> bool:
        """Whether the limits keep an entry of this producer out."""
        heads = [(shard, ready[0].entry) for shard, ready in self._intake._packer.ready.items() if ready]
        return any(not self.fits(len(e.ids), e.size, model[s].books("")["pending"], raw[s].size("")) for s, e in heads)

    def fits(self, records: int, size: int, pending: int, pending_size: int) -> bool:
        """Whether the limits let an entry into a shard."""
        most_records, most_bytes = self.limits.of_shard(self._shards)
        return pending == 0 or (
            (not most_records or pending + records <= most_records)
            and (not most_bytes or pending_size + size <= most_bytes)
        )

    def enqueued(self, number: int, model: Shard, raw: RawShard) -> None:
        """Check what is new in a shard, and put it into the model: it is what comes next, in order, within limits."""
        size = raw.size("") - sum(entry_at(raw, one).size for one in raw.stream if one not in model.entries)
        for stream_id in [one for one in raw.stream if one not in model.entries]:
            entry = entry_at(raw, stream_id)
            pending = model.books("")["pending"]
            assert self.fits(len(entry.ids), entry.size, pending, size), "an entry is beyond the limit"
            assert (entry.seq, entry.depth) == ("", 0)
            size += entry.size
            found, lane = contents(entry), self.lanes[number, entry.namespace]
            start = lane.numbers.index(found[0])
            assert lane.numbers[start : start + len(found)] == found, "an entry is not as it was put"
            assert start <= lane.done < start + len(found), "an entry was enqueued again, or one was left out"
            lane.done = start + len(found)
            versions = [
                Version(number, self._key(entry, row), entry.run, found[row], f"{stream_id}-{row}", stream_id)
                for row in range(len(found))
            ]
            assert all(self._run(number) == entry.run for number in found)
            model.enqueue(stream_id, versions)

    def _key(self, entry: Entry, row: int) -> Key:
        number = contents(entry)[row]
        putting = self._putting(number)
        assert (entry.namespace, entry.ids[row]) == (putting.namespace, putting.ids[number - putting.numbers[0]])
        return entry.namespace, entry.ids[row]

    def _run(self, number: int) -> str:
        return self._putting(number).run

    def _putting(self, number: int) -> Putting:
        return next(one for one in self.history if number in one.numbers)


def _matrix(numbers: Sequence[int]) -> npt.NDArray[np.float32]:
    return np.array(numbers, np.float32).reshape(-1, 1)


class Drainer:
    """A worker: what it believes to hold, what it read, and what it would do with that."""

    def __init__(self, server: Server, keys: QueueKeys, shape: QueueShape, name: str) -> None:
        self.name = name
        self.shards = [ShardWorker(server, keys.shard(shard), shape.incarnation, name) for shard in range(shape.shards)]
        self.hands: dict[tuple[int, str], Entry] = {}

    def read(self, number: int, raw: RawShard) -> None:
        """Read all that is in a shard's streams."""
        self.hands.update({(number, stream_id): entry_at(raw, stream_id) for stream_id in raw.stream})

    def choose(self, number: int, model: Shard, rng: random.Random) -> list[tuple[Outcome, Settling]]:
        """Settle some entries as the hold would: of those that share an id none before an older one."""
        share = rng.choice([0.3, 0.7, 1.0])
        blocked: set[Key] = set()
        chosen: list[str] = []
        for stream_id, versions in model.entries.items():
            keys = {version.key for version in versions}
            if (number, stream_id) in self.hands and not keys & blocked and rng.random() < share:
                chosen.append(stream_id)
            else:
                blocked |= keys
        fates = _fates(model, chosen, rng)
        told = rng.random() < 0.5
        return [self._settling(number, stream_id, fates[stream_id], rng, told=told) for stream_id in chosen]

    def _settling(
        self, shard: int, stream_id: str, fates: list[Fate], rng: random.Random, *, told: bool
    ) -> tuple[Outcome, Settling]:
        entry = self.hands[shard, stream_id]
        rows = [row for row, fate in enumerate(fates) if fate is Fate.DEAD]
        rng.shuffle(rows)
        letters = []
        for row in rows:
            seq = entry.seq or f"{stream_id}-{row}"
            verdict = Verdict(rng.choice(list(Reason)), message="no", first_ms=1, last_ms=2, worker=self.name)
            fields = encode_letter(one_record(entry, row, seq), verdict)
            letters.append(DeadRow(row, seq, verdict.reason.value, fields))
        settling = Settling(
            stream_id,
            entry.namespace,
            entry.run,
            len(entry.ids),
            entry.size,
            fates.count(Fate.ACKED),
            fates.count(Fate.SUPERSEDED),
            sequence=entry.seq or stream_id,
            letters=letters,
            ids=entry.ids if told else (),
        )
        return Outcome(stream_id, fates, [(letter.row, letter.reason) for letter in letters]), settling


def _fates(model: Shard, chosen: list[str], rng: random.Random) -> dict[str, list[Fate]]:
    """Fates that the hold can give: nothing lands over what is newer, and something newer lands for what is superseded.

    What stands behind a newer version in the stream is sent after it, or never.
    """
    versions = [version for stream_id in chosen for version in model.entries[stream_id]]
    landed = {version.key: model.newest_acked(version.key) for version in versions}
    fates: dict[Version, Fate] = {}
    deaths = rng.choice([0.2, 0.5, 0.9])
    for version in versions:
        if landed[version.key] > version.order:
            fates[version] = Fate.SUPERSEDED
        else:
            fates[version] = Fate.DEAD if rng.random() < deaths else Fate.ACKED
            if fates[version] is Fate.ACKED:
                landed[version.key] = version.order
    for version in versions:
        if landed[version.key] > version.order and rng.random() < 0.5:
            fates[version] = Fate.SUPERSEDED
    return {stream_id: [fates[version] for version in model.entries[stream_id]] for stream_id in chosen}
