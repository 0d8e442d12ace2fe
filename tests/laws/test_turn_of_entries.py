"""Lanes and entries have their turn: none is passed over for ever, and none is kept that has nothing to send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsertq.contract.wire import Record, pack
from upsertq_worker.delivery.batch import Batcher
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.settings import BatchLimits


def _admit(hold: Hold, number: int, records: int, now: float) -> None:
    made = [Record(f"{number}.{row}", "", b"\0\0\x80?", b"", b"") for row in range(records)]
    hold.admit(0, f"{number}-0", pack(made, run="", at=0), now)


@pytest.mark.parametrize("records", [1, 7, 50, 60, 99])
def test_smaller_entries_that_keep_coming_never_let_a_larger_one_wait(records: int) -> None:
    """It is the first in line, so all of it goes with the next batches."""
    hold = Hold(5.0)
    batcher = Batcher(hold, BatchLimits(records=records))
    _admit(hold, 0, 100, 0.0)
    left = 100
    for number in range(1, 101):
        _admit(hold, number, records, float(number))
        batch = batcher.next(float(number), lambda _: True)
        assert batch is not None
        old = sum(name.startswith("0.") for name in batch.ids)
        assert old == min(records, left)
        left -= old
        for item in batch.items:
            hold.acknowledge(item, float(number))
    assert left == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["admit", "send", "refuse", "drop"])), max_size=40))
def test_no_lane_is_kept_once_nothing_of_it_waits(steps: list[tuple[int, str]]) -> None:
    """Namespaces can be many: a worker that has sent all of them knows none any more."""
    hold = Hold(5.0)
    batcher = Batcher(hold, BatchLimits(records=3))
    refused: set[str] = set()
    now = 0.0

    def send() -> None:
        while (batch := batcher.next(now, lambda name: name not in refused)) is not None:
            for item in batch.items:
                hold.acknowledge(item, now)

    for number, (lane, act) in enumerate(steps):
        now = float(number)
        match act:
            case "admit":
                made = Record(str(number % 5), f"ns{lane}", b"\0\0\x80?", b"", b"")
                hold.admit(lane % 2, f"{number}-0", pack([made], run="", at=0), now)
            case "send":
                refused.clear()
                send()
            case "refuse":
                refused.add(f"ns{lane}")
                send()
            case _:
                hold.drop(lane % 2, now)
    refused.clear()
    now += 10
    send()
    assert not hold.entries
    assert hold.ready.lanes == {}
