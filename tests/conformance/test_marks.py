"""Marks of suspects and counts of deaths on the server: written by the holder alone, and found by the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from upsertq.contract.server import AsyncServer
from upsertq_worker.queue.protocols import ShardsDamaged
from upsertq_worker.recovery import suspects
from upsertq_worker.recovery.suspects import Suspect
from worker_bench import KEYS, OURS, Bench

if TYPE_CHECKING:
    from conftest import Backend
    from upsertq_worker.queue.protocols import Grant

MARK = (Suspect("4-0", 0, 2), Suspect("4-1", 7, 2), Suspect("5-1", 3, 1))
TEXT = suspects.written(MARK)


@pytest.fixture
async def bench(backend: Backend) -> Bench:
    """Provide an empty queue on every backend."""
    return await Bench.on(AsyncServer(backend.make_async()), backend.sync)


def noted(bench: Bench, field: str = "mark") -> list[str | None]:
    """A field of the books of each shard."""
    told: list[Any] = [bench.sync.hget(KEYS.shard(shard).books, field) for shard in OURS]
    return [None if value is None else value.decode() for value in told]


async def heir(bench: Bench) -> dict[int, Grant]:
    """What the next holder is told after the one before died."""
    bench.expire(*OURS)
    return {grant.shard: grant for grant in await bench.worker("heir").lease({0: 0, 1: 0}, take=True)}


async def test_a_mark_is_written_changed_and_taken_away(bench: Bench) -> None:
    """Shard by shard; the same call again changes nothing, and shards that are not named stay as they are."""
    worker = await bench.holder("me:with by spaces")
    for _ in range(2):
        assert await worker.mark(OURS, {0: "one", 1: "two"}) == frozenset()
        assert noted(bench) == ["one", "two"]
    assert await worker.mark(OURS, {0: ""}) == frozenset()
    assert noted(bench) == [None, "two"]
    assert await worker.mark(OURS, {}) == frozenset()
    assert noted(bench) == [None, "two"]


async def test_the_next_holder_finds_the_mark_and_the_deaths(bench: Bench) -> None:
    """As they were written; the count of deaths is written where it is given, and left alone where it is not."""
    worker = await bench.holder()
    await worker.mark(OURS, {0: TEXT})
    grants = await heir(bench)
    assert [suspects.read(grants[shard].mark) for shard in OURS] == [MARK, ()]
    assert [(grants[shard].clean, grants[shard].deaths) for shard in OURS] == [(False, 1)] * 2
    held = {0: 2, 1: 2}
    assert await bench.worker("heir").mark(held, {0: TEXT, 1: ""}) == frozenset()
    assert noted(bench, "deaths") == ["1", "1"]
    assert await bench.worker("heir").mark(held, {0: TEXT}, deaths=0) == frozenset()
    grants = await heir(bench)
    assert [grants[shard].deaths for shard in OURS] == [1, 2]


async def test_only_the_holder_writes(bench: Bench) -> None:
    """Without the lease, with another epoch or another name nothing is written, and the shard is named."""
    first = await bench.holder("first")
    await first.mark(OURS, {0: "kept", 1: "kept"})
    await heir(bench)
    for name, epochs in (("first", OURS), ("heir", OURS), ("first", {0: 2, 1: 2}), ("first", {})):
        assert await bench.worker(name).mark(epochs, {0: "x", 1: ""}, deaths=0) == {0, 1}
    assert noted(bench) == ["kept", "kept"]
    assert noted(bench, "deaths") == ["1", "1"]
    bench.expire(0)
    assert await bench.worker("heir").mark({0: 2, 1: 2}, {0: "x", 1: "y"}) == {0}
    assert noted(bench) == ["kept", "y"]


async def test_a_damaged_shard_keeps_no_other_from_its_mark(bench: Bench) -> None:
    """It is named, and the others' marks are written."""
    worker = await bench.holder()
    bench.sync.delete(KEYS.shard(0).books)
    bench.sync.set(KEYS.shard(0).books, "mine")
    with pytest.raises(ShardsDamaged, match="shard 0: ") as raised:
        await worker.mark(OURS, {0: "x", 1: "y"})
    assert list(raised.value.faults) == [0]
    assert bench.sync.hget(KEYS.shard(1).books, "mark") == b"y"


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "{}", "null", '{"alone":[1]}', '["x"]', "[[7]]", '[["1-0",{},0]]', "[[1,2,[]]]"]
)
def test_what_is_no_mark_says_nothing(text: str) -> None:
    """The deaths are counted beside it."""
    assert suspects.read(text) == ()
