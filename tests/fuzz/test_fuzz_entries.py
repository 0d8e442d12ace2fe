"""Whatever stands in a stream is an entry that can be sent and split, or is refused by name: no other way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import junk
from fuzzing import fuzzed
from mutants import mutated
from upsertq.contract.wire import UnknownEntry, decode, encode, one_record
from upsertq_worker.delivery.encoder import Encoder, MetadataOf
from upsertq_worker.ordering.hold import Hold

if TYPE_CHECKING:
    from upsertq.contract.wire import Entry

ENTRIES = (
    mutated(junk.ENTRY)
    | mutated({**junk.ENTRY, "sparse": junk.SPARSE, "meta": b'[{"k":["a"]}]', "seq": b"1-1-0", "depth": b"1"})
    | mutated(
        {**junk.ENTRY, "n": b"2", "ids": b'["a","b"]', "values": 32 * b"\1", "meta": b'[null,{"k":1.5,"l":true}]'}
    )
    | st.dictionaries(st.binary(max_size=8), st.binary(max_size=60), max_size=6)
)


def stored(entry: Entry) -> dict[bytes, bytes]:
    """The fields as the server gives them back."""
    flat = [item if isinstance(item, bytes) else str(item).encode() for item in encode(entry)]
    return dict(zip(flat[::2], flat[1::2], strict=True))


def refused_in_a_line(error: UnknownEntry) -> None:
    """It is short, and nothing in it moves a cursor."""
    assert len(str(error)) < 500
    assert str(error).isprintable()


@pytest.mark.timeout(600)
@fuzzed(examples=6_000)
@given(ENTRIES)
def test_an_entry_is_sound_or_refused(fields: dict[bytes, bytes]) -> None:
    """What is decoded can be taken in, sent and given up, record by record; what is not, is refused."""
    try:
        entry = decode(fields)
    except UnknownEntry as error:
        refused_in_a_line(error)
        return
    # JSON that is written otherwise is the same entry
    again = decode(stored(entry))
    assert (again.ids, again.values, again.seq, again.depth) == (entry.ids, entry.values, entry.seq, entry.depth)
    encoder = Encoder(entry)
    hold = Hold(1.0)
    held = hold.admit(0, "5-1", entry, 0.0)
    whole = orjson.loads(b"[%b]" % bytes(encoder.all()))
    assert [one["id"] for one in whole] == list(entry.ids)
    assert len(list(MetadataOf([held]))) == sum("metadata" in one for one in whole)
    for version in hold.take_apart(held, 0.0):
        assert orjson.loads(encoder.record(version.row))["id"] == version.id
        alone = one_record(entry, version.row, version.sequence)
        assert decode(stored(alone)).ids == (version.id,)
