"""Owns which version of a record may be sent, and when an entry may be settled: the rules behind "last write wins".

Pure: it keeps what was read and not yet settled, decides, and does no I/O. Three invariants hold after every call:

1. At most one version of a key (namespace and id) is in flight.
2. Two entries that share a key are given out for settling in the order of the stream. So a version that may reach the
   index after a crash always finds its successors still in the queue behind it, and they are sent after it.
3. While an answer for a version may still take effect (it was lost, or its worker died), no other version of that key
   is sent until the quarantine is over.
"""

import heapq
from collections import deque

from upsertq.letter import Verdict
from upsertq.wire import Entry, one_record
from upsertq_worker.lines import Lines, wait
from upsertq_worker.shedding import where_to_cut
from upsertq_worker.versions import Chain, Fate, Grave, Held, Settlement, Version


class Hold:
    """Everything read and not yet settled.

    Args:
        quarantine: seconds for which a version whose answer was lost keeps other versions of its id waiting.
    """

    def __init__(self, quarantine: float) -> None:
        self._quarantine = quarantine
        self._chains: dict[int, dict[tuple[str, str], Chain]] = {}
        self._held: dict[int, dict[str, Held]] = {}
        self._timers: list[tuple[float, int, Chain]] = []
        self._ticket = 0
        self.lines = Lines()
        """What may be sent of it, and in what turn."""
        self.settlements: list[Settlement] = []
        """Entries given out for settling since the owner last cleared this list."""
        self.weight = 0
        """Bytes of memory that the entries held take, about."""
        self.weights: dict[str, int] = {}
        """The same by namespace, of those that have entries here."""

    @property
    def entries(self) -> int:
        """Entries held."""
        return sum(len(held) for held in self._held.values())

    def count(self, shard: int) -> int:
        """Entries held of one shard."""
        return len(self._held.get(shard, ()))

    def find(self, shard: int, stream_id: str) -> Held | None:
        """This entry, if it is held."""
        return self._held.get(shard, {}).get(stream_id)

    def admit(
        self,
        shard: int,
        stream_id: str,
        entry: Entry,
        now: float,
        *,
        recovered: bool = False,
        stale: bool = False,
        barred: bool = False,
    ) -> Held:
        """Take an entry that was read.

        Args:
            shard: where it was read.
            stream_id: its place there.
            entry: itself.
            now: the time in seconds.
            recovered: an earlier holder may have sent parts of it.
            stale: it was replayed, and a newer version of its record was acknowledged since: it is superseded.
            barred: each of its records waits until `lines.allow`, `lines.take_barred` or `bury` is called for it.
        """
        milliseconds, number, *replayed_row = map(int, (entry.seq or stream_id).split("-"))
        first_row = replayed_row[0] if replayed_row else 0
        held = Held(shard, stream_id, entry, entry.size, len(entry.ids))
        self._weigh(held, 1)
        chains = self._chains.setdefault(shard, {})
        self._held.setdefault(shard, {})[stream_id] = held
        for row, record_id in enumerate(entry.ids):
            key = (entry.namespace, record_id)
            chain = chains.get(key)
            if chain is None:
                chain = chains[key] = Chain(shard, key, since=now)
            version = Version(held, row, (milliseconds, number, first_row + row), chain, barred=barred)
            held.versions.append(version)
            self._link(chain, held)
            if recovered:
                self._suspect(chain, version, now)
        for version in held.versions:
            if stale:
                self._end(version, Fate.SUPERSEDED)
            else:
                self._enter(version, now)
        return held

    def bury(self, version: Version, verdict: Verdict, now: float) -> None:
        """Give up a version that waits, or does so no more."""
        chain = version.chain
        if version in chain.waiting:
            chain.waiting.remove(version)
            self._dig(version, verdict)
            self._end(version, Fate.DEAD)
            self.lines.offer(chain, now)

    def put_back(self, version: Version, now: float, *, last: bool = False) -> None:
        """Let a version that was taken wait again, at the head of its lane's line, or with `last` at its end."""
        if version.held.dropped:
            return
        version.chain.flying = None
        wait(version.chain, version)
        self.lines.offer(version.chain, now, first=not last)

    def lost(self, version: Version, now: float) -> None:
        """The answer for a version in flight was lost: it may take effect during the quarantine."""
        self._suspect(version.chain, version, now)

    def finish(self, version: Version, fate: Fate, now: float, verdict: Verdict | None = None) -> None:
        """A version in flight has its fate. When acknowledged, every older one that waits is superseded by it.

        A dead one has a verdict.
        """
        if version.held.dropped:
            return
        chain = version.chain
        chain.flying = None
        if verdict is not None:
            self._dig(version, verdict)
        self._end(version, fate)
        if fate is Fate.ACKED:
            chain.acked = version.order
            stale = [other for other in chain.waiting if other.order <= version.order]
            if stale:
                chain.waiting = [other for other in chain.waiting if other.order > version.order]
            for other in stale:
                self._end(other, Fate.SUPERSEDED)
        self.lines.offer(chain, now)

    def wake(self, now: float) -> float | None:
        """Line up the keys whose quarantine is over; returns when the next one ends, `None` if there is none."""
        while self._timers and self._timers[0][0] <= now:
            chain = heapq.heappop(self._timers)[2]
            if chain.quarantined_until <= now:
                chain.quarantined_until, chain.suspect = 0.0, None
                self.lines.offer(chain, now)
                self._forget_if_done(chain)
        return self._timers[0][0] if self._timers else None

    def quarantine_end(self, shard: int, now: float) -> float:
        """When the last quarantine of this shard ends; `now` when there is none."""
        return max((when for when, _, chain in self._timers if chain.shard == shard), default=now)

    def drop(self, shard: int) -> None:
        """Forget a shard whose lease is gone: another worker has its entries, or will."""
        for held in self._held.pop(shard, {}).values():
            self._forget(held)
        for chain in self._chains.pop(shard, {}).values():
            chain.waiting.clear()
        self._timers = [timer for timer in self._timers if timer[2].shard != shard]
        heapq.heapify(self._timers)
        self.settlements = [settlement for settlement in self.settlements if settlement.shard != shard]

    def shed(self, namespace: str, spare: int, now: float) -> dict[int, list[str]]:
        """Forget the newest entries of a namespace of which nothing was sent, but for `spare` bytes or a little more.

        They stay pending on the server and are to be read again, in order: it is as if they had not been read yet. Of
        each shard a tail is forgotten, never all. Returns the stream ids by shard, oldest first.
        """
        shed: dict[int, list[str]] = {}
        for shard, entries in self._held.items():
            of_namespace = [held for held in entries.values() if held.entry.namespace == namespace]
            cut = where_to_cut(of_namespace, spare // len(self._held))
            for held in of_namespace[cut:]:
                self._forget(held)
                del entries[held.stream_id]
                shed.setdefault(shard, []).append(held.stream_id)
            if cut < len(of_namespace):
                self._mend(shard, of_namespace[:cut], of_namespace[cut:], now)
        if shed:
            self.lines.tidy(namespace)
        return shed

    def _mend(self, shard: int, kept: list[Held], gone: list[Held], now: float) -> None:
        """Take what is gone out of the keys' chains, and forget the keys of which nothing is left."""
        for held in gone:
            for version in held.versions:
                chain = version.chain
                chain.waiting.remove(version)
                chain.entries -= 1
                chain.last = None
                if not chain.entries:
                    del self._chains[shard][chain.key]
        left = set(kept)
        for held in kept:
            held.newer = [newer for newer in held.newer if not newer.dropped]
            for version in held.versions:
                if version.chain.last is None or version.chain.last in left:
                    version.chain.last = held
                self.lines.offer(version.chain, now)  # a newer one that was not let go is gone

    def _forget(self, held: Held) -> None:
        held.dropped = True
        self._let_go(held)

    def _let_go(self, held: Held) -> None:
        self._weigh(held, -1)
        self.lines.unbar(held)

    def _weigh(self, held: Held, sign: int) -> None:
        self.weight += sign * held.weight
        namespace = held.entry.namespace
        left = self.weights.get(namespace, 0) + sign * held.weight
        if left:
            self.weights[namespace] = left
        else:
            self.weights.pop(namespace, None)

    def _dig(self, version: Version, verdict: Verdict) -> None:
        single = one_record(version.held.entry, version.row, version.sequence)
        version.held.graves.append(Grave(version.row, single, verdict))

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
        self.lines.offer(chain, now)

    def _suspect(self, chain: Chain, version: Version, now: float) -> None:
        still = now < chain.quarantined_until
        chain.suspect = None if still and chain.suspect is not version else version
        chain.quarantined_until = now + self._quarantine
        self._ticket += 1
        heapq.heappush(self._timers, (chain.quarantined_until, self._ticket, chain))

    def _end(self, version: Version, fate: Fate) -> None:
        held = version.held
        held.open -= 1
        match fate:
            case Fate.ACKED:
                held.acked += 1
            case Fate.SUPERSEDED:
                held.superseded += 1
            case Fate.DEAD:
                pass  # its grave is dug
        version.body = b""
        if held.open == 0 and held.older == 0:
            self._give_out(held)

    def _give_out(self, first: Held) -> None:
        line = deque([first])
        while line:
            held = line.popleft()
            del self._held[held.shard][held.stream_id]
            self._let_go(held)
            self.settlements.append(Settlement.of(held))
            for version in held.versions:
                chain = version.chain
                chain.entries -= 1
                if chain.last is held:
                    chain.last = None
                self._forget_if_done(chain)
            for after in held.newer:
                after.older -= 1
                if after.older == 0 and after.open == 0:
                    line.append(after)

    def _forget_if_done(self, chain: Chain) -> None:
        """Forget a key without versions, unless its quarantine must be remembered: then its timer comes back here."""
        if chain.entries == 0 and chain.quarantined_until == 0.0:
            chains = self._chains.get(chain.shard, {})
            if chains.get(chain.key) is chain:
                del chains[chain.key]
