"""Shards are shared out evenly, whatever workers join, leave, die or believe; and what is balanced stays as it is."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsertq.admin.workers import Worker
from upsertq_worker.pool import share_out as module
from upsertq_worker.pool.share_out import LIVE_SECONDS, Others, share_out, targets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAMES: Final = tuple("abcdefgh")
held_by_workers = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 40), min_size=1)


@given(held_by_workers, st.integers(1, 64))
def test_targets_sum_to_the_number_of_shards(held: dict[str, int], shards: int) -> None:
    """Every shard is due to one worker, and none is due two more than another one."""
    wanted = targets(held, shards)
    assert wanted.keys() == held.keys()
    assert sum(wanted.values()) == shards
    assert max(wanted.values()) - min(wanted.values()) <= 1


def balanced_is_left_alone(sizes: list[int], names: list[str]) -> bool:
    """Whether a pool moves nothing in which worker i holds `sizes[i]` shards."""
    shards, start, plans = sum(sizes), 0, []
    for name, size in zip(names, sizes, strict=True):
        others = {other: count for other, count in zip(names, sizes, strict=True) if other != name}
        held = range(start, start + size)
        plans.append(share_out(name, held, (), (), others, shards, random.Random(1)))
        start += size
    return all((plan.drain, plan.take) == (frozenset(), 0) for plan in plans)


even = st.tuples(st.integers(1, 64), st.permutations(NAMES), st.integers(1, len(NAMES))).map(
    lambda one: ([one[0] // one[2] + (i < one[0] % one[2]) for i in range(one[2])], one[1][: one[2]])
)


@given(even)
def test_a_balanced_pool_moves_nothing(pool: tuple[list[int], list[str]]) -> None:
    """Whichever of the workers hold one more than the others."""
    assert balanced_is_left_alone(*pool)


def test_a_rank_by_name_alone_would_move_what_is_balanced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug that this law is there to catch."""
    ours = module.targets
    monkeypatch.setattr(module, "targets", lambda held, shards: ours(dict.fromkeys(held, 0), shards))
    assert balanced_is_left_alone([3, 2], ["a", "b"])
    assert not balanced_is_left_alone([3, 2], ["b", "a"])


