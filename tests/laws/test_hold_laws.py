"""The hold against a plain model of what it must never do, whatever the order of events."""

from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from upsertq.contract.dead_letter import Reason, Verdict
from upsertq.contract.wire import Entry
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import RECORD_WEIGHT, Chain, Fate, Held, Item, Version, entry_of
from upsertq_worker.ordering.ready import _next

VERDICT = Verdict(Reason.REFUSED)
QUARANTINE = 5.0
SPACES = ("", "n")
Key = tuple[str, str]
Order = tuple[int, int, int]

spaces = st.sampled_from(["", "", "", "n"])
shards = st.sampled_from([0, 0, 0, 1])
some = st.integers(0, 1000)
few = st.lists(st.sampled_from("abc"), min_size=1, max_size=4)
many = st.lists(st.sampled_from("abcdefghijkl"), min_size=5, max_size=25)


@dataclass
class Read:
    """What the model knows of an entry that was read and not yet given out."""

    shard: int
    place: int
    """Where it stands in the stream."""
    entry: Entry
    recovered: bool
    fates: list[Fate | None]

    def rows(self) -> Iterator[tuple[int, Key, Order]]:
        """Row, key and order of each record."""
        start = int((self.entry.seq or f"{self.place}-0").partition("-")[0])
        for row, record_id in enumerate(self.entry.ids):
            yield row, (self.entry.namespace, record_id), (start, 0, row)


def made(shard: int, names: list[str] | str, namespace: str, run: str = "", seq: str = "") -> Entry:
    """An entry of one-dimensional records; ids carry their shard, as two shards never share a key."""
    ids = tuple(f"{name}{shard}" for name in names)
    return Entry(namespace=namespace, ids=ids, dim=1, values=b"\0\0\x80\x3f" * len(ids), run=run, seq=seq)


ROOM = 25


def records_of(item: Item) -> list[tuple[int, Key, Order]]:
    """Row, key and order of each record of an item."""
    if isinstance(item, Held):
        milliseconds, number, first = item.order
        return [
            (row, (item.namespace, name), (milliseconds, number, first + row))
            for row, name in enumerate(item.entry.ids)
        ]
    return [(item.row, (item.namespace, item.id), item.order)]


def keys_of(item: Item) -> set[Key]:
    """The keys of an item's records."""
    return {key for _, key, _ in records_of(item)}


