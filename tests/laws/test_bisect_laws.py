"""Whatever a service refuses, the search finds the culprits alone, within its budget, or says that it is systemic."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsertq_worker.delivery.bisect import Search, request_budget, take_apart
from upsertq_worker.settings import MOST_CULPRITS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    Names = Callable[[tuple[int, ...]], Sequence[int]]

RNGS = st.randoms(use_true_random=False)


@dataclass(eq=False)
class Group:
    """A group that waits to be sent; `split` is shared with its siblings: whether one of them was refused before."""

    records: tuple[int, ...]
    siblings: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a search: itself, what landed, and the requests that were sent for it, the first one included."""

    search: Search[int]
    landed: set[int]
    requests: int


def run(size: int, culprits: Collection[int], rng: random.Random, names: Names = lambda _: []) -> Outcome:
    """Search a batch of `size` in a service that refuses any group with a culprit, answering in any order.

    `names` says which positions of a refused group the service's message names.
    """
    search: Search[int] = Search(size)
    landed: set[int] = set()
    waiting = [Group(tuple(range(size)))]
    requests = 0
    while waiting:
        group = waiting.pop(rng.randrange(len(waiting)))
        requests += 1
        if not set(group.records) & set(culprits):
            landed |= set(group.records)
            search.open -= 1
            continue
        alone = len(group.records) == 1
        parts = () if alone else take_apart(len(group.records), names(group.records))
        search.refused(len(parts), first_of_parent=group.siblings.get("refused") is False)
        group.siblings["refused"] = True
        if search.systemic:
            # what waits is given back; the requests that were out may have been all of it
            return Outcome(search, landed, requests + len(waiting))
        search.open += len(parts) - 1
        search.found += group.records if alone else ()
        siblings = {"refused": False}
        waiting += [Group(tuple(group.records[at] for at in part), siblings) for part in parts]
    return Outcome(search, landed, requests)


@st.composite
def batches(draw: st.DrawFn, most: int = MOST_CULPRITS) -> tuple[int, frozenset[int]]:
    """A batch's size, and a few culprits in it: at most `most`, and not everybody, so that names can help."""
    size = draw(st.integers(2, 200))
    count = draw(st.integers(1, min(most, size - 1)))
    return size, draw(st.frozensets(st.integers(0, size - 1), min_size=count, max_size=count))


@given(batch=batches(), rng=RNGS)
def test_all_culprits_are_found_within_the_budget(batch: tuple[int, frozenset[int]], rng: random.Random) -> None:
    """Unnamed, culprits cost no more requests than halving can, stand alone, and all other records land."""
    size, culprits = batch
    found = run(size, culprits, rng)
    assert not found.search.systemic
    assert found.search.over
    assert sorted(found.search.found) == sorted(culprits)
    assert found.landed == set(range(size)) - culprits
    assert found.requests <= most_by_halving(size, len(culprits)) <= request_budget(size, len(culprits))


def most_by_halving(size: int, culprits: int) -> int:
    """The first request, and two for each refused group: on each level as many as it has groups, or culprits."""
    return 1 + 2 * sum(min(1 << level, culprits) for level in range((size - 1).bit_length()))


@pytest.mark.parametrize(
    ("bad", "most", "promised"),
    [({99}, 15, 15), ({24, 74, 99}, 37, 43), ({2, 13, 32, 38, 52, 67, 69, 77, 82, 96}, 91, 141)],
)
def test_the_promised_numbers(bad: set[int], most: int, promised: int) -> None:
    """Of 100 records one culprit is found in 15 requests, three in 43, ten in 141; the dearest ones take so many."""
    found = run(100, bad, random.Random(1))
    assert set(found.search.found) == bad
    assert found.requests == most == most_by_halving(100, len(bad))
    assert request_budget(100, len(bad)) == promised


@given(batch=batches(), rng=RNGS)
def test_named_culprits_cost_one_request_each(batch: tuple[int, frozenset[int]], rng: random.Random) -> None:
    """A service that names all culprits is asked once for each and once for the rest."""
    size, culprits = batch
    found = run(size, culprits, rng, lambda group: [at for at, one in enumerate(group) if one in culprits])
    assert sorted(found.search.found) == sorted(culprits)
    assert found.landed == set(range(size)) - culprits
    assert found.requests == 2 + len(culprits)


