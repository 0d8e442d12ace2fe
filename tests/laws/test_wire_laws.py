"""A stream entry is read back as it was written, and never misread when it is not ours to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsertq.contract.record import make_record
from upsertq.contract.wire import FORMAT, UnknownEntry, decode, encode, pack

if TYPE_CHECKING:
    from upsertq.contract.wire import Entry

names = st.text(st.characters(min_codepoint=1, max_codepoint=127), min_size=1, max_size=20)


def as_stored(entry: Entry) -> dict[bytes, bytes]:
    """Return the fields as the server gives them back: bytes."""
    flat = [item if isinstance(item, bytes) else str(item).encode("ascii") for item in encode(entry)]
    return dict(zip(flat[::2], flat[1::2], strict=True))


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    """Any entry that a producer can make, and some that only a replay makes."""
    dim = draw(st.integers(0, 4))
    records = [
        make_record(
            record_id,
            draw(st.lists(st.floats(width=32, min_value=0.5, max_value=2), min_size=dim, max_size=dim)) or None,
            sparse_values=([1], [0.5]) if dim == 0 or draw(st.booleans()) else None,
            metadata=draw(st.none() | st.fixed_dictionaries({"k": st.text(max_size=3)})),
        )
        for record_id in draw(st.lists(names, min_size=1, max_size=25))
    ]
    entry = pack(records, run=draw(st.sampled_from(["", "nightly"])), at=draw(st.integers(0, 2**42)))
    return entry._replace(
        namespace=draw(st.just("") | names),
        seq=draw(st.sampled_from(["", "1700000000000-3", "1700000000000-3-24"])) if len(records) == 1 else "",
        depth=draw(st.integers(0, 3)),
    )


@given(entries())
def test_round_trip(entry: Entry) -> None:
    """Decoding what was encoded gives the same entry."""
    assert decode(as_stored(entry)) == entry


@given(entries())
def test_size_is_the_payload_of_the_fields(entry: Entry) -> None:
    """The size that the books count is what an audit recounts from the stored fields."""
    stored = as_stored(entry)
    assert entry.size == sum(len(stored.get(name, b"")) for name in (b"ids", b"values", b"sparse", b"meta"))


def test_sparse_and_metadata_keep_their_places() -> None:
    """Records without sparse values or metadata leave a null where others have them."""
    bare = make_record("a", [1.0])
    full = make_record("b", [2.0], sparse_values=([7], [0.5]), metadata={"k": "ü"})
    entry = pack([bare, full], run="", at=0)
    assert orjson.loads(entry.sparse) == [None, {"indices": [7], "values": [0.5]}]
    assert orjson.loads(entry.metadata) == [None, {"k": "ü"}]
    assert np.frombuffer(entry.values, "<f4").tolist() == [1.0, 2.0]


GOOD = as_stored(pack([make_record("a", [1.0, 2.0]), make_record("b", [3.0, 4.0])], run="r", at=5))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"v", b"%d" % (FORMAT + 1)),
        (b"v", b"one"),
        (b"v", None),
        (b"op", b"delete"),
        (b"op", None),
        (b"n", b"3"),
        (b"n", None),
        (b"n", b"x"),
        (b"ns", None),
        (b"ns", b"\xff"),
        (b"ids", None),
        (b"ids", b'["a"]'),
        (b"ids", b'["a"'),
        (b"ids", b"7"),
        (b"ids", b'"ab"'),
        (b"ids", b'{"a":1,"b":2}'),
        (b"ids", b'["a",1]'),
        (b"ids", b"[]"),
        (b"dim", None),
        (b"dim", b"3"),
        (b"dim", b"-2"),
        (b"dim", b"two"),
        (b"values", None),
        (b"values", b"123"),
        (b"at", b"soon"),
        (b"depth", b""),
        (b"run", b"\xff"),
    ],
)
def test_unknown_and_damaged_entries_are_refused(field: bytes, value: bytes | None) -> None:
    """An entry of another version or operation, or one that does not add up, is never misread."""
    fields = {name: kept for name, kept in {**GOOD, field: value}.items() if kept is not None}
    with pytest.raises(UnknownEntry, match="stays in the queue"):
        decode(fields)


def test_a_deleted_entry_is_refused() -> None:
    """The empty fields that a server gives for a deleted pending entry are no entry."""
    with pytest.raises(UnknownEntry):
        decode({})


def test_the_format_is_what_it_was() -> None:
    """The stored bytes of format 1 never change: entries outlive the program that wrote them."""
    entry = pack([make_record("a", [1.0], metadata={"k": 1})], run="r", at=5)
    assert as_stored(entry._replace(namespace="n", seq="1-2", depth=1)) == {
        b"v": b"2",
        b"op": b"upsert",
        b"n": b"1",
        b"ns": b"n",
        b"ids": b'["a"]',
        b"dim": b"1",
        b"values": b"\x00\x00\x80?",
        b"meta": b'[{"k":1}]',
        b"run": b"r",
        b"at": b"5",
        b"seq": b"1-2",
        b"depth": b"1",
    }
