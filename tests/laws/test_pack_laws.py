"""However records are gathered into entries, none is lost, and versions of one id keep their order."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsertq.client.pack import HALF, Packer
from upsertq.contract import wire
from upsertq.contract.keys import shard_of
from upsertq.contract.wire import Record

if TYPE_CHECKING:
    from upsertq.client.pack import Parcel

Put = tuple[str, str, str, int]
puts = st.lists(
    st.tuples(
        st.sampled_from([f"id{i}" for i in range(12)]),
        st.sampled_from(["", "n1", "n2"]),
        st.sampled_from(["", "run-a", "run-b"]),
        st.integers(0, 2),
    ),
    max_size=300,
)


def record_of(number: int, put: Put) -> Record:
    """Return a record that carries its number in its metadata."""
    record_id, namespace, _, dim = put
    values = np.full(dim, number, dtype="<f4").tobytes()
    return Record(record_id, namespace, values, b"" if dim else b'{"indices":[1],"values":[1]}', b'{"n":%d}' % number)


def packed(given_puts: list[Put], shards: int, closes: set[int]) -> list[Parcel]:
    """Return every parcel, shard by shard, in the order of its shard; entries are closed after the numbers `closes`."""
    packer = Packer(shards)
    for number, put in enumerate(given_puts):
        packer.add(record_of(number, put), run=put[2], ordinal=number, at=number)
        if number in closes:
            packer.close_all(number)
    packer.close_all(len(given_puts))
    assert packer.records == packer.ready_records == len(given_puts)
    return [parcel for ready in packer.ready.values() for parcel in ready]


def numbers_of(parcel: Parcel) -> list[int]:
    """Return the numbers of the records in a parcel."""
    return [item["n"] for item in orjson.loads(parcel.entry.metadata)]


several = st.sampled_from([1, 2, 8])
closing = st.sets(st.integers(0, 300), max_size=5)


@given(puts, several, closing)
def test_nothing_lost_nothing_changed(given_puts: list[Put], shards: int, closes: set[int]) -> None:
    """Every record is in exactly one entry, with its id, namespace, run and values, in its own shard."""
    seen: set[int] = set()
    for parcel in packed(given_puts, shards, closes):
        entry = parcel.entry
        rows = np.frombuffer(entry.values, "<f4").reshape(len(entry.ids), entry.dim)
        for number, record_id, row in zip(numbers_of(parcel), entry.ids, rows, strict=True):
            assert (record_id, entry.namespace, entry.run, entry.dim) == given_puts[number]
            assert (row == number).all()
            assert parcel.shard == shard_of(entry.namespace, record_id, shards)
            assert number not in seen
            seen.add(number)
    assert len(seen) == len(given_puts)


@given(puts, several, closing)
def test_order_within_each_lane_of_a_shard(given_puts: list[Put], shards: int, closes: set[int]) -> None:
    """The records of a shard and namespace leave in the order they came, hence so do the versions of each id."""
    order: dict[tuple[int, str], list[int]] = defaultdict(list)
    for parcel in packed(given_puts, shards, closes):
        order[parcel.shard, parcel.entry.namespace] += numbers_of(parcel)
    for numbers in order.values():
        assert numbers == sorted(numbers)


@given(puts, several, closing)
def test_ordinals_name_their_records(given_puts: list[Put], shards: int, closes: set[int]) -> None:
    """A parcel's ordinals are those of its first and last record, and grow within a shard and namespace."""
    last: dict[tuple[int, str], int] = {}
    for parcel in packed(given_puts, shards, closes):
        numbers = numbers_of(parcel)
        assert (parcel.first, parcel.last) == (numbers[0], numbers[-1])
        lane = parcel.shard, parcel.entry.namespace
        assert last.get(lane, -1) < parcel.first <= parcel.last
        last[lane] = parcel.last


@given(puts)
def test_entries_are_as_full_as_they_may_be(given_puts: list[Put]) -> None:
    """Each fills a request, or two of them fit into one; neighbours of a lane that could share an entry do."""
    lanes: dict[tuple[int, str], list[Parcel]] = defaultdict(list)
    for parcel in packed(given_puts, 2, set()):
        assert 1 <= len(parcel.entry.ids) <= HALF or len(parcel.entry.ids) == wire.ENTRY_RECORDS
        lanes[parcel.shard, parcel.entry.namespace].append(parcel)
    for parcels in lanes.values():
        for one, other in pairwise(parcels):
            alike = (one.entry.run, one.entry.dim) == (other.entry.run, other.entry.dim)
            assert not alike or len(one.entry.ids) in {HALF, wire.ENTRY_RECORDS}


