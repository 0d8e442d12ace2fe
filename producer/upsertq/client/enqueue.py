"""Owns enqueuing: which parcels go in one call to which shard, what is confirmed, and when a producer gives up.

Everything that talks to the server is a conversation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from upsertq.client.pack import Packer, Parcel
from upsertq.contract import books
from upsertq.contract.errors import QueueFull, TooManyDead
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import (
    Argument,
    Conversation,
    Failed,
    Patience,
    Pause,
    Script,
    giving_up,
    refused,
    run_scripts,
    worst,
)
from upsertq.contract.queue import OTHER, QueueShape, meta_lost
from upsertq.contract.wire import ENTRY_RECORDS, encode

CALL_BYTES: Final = 2_000_000
"""Bytes after which one enqueue call to a shard is closed: enough to make the round trip cheap."""
CALL_ENTRIES: Final = 64
RUN_PLACE: Final = 5
"""Place of the run's books among the keys of the enqueue script."""
BACKLOG_FULL: Final = "the backlog is at its limit"
"""Why an enqueue pauses while workers have to make room."""

ENQUEUE = Script.load("upsertq.contract", "enqueue")


@dataclass(frozen=True, slots=True)
class Limits:
    """The backlog that a producer may build up, in records and bytes of payload; `None` is no limit.

    Each shard is allowed its equal part, so a queue never exceeds the bytes by more than an entry a shard, and the
    records by more than one a shard.
    """

    records: int | None = None
    bytes: int | None = 4 * 2**30

    def of_shard(self, shards: int) -> tuple[int, int]:
        """The part of one shard; 0 for no limit."""
        return _part(self.records, shards), _part(self.bytes, shards)

    def of_entry(self, shards: int) -> int:
        """Records that an entry may have: two fit into the part of a shard, so that a few that are stuck close none."""
        return ENTRY_RECORDS if self.records is None else max(1, _part(self.records, shards) // 2)


def _part(limit: int | None, shards: int) -> int:
    return 0 if limit is None else max(1, limit // shards)


@dataclass(frozen=True, slots=True)
class Enqueuer:
    """What every enqueue call of one producer shares.

    `token` names its ledger on the server and `ledger_ms` how long that lives after the last call: until then a call
    that is repeated, by this process or by its successor, enqueues nothing twice. `max_dead` is the number of dead
    letters in the queue at which nothing more is enqueued; `None` is no limit. `confirmed` counts the records of each
    shard that were confirmed to this producer and `of_runs` those of each run, `pending` all that were pending there at
    the last call.
    """

    keys: QueueKeys
    shape: QueueShape
    limits: Limits
    token: str
    ledger_ms: int
    max_dead: int | None = None
    confirmed: dict[int, int] = field(default_factory=dict)
    pending: dict[int, int] = field(default_factory=dict)
    of_runs: dict[str, int] = field(default_factory=dict)

    @property
    def at_risk(self) -> int:
        """Records confirmed to this producer that are pending at most, as far as it was told."""
        return sum(min(confirmed, self.pending[shard]) for shard, confirmed in self.confirmed.items())

    def enqueue(self, packer: Packer, patience: Callable[[], Patience]) -> Conversation[None]:
        """Enqueue all ready parcels, in order within each shard; whatever is not confirmed stays in the packer.

        Each success renews the patience.

        Raises:
            QueueFull: the backlog stayed at its limit, or the server out of memory.
            TooManyDead: the queue has `max_dead` dead letters or more; at once, for waiting does not help.
            QueueLost: the server lost the queue, or a shard of it; at once.
            ServerUnavailable: the server stayed away.
            ServerRefused: the server refused.
        """
        waiting = patience()
        while packer.ready_records:
            yield from self._check_dead(waiting)
            sent = self._calls(packer)
            calls = [self._call(parcels) for parcels in sent]
            # last: what vanishes before the calls is noticed, though every shard may be there
            look = ["HGET", self.keys.meta, "incarnation"]
            *replies, held = yield from run_scripts(ENQUEUE, calls, [look])
            progress, full = self._confirm(packer, sent, replies)
            if not isinstance(held, Failed) and held != self.shape.incarnation.encode():
                raise meta_lost(self.keys, self.at_risk, self.shape, held)
            failure = worst(replies)
            if failure is not None and not failure.passes:
                raise refused(failure, "enqueue")
            if progress:
                waiting = patience()
            if failure is None and not full:
                continue
            pause = waiting.pause()
            if pause is None:
                raise self._giving_up(failure, waiting, packer)
            if failure is None:
                yield Pause(pause.seconds, BACKLOG_FULL)
            else:
                yield Pause(pause.seconds, f"cannot enqueue: {failure.message}", until_ready=True)

    def _confirm(self, packer: Packer, sent: Sequence[Sequence[Parcel]], replies: Sequence[Any]) -> tuple[int, bool]:
        """Tell the packer what is enqueued: returns how many records, and whether a shard left some out."""
        progress, full, lost = 0, False, dict[int, bytes]()
        for parcels, reply in zip(sent, replies, strict=True):
            shard = parcels[0].shard
            if isinstance(reply, Failed):
                continue
            if reply[0] == OTHER:
                lost[shard] = reply[1]
                continue
            records = packer.confirm(shard, int(reply[0]))
            self.confirmed[shard] = self.confirmed.get(shard, 0) + records
            self.pending[shard] = int(reply[1])
            run = parcels[0].entry.run
            self.of_runs[run] = self.of_runs.get(run, 0) + records
            progress += records
            full = full or int(reply[0]) < len(parcels)
        books.check_incarnations(self.keys, lost, self.shape.incarnation, self.at_risk)
        return progress, full

    def _check_dead(self, patience: Patience) -> Conversation[None]:
        """Count the queue's dead letters before each round of calls: the limit is of the whole queue, exactly."""
        if self.max_dead is None:
            return
        found = yield from books.read(self.keys, self.shape.shards, "", patience, self.shape.incarnation)
        if found.dead >= self.max_dead:
            raise TooManyDead(self.keys.queue, found.dead, self.max_dead)

    def _calls(self, packer: Packer) -> list[list[Parcel]]:
        """The next parcels of every shard: of one run each, so that one script call touches one run's books."""
        calls = []
        for ready in packer.ready.values():
            parcels: list[Parcel] = []
            size = 0
            for parcel in islice(ready, CALL_ENTRIES):
                if parcels and (parcel.entry.run != parcels[0].entry.run or size + parcel.entry.size > CALL_BYTES):
                    break
                parcels.append(parcel)
                size += parcel.entry.size
            if parcels:
                calls.append(parcels)
        return calls

    def _call(self, parcels: Sequence[Parcel]) -> tuple[list[str], list[Argument]]:
        shard = self.keys.shard(parcels[0].shard)
        names = [shard.books, shard.lanes, shard.bell, shard.ledger(self.token)]
        run = parcels[0].entry.run
        if run:
            names.append(shard.run(run))
        spaces = dict.fromkeys(parcel.entry.namespace for parcel in parcels)
        places = {space: at for at, space in enumerate(spaces, len(names) + 1)}
        records, size = self.limits.of_shard(self.shape.shards)
        arguments: list[Argument] = [self.shape.incarnation, records, size, self.ledger_ms, RUN_PLACE if run else 0]
        arguments.append(len(parcels))
        for parcel in parcels:
            entry, fields = parcel.entry, encode(parcel.entry)
            arguments += [places[entry.namespace], entry.namespace, parcel.first, parcel.last]
            arguments += [len(entry.ids), entry.size, len(fields), *fields]
        return [*names, *map(shard.stream, spaces)], arguments

    def _giving_up(self, failure: Failed | None, waited: Patience, packer: Packer) -> Exception:
        if failure is not None:
            return giving_up(failure, "enqueue", waited)
        limits = ", ".join(
            f"{limit:,} {unit}"
            for limit, unit in ((self.limits.records, "records"), (self.limits.bytes, "bytes"))
            if limit is not None
        )
        return QueueFull(
            f"queue '{self.keys.queue}' is at its limit ({limits}) and stayed there for {waited.seconds:g} s; "
            f"{packer.records:,} records wait in this process: start more workers, or raise the limit"
        )
