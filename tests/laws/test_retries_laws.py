"""Batches that wait for a retry leave when they are due and wanted, the earliest first, and none is lost."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from upsertq_worker.flow.retries import Retries


@dataclass(eq=False)
class Waiting:
    """What waits."""

    namespace: str
    due: float


WAITING = st.builds(Waiting, st.sampled_from("abc"), st.integers(0, 5).map(float))


@given(st.lists(WAITING, max_size=12), st.integers(0, 5), st.sets(st.sampled_from("abc")))
def test_the_earliest_that_is_due_and_wanted_leaves(items: list[Waiting], now: int, wanted: set[str]) -> None:
    """Those that are not wanted stay in their places, and are known by their namespace as long as one waits."""
    retries: Retries[Waiting] = Retries()
    for item in items:
        retries.add(item, item.due)
    taken = []
    while (out := retries.take(float(now), lambda one: one.namespace in wanted)) is not None:
        taken.append(out)
    ready = [item for item in items if item.due <= now and item.namespace in wanted]
    assert taken == sorted(ready, key=lambda item: item.due)
    left = [item for item in items if item not in taken]
    assert len(retries) == len(left)
    assert {id(item) for _, item in retries} == set(map(id, left))
    assert {name for name in "abc" if retries.waits(name)} == {item.namespace for item in left}
    again = []
    while (out := retries.take(9.0, lambda _: True)) is not None:
        again.append(out)
    assert again == sorted(left, key=lambda item: item.due)
    assert not len(retries)


def test_what_is_looked_at_waits_still() -> None:
    """Whether it may go can depend on how many of its namespace wait."""
    retries: Retries[Waiting] = Retries()
    retries.add(Waiting("a", 0.0), 0.0)
    assert retries.take(1.0, lambda item: not retries.waits(item.namespace)) is None
    assert retries.take(1.0, lambda _: True) is not None
    assert retries.waits("a") == 0
