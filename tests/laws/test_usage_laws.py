"""What requests took is counted once for each run in them and once for the queue, whoever takes it along."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from upsertq.contract.wire import Entry
from upsertq_worker.flow.usage import MOST_RUNS, Meter, Metered
from upsertq_worker.ordering.model import Chain, Held, Settlement, Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from upsertq_worker.flow.usage import Usage

RUNS = st.sampled_from(("", "a", "b", "c"))
REQUESTS = st.tuples(
    st.lists(st.tuples(RUNS, st.integers(1, 50)), min_size=1, max_size=6),
    st.booleans(),
    st.none() | st.integers(1, 9),
    st.sampled_from(("", "n")),
)
STEPS = st.lists(REQUESTS | st.lists(RUNS, max_size=4), max_size=30)
"""A request (its records' runs and sizes, whether a retry, the LSN of its answer, its namespace) or settlements."""


def versions(records: Iterable[tuple[str, int]], namespace: str = "") -> list[Version]:
    """Records of these runs whose JSON has these sizes."""
    made = []
    for run, size in records:
        entry = Entry(namespace, ("x",), 1, b"\0\0\x80?", run=run)
        chain = Chain(0, (namespace, "x"), 0.0)
        made.append(Version(Held(0, "1-1", entry, 1, 0.0, 1), 0, (1, 1, 0), chain, body=b"x" * size))
    return made


def settlements(runs: Sequence[str]) -> list[Settlement]:
    """A settlement of each of these runs."""
    return [Settlement(0, f"{number}-0", "", run, 1, 1, 1, 0, f"{number}-0") for number, run in enumerate(runs)]


def total(usage: Iterable[Usage | None]) -> Counter[str]:
    """What several usages make together, as the books count it."""
    books: Counter[str] = Counter()
    for one in usage:
        for name, value in (one.figures() if one else {}).items():
            books[name] = max(books[name], value) if name.startswith("lsn:") else books[name] + value
    return books


@given(STEPS)
def test_nothing_is_counted_twice_or_lost(steps: list[object]) -> None:
    """What settlements took along, and a last one of each run, is exactly what was posted."""
    meter, taken = Meter(), list[Metered]()
    expected: dict[str | None, Counter[str]] = {}
    for step in steps:
        match step:
            case (list() as records, bool() as again, lsn, str() as namespace):
                size = sum(size for _, size in records) + 9
                meter.posted(versions(records, namespace), size, again=again)
                runs = {run for run, _ in records}
                for of in (None, *runs):
                    alone = of is None or len(runs) == 1
                    own = size if alone else sum(size for run, size in records if run == of)
                    counts = expected.setdefault(of, Counter())
                    counts.update(requests=1, retries=int(again), posted=own)
                    if isinstance(lsn, int):
                        counts[f"lsn:{namespace}"] = max(counts[f"lsn:{namespace}"], lsn)
                if isinstance(lsn, int):
                    meter.landed(versions(records, namespace), lsn)
            case list() as runs_settled:
                taken += meter.metered(settlements(runs_settled), 7)
            case _:
                raise AssertionError(step)
    taken += meter.metered(settlements(["", "a", "b", "c"]), 7)
    assert total(one.queue_usage for one in taken) == +expected.get(None, Counter())
    for run in ("a", "b", "c"):
        assert total(one.usage for one in taken if one.settlement.run == run) == +expected.get(run, Counter())
    assert all(one.usage is None for one in taken if not one.settlement.run)
    assert all(one.settled_ms == 7 for one in taken)
    left = meter.metered(settlements(["", "a", "b", "c"]), 8)
    assert [(one.usage, one.queue_usage) for one in left] == [(None, None)] * 4


@given(st.lists(RUNS, max_size=6))
def test_settlements_are_otherwise_as_they_were(runs: list[str]) -> None:
    """Metering keeps their order and all that they say."""
    meter = Meter()
    meter.posted(versions([("a", 3), ("b", 4)]), 9, again=False)
    given_out = settlements(runs)
    metered = meter.metered(given_out, 5)
    assert [one.settlement for one in metered] == given_out


def test_an_lsn_travels_although_its_request_went_before() -> None:
    """The answer may come after a settlement took the request's count along; the LSN goes with the next one."""
    meter = Meter()
    batch = versions([("a", 3)], "n")
    meter.posted(batch, 3, again=False)
    (first,) = meter.metered(settlements(["a"]), 1)
    meter.landed(batch, 12)
    (second,) = meter.metered(settlements(["a"]), 2)
    assert total([first.usage]) == total([first.queue_usage]) == {"requests": 1, "posted": 3}
    assert total([second.usage]) == total([second.queue_usage]) == {"lsn:n": 12}


def test_runs_that_are_never_settled_are_forgotten() -> None:
    """The oldest ones go when too many wait; the newest and the queue keep what they have."""
    meter = Meter()
    for number in range(MOST_RUNS + 10):
        meter.posted(versions([(f"r{number}", 1)]), 1, again=False)
    old, new = meter.metered(settlements(["r9", f"r{MOST_RUNS + 9}"]), 1)
    assert old.usage is None
    assert total([new.usage]) == {"requests": 1, "posted": 1}
    assert total([old.queue_usage]) == {"requests": MOST_RUNS + 10, "posted": MOST_RUNS + 10}