class HoldLaws(RuleBasedStateMachine):
    """Admits, takes, loses and finishes at random, and checks every step."""

    def __init__(self) -> None:
        super().__init__()
        self.hold = Hold(QUARANTINE)
        self.now = 100.0
        self.place = 0
        self.read: dict[tuple[int, str], Read] = {}
        self.flying: list[Item] = []
        self.travelling: dict[Key, dict[Order, float]] = {}
        """Versions that may take effect unseen, and until when."""
        self.acked: dict[Key, Order] = {}
        """The newest acknowledged version of keys that occur in what is held."""

    @rule(shard=shards, names=few | many, namespace=spaces, recovered=st.booleans(), run=st.sampled_from(["", "r"]))
    def admit(self, shard: int, names: list[str], namespace: str, recovered: bool, run: str) -> None:  # noqa: FBT001
        """An entry is read, as a new one or as one that an earlier holder had."""
        self._admit(shard, made(shard, names, namespace, run), recovered=recovered)

    @rule(shard=shards, names=st.lists(st.sampled_from("abc"), min_size=1, max_size=2), namespace=spaces, back=some)
    def replay(self, shard: int, names: list[str], namespace: str, back: int) -> None:
        """Dead letters come back at the tail of the stream, with the place that they had."""
        seq = f"{max(1, self.place - back % 20)}-0"
        self._admit(shard, made(shard, names, namespace, seq=seq), recovered=False)

    @rule(namespace=spaces, count=st.integers(1, 12))
    def take(self, namespace: str, count: int) -> None:
        """Some of what may be sent is taken, and it is right that it may."""
        for _ in range(count):
            if not self._take_one(namespace):
                return

    @precondition(lambda self: self.flying)
    @rule(which=some)
    def put_back(self, which: int) -> None:
        """What was taken waits again."""
        self.hold.put_back(self._land(which), self.now)

    @precondition(lambda self: self.flying)
    @rule(which=some, keeps=st.booleans())
    def lose(self, which: int, keeps: bool) -> None:  # noqa: FBT001
        """An answer is lost; what was sent is kept for a retry, or put back."""
        item = self._land(which)
        for _, key, order in records_of(item):
            self.travelling.setdefault(key, {})[order] = self.now + QUARANTINE
        self.hold.lost(item, self.now)
        if keeps:
            self.flying.append(item)
        else:
            self.hold.put_back(item, self.now)

    @precondition(lambda self: self.flying)
    @rule(which=some)
    def take_apart(self, which: int) -> None:
        """What was taken as a whole is treated record by record from now on."""
        item = self._land(which)
        self.flying += self.hold.take_apart(item, self.now) if isinstance(item, Held) else [item]

    @precondition(lambda self: self.flying)
    @rule(which=some, fate=st.sampled_from(Fate))
    def finish(self, which: int, fate: Fate) -> None:
        """What is in flight has its fate."""
        self._finish(self._land(which), fate)

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, QUARANTINE - 1, QUARANTINE, 60.0]))
    def pass_time(self, seconds: float) -> None:
        """Time goes on."""
        self.now += seconds
        following = self.hold.wake(self.now)
        assert following is None or following > self.now

    @rule(shard=shards, luck=st.integers(0, 5))
    def drop(self, shard: int, luck: int) -> None:
        """The shard's lease is lost; its requests in flight are given up, and may take effect all the same."""
        if luck:
            return
        self.hold.drop(shard, self.now)
        for item in [item for item in self.flying if entry_of(item).shard == shard]:
            assert entry_of(item).dropped
            self.flying.remove(item)
            for _, key, order in records_of(item):
                self.travelling.setdefault(key, {})[order] = self.now + QUARANTINE
            self.hold.lost(item, self.now)
            self.hold.put_back(item, self.now)
            self.hold.acknowledge(item, self.now)
        self.read = {at: read for at, read in self.read.items() if read.shard != shard}
        self.acked = {key: order for key, order in self.acked.items() if not key[1].endswith(str(shard))}
        assert not self.hold.settlements

    @invariant()
    def the_measures_agree(self) -> None:
        """Entries and weight are those of what is held, and no lane's estimate is off."""
        assert len(self.hold.entries) == len(self.read)
        sizes = (read.entry.size + RECORD_WEIGHT * len(read.entry.ids) for read in self.read.values())
        assert self.hold.entries.weight == sum(sizes)
        for (shard, stream_id), read in self.read.items():
            assert self.hold.entries.find(shard, stream_id) is not None, read
        for lane in self.hold.ready.lanes.values():
            queued = {id(item): item for item in lane.line if item.queued}.values()
            assert lane.estimate == sum(item.estimate for item in queued)
            assert lane.records == sum(len(item.entry.ids) if isinstance(item, Held) else 1 for item in queued)

    def teardown(self) -> None:
        """Nothing is stuck: once every answer is there and the quarantines are over, all is settled and forgotten."""
        for item in list(self.flying):
            self.flying.remove(item)
            self._finish(item, Fate.ACKED)
        self.now += QUARANTINE
        self.hold.wake(self.now)
        while any(self._take_one(namespace) for namespace in SPACES):
            for item in list(self.flying):
                self.flying.remove(item)
                self._finish(item, Fate.ACKED if isinstance(item, Held) or item.row % 2 else Fate.DEAD)
        assert not self.read, "stuck"
        self.now += QUARANTINE
        assert self.hold.wake(self.now) is None
        assert (len(self.hold.entries), self.hold.entries.weight) == (0, 0)
        assert not any(self.hold.keys.lanes.values())
        assert not any(self.hold.entries._held.values())
        assert not self.hold.keys.timers
        assert (self.hold.entries.weights, self.hold.entries.records) == ({}, {})
        assert [lane for lane in self.hold.ready.lanes.values() if lane.estimate or lane.records or lane.oldest()] == []

    def _admit(self, shard: int, entry: Entry, *, recovered: bool) -> None:
        self.place += 1
        stream_id = f"{self.place}-0"
        read = self.read[shard, stream_id] = Read(shard, self.place, entry, recovered, [None] * len(entry.ids))
        for row, key, order in read.rows():
            if recovered:
                self.travelling.setdefault(key, {})[order] = self.now + QUARANTINE
            if order <= self._newest_acked(shard, key):
                read.fates[row] = Fate.SUPERSEDED
        held = self.hold.admit(shard, stream_id, entry, self.now, self.now + QUARANTINE if recovered else None)
        if entry.seq:
            self.hold.checked(held, self.now, superseded=False)
        self._collect()

    def _newest_acked(self, shard: int, key: Key) -> Order:
        """The newest acknowledged version, as long as the hold must remember the key."""
        known = self.hold.keys.lanes.get(shard, {}).get(key[0], {}).get(key[1])
        if known is None or (isinstance(known, Chain) and known.acked is None):
            self.acked.pop(key, None)
        return self.acked.get(key, (0, 0, 0))

    def _take_one(self, namespace: str) -> bool:
        lane = self.hold.ready.lanes.get(namespace)
        item = self.hold.ready.take(lane, self.now, ROOM) if lane else None
        if item is None:
            return False
        assert item.namespace == namespace
        in_flight = {key for other in self.flying for key in keys_of(other)}
        shard = entry_of(item).shard
        for _, key, order in records_of(item):
            assert key not in in_flight, "two versions in flight"
            waiting = [other for read, row, other in self._versions(shard, key) if read.fates[row] is None]
            assert order == max(waiting), "a newer one waits"
            for other, until in self.travelling.get(key, {}).items():
                assert order == other or until <= self.now, "another version may still be travelling"
        self.flying.append(item)
        return True

    def _versions(self, shard: int, key: Key) -> list[tuple[Read, int, Order]]:
        reads = [read for read in self.read.values() if read.shard == shard]
        return [(read, row, order) for read in reads for row, other, order in read.rows() if other == key]

    def _land(self, which: int) -> Item:
        return self.flying.pop(which % len(self.flying))

    def _finish(self, item: Item, fate: Fate) -> None:
        shard, stream_id = entry_of(item).shard, entry_of(item).stream_id
        for row, key, order in records_of(item):
            if fate is Fate.ACKED:
                assert order >= self.acked.get(key, order), "older than what was acknowledged"
                self.acked[key] = order
                for read, other_row, other in self._versions(shard, key):
                    if other <= order:
                        read.fates[other_row] = read.fates[other_row] or Fate.SUPERSEDED
            self.read[shard, stream_id].fates[row] = fate
        if fate is Fate.ACKED:
            self.hold.acknowledge(item, self.now)
        else:
            versions: list[Version] = self.hold.take_apart(item, self.now) if isinstance(item, Held) else [item]
            for version in versions:
                self.hold.finish(version, fate, self.now, VERDICT if fate is Fate.DEAD else None)
        self._collect()

    def _collect(self) -> None:
        """Whatever was given out is complete, counted right, and behind everything that shares a key with it."""
        for one in self.hold.settlements:
            read = self.read.pop((one.shard, one.stream_id))
            assert None not in read.fates, "given out before every record had its fate"
            counts = [read.fates.count(fate) for fate in (Fate.ACKED, Fate.SUPERSEDED, Fate.DEAD)]
            entry = read.entry
            size, records = entry.size, len(entry.ids)
            assert (one.run, one.records, one.size) == (entry.run, records, size)
            assert [one.acked, one.superseded, len(one.dead)] == counts
            assert one.acked + one.superseded + len(one.dead) == one.records
            keys = {key for _, key, _ in read.rows()}
            for other in self.read.values():
                if other.shard == read.shard and other.place < read.place:
                    assert keys.isdisjoint(key for _, key, _ in other.rows()), "given out before an older one"
        given_out = list(self.hold.settlements)
        self.hold.settlements.clear()
        self.hold.settled(given_out, self.now)
        for (shard, stream_id), read in self.read.items():
            older = [other for other in self.read.values() if other.shard == shard and other.place < read.place]
            keys = {key for _, key, _ in read.rows()}
            free = all(keys.isdisjoint(key for _, key, _ in other.rows()) for other in older)
            assert None in read.fates or not free, f"{stream_id} is done and is not given out"


