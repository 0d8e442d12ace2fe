"""An entry of more records than a request may carry has its turn like any other."""

from __future__ import annotations

import pytest

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
