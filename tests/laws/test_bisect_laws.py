"""Whatever a service refuses, the search finds the culprits alone, within its budget, or says that it is systemic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsertq_worker.delivery.bisect import Search, request_budget, take_apart
from upsertq_worker.settings import MOST_CULPRITS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Collection

    Names = Callable[[tuple[int, ...]], list[int]]

RNGS = st.randoms(use_true_random=False)


@dataclass(eq=False)
class Group:
    """A group that waits to be sent; `split` is shared with its siblings: whether one of them was refused before."""

    records: tuple[int, ...]
    siblings: dict[str, bool] = field(default_factory=dict)


def run(
    size: int, culprits: Collection[int], rng: random.Random, names: Names = lambda _: []
) -> tuple[Search[int], set[int]]:
    """Search a batch of `size` in a service that refuses any group with a culprit, answering in any order.

    `names` says which positions of a refused group the service's message names. Returns the search and what landed.
    """
    search: Search[int] = Search(size)
    landed: set[int] = set()
    waiting = [Group(tuple(range(size)))]
    first = True
    while waiting:
        group = waiting.pop(rng.randrange(len(waiting)))
        search.requests += 0 if first else 1
        first = False
        if not set(group.records) & set(culprits):
            landed |= set(group.records)
            search.open -= 1
            continue
        search.refused(first_of_parent=group.siblings.get("refused") is False)
        group.siblings["refused"] = True
        if search.systemic:
            return search, landed
        search.open -= 1
        if len(group.records) == 1:
            search.found.append(group.records[0])
            continue
        siblings = {"refused": False}
        for part in take_apart(len(group.records), names(group.records)):
            waiting.append(Group(tuple(group.records[at] for at in part), siblings))
            search.open += 1
    return search, landed


@st.composite
def batches(draw: st.DrawFn, most: int = MOST_CULPRITS) -> tuple[int, frozenset[int]]:
    """A batch's size, and a few culprits in it: at most `most`, and not everybody, so that names can help."""
    size = draw(st.integers(2, 200))
    count = draw(st.integers(1, min(most, size - 1)))
    return size, draw(st.frozensets(st.integers(0, size - 1), min_size=count, max_size=count))


@given(batch=batches(), rng=RNGS)
def test_all_culprits_are_found_within_the_budget(batch: tuple[int, frozenset[int]], rng: random.Random) -> None:
    """Unnamed, k culprits of n cost at most 2k⌈log2 n⌉ + 1 requests, stand alone, and everybody else lands."""
    size, culprits = batch
    search, landed = run(size, culprits, rng)
    assert not search.systemic
    assert search.over
    assert sorted(search.found) == sorted(culprits)
    assert landed == set(range(size)) - culprits
    assert search.requests <= request_budget(size, len(culprits))


@pytest.mark.parametrize(("culprits", "most"), [(1, 15), (3, 43)])
@given(data=st.data(), rng=RNGS)
def test_the_promised_numbers(culprits: int, most: int, data: st.DataObject, rng: random.Random) -> None:
    """One culprit of 100 is found in 15 requests, three in 43: the numbers that the design promises."""
    bad = data.draw(st.sets(st.integers(0, 99), min_size=culprits, max_size=culprits))
    search, _ = run(100, bad, rng)
    assert set(search.found) == bad
    assert search.requests <= most
    assert request_budget(100, culprits) == most


@given(batch=batches(), rng=RNGS)
def test_named_culprits_cost_one_request_each(batch: tuple[int, frozenset[int]], rng: random.Random) -> None:
    """A service that names all culprits is asked once for each and once for the rest."""
    size, culprits = batch
    search, landed = run(size, culprits, rng, lambda group: [at for at, one in enumerate(group) if one in culprits])
    assert sorted(search.found) == sorted(culprits)
    assert landed == set(range(size)) - culprits
    assert search.requests == 2 + len(culprits)


@given(batch=batches(), rng=RNGS)
def test_a_service_that_names_one_at_a_time(batch: tuple[int, frozenset[int]], rng: random.Random) -> None:
    """A service that names the first culprit alone costs two requests a culprit, and never more than halving."""
    size, culprits = batch
    search, landed = run(size, culprits, rng, lambda group: [at for at, one in enumerate(group) if one in culprits][:1])
    assert sorted(search.found) == sorted(culprits)
    assert landed == set(range(size)) - culprits
    assert search.requests == 1 + 2 * len(culprits)


@given(batch=batches(), rng=RNGS, data=st.data())
def test_false_names_give_none_up(batch: tuple[int, frozenset[int]], rng: random.Random, data: st.DataObject) -> None:
    """Names that are wrong cost requests, never an innocent record: all culprits are found, or it is called off."""
    size, culprits = batch
    search, landed = run(
        size, culprits, rng, lambda group: data.draw(st.lists(st.integers(0, len(group) - 1), max_size=20))
    )
    assert set(search.found) <= culprits
    assert not landed & culprits
    if not search.systemic:
        assert set(search.found) == culprits
        assert landed == set(range(size)) - culprits
    # it is called off by a refusal: parts that are accepted before the next one count beyond the budget
    assert search.requests <= request_budget(size, MOST_CULPRITS) + MOST_CULPRITS * (MOST_CULPRITS + 3)


@given(size=st.integers(2, 300), rng=RNGS)
def test_everything_bad_is_systemic(size: int, rng: random.Random) -> None:
    """Nothing of a batch is accepted: beyond the most culprits no record is at fault, known within the budget."""
    search, landed = run(size, range(size), rng)
    assert not landed
    assert search.systemic == (size > MOST_CULPRITS)
    assert search.systemic or sorted(search.found) == list(range(size))
    assert search.requests <= request_budget(size, min(MOST_CULPRITS, size))


@given(size=st.integers(MOST_CULPRITS + 2, 200), rng=RNGS, data=st.data())
def test_too_many_culprits_are_systemic(size: int, rng: random.Random, data: st.DataObject) -> None:
    """More culprits than a batch may have are systemic, within the budget of the most; none is given up."""
    bad = data.draw(st.sets(st.integers(0, size - 1), min_size=MOST_CULPRITS + 1))
    search, _ = run(size, bad, rng)
    assert search.systemic
    assert len(search.found) <= MOST_CULPRITS
    assert search.requests <= request_budget(size, MOST_CULPRITS)


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
