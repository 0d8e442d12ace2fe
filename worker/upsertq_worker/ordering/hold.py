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

from collections.abc import Iterable, Sequence

from upsertq.contract.dead_letter import Verdict
from upsertq.contract.wire import Entry
from upsertq_worker.ordering.entries import Entries
from upsertq_worker.ordering.fates import Fates
from upsertq_worker.ordering.keys import Keys, Known
from upsertq_worker.ordering.model import Chain, Fate, Held, Item, Settlement, Version
from upsertq_worker.ordering.ready import Ready, wait


class Hold:
    """Everything read and not yet settled; a version whose answer was lost keeps others waiting for `quarantine` s."""

    def __init__(self, quarantine: float) -> None:
        self._quarantine = quarantine
        self.entries = Entries()
        """What was read and is not given out for settling."""
        self.keys = Keys()
        """What is known of their keys, and of those of entries whose settling is not confirmed."""
        self.ready = Ready()
        """What may be sent of it, and in what turn."""
        self._fates = Fates(self.entries)
        self.settlements = self._fates.settlements
        """Entries given out for settling since the owner last cleared this list."""

    def admit(self, shard: int, stream_id: str, entry: Entry, now: float, inherited_until: float | None = None) -> Held:
        """Take an entry that was read. A replayed one waits until `checked` is called for it.

        Where it stood there at an unclean takeover, an earlier holder's request with it may still take effect until
        `inherited_until`; that is `None` for an entry that came later, or where the takeover was clean.
        """
        held = Held(shard, stream_id, entry, entry.size, now, len(entry.ids), inherited=inherited_until is not None)
        self.entries.add(held)
        known = self.keys.of(held)
        lost_until = inherited_until if inherited_until is not None and inherited_until > now else 0.0
        ours = dict.fromkeys(entry.ids, held)
        if not entry.seq and len(ours) == held.open and known.keys().isdisjoint(ours):
            known.update(ours)
            if lost_until:
                self.keys.lose_entry(held, lost_until)
            self.ready.offer_entry(held)
        else:
            self._admit_apart(held, known, now, lost_until)
        return held

    def checked(self, held: Held, now: float, *, superseded: bool) -> None:
        """A replayed entry may be sent, or is superseded: a newer version of its record was acknowledged."""
        for version in () if held.dropped else tuple(held.versions or ()):
            version.barred = False
            if superseded:
                self.end_waiting(version, Fate.SUPERSEDED, now)
            else:
                self.ready.offer(version.chain, now)

    def end_waiting(self, version: Version, fate: Fate, now: float, verdict: Verdict | None = None) -> None:
        """End a version that waits, or does so no more. A dead one has a verdict."""
        chain = version.chain
        if not version.held.dropped and version in chain.waiting:
            chain.waiting.remove(version)
            self._fates.end(version, fate, verdict)
            self.ready.offer(chain, now)

    def take_apart(self, held: Held, now: float) -> list[Version]:
        """The records of an entry that has open ones, each as a version of its own."""
        if held.versions is not None:
            return held.versions
        self.ready.withdraw(held)
        held.body = b""
        known = {} if held.dropped else self.keys.of(held)
        held.versions = versions = []
        milliseconds, number, first = held.order
        for row, record_id in enumerate(held.entry.ids):
            chain = Chain(held.shard, (held.entry.namespace, record_id), held.since, last=held, entries=1)
            version = Version(held, row, (milliseconds, number, first + row), chain)
            versions.append(version)
            known[record_id] = chain
            if held.lost_until > now:
                self.keys.lose_version(version, now, held.lost_until)
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
                self.keys.lose_entry(item, until)
            return
        for version in _versions(item):
            if not version.held.dropped:
                self.keys.lose_version(version, now, until)

    def acknowledge(self, item: Item, now: float) -> None:
        """What is in flight was acknowledged; every older version that waits is superseded by it."""
        if isinstance(item, Held) and item.versions is None:
            if not item.dropped:
                self._fates.acknowledge(item)
            return
        for version in _versions(item):
            self.finish(version, Fate.ACKED, now)

    def finish(self, version: Version, fate: Fate, now: float, verdict: Verdict | None = None) -> None:
        """A version in flight has its fate. A dead one has a verdict."""
        if version.held.dropped:
            return
        chain = version.chain
        chain.flying = None
        self._fates.end(version, fate, verdict)
        if fate is Fate.ACKED:
            chain.acked = version.order if chain.acked is None else max(chain.acked, version.order)
            stale = [other for other in chain.waiting if other.order <= version.order]
            if stale:
                chain.waiting = [other for other in chain.waiting if other.order > version.order]
            for other in stale:
                self._fates.end(other, Fate.SUPERSEDED)
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
                    self.keys.forget_entry(held)
                else:
                    held.shrink()
            else:
                for version in held.versions:
                    version.chain.entries -= 1
                    self.keys.forget_if_done(version.chain)

    def wake(self, now: float) -> float | None:
        """Line up the keys whose quarantine is over; returns when the next one ends, `None` if there is none."""
        for target in self.keys.over(now):
            if isinstance(target, Held):
                if target.settled and not target.dropped and target.lost_until <= now:
                    self.keys.forget_entry(target)
            elif target.quarantined_until <= now:
                target.quarantined_until, target.lost = 0.0, None
                self.ready.offer(target, now)
                self.keys.forget_if_done(target)
        return self.keys.timers[0][0] if self.keys.timers else None

    def drop(self, shard: int, now: float, namespace: str | None = None) -> None:
        """Forget a shard whose lease is gone (another worker has its entries, or will), or one lane of it.

        What may still take effect is remembered: the shard may be ours again at once, and read up to an older version.
        A lane is dropped where one of its entries cannot be sent, for none is passed over.
        """
        for held in self.entries.take_out(shard, namespace):
            held.dropped = True
            self.ready.withdraw(held)
        for key, known in self.keys.take_out(shard, namespace):
            if isinstance(known, Chain):
                if known.flying is not None:
                    self.keys.lose_version(known.flying, now, now + self._quarantine)
                known.waiting.clear()
                self.ready.withdraw(known)
                until = known.quarantined_until
            else:
                known.dropped = True
                until = max(known.lost_until, now + self._quarantine if known.in_flight else 0.0)
            if until > now:
                lost = known.lost if isinstance(known, Chain) else known.order_of(key[1])
                self.keys.remember(Chain(shard, key, now, lost=lost), until)
        if namespace is None:
            self.ready.closed.discard(shard)
            self.settlements[:] = [settlement for settlement in self.settlements if settlement.shard != shard]

    def _admit_apart(self, held: Held, known: Known, now: float, lost_until: float) -> None:
        """Take an entry that shares a key with another one, names one twice, or was replayed."""
        milliseconds, number, first = held.order
        held.versions = versions = []
        for row, record_id in enumerate(held.entry.ids):
            chain = self._chain(held, record_id, known, now)
            version = Version(held, row, (milliseconds, number, first + row), chain, barred=bool(held.entry.seq))
            versions.append(version)
            link(chain, held)
            if lost_until:
                self.keys.lose_version(version, now, lost_until)
        for version in versions:
            chain = version.chain
            if chain.acked is not None and version.order <= chain.acked:
                self._fates.end(version, Fate.SUPERSEDED)
                continue
            if not chain.waiting:
                chain.since = now
            wait(chain, version)
            self.ready.offer(chain, now)

    def _chain(self, held: Held, record_id: str, known: Known, now: float) -> Chain:
        """The versions of this key: of a whole entry taken apart, or after one that was acknowledged."""
        found = known.get(record_id)
        if isinstance(found, Held) and found.open:
            self.take_apart(found, now)
            found = known[record_id]
        if isinstance(found, Chain):
            return found
        known[record_id] = chain = Chain(held.shard, (held.entry.namespace, record_id), now)
        if found is not None:
            chain.acked = found.order_of(record_id)
            if found.lost_until > now:
                self.keys.quarantine(chain, found.lost_until)
        return chain


def link(chain: Chain, held: Held) -> None:
    """Let `held` be given out after the entry that held the key before it."""
    chain.entries += 1
    before = chain.last
    if before is not held:
        if before is not None:
            before.newer.append(held)
            held.older += 1
        chain.last = held


def _versions(item: Item) -> Sequence[Version]:
    """The versions that an item stands for: those of an entry that was taken apart meanwhile, or itself."""
    if isinstance(item, Held):
        return item.versions or ()
    return (item,)