@given(batch=batches(), rng=RNGS)
def test_a_service_that_names_one_at_a_time(batch: tuple[int, frozenset[int]], rng: random.Random) -> None:
    """A service that names the first culprit alone costs two requests a culprit, and never more than halving."""
    size, culprits = batch
    found = run(size, culprits, rng, lambda group: [at for at, one in enumerate(group) if one in culprits][:1])
    assert sorted(found.search.found) == sorted(culprits)
    assert found.landed == set(range(size)) - culprits
    assert found.requests == 1 + 2 * len(culprits)


@given(batch=batches(), rng=RNGS, data=st.data())
def test_false_names_give_none_up(batch: tuple[int, frozenset[int]], rng: random.Random, data: st.DataObject) -> None:
    """Names that are wrong cost requests, never an innocent record: all culprits are found, or it is called off.

    In either case within the budget: what needs more is called off before it is sent.
    """
    size, culprits = batch
    found = run(size, culprits, rng, lambda group: data.draw(st.lists(st.integers(0, len(group) - 1), max_size=20)))
    assert set(found.search.found) <= culprits
    assert not found.landed & culprits
    if not found.search.systemic:
        assert set(found.search.found) == culprits
        assert found.landed == set(range(size)) - culprits
    assert found.requests <= request_budget(size, MOST_CULPRITS)


@given(rng=RNGS)
def test_a_search_is_called_off_before_its_first_request_beyond_the_budget(rng: random.Random) -> None:
    """A service that names eleven innocent records each time has twelve parts sent for each refusal."""
    budget, apart = request_budget(200, MOST_CULPRITS), MOST_CULPRITS + 1
    found = run(200, {199}, rng, lambda group: range(min(apart, len(group) - 1)))
    assert found.search.systemic
    assert found.requests == 1 + (budget - 1) // (1 + apart) * (1 + apart)
    assert "would take more than 161 requests" in found.search.why


@given(size=st.integers(2, 300), rng=RNGS)
def test_everything_bad_is_systemic(size: int, rng: random.Random) -> None:
    """Nothing of a batch is accepted: beyond the most culprits no record is at fault, known within the budget."""
    found = run(size, range(size), rng)
    assert not found.landed
    assert found.search.systemic == (size > MOST_CULPRITS)
    assert found.search.systemic or sorted(found.search.found) == list(range(size))
    assert found.requests <= request_budget(size, min(MOST_CULPRITS, size))


@given(size=st.integers(MOST_CULPRITS + 2, 200), rng=RNGS, data=st.data())
def test_too_many_culprits_are_systemic(size: int, rng: random.Random, data: st.DataObject) -> None:
    """More culprits than a batch may have are systemic, within the budget of the most; none is given up."""
    found = run(size, data.draw(st.sets(st.integers(0, size - 1), min_size=MOST_CULPRITS + 1)), rng)
    assert found.search.systemic
    assert len(found.search.found) <= MOST_CULPRITS
    assert found.requests <= request_budget(size, MOST_CULPRITS)
    assert "more than 10 records of one batch" in found.search.why


@given(count=st.integers(2, 300), data=st.data())
def test_the_parts_are_a_partition(count: int, data: st.DataObject) -> None:
    """Each record is in exactly one part, no part is empty, each is smaller, and suspects never stand with the rest."""
    named = data.draw(st.lists(st.integers(0, count - 1), max_size=count))
    parts = take_apart(count, named)
    assert sorted(at for part in parts for at in part) == list(range(count))
    assert all(0 < len(part) < count for part in parts)
    assert len(parts) <= MOST_CULPRITS + 3
    if 0 < len(set(named)) < count:
        assert not set(named) & set(parts[0])
    else:
        assert [len(part) for part in parts] == [count // 2, count - count // 2]


def test_one_record_is_not_taken_apart() -> None:
    """A single record is its own culprit: asking to take it apart is the caller's mistake."""
    with pytest.raises(ValueError, match="single record"):
        take_apart(1, ())
    assert request_budget(1, 1) == 1
    assert take_apart(2, (1,)) == ((0,), (1,))
