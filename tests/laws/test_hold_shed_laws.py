"""Putting aside what was read, and letting go little by little: the hold forgets a clean tail, and loses nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from upsertq.letter import Reason, Verdict
from upsertq.wire import Entry
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.ready import sendable
from upsertq_worker.ordering.model import RECORD_WEIGHT, Fate

if TYPE_CHECKING:
    from upsertq_worker.ordering.model import Held, Version

QUARANTINE: Final = 5.0
VERDICT: Final = Verdict(Reason.CRASH_LOOP)
SPACES: Final = ("", "n")
Place = tuple[int, int]

shards = st.sampled_from([0, 0, 0, 1])
spaces = st.sampled_from(["", "", "n"])
few = st.lists(st.sampled_from("abc"), min_size=1, max_size=3)
some = st.integers(0, 1000)


def entry_of(shard: int, names: list[str], namespace: str) -> Entry:
    """An entry of one-dimensional records; ids carry their shard, as two shards never share a key."""
    ids = tuple(f"{name}{shard}" for name in names)
    return Entry(namespace=namespace, ids=ids, dim=1, values=b"\0\0\x80\x3f" * len(ids))


def assert_nobody_is_forgotten(hold: Hold, now: float) -> None:
    """Every key of which something may be sent stands in line; where that is barred, it is noted as well."""
    for chains in hold._chains.values():
        for chain in chains.values():
            version = sendable(chain, now)
            if version is not None and version.barred:
                assert version.held in hold.lines.barred.get(version.namespace, {}), "nobody will ever let it go"
            elif version is not None:
                assert chain.queued, "it will never be sent"
    assert not any(held.dropped for entries in hold.lines.barred.values() for held in entries)


class ShedLaws(RuleBasedStateMachine):
    """A server's stream, and a hold that takes in, sheds and takes in again in order."""

    def __init__(self) -> None:
        super().__init__()
        self.hold = Hold(QUARANTINE)
        self.now = 100.0
        self.number = 0
        self.stream: dict[Place, Entry] = {}
        """Everything unsettled, by shard and number."""
        self.seen: dict[Place, bool] = {}
        """What was read of it, and whether it is held; the others were put aside."""
        self.flying: list[Version] = []
        self.lost: set[tuple[Place, int]] = set()
        """Entry and row of versions whose answer was lost."""
        self.index: dict[tuple[str, str], tuple[int, int, int]] = {}
        """The newest version of each key that was acknowledged."""
        self.inherited = False
        """What is read now is barred."""

    @rule()
    def inherit(self) -> None:
        """What is read from now on was left by an earlier holder, or is not any more."""
        self.inherited = not self.inherited

    @rule(namespace=spaces, most=st.integers(1, 3))
    def let_go(self, namespace: str, most: int) -> None:
        """Some of what is barred is let go."""
        for held in list(self.hold.lines.barred.get(namespace, ()))[:most]:
            for version in self.hold.lines.ready(held, self.now):
                self.hold.lines.allow(version, self.now)
            self.hold.lines.unbar(held)

    @rule(shard=shards, names=few | st.lists(st.sampled_from("defghijkl"), min_size=1, max_size=3), namespace=spaces)
    def enqueue(self, shard: int, names: list[str], namespace: str) -> None:
        """A new entry is read; behind one that was put aside it is put aside too."""
        self.number += 1
        place = shard, self.number
        self.stream[place] = entry_of(shard, names, namespace)
        self._read(place)

    @rule(shard=shards, namespace=spaces, most=st.integers(1, 3))
    def take_up(self, shard: int, namespace: str, most: int) -> None:
        """Some of what was put aside is read again, in order."""
        aside = [place for place, held in self.seen.items() if not held and self._is(place, shard, namespace)]
        for place in sorted(aside)[:most]:
            self._admit(place)

    @rule(namespace=spaces, spare=st.sampled_from([0, 1_000, 4_000, 12_000]))
    def shed(self, namespace: str, spare: int) -> None:
        """A tail is put aside, and it is a clean one."""
        weight = self.hold.weights.get(namespace, 0)
        others = {name: weight for name, weight in self.hold.weights.items() if name != namespace}
        before = {place for place, held in self.seen.items() if held}
        shed = self.hold.shed(namespace, spare, self.now)
        for shard, stream_ids in shed.items():
            gone = [(shard, int(stream_id.partition("-")[0])) for stream_id in stream_ids]
            assert gone == sorted(gone)
            of_shard = sorted(place for place in before if self._is(place, shard, namespace))
            assert gone
            assert of_shard[-len(gone) :] == gone, "what remains is no prefix"
            kept = of_shard[: -len(gone)]
            assert kept, "nothing is left to probe with"
            self._check_clean(gone)
            for place in gone:
                self.seen[place] = False
                assert self.hold.find(shard, f"{place[1]}-0") is None
        left = sum(self._weight(place) for place, held in self.seen.items() if held and self._in(place, namespace))
        assert self.hold.weights.get(namespace, 0) == left
        assert {name: weight for name, weight in self.hold.weights.items() if name != namespace} == others
        if weight and not any(version.namespace == namespace for version in self.flying) and not self.lost:
            self._check_enough(namespace, spare)

    @rule(namespace=spaces, count=st.integers(1, 4))
    def take(self, namespace: str, count: int) -> None:
        """Some of what may be sent is taken."""
        for _ in range(count):
            self._take_one(namespace)

    @precondition(lambda self: self.flying)
    @rule(which=some)
    def put_back(self, which: int) -> None:
        """A version that was taken waits again."""
        self.hold.put_back(self._land(which), self.now)

    @precondition(lambda self: self.flying)
    @rule(which=some, luck=st.integers(0, 2))
    def lose(self, which: int, luck: int) -> None:
        """An answer is lost, now and then: the version may still take effect."""
        if luck:
            return
        version = self._land(which)
        self.lost.add(((version.held.shard, version.order[0]), version.row))
        self.hold.lost(version, self.now)
        self.hold.put_back(version, self.now)

    @precondition(lambda self: self.flying)
    @rule(which=some, fate=st.sampled_from([Fate.ACKED, Fate.ACKED, Fate.DEAD]))
    def finish(self, which: int, fate: Fate) -> None:
        """A version in flight has its fate."""
        self._finish(self._land(which), fate)

    @rule(seconds=st.sampled_from([0.1, QUARANTINE]))
    def pass_time(self, seconds: float) -> None:
        """Time goes on."""
        self.now += seconds
        self.hold.wake(self.now)
        if seconds >= QUARANTINE:
            self.lost.clear()

    @invariant()
    def the_measures_agree(self) -> None:
        """Entries and weights are those of what is held, and the lines hold nothing that is gone."""
        held = [place for place, here in self.seen.items() if here]
        assert self.hold.entries == len(held)
        assert self.hold.weight == sum(map(self._weight, held)) == sum(self.hold.weights.values())
        assert all(self.hold.weights.values())
        for lane in self.hold.lines.lanes.values():
            assert lane.estimate == sum(chain.estimate for chain in lane.line)
            assert all(chain.waiting for chain in lane.line if chain.flying is None), "a forgotten key stands in line"
        assert_nobody_is_forgotten(self.hold, self.now)

    def teardown(self) -> None:
        """What was put aside is read again in order: everything is settled, and the last version of each id wins."""
        for place in sorted(place for place, held in self.seen.items() if not held):
            self._admit(place)
        self.now += QUARANTINE
        self.hold.wake(self.now)
        for version in list(self.flying):
            self.flying.remove(version)
            self._finish(version, Fate.ACKED)
        while self.hold.lines.barred or any(self._take_one(namespace) for namespace in SPACES):
            for namespace in SPACES:
                self.let_go(namespace, 1)
            for version in list(self.flying):
                self.flying.remove(version)
                self._finish(version, Fate.ACKED)
        assert self.stream == {}, "stuck"
        assert (self.hold.entries, self.hold.weight, self.hold.weights) == (0, 0, {})
        assert not any(self.hold._chains.values())

    def _read(self, place: Place) -> None:
        namespace = self.stream[place].namespace
        if any(not held and self._is(other, place[0], namespace) for other, held in self.seen.items()):
            self.seen[place] = False
        else:
            self._admit(place)

    def _admit(self, place: Place) -> None:
        shard, number = place
        self.seen[place] = True
        self.hold.admit(shard, f"{number}-0", self.stream[place], self.now, barred=self.inherited)
        self._collect()

    def _check_clean(self, gone: list[Place]) -> None:
        """Nothing of the tail is under way, done in part, or may still take effect."""
        under_way = {(version.held.shard, version.order[0]) for version in self.flying}
        assert under_way.isdisjoint(gone), "something of it is in flight"
        assert {place for place, _ in self.lost}.isdisjoint(gone), "something of it may still take effect"

    def _check_enough(self, namespace: str, spare: int) -> None:
        """With nothing under way, what is left is what was asked for, or one entry."""
        for shard in range(2):
            left = sorted(place for place, held in self.seen.items() if held and self._is(place, shard, namespace))
            if len(left) > 1 and not any(map(self._partly, left)):
                assert sum(map(self._weight, left[:-1])) < max(1, spare // len(self.hold._held)), "too much is left"

    def _partly(self, place: Place) -> bool:
        held: Held = self.hold._held[place[0]][f"{place[1]}-0"]
        return held.open < len(held.versions)

    def _take_one(self, namespace: str) -> bool:
        lane = self.hold.lines.lanes.get(namespace)
        version = self.hold.lines.take(lane, self.now) if lane else None
        if version is None:
            return False
        assert not version.held.dropped
        place = version.held.shard, version.order[0]
        assert self.seen[place], "it was put aside"
        assert not version.barred, "it was not let go"
        assert (version.namespace, version.id) not in {(one.namespace, one.id) for one in self.flying}
        self.flying.append(version)
        return True

    def _land(self, which: int) -> Version:
        return self.flying.pop(which % len(self.flying))

    def _finish(self, version: Version, fate: Fate) -> None:
        key = version.namespace, version.id
        if fate is Fate.ACKED:
            assert self.index.get(key, (0, 0, 0)) < version.order, "an older version overwrites a newer one"
            self.index[key] = version.order
        self.hold.finish(version, fate, self.now, VERDICT if fate is Fate.DEAD else None)
        self._collect()

    def _collect(self) -> None:
        for one in self.hold.settlements:
            place = one.shard, int(one.stream_id.partition("-")[0])
            assert self.seen.pop(place), "put aside, and settled all the same"
            entry = self.stream.pop(place)
            assert one.acked + one.superseded + one.dead == len(entry.ids)
            dead = {grave.row for grave in one.graves}
            for row, name in enumerate(entry.ids):
                assert row in dead or self.index[entry.namespace, name] >= (place[1], 0, row), "lost"
        self.hold.settlements.clear()

    def _is(self, place: Place, shard: int, namespace: str) -> bool:
        return place[0] == shard and self._in(place, namespace)

    def _in(self, place: Place, namespace: str) -> bool:
        return self.stream[place].namespace == namespace

    def _weight(self, place: Place) -> int:
        entry = self.stream[place]
        return entry.size + RECORD_WEIGHT * len(entry.ids)


ShedLaws.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestShedLaws = ShedLaws.TestCase


def test_what_waited_for_a_barred_one_that_is_put_aside_goes() -> None:
    """An older version, passed over for a newer one that was not let go, stands in line again once that one is gone."""
    hold = Hold(QUARANTINE)
    older = hold.admit(0, "1-0", entry_of(0, ["a"], ""), 100.0)
    hold.admit(0, "2-0", entry_of(0, ["a"], ""), 100.0, barred=True)
    assert hold.lines.take(hold.lines.lanes[""], 100.0) is None
    assert hold.shed("", 0, 100.0) == {0: ["2-0"]}
    assert hold.lines.take(hold.lines.lanes[""], 100.0) is older.versions[0]


def test_what_is_let_go_is_sent_before_what_came_after_it() -> None:
    """New records that wait in line do not keep those of an earlier holder, of which only few may be in work."""
    hold = Hold(QUARANTINE)
    left = hold.admit(0, "1-0", entry_of(0, ["a", "b"], ""), 100.0, barred=True)
    new = hold.admit(0, "2-0", entry_of(0, ["c"], ""), 100.0)
    for version in reversed(left.versions):
        hold.lines.allow(version, 100.0)
    lane = hold.lines.lanes[""]
    assert [hold.lines.take(lane, 100.0) for _ in range(4)] == [*left.versions, *new.versions, None]


class BarredLaws(RuleBasedStateMachine):
    """Entries of which each record waits until it is let go, goes alone or is buried, among others that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.hold = Hold(QUARANTINE)
        self.now = 100.0
        self.number = 0
        self.known: list[Version] = []
        self.flying: list[Version] = []
        self.buried: dict[str, set[int]] = {}
        self.settled: list[str] = []
        self.admitted: list[str] = []

    @rule(names=few, barred=st.booleans(), recovered=st.booleans())
    def admit(self, names: list[str], barred: bool, recovered: bool) -> None:  # noqa: FBT001
        """An entry is read, from an earlier holder or not."""
        self.number += 1
        stream_id = f"{self.number}-0"
        self.admitted.append(stream_id)
        entry = entry_of(0, names, "")
        held = self.hold.admit(0, stream_id, entry, self.now, recovered=recovered, barred=barred)
        self.known += held.versions
        assert all(version.barred == barred for version in held.versions)
        self._collect()

    @precondition(lambda self: self.hold.lines.barred)
    @rule(which=some)
    def let_go(self, which: int) -> None:
        """What waits for nothing else is let go, an entry at a time."""
        entries = list(self.hold.lines.barred[""])
        held = entries[which % len(entries)]
        for version in self.hold.lines.ready(held, self.now):
            self.hold.lines.allow(version, self.now)
        self.hold.lines.unbar(held)

    @precondition(lambda self: self.known)
    @rule(which=some)
    def bar_again(self, which: int) -> None:
        """One that was let go, and waits behind a newer one, is barred again."""
        version = self.known[which % len(self.known)]
        if version not in self.flying and sendable(version.chain, self.now) is not version:
            self.hold.lines.bar_again(version)

    @precondition(lambda self: self.known)
    @rule(which=some)
    def go_alone(self, which: int) -> None:
        """A barred one is taken out of its turn, where it is ready, and only there."""
        version = self.known[which % len(self.known)]
        ready = version in self.hold.lines.ready(version.held, self.now)
        if version.barred:
            assert self.hold.lines.take_barred(version, self.now) == ready
            if ready:
                self._taken(version)

    @precondition(lambda self: self.known)
    @rule(which=some)
    def bury(self, which: int) -> None:
        """One that waits is given up; nothing happens to one that does not."""
        version = self.known[which % len(self.known)]
        if version.open and version not in self.flying:
            self.buried.setdefault(version.held.stream_id, set()).add(version.row)
        self.hold.bury(version, VERDICT, self.now)
        self._collect()

    @rule()
    def send(self) -> None:
        """The next one in turn is taken; it is none that was not let go."""
        lane = self.hold.lines.lanes.get("")
        version = self.hold.lines.take(lane, self.now) if lane else None
        if version is not None:
            assert not version.barred
            self._taken(version)

    @precondition(lambda self: self.flying)
    @rule(which=some)
    def put_back(self, which: int) -> None:
        """One that was taken waits again, barred if it was."""
        self.hold.put_back(self.flying.pop(which % len(self.flying)), self.now)

    @precondition(lambda self: self.flying)
    @rule(which=some, acked=st.booleans())
    def finish(self, which: int, acked: bool) -> None:  # noqa: FBT001
        """One that was taken has its fate."""
        self._finish(self.flying.pop(which % len(self.flying)), Fate.ACKED if acked else Fate.DEAD)

    @rule()
    def pass_time(self) -> None:
        """Quarantines end."""
        self.now += QUARANTINE
        self.hold.wake(self.now)

    @rule(luck=st.integers(0, 9))
    def drop(self, luck: int) -> None:
        """The lease is lost: what comes of the old records does no harm."""
        if luck:
            return
        self.hold.drop(0)
        for version in self.known:
            self.hold.lines.allow(version, self.now)
            self.hold.bury(version, VERDICT, self.now)
            assert not self.hold.lines.take_barred(version, self.now)
            assert not version.open
        assert (self.hold.entries, self.hold.weight, self.hold.settlements, self.hold.lines.barred) == (0, 0, [], {})
        self.known.clear()
        self.flying.clear()
        self.buried.clear()
        self.settled = list(self.admitted)

    @invariant()
    def whoever_could_go_is_noted(self) -> None:
        """Whatever may be sent stands in line, or is noted as barred."""
        assert_nobody_is_forgotten(self.hold, self.now)

    def teardown(self) -> None:
        """Once everything was let go all is settled, and in order where a key is shared."""
        for version in list(self.flying):
            self._finish(version, Fate.ACKED)
        self.flying.clear()
        self.pass_time()
        for _ in range(2 * len(self.known) + 1):
            self.send()
            for version in self.flying:
                self._finish(version, Fate.ACKED)
            self.flying.clear()
            if self.hold.lines.barred:
                self.let_go(0)
        assert sorted(self.settled) == sorted(self.admitted), "stuck"
        assert (self.hold.weight, self.hold.lines.barred) == (0, {})

    def _taken(self, version: Version) -> None:
        newer = [one for one in self.known if one.open and one.id == version.id and one.order > version.order]
        assert newer == [], "a newer one is here"
        assert version.id not in {one.id for one in self.flying}
        assert version.open
        self.flying.append(version)

    def _finish(self, version: Version, fate: Fate) -> None:
        if fate is Fate.DEAD:
            self.buried.setdefault(version.held.stream_id, set()).add(version.row)
        self.hold.finish(version, fate, self.now, VERDICT if fate is Fate.DEAD else None)
        self._collect()

    def _collect(self) -> None:
        for one in self.hold.settlements:
            assert {grave.row for grave in one.graves} == self.buried.pop(one.stream_id, set())
            assert all(version.held.stream_id != one.stream_id for version in self.known if version.open), "too early"
            assert all(grave.verdict.reason is Reason.CRASH_LOOP for grave in one.graves)
            self.settled.append(one.stream_id)
        self.hold.settlements.clear()
        self.known = [version for version in self.known if version.open]


BarredLaws.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestBarredLaws = BarredLaws.TestCase
