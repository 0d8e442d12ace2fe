"""A limit below a few entries a shard is kept, and leaves room for others beside what is stuck."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from upsertq import Limits, Producer, QueueFull, Server

if TYPE_CHECKING:
    from conftest import Backend

SHARDS = 2


@pytest.mark.parametrize("most", [8, 60, 150, 300])
def test_a_few_records_that_are_stuck_do_not_close_a_queue(backend: Backend, most: int) -> None:
    """With a record of a paused namespace in each shard the others fill half of the backlog at least, and no more."""
    producer = Producer("q", url=Server(backend.sync), shards=SHARDS, timeout=0, limits=Limits(records=most))
    producer.put_many([f"stuck{number}" for number in range(4)], np.ones((4, 1)), namespace="paused")
    producer.flush()
    producer.put_many([f"id{number}" for number in range(1_000)], np.ones((1_000, 1)))
    with pytest.raises(QueueFull):
        producer.flush()
    assert most / 2 <= producer.books().pending <= most
