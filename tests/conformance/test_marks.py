"""Marks of suspects and counts of deaths on the server: written by the holder alone, and found by the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from upsertq.contract.server import AsyncServer
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.queue.protocols import ShardsDamaged
from upsertq_worker.recovery import suspects
from upsertq_worker.recovery.suspects import ALONE, DEATHS, Case, Suspect
from worker_bench import KEYS, OURS, Bench

if TYPE_CHECKING:
    from conftest import Backend

ENTRY, RECORD = Suspect("4-0"), Suspect("4-1", 7)


@pytest.fixture
async def bench(backend: Backend) -> Bench:
    """Provide an empty queue on every backend."""
    return await Bench.on(AsyncServer(backend.make_async()), backend.sync)


def noted(bench: Bench, field: str = "mark") -> list[str | None]:
    """A field of the books of each shard."""
    told: list[Any] = [bench.sync.hget(KEYS.shard(shard).books, field) for shard in OURS]
    return [None if value is None else value.decode() for value in told]


async def test_a_mark_is_written_changed_and_taken_away(bench: Bench) -> None:
    """Shard by shard; the same call again changes nothing, and shards that are not named stay as they are."""
    worker = await bench.holder("me:with by spaces")
    for marks, found in (({0: "one", 1: "two"}, ["one", "two"]), ({0: ""}, [None, "two"]), ({}, [None, "two"])):
        for _ in range(2):
            assert await worker.mark(OURS, marks) == frozenset()
            assert noted(bench) == found


async def test_the_next_holder_finds_the_mark_and_the_deaths(bench: Bench) -> None:
    """As they were written; the count of deaths is written where it is given, and left alone where it is not."""
    await (await bench.holder()).mark(OURS, {0: "one"})
    bench.expire(*OURS)
    heir, held = bench.worker("heir"), {0: 2, 1: 2}
    grants = await heir.lease({0: 0, 1: 0}, take=True)
    assert [(one.mark, one.clean, one.deaths) for one in grants] == [("one", False, 1), ("", False, 1)]
    assert await heir.mark(held, {0: "two", 1: ""}) == frozenset()
    assert noted(bench, "deaths") == ["1", "1"]
    assert await heir.mark(held, {0: ""}, deaths=0) == frozenset()
    assert (noted(bench), noted(bench, "deaths")) == ([None, None], ["0", "1"])


async def test_only_the_holder_writes(bench: Bench) -> None:
    """Without the lease, with another epoch or name, or in damaged books nothing is written; the shard is named."""
    await (await bench.holder("first")).mark(OURS, {0: "kept", 1: "kept"})
    bench.expire(*OURS)
    await bench.worker("heir").lease({0: 0, 1: 0}, take=True)
    for name, epochs in (("first", OURS), ("heir", OURS), ("first", {0: 2, 1: 2}), ("first", {})):
        assert await bench.worker(name).mark(epochs, {0: "x", 1: ""}, deaths=0) == {0, 1}
    bench.expire(0)
    assert await bench.worker("heir").mark({0: 2, 1: 2}, {0: "x", 1: "y"}) == {0}
    assert (noted(bench), noted(bench, "deaths")) == (["kept", "y"], ["1", "1"])
    bench.sync.delete(KEYS.shard(0).books)
    bench.sync.set(KEYS.shard(0).books, "mine")
    with pytest.raises(ShardsDamaged, match="shard 0: ") as raised:
        await bench.worker("heir").mark({0: 2, 1: 2}, {0: "x", 1: "z"})
    assert list(raised.value.faults) == [0]
    assert bench.sync.hget(KEYS.shard(1).books, "mark") == b"z"


@pytest.mark.parametrize("blamed", [{}, {ENTRY: 1}, {ENTRY: 1, RECORD: 2}])
def test_a_death_is_blamed_on_what_was_alone(blamed: dict[Suspect, int]) -> None:
    """Beside what was blamed before; after a release nothing more is."""
    assert suspects.read(suspects.written(blamed), died=True) == blamed
    for one in (ENTRY, RECORD):
        mark = suspects.written(blamed, one)
        assert suspects.read(mark, died=False) == blamed
        assert suspects.read(mark, died=True) == blamed | {one: blamed.get(one, 0) + 1}


@pytest.mark.parametrize(("blamed", "turn"), [({RECORD: 1, ENTRY: 1}, 0), ({ENTRY: 1, RECORD: ALONE}, 1), ({}, 2)])
def test_what_is_blamed_has_its_turn_before_other_shards(blamed: dict[Suspect, int], turn: int) -> None:
    """Records first, but for one that is given up: the later it goes, the likelier it is hit by chance once more."""
    assert Case(Hold(5.0), 0, "", DEATHS, 0.0, blamed).turn == turn


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "{}", "null", "7", '["x"]', "[[7]]", '[null,["1-0",{},0]]', "[null,[1,2,[]]]", '[["1-0",{}]]'],
)
def test_what_is_no_mark_says_nothing(text: str) -> None:
    """The deaths are counted beside it."""
    assert suspects.read(text, died=True) == {}