@given(
    st.sets(st.integers(0, 63)), st.data(), st.dictionaries(st.sampled_from(NAMES[1:]), st.integers(0, 64)),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_a_worker_keeps_its_target_whatever_it_is_told(
    held: set[int], data: st.DataObject, others: dict[str, int], rng: random.Random
) -> None:
    """It gives back no more than its surplus, nothing pinned that it did not give before, and never does both."""
    some = st.sets(st.sampled_from(sorted(held))) if held else st.just(set[int]())
    draining, pinned = data.draw(some), data.draw(some)
    plan = share_out("a", held, draining, pinned, others, 64, rng)
    surplus = max(0, len(held) - plan.target)
    assert plan.drain <= held
    assert len(plan.drain) == min(surplus, max(len(draining & held), len((held - pinned) | draining)))
    assert not (plan.drain - draining) & pinned
    assert not plan.drain or not draining - plan.drain or len(plan.drain) < len(draining)
    assert plan.take == max(0, plan.target - len(held))
    assert not (plan.take and plan.drain)
    assert plan.line == -1 or not (held or plan.target)


def test_a_worker_is_counted_while_its_heartbeat_changes() -> None:
    """Not one that is gone or leaves, nor one that died before the server's clock was set back."""
    others = Others()
    ghost, gone = Worker("ghost", 0.0, gone=False, at=9_000.0), Worker("gone", 99.0, gone=True, at=1.0)
    leaves = Worker("leaves", 0.0, gone=False, at=50.0, leaving=True)
    for now in range(100, 140):
        live = Worker("live", 0.0, gone=False, at=float(now - 50 - now % 3))
        counted = [one.name for one in others.live([ghost, gone, live, leaves], float(now))]
        assert counted == (["ghost", "live"] if now < 100 + LIVE_SECONDS else ["live"])


@dataclass
class Pool:
    """Workers and leases; each worker knows of the others what it heard last."""

    shards: int
    rng: random.Random
    holder: dict[int, str] = field(default_factory=dict)
    draining: dict[str, set[int]] = field(default_factory=dict)
    views: dict[str, dict[str, int]] = field(default_factory=dict)
    moves: int = 0

    def join(self, name: str) -> None:
        """A worker starts."""
        self.draining.setdefault(name, set())
        self.views.setdefault(name, {})

    def leave(self, name: str) -> None:
        """A worker ends in good order, or is dead and its leases are over."""
        self.draining.pop(name, None)
        self.views.pop(name, None)
        self.holder = {shard: holder for shard, holder in self.holder.items() if holder != name}

    def held(self, name: str) -> set[int]:
        """The shards of a worker."""
        return {shard for shard, holder in self.holder.items() if holder == name}

    def hear(self, name: str) -> None:
        """A worker reads the heartbeats."""
        counts = Counter(self.holder.values())
        self.views[name] = {other: counts[other] for other in self.draining if other != name}

    def act(self, name: str, *, settle: bool = True) -> None:
        """A worker does as it is to, by what it heard last; `settle`: what it gives back is settled now."""
        held, drain = self.held(name), self.draining[name]
        plan = share_out(name, held, drain, (), self.views[name], self.shards, self.rng)
        self.draining[name] = set(plan.drain)
        free = [shard for shard in range(self.shards) if shard not in self.holder]
        for shard in self.rng.sample(free, min(len(free), plan.take)):
            self.holder[shard] = name
            self.moves += 1
        if settle:
            for shard in plan.drain:
                del self.holder[shard]
            self.draining[name] = set()

    def round(self) -> None:
        """Every worker hears and acts, in any order."""
        for name in self.rng.sample(sorted(self.draining), len(self.draining)):
            self.hear(name)
            self.act(name)

    def is_balanced(self) -> bool:
        """Whether every shard is held, and as evenly as can be."""
        counts = [len(self.held(name)) for name in self.draining]
        return sum(counts) == self.shards and max(counts) - min(counts) <= 1


def do(pool: Pool, deed: str, name: str) -> None:
    """One thing happens in the pool."""
    known: Mapping[str, Callable[[], None]] = {
        "join": lambda: pool.join(name),
        "leave": lambda: pool.leave(name),
        "hear": lambda: pool.hear(name),
        "act": lambda: pool.act(name),
        "act, and settle later": lambda: pool.act(name, settle=False),
        "round": pool.round,
    }
    if deed in {"join", "leave", "round"} or name in pool.draining:
        known[deed]()


deeds = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "hear", "act", "act, and settle later", "round"]), st.sampled_from(NAMES)
    ),
    max_size=40,
)


@given(deeds, st.integers(1, 40), st.randoms(use_true_random=False))
def test_any_history_ends_balanced(history: list[tuple[str, str]], shards: int, rng: random.Random) -> None:
    """Joins, leaves, deaths and stale views in any order: a few rounds later all is even, and then nothing moves."""
    pool = Pool(shards, rng)
    for deed, name in history:
        do(pool, deed, name)
    pool.join("a")
    for _ in range(6):
        pool.round()
    assert pool.is_balanced(), {name: len(pool.held(name)) for name in pool.draining}
    before = dict(pool.holder)
    pool.round()
    assert pool.holder == before


@pytest.mark.parametrize(("shards", "workers"), [(16, 1), (64, 3), (64, 7), (16, 20)])
def test_a_join_moves_what_it_must(shards: int, workers: int) -> None:
    """The newcomer gets its share, and no shard changes hands twice."""
    pool = Pool(shards, random.Random(7))
    for number in range(workers):
        pool.join(f"w{number}")
        pool.round()
    for _ in range(4):
        pool.round()
    assert pool.is_balanced()
    pool.moves = 0
    pool.join("newcomer")
    for _ in range(3):
        pool.round()
    assert pool.is_balanced()
    assert len(pool.held("newcomer")) in {shards // (workers + 1), shards // (workers + 1) + 1}
    assert pool.moves <= len(pool.held("newcomer")) + 1


@pytest.mark.parametrize(("before", "after", "moves"), [(1, 256, 255), (128, 256, 128), (256, 255, 1)])
def test_256_workers_share_256_shards(before: int, after: int, moves: int) -> None:
    """However many join or leave at once, two rounds of each worker are enough, and no shard moves that need not."""
    pool = Pool(256, random.Random(7))
    for number in range(before):
        pool.join(f"w{number:03}")
    for _ in range(3):
        pool.round()
    assert pool.is_balanced()
    pool.moves = 0
    for number in range(before, after):
        pool.join(f"w{number:03}")
    for number in range(after, before):
        pool.leave(f"w{number:03}")
    for _ in range(2):
        pool.round()
    assert pool.is_balanced()
    assert pool.moves == moves
