"""The hold against a plain model of what it must never do, whatever the order of events."""

from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from upsertq.letter import Reason, Verdict
from upsertq.wire import Entry
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import RECORD_WEIGHT, Fate, Version

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


def entry_of(shard: int, names: list[str] | str, namespace: str, run: str = "", seq: str = "") -> Entry:
    """An entry of one-dimensional records; ids carry their shard, as two shards never share a key."""
    ids = tuple(f"{name}{shard}" for name in names)
    return Entry(namespace=namespace, ids=ids, dim=1, values=b"\0\0\x80\x3f" * len(ids), run=run, seq=seq)


def key_of(version: Version) -> Key:
    """The key of a version."""
    return version.namespace, version.id


class HoldLaws(RuleBasedStateMachine):
    """Admits, takes, loses and finishes at random, and checks every step."""

    def __init__(self) -> None:
        super().__init__()
        self.hold = Hold(QUARANTINE)
        self.now = 100.0
        self.place = 0
        self.read: dict[tuple[int, str], Read] = {}
        self.flying: list[Version] = []
        self.travelling: dict[Key, dict[Order, float]] = {}
        """Versions that may take effect unseen, and until when."""
        self.acked: dict[Key, Order] = {}
        """The newest acknowledged version of keys that occur in what is held."""

    @rule(shard=shards, names=few | many, namespace=spaces, recovered=st.booleans(), run=st.sampled_from(["", "r"]))
    def admit(self, shard: int, names: list[str], namespace: str, recovered: bool, run: str) -> None:  # noqa: FBT001
        """An entry is read, as a new one or as one that an earlier holder had."""
        self._admit(shard, entry_of(shard, names, namespace, run), recovered=recovered)

    @rule(shard=shards, names=st.lists(st.sampled_from("abc"), min_size=1, max_size=2), namespace=spaces, back=some)
    def replay(self, shard: int, names: list[str], namespace: str, back: int) -> None:
        """Dead letters come back at the tail of the stream, with the place that they had."""
        seq = f"{max(1, self.place - back % 20)}-0"
        self._admit(shard, entry_of(shard, names, namespace, seq=seq), recovered=False)

    @rule(namespace=spaces, count=st.integers(1, 12))
    def take(self, namespace: str, count: int) -> None:
        """Some of what may be sent is taken, and it is right that it may."""
        for _ in range(count):
            if not self._take_one(namespace):
                return

    @precondition(lambda self: self.flying)
    @rule(which=some)
    def put_back(self, which: int) -> None:
        """A version that was taken waits again."""
        self.hold.put_back(self._land(which), self.now)

    @precondition(lambda self: self.flying)
    @rule(which=some, keeps=st.booleans())
    def lose(self, which: int, keeps: bool) -> None:  # noqa: FBT001
        """An answer is lost; the version is kept for a retry, or put back."""
        version = self._land(which)
        self.travelling.setdefault(key_of(version), {})[version.order] = self.now + QUARANTINE
        self.hold.lost(version, self.now)
        if keeps:
            self.flying.append(version)
        else:
            self.hold.put_back(version, self.now)

    @precondition(lambda self: self.flying)
    @rule(which=some, fate=st.sampled_from(Fate))
    def finish(self, which: int, fate: Fate) -> None:
        """A version in flight has its fate."""
        self._finish(self._land(which), fate)

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, QUARANTINE - 1, QUARANTINE, 60.0]))
    def pass_time(self, seconds: float) -> None:
        """Time goes on."""
        self.now += seconds
        following = self.hold.wake(self.now)
        assert following is None or following > self.now

    @rule(shard=shards, luck=st.integers(0, 5))
    def drop(self, shard: int, luck: int) -> None:
        """The shard's lease is lost; what comes of its requests in flight no longer counts."""
        if luck:
            return
        self.hold.drop(shard)
        for version in [version for version in self.flying if version.held.shard == shard]:
            assert version.held.dropped
            self.flying.remove(version)
            self.hold.lost(version, self.now)
            self.hold.put_back(version, self.now)
            self.hold.finish(version, Fate.ACKED, self.now)
        self.read = {at: read for at, read in self.read.items() if read.shard != shard}
        self.travelling = {key: until for key, until in self.travelling.items() if not key[1].endswith(str(shard))}
        self.acked = {key: order for key, order in self.acked.items() if not key[1].endswith(str(shard))}
        assert not self.hold.settlements
        assert self.hold.count(shard) == 0

    @invariant()
    def the_measures_agree(self) -> None:
        """Entries and weight are those of what is held, and no lane's estimate is off."""
        assert self.hold.entries == len(self.read)
        sizes = (read.entry.size + RECORD_WEIGHT * len(read.entry.ids) for read in self.read.values())
        assert self.hold.weight == sum(sizes)
        for (shard, stream_id), read in self.read.items():
            assert self.hold.find(shard, stream_id) is not None, read
        for lane in self.hold.lines.lanes.values():
            assert lane.estimate == sum(chain.estimate for chain in lane.line)
            assert len(set(map(id, lane.line))) == len(lane.line), "a key stands in line twice"

    def teardown(self) -> None:
        """Nothing is stuck: once every answer is there and the quarantines are over, all is settled and forgotten."""
        for version in list(self.flying):
            self.flying.remove(version)
            self._finish(version, Fate.ACKED)
        self.now += QUARANTINE
        self.hold.wake(self.now)
        while any(self._take_one(namespace) for namespace in SPACES):
            for version in list(self.flying):
                self.flying.remove(version)
                self._finish(version, Fate.ACKED if version.row % 2 else Fate.DEAD)
        assert not self.read, "stuck"
        assert self.hold.wake(self.now + QUARANTINE) is None
        assert (self.hold.entries, self.hold.weight) == (0, 0)
        assert not any(self.hold._chains.values())
        assert not any(self.hold._held.values())
        assert not self.hold._timers
        assert [
            (lane.estimate, len(lane.line)) for lane in self.hold.lines.lanes.values() if lane.estimate or lane.line
        ] == []

    def _admit(self, shard: int, entry: Entry, *, recovered: bool) -> None:
        self.place += 1
        stream_id = f"{self.place}-0"
        read = self.read[shard, stream_id] = Read(shard, self.place, entry, recovered, [None] * len(entry.ids))
        for row, key, order in read.rows():
            if recovered:
                self.travelling.setdefault(key, {})[order] = self.now + QUARANTINE
            if order <= self._newest_acked(shard, key):
                read.fates[row] = Fate.SUPERSEDED
        self.hold.admit(shard, stream_id, entry, self.now, recovered=recovered)
        self._collect()

    def _newest_acked(self, shard: int, key: Key) -> Order:
        """The newest acknowledged version, as long as the hold must remember the key."""
        if key not in self.hold._chains.get(shard, {}):
            self.acked.pop(key, None)
        return self.acked.get(key, (0, 0, 0))

    def _take_one(self, namespace: str) -> bool:
        lane = self.hold.lines.lanes.get(namespace)
        version = self.hold.lines.take(lane, self.now) if lane else None
        if version is None:
            return False
        key = key_of(version)
        assert version.namespace == namespace
        assert key not in map(key_of, self.flying), "two versions in flight"
        waiting = [order for read, row, order in self._versions(version.held.shard, key) if read.fates[row] is None]
        assert version.order == max(waiting), "a newer one waits"
        for order, until in self.travelling.get(key, {}).items():
            assert order == version.order or until <= self.now, "another version may still be travelling"
        self.flying.append(version)
        return True

    def _versions(self, shard: int, key: Key) -> list[tuple[Read, int, Order]]:
        reads = [read for read in self.read.values() if read.shard == shard]
        return [(read, row, order) for read in reads for row, other, order in read.rows() if other == key]

    def _land(self, which: int) -> Version:
        return self.flying.pop(which % len(self.flying))

    def _finish(self, version: Version, fate: Fate) -> None:
        shard, key = version.held.shard, key_of(version)
        if fate is Fate.ACKED:
            assert version.order >= self.acked.get(key, version.order), "older than what was acknowledged"
            self.acked[key] = version.order
            for read, row, order in self._versions(shard, key):
                if order <= version.order:
                    read.fates[row] = read.fates[row] or Fate.SUPERSEDED
        self.read[shard, version.held.stream_id].fates[version.row] = fate
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
            assert [one.acked, one.superseded, one.dead] == counts
            assert one.acked + one.superseded + one.dead == one.records
            keys = {key for _, key, _ in read.rows()}
            for other in self.read.values():
                if other.shard == read.shard and other.place < read.place:
                    assert keys.isdisjoint(key for _, key, _ in other.rows()), "given out before an older one"
        self.hold.settlements.clear()
        for (shard, stream_id), read in self.read.items():
            older = [other for other in self.read.values() if other.shard == shard and other.place < read.place]
            keys = {key for _, key, _ in read.rows()}
            free = all(keys.isdisjoint(key for _, key, _ in other.rows()) for other in older)
            assert None in read.fates or not free, f"{stream_id} is done and is not given out"