HoldLaws.TestCase.settings = settings(max_examples=2 * settings().max_examples, stateful_step_count=50)
TestHoldLaws = HoldLaws.TestCase


class Pair(RuleBasedStateMachine):
    """One hold keeps entries whole where it can, the other takes each apart at once: they decide the same."""

    def __init__(self) -> None:
        super().__init__()
        self.fast, self.slow = Hold(QUARANTINE), Hold(QUARANTINE)
        self.now = 100.0
        self.place = 0
        self.flying: list[tuple[list[Item], list[Version]]] = []
        """What is in flight: of the fast hold, and the same records of the slow one."""

    @rule(shard=shards, names=few | many, namespace=spaces, recovered=st.booleans())
    def admit(self, shard: int, names: list[str], namespace: str, recovered: bool) -> None:  # noqa: FBT001
        """Both read an entry."""
        self.place += 1
        entry, until = made(shard, names, namespace), self.now + QUARANTINE if recovered else None
        for hold in (self.fast, self.slow):
            held = hold.admit(shard, f"{self.place}-0", entry, self.now, until)
        self.slow.take_apart(held, self.now)

    @rule(namespace=spaces, room=st.integers(1, ROOM))
    def take(self, namespace: str, room: int) -> None:
        """What the fast one sends, the slow one may send, too."""
        lane = self.fast.ready.lanes.get(namespace)
        item = self.fast.ready.take(lane, self.now, room) if lane else None
        if item is None:
            return
        twin = self.slow.entries.find(entry_of(item).shard, entry_of(item).stream_id)
        assert twin is not None
        versions = [self.slow.take_apart(twin, self.now)[row] for row, _, _ in records_of(item)]
        for version in versions:
            assert self.slow.ready.take_version(version, self.now), version.id
        self.flying.append(([item], versions))

    @precondition(lambda self: self.flying)
    @rule(which=some, what=st.sampled_from(["ack", "ack", "dead", "mixed", "lost", "back"]))
    def land(self, which: int, what: str) -> None:
        """The same becomes of both."""
        items, versions = self.flying.pop(which % len(self.flying))
        if what in {"dead", "mixed"}:
            items = [
                one
                for item in items
                for one in (self.fast.take_apart(item, self.now) if isinstance(item, Held) else [item])
            ]
        for hold, ones in ((self.fast, items), (self.slow, list[Item](versions))):
            for number, one in enumerate(ones):
                if what == "lost":
                    hold.lost(one, self.now)
                elif what == "back":
                    hold.put_back(one, self.now)
                elif what == "ack" or (what == "mixed" and number % 2):
                    hold.acknowledge(one, self.now)
                else:
                    assert isinstance(one, Version)
                    hold.finish(one, Fate.DEAD, self.now, VERDICT)
        if what == "lost":
            self.flying.append((items, versions))

    @rule(seconds=st.sampled_from([0.0, 1.0, QUARANTINE, 60.0]))
    def pass_time(self, seconds: float) -> None:
        """Time goes on for both."""
        self.now += seconds
        for hold in (self.fast, self.slow):
            hold.wake(self.now)

    @rule(shard=shards, luck=st.integers(0, 5))
    def drop(self, shard: int, luck: int) -> None:
        """Both lose a lease."""
        if not luck:
            for hold in (self.fast, self.slow):
                hold.drop(shard, self.now)
            self.flying = [pair for pair in self.flying if not entry_of(pair[0][0]).dropped]

    @invariant()
    def they_settle_the_same(self) -> None:
        """The same entries are given out, with the same counts, and those that share a key in the same order."""
        told = [sorted(hold.settlements, key=lambda one: (one.shard, one.stream_id)) for hold in (self.fast, self.slow)]
        assert told[0] == told[1]
        for hold in (self.fast, self.slow):
            given_out = list(hold.settlements)
            hold.settlements.clear()
            hold.settled(given_out, self.now)
        assert self.fast.entries.weight == self.slow.entries.weight
        assert len(self.fast.entries) == len(self.slow.entries)
        assert self._sendable(self.fast) == self._sendable(self.slow)

    def _sendable(self, hold: Hold) -> set[tuple[Key, Order]]:
        found: set[tuple[Key, Order]] = set()
        for lane in (lane for lanes in hold.keys.lanes.values() for lane in lanes.values()):
            for known in lane.values():
                if isinstance(known, Held):
                    found |= {(key, order) for _, key, order in records_of(known) if known.queued}
                elif known.queued and (version := _next(known, self.now)) is not None:
                    found.add((known.key, version.order))
        return found


