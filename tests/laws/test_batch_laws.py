"""Batches are closed by count, by bytes or by age, hold one namespace and each id once, and leave nothing out."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upsertq.contract.wire import Entry, Record, pack
from upsertq_worker.delivery.batch import Batch, Batcher
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import Held, entry_of
from upsertq_worker.settings import BatchLimits

RNG = np.random.default_rng(7)
ENTRY = 25


def yes(namespace: str) -> bool:
    """Every lane may send."""
    return True


def record(record_id: str, namespace: str, dim: int, filler: int = 0) -> Record:
    """A record of random values with metadata of about `filler` bytes."""
    values = RNG.standard_normal(dim, dtype=np.float32).tobytes()
    return Record(record_id, namespace, values, b"", orjson.dumps({"m": "x" * filler}) if filler else b"")


class Feeder:
    """A hold and a batcher, and a hand that puts records into them."""

    def __init__(self, limits: BatchLimits | None = None) -> None:
        self.hold = Hold(5.0)
        self.batcher = Batcher(self.hold, limits or BatchLimits())
        self.entries = 0

    def feed(self, records: Sequence[Record], now: float = 0.0) -> None:
        """Pack the records into entries, and have them read."""
        for start in range(0, len(records), ENTRY):
            self.admit(pack(records[start : start + ENTRY], run="", at=0), now)

    def admit(self, entry: Entry, now: float) -> None:
        """Have an entry read."""
        self.entries += 1
        self.hold.admit(0, f"{self.entries}-0", entry, now)

    def fill(self, count: int, namespace: str = "", dim: int = 1, now: float = 0.0) -> None:
        """Have `count` new records of a namespace read."""
        self.feed([record(f"{self.entries}.{number}", namespace, dim) for number in range(count)], now)

    def drain(self, now: float) -> list[Batch]:
        """All batches that are due, each answered with success at once."""
        batches = []
        while batch := self.batcher.next(now, yes):
            batches.append(batch)
            for item in batch.items:
                self.hold.acknowledge(item, now)
        return batches


def ids_of(batch: Batch) -> list[str]:
    """The ids of a batch."""
    return list(batch.ids)


def test_a_batch_closes_at_its_count_at_once_and_the_rest_lingers() -> None:
    """250 records make 100, 100 and, once the linger is over, 50."""
    feeder = Feeder()
    feeder.fill(250)
    assert [len(batch.ids) for batch in feeder.drain(0.0)] == [100, 100]
    due = feeder.batcher.due()
    assert due == pytest.approx(0.2)
    assert feeder.drain(0.19) == []
    assert [len(batch.ids) for batch in feeder.drain(0.2)] == [50]
    assert not feeder.hold.entries


def test_the_oldest_record_decides_on_the_linger() -> None:
    """Records that come later go with it, and do not prolong its wait."""
    feeder = Feeder()
    feeder.fill(3, now=0.0)
    assert feeder.batcher.next(0.0, yes) is None
    feeder.fill(3, now=0.15)
    assert feeder.batcher.next(0.199, yes) is None
    batch = feeder.batcher.next(0.2, yes)
    assert batch is not None
    assert len(batch.ids) == 6


def test_no_lane_waits_for_company_that_cannot_come() -> None:
    """Where all is read that a worker is to drain, what is left goes out at once; the next arrivals linger again."""
    feeder = Feeder()
    feeder.fill(30, now=0.0)
    assert feeder.drain(0.0) == []
    feeder.batcher.expect(False)
    assert [len(batch.ids) for batch in feeder.drain(0.0)] == [30]
    feeder.batcher.expect(True)
    feeder.fill(30, now=0.0)
    assert feeder.drain(0.0) == []


@pytest.mark.parametrize(("dim", "parts"), [(1536, 1), (3072, 2)])
def test_a_request_of_real_width_is_under_the_limit(dim: int, parts: int) -> None:
    """100 random vectors of 1,536 fit in one request; of 3,072 the first request is filled to the limit."""
    feeder = Feeder()
    feeder.fill(100, dim=dim)
    found = []
    while batch := feeder.batcher.next(1.0, yes):
        found.append(batch)
    assert len(found) == parts
    assert sum(len(batch.ids) for batch in found) == 100
    assert all(len(batch.body()) <= 2_000_000 for batch in found)
    assert parts == 1 or len(found[0].body()) > 1_900_000


@settings(deadline=None, max_examples=150)
@given(
    made=st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 9), st.integers(0, 300)), min_size=1, max_size=25),
            st.sampled_from(["", "n", "other"]),
            st.floats(0, 0.3),
        ),
        max_size=12,
    ),
    limits=st.builds(
        BatchLimits, records=st.integers(1, 12), bytes=st.integers(1, 1500), linger=st.sampled_from([0.0, 0.2])
    ),
)
def test_every_batch_is_legal_and_every_record_comes_out(
    made: list[tuple[list[tuple[int, int]], str, float]], limits: BatchLimits
) -> None:
    """One namespace, each id once, within both limits (a single record may be beyond); none is left, none comes twice.

    Ids return in later entries, so that some are superseded: each record is settled once all the same.
    """
    feeder = Feeder(limits)
    now, seen = 0.0, Counter[tuple[str, int]]()
    for rows, namespace, pause in made:
        now += pause
        feeder.feed([record(f"id{number}", namespace, 2, filler) for number, filler in rows], now)
        if pause > 0.15:
            _post(feeder, now, limits, seen)
    for _ in range(3):
        now += limits.linger
        _post(feeder, now, limits, seen)
    assert not feeder.hold.entries
    assert sum(one.records for one in feeder.hold.settlements) == sum(len(rows) for rows, _, _ in made)
    assert sum(one.acked for one in feeder.hold.settlements) == len(seen)
    assert set(seen.values()) <= {1}


def _post(feeder: Feeder, now: float, limits: BatchLimits, seen: Counter[tuple[str, int]]) -> None:
    while batch := feeder.batcher.next(now, yes):
        assert {item.namespace for item in batch.items} == {batch.namespace}
        assert len(set(ids_of(batch))) == len(batch.ids) <= limits.records
        assert len(batch.ids) == 1 or len(batch.body()) <= limits.bytes
        for item in batch.items:
            for row in range(len(item.entry.ids)) if isinstance(item, Held) else [item.row]:
                seen[entry_of(item).stream_id, row] += 1
            feeder.hold.acknowledge(item, now)


def test_full_lanes_take_turns() -> None:
    """A namespace with a long backlog does not starve another one."""
    feeder = Feeder()
    feeder.fill(1000, "long")
    feeder.fill(300, "short")
    turns = [batch.namespace for batch in feeder.drain(0.0)]
    assert turns[:6].count("short") == 3


def test_full_lanes_do_not_starve_a_lingering_one() -> None:
    """A few records of a small namespace go out although others always have full batches."""
    feeder = Feeder()
    feeder.fill(5, "small")
    for _ in range(4):
        feeder.fill(1000, "long")
    order = []
    for _ in range(4):
        batch = feeder.batcher.next(1.0, yes)
        assert batch is not None
        order.append(batch.namespace)
    assert "small" in order


def test_lingering_lanes_do_not_starve_a_full_one() -> None:
    """A full batch goes out although many small namespaces have lingered long enough."""
    feeder = Feeder()
    for number in range(100):
        feeder.fill(1, f"small{number}")
    feeder.fill(300, "long")
    order = []
    for _ in range(8):
        batch = feeder.batcher.next(1.0, yes)
        assert batch is not None
        order.append(batch.namespace)
    assert order.count("long") >= 3


@pytest.mark.parametrize("count", [3, 100, 250])
def test_a_refused_lane_is_passed_over_and_comes_back(count: int) -> None:
    """Whether it is full or lingered; the others go on, and what gathers meanwhile goes with it."""
    feeder = Feeder()
    feeder.fill(count, "shut")
    feeder.fill(count, "open")

    def all_but_one(namespace: str) -> bool:
        return namespace != "shut"

    found = []
    while batch := feeder.batcher.next(1.0, all_but_one):
        found.append(batch)
    assert {batch.namespace for batch in found} == {"open"}
    assert sum(len(batch.ids) for batch in found) == count
    feeder.fill(2, "shut", now=2.0)
    assert feeder.batcher.next(3.0, all_but_one) is None
    sizes = []
    while batch := feeder.batcher.next(3.0, yes):
        assert batch.namespace == "shut"
        sizes.append(len(batch.ids))
    assert sum(sizes) == count + 2


@pytest.mark.parametrize("calls", [1, 2])
def test_what_is_left_of_a_full_lane_lingers(calls: int) -> None:
    """A lane that was full when it was lined up, and is no longer, waits for company again; whosever turn it is."""
    feeder = Feeder()
    feeder.fill(50, now=0.0)
    for _ in range(calls):
        assert feeder.batcher.next(0.0, yes) is None
    feeder.fill(75, now=0.2)
    sizes = [len(batch.ids) for batch in feeder.drain(0.2)]
    assert sizes == [100]
    assert [len(batch.ids) for batch in feeder.drain(0.4)] == [25]


def test_a_batch_of_lost_shards_posts_the_rest() -> None:
    """Records whose shard was lost meanwhile are left out of the body."""
    feeder = Feeder()
    feeder.fill(2)
    feeder.hold.admit(1, "1-0", pack([record("other", "", 1)], run="", at=0), 0.0)
    batch = feeder.batcher.next(1.0, yes)
    assert batch is not None
    feeder.hold.drop(0, 1.0)
    assert [vector["id"] for vector in orjson.loads(bytes(batch.body()))["vectors"]] == ["other"]