@given(st.lists(st.integers(1, 350), min_size=1, max_size=3))
def test_a_flush_makes_full_entries_and_cuts_the_rest_in_two(flushes: list[int]) -> None:
    """Of 250 records 100, 100 and 50, of 275 one more of 25; in the order put, each with its own ordinals."""
    packer, wanted, number = Packer(1), list[int](), 0
    for count in flushes:
        for _ in range(count):
            packer.add(record_of(number, ("a", "", "", 1)), run="", ordinal=number, at=0)
            number += 1
        packer.close_all(0)
        full, rest = divmod(count, wire.ENTRY_RECORDS)
        wanted += [wire.ENTRY_RECORDS] * full + [min(rest, HALF), max(0, rest - HALF)]
    parcels = packer.ready[0]
    assert [len(parcel.entry.ids) for parcel in parcels] == [size for size in wanted if size]
    assert [one for parcel in parcels for one in numbers_of(parcel)] == list(range(number))
    assert [(parcel.first, parcel.last) for parcel in parcels] == [
        (numbers_of(parcel)[0], numbers_of(parcel)[-1]) for parcel in parcels
    ]


@pytest.mark.parametrize(
    ("dimension", "sizes"),
    [
        (384, [100, 50]),
        (512, [50, 50, 50]),
        (1_024, [33] * 4 + [18]),
        (1_536, [25] * 6),
        (2_048, [16] * 9 + [6]),
        (20_000, [1] * 150),
    ],
)
def test_as_many_whole_entries_as_fit_fill_a_request(dimension: int, sizes: list[int]) -> None:
    """Of wide records an entry holds a half, a third, and so on: with 38 of 1,024 a request would carry 76."""
    packer = Packer(1)
    for number in range(150):
        packer.add(Record(str(number), "", bytes(4 * dimension), b"", b""), run="", ordinal=number, at=0)
    packer.close_all(0)
    assert [len(parcel.entry.ids) for parcel in packer.ready[0]] == sizes


@pytest.mark.parametrize("sizes", [[200_000], [1_000] * 60 + [40_500]])
def test_an_entry_that_holds_more_than_its_part_is_closed_at_once(sizes: list[int]) -> None:
    """Be it one record, or records of which the last one made it so."""
    packer = Packer(1)
    for number, size in enumerate(sizes):
        packer.add(Record(str(number), "", bytes(8), b"", bytes(size)), run="", ordinal=number, at=0)
    assert (packer.open_records, packer.ready_records) == (0, len(sizes))


@given(st.integers(1, 60), st.integers(10_000, 200_000))
def test_wide_records_close_an_entry_early(count: int, size: int) -> None:
    """An entry holds at most 160 kB, unless a single record is larger."""
    packer = Packer(1)
    for number in range(count):
        packer.add(Record("a", "", bytes(size // 4 * 4), b"", b""), run="", ordinal=number, at=0)
    packer.close_all(0)
    for parcel in packer.ready[0]:
        assert len(parcel.entry.ids) == 1 or parcel.entry.size <= wire.ENTRY_BYTES + 100


@given(puts, several, st.lists(st.tuples(st.integers(0, 7), st.integers(0, 5)), max_size=5))
def test_confirming_keeps_the_sums(given_puts: list[Put], shards: int, cuts: list[tuple[int, int]]) -> None:
    """Confirmed parcels leave from the front, and what is held is counted exactly, down to nothing."""
    packer = Packer(shards)
    for number, put in enumerate(given_puts):
        packer.add(record_of(number, put), run=put[2], ordinal=number, at=0)
    held = len(given_puts)
    for number, most in cuts:
        shard = number % shards
        held -= packer.confirm(shard, min(most, len(packer.ready[shard])))
        assert packer.records == held
        assert packer.bytes >= held
    packer.close_all(0)
    for shard, ready in packer.ready.items():
        held -= packer.confirm(shard, len(ready))
    assert (held, packer.records, packer.bytes) == (0, 0, 0)