Pair.TestCase.settings = settings(max_examples=3 * settings().max_examples, stateful_step_count=50)
TestTheFastWayDecidesAsTheSlowOne = Pair.TestCase


def take(hold: Hold, now: float = 0.0) -> Version | None:
    """The next record of the default namespace by itself."""
    lane = hold.ready.lanes[""]
    item = hold.ready.take(lane, now, ROOM)
    if isinstance(item, Held):
        hold.put_back(item, now)
        hold.take_apart(item, now)
        item = hold.ready.take(lane, now, ROOM)
    assert not isinstance(item, Held)
    return item


def test_an_entry_waits_for_an_older_one_that_shares_a_key() -> None:
    """Done first is not settled first: the successor of a version that may still land stays in the queue behind it."""
    hold = Hold(QUARANTINE)
    hold.admit(0, "1-0", made(0, "ab", ""), 0.0)
    first = take(hold)
    second = take(hold)
    assert first is not None
    assert second is not None
    hold.admit(0, "2-0", made(0, "a", ""), 0.0)
    hold.finish(first, Fate.ACKED, 0.0)
    third = take(hold)
    assert third is not None
    hold.finish(third, Fate.ACKED, 0.0)
    assert hold.settlements == []
    hold.finish(second, Fate.ACKED, 0.0)
    assert [one.stream_id for one in hold.settlements] == ["1-0", "2-0"]


