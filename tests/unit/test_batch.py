"""What is known of one batch: what an answer to it may speak of, and when its items were refused with their lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from upsertq.contract.wire import Record, pack
from upsertq_worker.delivery.batch import Batch, Batcher
from upsertq_worker.delivery.encoder import Encoder, Unsendable
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.settings import BatchLimits

if TYPE_CHECKING:
    from upsertq.contract.wire import Entry


def record(name: str, metadata: bytes = b"") -> Record:
    """A record of one dimension."""
    return Record(name, "n", b"\0\0\x80\x3f", b"", metadata)


def entry(*names: str, metadata: bool = False) -> Entry:
    """An entry of these records, each with its id as metadata where asked for."""
    return pack([record(name, orjson.dumps({"of": name}) if metadata else b"") for name in names], run="", at=0)


def formed(hold: Hold) -> Batch:
    """A batch of all that the hold has."""
    batch = Batcher(hold, BatchLimits(linger=0.0)).next(1.0, lambda _: True)
    assert batch is not None
    return batch


def refused_since(batch: Batch) -> float | None:
    """As the batch says, asked anew."""
    return batch.refused_since


def test_what_was_sent_is_told_of_whole_entries_and_of_single_records() -> None:
    """Ids, namespace and metadata, whether an entry travels whole or was taken apart."""
    hold = Hold(1.0)
    hold.admit(0, "1-0", entry("a", "b", metadata=True), 0.0)
    hold.admit(0, "2-0", entry("c"), 0.0)
    batch = formed(hold)
    sent = batch.sent()
    assert (sent.ids, sent.namespace) == (("a", "b", "c"), "n")
    assert list(sent.metadata) == list(sent.metadata) == [{"of": "a"}, {"of": "b"}]
    assert {"n", "a", "b", "c", "of"} == set(sent.texts())
    part = batch.part(batch.versions(hold, 1.0)[1:], None)
    assert list(part.sent().metadata) == [{"of": "b"}]
    assert [row for _, row in part.records] == [1, 0]


def test_a_part_tells_the_sizes_of_the_groups_around_it() -> None:
    """The largest first, as a dead letter shows how its record was isolated."""
    hold = Hold(1.0)
    hold.admit(0, "1-0", entry("a", "b", "c"), 0.0)
    hold.admit(0, "2-0", entry("d"), 0.0)
    batch = formed(hold)
    half = batch.part(batch.versions(hold, 1.0)[:2], None)
    assert (batch.path, half.path) == ((), (4,))
    assert half.part(half.versions(hold, 1.0)[:1], None).path == (4, 2)


def test_a_refusal_with_the_lane_is_remembered_by_entry_and_record() -> None:
    """The first one counts, and what is taken out of the batch takes it along into another batch."""
    hold = Hold(1.0)
    hold.admit(0, "1-0", entry("a", "b"), 0.0)
    hold.admit(0, "2-0", entry("c", "d"), 0.0)
    batch = formed(hold)
    assert refused_since(batch) is None
    batch.refused_with_lane(5.0)
    batch.refused_with_lane(6.0)
    assert batch.lane_refusals == 2
    assert refused_since(batch) == 5.0
    versions = batch.versions(hold, 6.0)
    part = batch.part(versions[2:3], None)
    assert part.lane_refusals == 0
    assert refused_since(part) == 5.0
    fresh = Batch("n", [hold.admit(0, "3-0", entry("e"), 7.0)])
    assert refused_since(fresh) is None
    assert refused_since(Batch("n", [*fresh.items, versions[0]])) == 5.0


def test_a_record_of_which_no_json_can_be_made_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry, its shard and its namespace; what was gathered before it waits again."""
    hold = Hold(1.0)
    hold.admit(0, "1-0", entry("a"), 0.0)
    hold.admit(3, "2-0", entry("b"), 0.0)
    make = Encoder.all

    def broken(self: Encoder) -> memoryview:
        text = make(self)
        if b'"b"' in bytes(text):
            raise TypeError("no such thing")
        return text

    monkeypatch.setattr(Encoder, "all", broken)
    batcher = Batcher(hold, BatchLimits(linger=0.0))
    with pytest.raises(Unsendable, match=r"entry 2-0 cannot be sent .*no such thing") as raised:
        batcher.next(1.0, lambda _: True)
    assert (raised.value.shard, raised.value.namespace) == (3, "n")
    hold.drop(3, 1.0)
    batch = batcher.next(1.0, lambda _: True)
    assert batch is not None
    assert batch.ids == ("a",)
