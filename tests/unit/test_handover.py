"""What is given back is let go when nothing of it is under way, and not before."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from upsertq.contract.wire import Entry
from upsertq_worker.context import Context
from upsertq_worker.events import Events
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import Fate
from upsertq_worker.pool.handover import Handover
from upsertq_worker.queue.lease import Leases
from upsertq_worker.queue.protocols import Grant
from upsertq_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upsertq_worker.ordering.model import Held, Item

QUARANTINE = 5.0
HANDOVER = 30.0


@dataclass
class Stage:
    """A worker that holds shards 0 and 1, and what was read of them."""

    now: float = 100.0
    busy: set[int] = field(default_factory=set)
    shut: set[str] = field(default_factory=set)
    gone: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hold = Hold(QUARANTINE)
        self.leases = Leases(10.0, QUARANTINE)
        self.leases.granted([Grant(0, 3), Grant(1, 4, clean=False, deaths=1)], self.now, self.now)
        settings = Settings(quarantine=QUARANTINE, handover=HANDOVER)
        context = Context("w", 2, settings, lambda: self.now, lambda: self.now, random.Random(1), Events())
        busy, shut = self.busy.__contains__, self.shut.__contains__
        self.handover = Handover(context, self.leases, self.hold, busy, shut, self._forget)

    def _forget(self, shards: Sequence[int]) -> None:
        self.gone += shards
        for shard in shards:
            self.hold.drop(shard, self.now)

    def read(self, number: int, *ids: str, shard: int = 0, namespace: str = "n") -> Held:
        """An entry comes in."""
        return self.hold.admit(shard, f"{number}-0", Entry(namespace, ids, 1, bytes(4 * len(ids))), self.now)

    def in_line(self, namespace: str = "n") -> int:
        """Records that may be sent."""
        return self.hold.ready.lanes[namespace].records

    def take(self, namespace: str = "n", room: int = 100) -> Item:
        """Send what is first in line."""
        item = self.hold.ready.take(self.hold.ready.lanes[namespace], self.now, room)
        assert item is not None
        return item


def test_nothing_new_is_sent_of_it_until_it_stays() -> None:
    """Of the other shard it is; what is read late is not; and all is, once the shard need not be given back."""
    stage = Stage()
    stage.read(1, "a", "b")
    stage.read(2, "x", shard=1)
    assert stage.handover.follow({0})
    assert not stage.handover.follow({0})
    stage.read(3, "b", "c")
    assert stage.in_line() == 1
    assert stage.handover.follow(())
    assert stage.in_line() == 4, "of the two versions of b the newer one goes"
    assert stage.handover.let_go() == []


def test_what_was_begun_is_sent_to_its_end_first() -> None:
    """One record of an entry was acknowledged or is in flight: the rest of it goes, other entries do not."""
    stage = Stage()
    for number, name in enumerate("abc"):
        stage.hold.take_apart(stage.read(number + 1, name, f"{name}2"), stage.now)
    landed, flying, _ = (list(held.versions or ()) for held in stage.hold.entries.of(0))
    assert stage.hold.ready.take_version(landed[0], stage.now)
    stage.hold.finish(landed[0], Fate.ACKED, stage.now)
    assert stage.hold.ready.take_version(flying[0], stage.now)
    stage.handover.follow({0})
    assert stage.in_line() == 2
    assert stage.handover.let_go() == []
    for _ in range(2):
        version = stage.take()
        assert version in {landed[1], flying[1]}
        stage.hold.finish(version, Fate.ACKED, stage.now)
    stage.hold.finish(flying[0], Fate.ACKED, stage.now)
    assert [one.stream_id for one in stage.hold.settlements] == ["1-0", "2-0"]
    assert stage.handover.let_go() == [0]
    assert stage.gone == [0]
    assert stage.handover.owed() == ({0: 3}, {0: 0.0})


def test_what_shares_an_id_with_what_was_begun_is_finished_too() -> None:
    """It is settled together with it: else the successor could send an older version over an acknowledged one."""
    stage = Stage()
    stage.read(1, "a", "b")
    stage.read(2, "a", "c")
    stage.read(3, "b")
    stage.read(4, "z")
    (newer,) = (version for version in stage.hold.entries.of(0)[1].versions or () if version.id == "a")
    assert stage.hold.ready.take_version(newer, stage.now)
    stage.handover.follow({0})
    assert sorted(stage.take().id for _ in range(stage.in_line())) == ["b", "c"]  # type: ignore[union-attr]


def test_what_is_begun_and_must_wait_keeps_no_shard() -> None:
    """A lane that is paused, as for a wrong key, may be so for days."""
    stage = Stage()
    first, _ = stage.hold.take_apart(stage.read(1, "a", "b"), stage.now)
    stage.hold.ready.take_version(first, stage.now)
    stage.hold.put_back(first, stage.now)
    stage.hold.ready.take_version(first, stage.now)
    stage.handover.follow({0})
    stage.hold.put_back(first, stage.now)
    assert stage.handover.let_go() == []
    stage.shut.add("n")
    assert stage.handover.let_go() == [0]


def test_a_lost_answer_keeps_the_lease_until_its_quarantine_is_over() -> None:
    """The successor starts without one."""
    stage = Stage()
    stage.read(1, "a")
    item = stage.take()
    stage.hold.lost(item, stage.now)
    stage.hold.put_back(item, stage.now)
    stage.handover.follow({0})
    assert stage.handover.let_go() == [0]
    stage.now += 2
    assert stage.handover.owed() == ({0: 3}, {0: QUARANTINE - 2})
    stage.now += QUARANTINE
    assert stage.handover.owed() == ({0: 3}, {0: 0.0})


def test_what_takes_too_long_is_given_up_and_may_take_effect_for_a_quarantine() -> None:
    """As an answer that was lost."""
    stage = Stage()
    stage.busy.add(0)
    stage.handover.follow({0})
    stage.now += HANDOVER - 1
    assert stage.handover.let_go() == []
    stage.now += 1
    assert stage.handover.let_go() == [0]
    assert stage.handover.owed() == ({0: 3}, {0: QUARANTINE})
    assert stage.leases.epochs == {1: 4}
    assert stage.leases.draining == {}


def test_the_quarantine_of_a_dead_holder_outlasts_a_handover() -> None:
    """Its requests may travel although nothing of the shard was read here."""
    stage = Stage()
    stage.handover.follow({1})
    stage.now += 1
    assert stage.handover.let_go() == [1]
    assert stage.handover.owed() == ({1: 4}, {1: QUARANTINE - 1})