def test_a_replay_behind_a_newer_acknowledged_version_is_not_sent() -> None:
    """While the newer one is not yet settled, the replayed one is superseded by it without a request."""
    hold = Hold(QUARANTINE)
    hold.admit(0, "5-0", made(0, "ab", ""), 0.0)
    newer = take(hold)
    assert newer is not None
    hold.finish(newer, Fate.ACKED, 0.0)
    hold.checked(hold.admit(0, "6-0", made(0, "a", "", seq="2-0"), 0.0), 0.0, superseded=False)
    other = take(hold)
    assert other is not None
    assert other.id == "b0"
    assert take(hold) is None
    hold.finish(other, Fate.ACKED, 0.0)
    assert [(one.stream_id, one.acked, one.superseded) for one in hold.settlements] == [("5-0", 2, 0), ("6-0", 0, 1)]


def test_the_next_newest_is_sent_when_the_newest_is_refused() -> None:
    """A refused version supersedes nothing."""
    hold = Hold(QUARANTINE)
    for number in (1, 2, 3):
        hold.admit(0, f"{number}-0", made(0, "a", ""), 0.0)
    for expected, fate in ((3, Fate.DEAD), (2, Fate.ACKED)):
        version = take(hold)
        assert version is not None
        assert version.order[0] == expected
        hold.finish(version, fate, 0.0, VERDICT if fate is Fate.DEAD else None)
    assert [(one.stream_id, one.acked, one.superseded, len(one.dead)) for one in hold.settlements] == [
        ("1-0", 0, 1, 0),
        ("2-0", 1, 0, 0),
        ("3-0", 0, 0, 1),
    ]


def test_a_quarantine_outlives_the_entry() -> None:
    """An old request may still travel when its entry is settled: the next version waits all the same."""
    hold = Hold(QUARANTINE)
    hold.admit(0, "1-0", made(0, "a", ""), 0.0)
    first = take(hold)
    assert first is not None
    hold.lost(first, 1.0)
    hold.finish(first, Fate.ACKED, 2.0)
    assert not hold.entries
    hold.admit(0, "2-0", made(0, "a", ""), 3.0)
    assert take(hold, 3.0) is None
    assert hold.wake(5.9) == 6.0
    assert hold.wake(6.0) is None
    assert take(hold, 6.0) is not None


def taken_of(hold: Hold, namespace: str) -> list[Item]:
    """All that may be sent of a lane, taken."""
    lane = hold.ready.lanes.get(namespace)
    taken: list[Item] = []
    while lane is not None and (item := hold.ready.take(lane, 200.0, ROOM)) is not None:
        taken.append(item)
    return taken


def test_a_lane_that_is_dropped_leaves_nothing_and_the_others_all() -> None:
    """Whatever comes back for it no longer counts, what may take effect is forgotten in time; it can be read anew."""
    hold = Hold(QUARANTINE)
    for place, namespace in enumerate(("n", "n", "", "n"), 5):
        hold.admit(0, f"{place}-0", made(0, ["a", f"b{place}"], namespace), 0.0, 4.0 if place == 6 else None)
    flying = taken_of(hold, "n")
    assert flying
    hold.admit(1, "5-0", made(1, "a", "n"), 0.0)
    hold.drop(0, 1.0, "n")
    assert len(hold.entries) == 2
    assert set(hold.entries.weights) == {"", "n"}
    for item in flying:
        hold.lost(item, 1.0)
        hold.put_back(item, 1.0)
        hold.acknowledge(item, 1.0)
    assert hold.settlements == []
    assert hold.wake(100.0) is None
    taken = [*taken_of(hold, "n"), *taken_of(hold, "")]
    assert {(entry_of(item).shard, entry_of(item).stream_id) for item in taken} == {(1, "5-0"), (0, "7-0")}
    for item in taken:
        hold.acknowledge(item, 101.0)
    assert {(one.shard, one.namespace) for one in hold.settlements} == {(0, ""), (1, "n")}
    hold.settled(hold.settlements, 102.0)
    assert (len(hold.entries), hold.entries.weight, hold.entries.weights, hold.entries.records) == (0, 0, {}, {})
    again = hold.admit(0, "5-0", made(0, ["a"], "n"), 103.0)
    assert [entry_of(item) for item in taken_of(hold, "n")] == [again]