HoldLaws.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestHoldLaws = HoldLaws.TestCase


def test_an_entry_waits_for_an_older_one_that_shares_a_key() -> None:
    """Done first is not settled first: the successor of a version that may still land stays in the queue behind it."""
    hold = Hold(QUARANTINE)
    hold.admit(0, "1-0", entry_of(0, "ab", ""), 0.0)
    first = hold.lines.take(hold.lines.lanes[""], 0.0)
    second = hold.lines.take(hold.lines.lanes[""], 0.0)
    assert first is not None
    assert second is not None
    hold.admit(0, "2-0", entry_of(0, "a", ""), 0.0)
    hold.finish(first, Fate.ACKED, 0.0)
    third = hold.lines.take(hold.lines.lanes[""], 0.0)
    assert third is not None
    hold.finish(third, Fate.ACKED, 0.0)
    assert hold.settlements == []
    hold.finish(second, Fate.ACKED, 0.0)
    assert [one.stream_id for one in hold.settlements] == ["1-0", "2-0"]


def test_a_replay_behind_a_newer_acknowledged_version_is_not_sent() -> None:
    """While the newer one is not yet settled, the replayed one is superseded by it without a request."""
    hold = Hold(QUARANTINE)
    hold.admit(0, "5-0", entry_of(0, "ab", ""), 0.0)
    newer = hold.lines.take(hold.lines.lanes[""], 0.0)
    assert newer is not None
    hold.finish(newer, Fate.ACKED, 0.0)
    hold.admit(0, "6-0", entry_of(0, "a", "", seq="2-0"), 0.0)
    other = hold.lines.take(hold.lines.lanes[""], 0.0)
    assert other is not None
    assert other.id == "b0"
    assert hold.lines.take(hold.lines.lanes[""], 0.0) is None
    hold.finish(other, Fate.ACKED, 0.0)
    assert [(one.stream_id, one.acked, one.superseded) for one in hold.settlements] == [("5-0", 2, 0), ("6-0", 0, 1)]


