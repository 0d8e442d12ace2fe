"""Putting aside what was read, and sending record by record: the hold forgets a clean tail, and loses nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from upsertq.letter import Reason, Verdict
from upsertq.wire import Entry
from upsertq_worker.hold import Hold
from upsertq_worker.versions import RECORD_WEIGHT, Fate

if TYPE_CHECKING:
    from upsertq_worker.versions import Held, Version

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
        shed = self.hold.shed(namespace, spare)
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
                assert not self.hold.knows(shard, f"{place[1]}-0")
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
        for lane in self.hold.lanes.values():
            assert lane.estimate == sum(chain.estimate for chain in lane.line)
            assert all(chain.waiting for chain in lane.line if chain.flying is None), "a forgotten key stands in line"

    def teardown(self) -> None:
        """What was put aside is read again in order: everything is settled, and the last version of each id wins."""
        for place in sorted(place for place, held in self.seen.items() if not held):
            self._admit(place)
        self.now += QUARANTINE
        self.hold.wake(self.now)
        for version in list(self.flying):
            self.flying.remove(version)
            self._finish(version, Fate.ACKED)
        while any(self._take_one(namespace) for namespace in SPACES):
            self._finish(self.flying.pop(), Fate.ACKED)
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
        self.hold.admit(shard, f"{number}-0", self.stream[place], self.now)
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
        lane = self.hold.lanes.get(namespace)
        version = self.hold.take(lane, self.now) if lane else None
        if version is None:
            return False
        assert not version.held.dropped
        place = version.held.shard, version.order[0]
        assert self.seen[place], "it was put aside"
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


class StepwiseLaws(RuleBasedStateMachine):
    """Entries of which each record waits until it is stepped to or buried, among others that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.hold = Hold(QUARANTINE)
        self.number = 0
        self.unstepped: list[Version] = []
        self.flying: list[Version] = []
        self.buried: dict[str, set[int]] = {}
        self.settled: list[str] = []
        self.admitted: list[str] = []

    @rule(names=few, stepwise=st.booleans(), recovered=st.booleans())
    def admit(self, names: list[str], stepwise: bool, recovered: bool) -> None:  # noqa: FBT001
        """An entry is read, as a suspect or not."""
        self.number += 1
        stream_id = f"{self.number}-0"
        self.admitted.append(stream_id)
        entry = entry_of(0, names, "")
        held = self.hold.admit(0, stream_id, entry, 100.0, recovered=recovered, stepwise=stepwise)
        if stepwise:
            assert held.open == len(names), "a record has its fate before its turn"
            self.unstepped += held.versions
        self._collect()

    @precondition(lambda self: self.unstepped)
    @rule(which=some)
    def step(self, which: int) -> None:
        """One record may be sent now."""
        self.hold.step(self.unstepped.pop(which % len(self.unstepped)), 100.0)
        self._collect()

    @precondition(lambda self: self.unstepped)
    @rule(which=some)
    def bury(self, which: int) -> None:
        """One record is given up."""
        version = self.unstepped.pop(which % len(self.unstepped))
        self.buried.setdefault(version.held.stream_id, set()).add(version.row)
        self.hold.bury(version, VERDICT)
        self._collect()

    @rule(acked=st.booleans())
    def send(self, acked: bool) -> None:  # noqa: FBT001
        """A record is sent and has its fate; it is none whose turn has not come."""
        version = self._take()
        if version is not None:
            verdict = None if acked else VERDICT
            if not acked:
                self.buried.setdefault(version.held.stream_id, set()).add(version.row)
            self.hold.finish(version, Fate.ACKED if acked else Fate.DEAD, 100.0, verdict)
            self._collect()

    @rule(luck=st.integers(0, 9))
    def drop(self, luck: int) -> None:
        """The lease is lost: what comes of the old records does no harm."""
        if luck:
            return
        self.hold.drop(0)
        for version in self.unstepped:
            self.hold.step(version, 100.0)
            self.hold.bury(version, VERDICT)
        assert (self.hold.entries, self.hold.weight, self.hold.settlements) == (0, 0, [])
        self.unstepped.clear()
        self.buried.clear()
        self.settled = list(self.admitted)

    def teardown(self) -> None:
        """Once each record's turn has come everything is settled, and in order where a key is shared."""
        for waiting in self.unstepped:
            self.hold.step(waiting, 100.0)
        self.unstepped.clear()
        self._collect()
        self.hold.wake(100.0 + QUARANTINE)
        while (version := self._take()) is not None:
            self.hold.finish(version, Fate.ACKED, 100.0)
            self._collect()
        assert sorted(self.settled) == sorted(self.admitted), "stuck"
        assert self.hold.weight == 0

    def _take(self) -> Version | None:
        lane = self.hold.lanes.get("")
        version = self.hold.take(lane, 100.0) if lane else None
        assert version is None or all(version is not other for other in self.unstepped), "it was not its turn"
        return version

    def _collect(self) -> None:
        for one in self.hold.settlements:
            assert {grave.row for grave in one.graves} == self.buried.pop(one.stream_id, set())
            assert all(version.held.stream_id != one.stream_id for version in self.unstepped), "before its turn"
            assert all(grave.verdict.reason is Reason.CRASH_LOOP for grave in one.graves)
            self.settled.append(one.stream_id)
        self.hold.settlements.clear()


StepwiseLaws.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestStepwiseLaws = StepwiseLaws.TestCase
