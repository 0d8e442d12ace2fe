"""Where reading stands in a shard: whatever is parked, shed and read again, each entry is taken in once, in order."""

from __future__ import annotations

from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from upsertq_worker.places import Place, before, later, place_of
from upsertq_worker.queue.protocols import NEW

SPACES: Final = "abc"
numbers = st.integers(0, 2**64 - 1)
stream_ids = st.builds(lambda ms, n: f"{ms}-{n}", st.integers(0, 2**53), numbers).filter(lambda one: one != "0-0")


@given(stream_ids)
def test_nothing_fits_between_an_id_and_the_one_before(stream_id: str) -> None:
    """Reading behind `before(x)` begins with x: it is the next id, counted as the server counts."""
    (ms, number), (at, last) = place_of(stream_id), place_of(before(stream_id))
    assert later(stream_id, before(stream_id))
    assert (ms, number) == ((at, last + 1) if number else (at + 1, 0))
    assert number or last == 2**64 - 1


@given(stream_ids, stream_ids)
def test_ids_sort_by_number(one: str, other: str) -> None:
    """Not as text: exactly one of two different ids is later."""
    assert later(one, other) + later(other, one) + (one == other) == 1
    assert not later(one, one)
    assert later("10-0", "9-9")
    assert later("1-10", "1-9")


class PlaceLaws(RuleBasedStateMachine):
    """One shard of a model server, and a reader that takes in, parks, sheds and returns as chance has it."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Place()
        self.stream: dict[str, str] = {}
        """Namespaces of all unsettled entries by stream id."""
        self.added: dict[str, list[str]] = {space: [] for space in SPACES}
        self.delivered = "0-0"
        self.held: dict[str, str] = {}
        self.settled: dict[str, list[str]] = {space: [] for space in SPACES}
        self.full: set[str] = set()
        """Namespaces without room."""

    @rule(spaces=st.lists(st.sampled_from(SPACES), min_size=1, max_size=8))
    def enqueue(self, spaces: list[str]) -> None:
        """New entries come."""
        for space in spaces:
            stream_id = f"{1 + sum(map(len, self.added.values())) // 3}-{sum(map(len, self.added.values()))}"
            self.stream[stream_id] = space
            self.added[space].append(stream_id)

    @rule(space=st.sampled_from(SPACES))
    def change_room(self, space: str) -> None:
        """A namespace is in trouble, or out of it."""
        self.full ^= {space}

    @rule(count=st.integers(1, 4))
    def read(self, count: int) -> None:
        """Read a page, and take in or park what it brings, as the worker's reader does."""
        place = self.place
        if place.cursor == NEW:
            self._bring_back()
        found = self._page(count)
        for stream_id in found:
            self._pass(stream_id, self.stream[stream_id])
        place.cut_short()
        if not found and place.cursor != NEW:
            place.pass_over()

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 100))
    def settle(self, which: int) -> None:
        """An entry is settled: those of other namespaces before it may still be there."""
        stream_id = list(self.held)[which % len(self.held)]
        space = self.held[stream_id]
        first = next(one for one, other in self.held.items() if other == space)
        del self.held[first]
        del self.stream[first]
        self.settled[space].append(first)

    @rule(space=st.sampled_from(SPACES), keep=st.integers(0, 3))
    def shed(self, space: str, keep: int) -> None:
        """A tail of a namespace is put aside again."""
        ids = sorted((one for one, other in self.held.items() if other == space), key=place_of)
        tail = ids[max(1, keep) :]
        if tail:
            for stream_id in tail:
                del self.held[stream_id]
            self.place.shed(space, tail[0], len(tail))

    @rule()
    def begin_anew(self) -> None:
        """The lease is lost and gained again: whatever was held is read from the start."""
        if len(self.held) % 3 == 2:
            self.place, self.held = Place(), {}

    @rule()
    def lose_an_answer(self) -> None:
        """A read fails: what it delivered is pending behind the last entry seen."""
        if self.place.cursor == NEW:
            self._page(2)
            self.place.cursor = self.place.seen

    @invariant()
    def held_ones_are_a_prefix(self) -> None:
        """Of each namespace what was taken in goes without a gap from the oldest unsettled one."""
        for space in SPACES:
            held = [one for one, other in self.held.items() if other == space]
            unsettled = [one for one in self.added[space] if one in self.stream]
            assert held == unsettled[: len(held)], "out of order, or with a gap"

    @invariant()
    def what_is_parked_is_counted(self) -> None:
        """With nothing on its way back, each parked namespace is known by its first entry and by how many there are."""
        place = self.place
        for space in SPACES:
            seen = [one for one in self.added[space] if one in self.stream and not later(one, place.seen)]
            aside = [one for one in seen if one not in self.held]
            parked = place.parked.get(space)
            if place.recovering:
                continue
            assert (parked.count if parked else 0) == len(aside)
            if parked is not None and not parked.returning:
                assert parked.first == aside[0]

    def teardown(self) -> None:
        """Once there is room for all, everything is taken in, and nothing stays parked."""
        self.full.clear()
        for _ in range(10 + 3 * len(self.stream)):
            self.read(4)
        assert list(self.held) == sorted(self.held, key=place_of) or len(set(self.held.values())) > 1
        assert sorted(self.held) == sorted(self.stream)
        assert self.place.parked == {}
        assert self.place.cursor == NEW
        for space in SPACES:
            left = [one for one, other in self.held.items() if other == space]
            assert self.settled[space] + left == self.added[space]

    def _bring_back(self) -> None:
        self.place.go_back([space for space in self.place.parked if space not in self.full])

    def _page(self, count: int) -> list[str]:
        cursor = self.place.cursor
        if cursor == NEW:
            found = [one for one in self.stream if later(one, self.delivered)][:count]
            self.delivered = found[-1] if found else self.delivered
            skipped = [one for one in self.stream if later(one, self.place.seen) and not later(one, self.delivered)]
            if found and skipped[0] != found[0]:
                self.place.cursor = self.place.seen
                return []
            return found
        return [one for one in self.stream if later(one, cursor) and not later(one, self.delivered)][:count]

    def _pass(self, stream_id: str, space: str) -> None:
        place = self.place
        if not place.expects(space, stream_id):
            assert stream_id in self.held or place.waits(space), "passed by, and lost"
            place.pass_by(stream_id)
        elif place.waits(space) or space in self.full:
            place.park(space, stream_id, unseen=place.pass_by(stream_id))
        else:
            assert stream_id not in self.held, "taken in twice"
            place.pass_by(stream_id)
            place.take_up(space)
            self.held[stream_id] = space


PlaceLaws.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestPlaceLaws = PlaceLaws.TestCase