def test_the_next_newest_is_sent_when_the_newest_is_refused() -> None:
    """A refused version supersedes nothing."""
    hold = Hold(QUARANTINE)
    for number in (1, 2, 3):
        hold.admit(0, f"{number}-0", entry_of(0, "a", ""), 0.0)
    for expected, fate in ((3, Fate.DEAD), (2, Fate.ACKED)):
        version = hold.lines.take(hold.lines.lanes[""], 0.0)
        assert version is not None
        assert version.order[0] == expected
        hold.finish(version, fate, 0.0, VERDICT if fate is Fate.DEAD else None)
    assert [(one.stream_id, one.acked, one.superseded, one.dead) for one in hold.settlements] == [
        ("1-0", 0, 1, 0),
        ("2-0", 1, 0, 0),
        ("3-0", 0, 0, 1),
    ]


def test_a_quarantine_outlives_the_entry() -> None:
    """An old request may still travel when its entry is settled: the next version waits all the same."""
    hold = Hold(QUARANTINE)
    hold.admit(0, "1-0", entry_of(0, "a", ""), 0.0)
    first = hold.lines.take(hold.lines.lanes[""], 0.0)
    assert first is not None
    hold.lost(first, 1.0)
    hold.finish(first, Fate.ACKED, 2.0)
    assert hold.entries == 0
    hold.admit(0, "2-0", entry_of(0, "a", ""), 3.0)
    assert hold.lines.take(hold.lines.lanes[""], 3.0) is None
    assert hold.wake(5.9) == 6.0
    assert hold.wake(6.0) is None
    assert hold.lines.take(hold.lines.lanes[""], 6.0) is not None
