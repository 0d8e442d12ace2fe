"""Owns which version of a record may be sent, and when an entry may be settled: the rules behind "last write wins".

Pure: it keeps what was read and not yet settled, decides, and does no I/O. Three invariants hold after every call:

1. At most one version of a key (namespace and id) is in flight.
2. Two entries that share a key are given out for settling in the order of the stream. So a version that may reach the
   index after a crash always finds its successors still in the queue behind it, and they are sent after it.
3. While an answer for a version may still take effect (it was lost, or its worker died), no other version of that key
   is sent until the quarantine is over.

The entry is the unit: it stays whole, without an object for each of its records, until another version of one of its
ids is here or its records meet different fates. Then it is taken apart, into one version for each record.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from upsertq.contract.dead_letter import Verdict
from upsertq.contract.wire import Entry, one_record
from upsertq_worker.ordering.model import Chain, DeadRecord, Fate, Held, Item, Settlement, Version
from upsertq_worker.ordering.ready import Ready, wait


@dataclass(slots=True)
class _Stream:
    """What is known of the keys of one lane in one shard: the whole entry that has the key, or its versions."""

    keys: dict[str, Held | Chain] = field(default_factory=dict)


class Hold:
    """Everything read and not yet settled.

    Args:
        quarantine: seconds for which a version whose answer was lost keeps other versions of its id waiting.
    """

    def __init__(self, quarantine: float) -> None:
        self._quarantine = quarantine
        self._streams: dict[int, dict[str, _Stream]] = {}
        self._held: dict[int, dict[str, Held]] = {}
        self._timers: list[tuple[float, int, Held | Chain]] = []
        self._ticket = 0
        self.ready = Ready()
        """What may be sent of it, and in what turn."""
        self.settlements: list[Settlement] = []
        """Entries given out for settling since the owner last cleared this list."""
        self.weight = 0
        """Bytes of memory that the entries held take, about."""
        self.weights: dict[str, int] = {}
        """The same by namespace, of those that have entries here."""
        self.records: dict[str, int] = {}
        """Records held by namespace."""

    @property
    def entries(self) -> int:
        """Entries held."""
        return sum(len(held) for held in self._held.values())

    def find(self, shard: int, stream_id: str) -> Held | None:
        """This entry, if it is held."""
        return self._held.get(shard, {}).get(stream_id)

    def inherited(self, shard: int) -> list[Held]:
        """The entries of a shard that stood there when it was taken over, oldest first."""
        return sorted(
            (held for held in self._held.get(shard, {}).values() if held.inherited), key=lambda one: one.order
        )

    def admit(self, shard: int, stream_id: str, entry: Entry, now: float, inherited_until: float | None = None) -> Held:
        """Take an entry that was read. A replayed one waits until `allow` or `supersede` is called for it.

        Args:
            shard: where it was read.
            stream_id: its place there.
            entry: itself.
            now: the time in seconds.
            inherited_until: it stood there at the takeover, and until then an earlier holder's request with it may
                still take effect; `None` for an entry that came later, or where the takeover was clean.
        """
        held = Held(shard, stream_id, entry, entry.size, now, len(entry.ids), inherited=inherited_until is not None)
        self._weigh(held, 1)
        self._held.setdefault(shard, {})[stream_id] = held
        keys = self._streams.setdefault(shard, {}).setdefault(entry.namespace, _Stream()).keys
        lost_until = inherited_until if inherited_until is not None and inherited_until > now else 0.0
        ours = dict.fromkeys(entry.ids, held)
        if not entry.seq and len(ours) == held.open and keys.keys().isdisjoint(ours):
            keys.update(ours)
            if lost_until:
                self._lose(held, lost_until)
            self.ready.offer_entry(held)
        else:
            self._admit_apart(held, keys, now, lost_until)
        return held

    def allow(self, held: Held, now: float) -> None:
        """A replayed entry is no older than what was acknowledged: it may be sent."""
        for version in held.versions or ():
            version.barred = False
            if not held.dropped:
                self.ready.offer(version.chain, now)

    def supersede(self, held: Held, now: float) -> None:
        """Of a replayed entry's record a newer version was acknowledged since: it is superseded."""
        if held.dropped:
            return
        for version in list(held.versions or ()):
            if version in version.chain.waiting:
                version.chain.waiting.remove(version)
                self._end(version, Fate.SUPERSEDED)
                self.ready.offer(version.chain, now)

    def bury(self, version: Version, verdict: Verdict, now: float) -> None:
        """Give up a version that waits, or does so no more."""
        chain = version.chain
        if not version.held.dropped and version in chain.waiting:
            chain.waiting.remove(version)
            self._end(version, Fate.DEAD, verdict)
            self.ready.offer(chain, now)

    def take_apart(self, held: Held, now: float) -> list[Version]:
        """The records of an entry that has open ones, each as a version of its own."""
        if held.versions is not None:
            return held.versions
        self.ready.withdraw(held)
        held.body = b""
        keys = self._streams[held.shard][held.entry.namespace].keys if not held.dropped else {}
        held.versions = versions = []
        milliseconds, number, first = held.order
        for row, record_id in enumerate(held.entry.ids):
            chain = Chain(held.shard, (held.entry.namespace, record_id), held.since, last=held, entries=1)
            version = Version(held, row, (milliseconds, number, first + row), chain)
            versions.append(version)
            keys[record_id] = chain
            if held.lost_until > now:
                self._lose_version(version, now, held.lost_until)
            if held.in_flight:
                chain.flying = version
            else:
                chain.waiting.append(version)
        if not held.dropped:
            for version in reversed(versions):
                self.ready.offer(version.chain, now, first=True)
        return versions

    def put_back(self, item: Item, now: float, *, last: bool = False) -> None:
        """Let what was taken wait again, at the head of its lane's line, or with `last` at its end."""
        if isinstance(item, Held) and item.versions is None:
            if not item.dropped:
                item.in_flight = False
                self.ready.offer_entry(item, first=not last)
            return
        for version in _versions(item):
            if not version.held.dropped:
                version.chain.flying = None
                wait(version.chain, version)
                self.ready.offer(version.chain, now, first=not last)

    def lost(self, item: Item, now: float) -> None:
        """The answer for what is in flight was lost: it may take effect during the quarantine."""
        until = now + self._quarantine
        if isinstance(item, Held) and item.versions is None:
            if not item.dropped:
                self._lose(item, until)
            return
        for version in _versions(item):
            if not version.held.dropped:
                self._lose_version(version, now, until)

    def acknowledge(self, item: Item, now: float) -> None:
        """What is in flight was acknowledged; every older version that waits is superseded by it."""
        if isinstance(item, Held) and item.versions is None:
            if not item.dropped:
                item.in_flight = False
                item.acked, item.open = item.open, 0
                self._give_out(item)
            return
        for version in _versions(item):
            self.finish(version, Fate.ACKED, now)

    def finish(self, version: Version, fate: Fate, now: float, verdict: Verdict | None = None) -> None:
        """A version in flight has its fate. A dead one has a verdict."""
        if version.held.dropped:
            return
        chain = version.chain
        chain.flying = None
        self._end(version, fate, verdict)
        if fate is Fate.ACKED:
            chain.acked = version.order if chain.acked is None else max(chain.acked, version.order)
            stale = [other for other in chain.waiting if other.order <= version.order]
            if stale:
                chain.waiting = [other for other in chain.waiting if other.order > version.order]
            for other in stale:
                self._end(other, Fate.SUPERSEDED)
        self.ready.offer(chain, now)

    def settled(self, settlements: Iterable[Settlement], now: float) -> None:
        """The server confirmed these settlements: forget their keys, but for what a quarantine must remember."""
        for settlement in settlements:
            held = settlement.held
            if held is None or held.settled or held.dropped:
                continue
            held.settled = True
            if held.versions is None:
                if held.lost_until <= now:
                    self._forget_keys(held)
                else:
                    held.shrink()
            else:
                for version in held.versions:
                    version.chain.entries -= 1
                    self._forget_if_done(version.chain)

    def wake(self, now: float) -> float | None:
        """Line up the keys whose quarantine is over; returns when the next one ends, `None` if there is none."""
        while self._timers and self._timers[0][0] <= now:
            target = heapq.heappop(self._timers)[2]
            if isinstance(target, Held):
                if target.settled and not target.dropped and target.lost_until <= now:
                    self._forget_keys(target)
            elif target.quarantined_until <= now:
                target.quarantined_until, target.lost = 0.0, None
                self.ready.offer(target, now)
                self._forget_if_done(target)
        return self._timers[0][0] if self._timers else None

    def quarantine_end(self, shard: int, now: float) -> float:
        """When the last quarantine of this shard ends; `now` when there is none."""
        return max((when for when, _, target in self._timers if target.shard == shard), default=now)

    def drop_lane(self, shard: int, namespace: str) -> None:
        """Forget the entries of one lane in a shard: one of them cannot be sent, and none is passed over."""
        held = self._held.get(shard, {})
        for one in [one for one in held.values() if one.namespace == namespace]:
            del held[one.stream_id]
            self._drop(one)
        stream = self._streams.get(shard, {}).pop(namespace, None)
        self._drop_keys(stream.keys if stream else {})

    def drop(self, shard: int) -> None:
        """Forget a shard whose lease is gone: another worker has its entries, or will."""
        for held in self._held.pop(shard, {}).values():
            self._drop(held)
        for stream in self._streams.pop(shard, {}).values():
            self._drop_keys(stream.keys)
        self._timers = [timer for timer in self._timers if timer[2].shard != shard]
        heapq.heapify(self._timers)
        self.settlements = [settlement for settlement in self.settlements if settlement.shard != shard]

    def _drop(self, held: Held) -> None:
        held.dropped = True
        self.ready.withdraw(held)
        self._weigh(held, -1)

    def _drop_keys(self, keys: dict[str, Held | Chain]) -> None:
        for known in keys.values():
            if isinstance(known, Chain):
                known.waiting.clear()
                self.ready.withdraw(known)
            else:
                known.dropped = True

    def _admit_apart(self, held: Held, keys: dict[str, Held | Chain], now: float, lost_until: float) -> None:
        """Take an entry that shares a key with another one, names one twice, or was replayed."""
        milliseconds, number, first = held.order
        held.versions = versions = []
        for row, record_id in enumerate(held.entry.ids):
            chain = self._chain(held, record_id, keys, now)
            version = Version(held, row, (milliseconds, number, first + row), chain, barred=bool(held.entry.seq))
            versions.append(version)
            self._link(chain, held)
            if lost_until:
                self._lose_version(version, now, lost_until)
        for version in versions:
            self._enter(version, now)

    def _chain(self, held: Held, record_id: str, keys: dict[str, Held | Chain], now: float) -> Chain:
        """The versions of this key; a whole entry that has it is taken apart."""
        known = keys.get(record_id)
        if isinstance(known, Held):
            if known.open:
                self.take_apart(known, now)
                known = keys[record_id]
                assert isinstance(known, Chain)  # noqa: S101 - it was taken apart
            else:
                known = keys[record_id] = self._after(known, record_id, now)
        if known is None:
            known = keys[record_id] = Chain(held.shard, (held.entry.namespace, record_id), now)
        return known

    def _after(self, done: Held, record_id: str, now: float) -> Chain:
        """What is to be remembered of a key whose whole entry was acknowledged, and is not yet forgotten."""
        milliseconds, number, first = done.order
        row = done.entry.ids.index(record_id)
        chain = Chain(done.shard, (done.entry.namespace, record_id), now, acked=(milliseconds, number, first + row))
        if done.lost_until > now:
            chain.quarantined_until = done.lost_until
            self._time(done.lost_until, chain)
        return chain

    def _link(self, chain: Chain, held: Held) -> None:
        """Let `held` be given out after the entry that held the key before it."""
        chain.entries += 1
        before = chain.last
        if before is not held:
            if before is not None:
                before.newer.append(held)
                held.older += 1
            chain.last = held

    def _enter(self, version: Version, now: float) -> None:
        """Let a version wait, unless a newer one was acknowledged already."""
        chain = version.chain
        if chain.acked is not None and version.order <= chain.acked:
            self._end(version, Fate.SUPERSEDED)
            return
        if not chain.waiting:
            chain.since = now
        wait(chain, version)
        self.ready.offer(chain, now)

    def _lose(self, held: Held, until: float) -> None:
        held.lost_until = max(held.lost_until, until)
        self._time(held.lost_until, held)

    def _lose_version(self, version: Version, now: float, until: float) -> None:
        chain = version.chain
        still = now < chain.quarantined_until
        chain.lost = None if still and chain.lost is not version else version
        chain.quarantined_until = max(chain.quarantined_until, until)
        self._time(chain.quarantined_until, chain)

    def _time(self, until: float, target: Held | Chain) -> None:
        self._ticket += 1
        heapq.heappush(self._timers, (until, self._ticket, target))

    def _end(self, version: Version, fate: Fate, verdict: Verdict | None = None) -> None:
        held = version.held
        held.open -= 1
        match fate:
            case Fate.ACKED:
                held.acked += 1
            case Fate.SUPERSEDED:
                held.superseded += 1
            case Fate.DEAD:
                assert verdict is not None  # noqa: S101 - the dead have one
                single = one_record(held.entry, version.row, version.sequence)
                held.dead.append(DeadRecord(version.row, single, verdict))
        version.body = b""
        if held.open == 0 and held.older == 0:
            self._give_out(held)

    def _give_out(self, first: Held) -> None:
        line = deque([first])
        while line:
            held = line.popleft()
            del self._held[held.shard][held.stream_id]
            self._weigh(held, -1)
            held.body = b""
            self.settlements.append(Settlement.of(held))
            for version in held.versions or ():
                if version.chain.last is held:
                    version.chain.last = None
            for after in held.newer:
                after.older -= 1
                if after.older == 0 and after.open == 0:
                    line.append(after)

    def _weigh(self, held: Held, sign: int) -> None:
        namespace = held.entry.namespace
        self.weight += sign * held.weight
        for counts, by in ((self.weights, held.weight), (self.records, len(held.entry.ids))):
            left = counts.get(namespace, 0) + sign * by
            if left:
                counts[namespace] = left
            else:
                counts.pop(namespace, None)

    def _forget_keys(self, held: Held) -> None:
        keys = self._keys(held.shard, held.entry.namespace)
        for record_id in held.entry.ids:
            if keys.get(record_id) is held:
                del keys[record_id]
        self._forget_stream(held.shard, held.entry.namespace)

    def _forget_if_done(self, chain: Chain) -> None:
        """Forget a key without versions, unless its quarantine must be remembered: then its timer comes back here."""
        if chain.entries == 0 and chain.quarantined_until == 0.0:
            namespace, record_id = chain.key
            keys = self._keys(chain.shard, namespace)
            if keys.get(record_id) is chain:
                del keys[record_id]
                self._forget_stream(chain.shard, namespace)

    def _keys(self, shard: int, namespace: str) -> dict[str, Held | Chain]:
        stream = self._streams.get(shard, {}).get(namespace)
        return {} if stream is None else stream.keys

    def _forget_stream(self, shard: int, namespace: str) -> None:
        streams = self._streams.get(shard, {})
        if namespace in streams and not streams[namespace].keys:
            del streams[namespace]


def _versions(item: Item) -> Sequence[Version]:
    """The versions that an item stands for: those of an entry that was taken apart meanwhile, or itself."""
    if isinstance(item, Held):
        return item.versions or ()
    return (item,)
