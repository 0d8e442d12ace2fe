"""What is told of dead letters without reading them agrees with reading them, and is not told where they disagree."""

from __future__ import annotations

import time
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import buried
from buried import refused
from upsertq import Producer, Server
from upsertq.contract.circumstances import Circumstances
from upsertq.contract.dead_letter import Reason
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Ask
from upsertq.dead import finding as dead
from upsertq.dead import known as dead_known
from upsertq.dead.choice import Choice, Selector

if TYPE_CHECKING:
    from conftest import Backend
    from upsertq.contract.dead_letter import Verdict
    from upsertq.contract.protocol import Conversation

KEYS = QueueKeys("q")
SHARDS = 4
WORLD = Circumstances(time.monotonic, time.time)
ODD = "*?[x]\\"


def patience() -> Any:
    """A short patience."""
    return WORLD.patience(5)


def verdict(name: str) -> Verdict | None:
    """Kill by the first letter of the id."""
    kinds = {"x": Reason.REFUSED, "y": Reason.TOO_LARGE, "z": Reason.CRASH_LOOP, "*": Reason.REFUSED}
    return refused("no", kinds[name[0]]) if name[0] in kinds else None


class Counting:
    """A server of which the commands are counted by name."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.asked: list[str] = []

    def hold(self, conversation: Conversation[Any]) -> Any:
        """Hold a conversation."""

        def listened() -> Any:
            reply: list[Any] | None = None
            while True:
                try:
                    effect = conversation.send(reply)  # type: ignore[arg-type]
                except StopIteration as stop:
                    return stop.value
                if isinstance(effect, Ask):
                    self.asked += [str(command[0]) for command in effect.commands]
                reply = yield effect

        return self._server.hold(listened())


@pytest.fixture
def server(backend: Backend) -> Counting:
    """Provide a queue in which records of two namespaces and two runs died."""
    server = Server(backend.sync)
    with Producer("q", url=server, shards=SHARDS) as producer:
        for run, namespace in product(("a", "b"), ("", "n")):
            ids = [*(f"{kind}{number}" for kind in "xyzg" for number in range(5)), ODD]
            producer.put_many(ids, np.ones((len(ids), 4)), namespace=namespace, run=run)
    buried.settle(server, backend.sync, verdict, shards=SHARDS)
    return Counting(server)


SELECTORS = [
    Selector(reasons=frozenset(reasons), runs=frozenset(runs), ids=frozenset(ids), namespaces=frozenset(namespaces))
    for reasons, runs, ids, namespaces in product(
        ([], [Reason.REFUSED], [Reason.TOO_LARGE, Reason.SHORT_ACK]),
        ([], ["a"], ["a", "b"], ["absent"]),
        ([], ["x1"], ["x1", "y2", "nobody"], [ODD]),
        ([], ["n"], ["", "other"]),
    )
]


def test_what_is_known_agrees_with_what_is_read(server: Counting) -> None:
    """Counts, lists and plans are the same as those of reading everything, with and without a limit."""
    everything = list(dead.walk(server.hold, KEYS, SHARDS, patience))
    assert len(everything) == 64
    for at, selector in enumerate(SELECTORS):
        expected = [head.dead_id for head in everything if selector.takes(head)]
        heads = list(dead.walk(server.hold, KEYS, SHARDS, patience, selector=selector))
        assert [head.dead_id for head in heads] == expected, selector
        for limit in (None, (1, 3, 1_000)[at % 3]):
            plan = server.hold(dead.make_plan(KEYS, SHARDS, selector, limit, patience))
            assert sorted(f"{pick.shard}:{pick.stream_id}" for pick in plan.picks) == sorted(expected[:limit])
            count = server.hold(dead.count(KEYS, SHARDS, selector, limit, patience))
            assert count.by_reason == plan.count.by_reason, (selector, limit)


def test_what_is_known_is_not_read(server: Counting, backend: Backend) -> None:
    """Counts by reason and run take no letter; an id takes its own letters alone; a limit takes little more."""
    server.hold(dead.count(KEYS, SHARDS, Selector(reasons=frozenset({Reason.REFUSED})), None, patience))
    server.hold(dead.count(KEYS, SHARDS, Selector(runs=frozenset({"a"})), None, patience))
    assert {*server.asked} == {"XLEN", "HMGET"}
    server.asked.clear()
    for namespaces in (frozenset[str](), frozenset({"n"})):
        selector = Selector(ids=frozenset({"x1"}), namespaces=namespaces)
        found = server.hold(Choice(KEYS, SHARDS, selector).more(patience()))
        assert len(found) == (2 if namespaces else 4)
    assert server.asked.count("EVALSHA") == 2 + 4
    backend.sync.flushall()
    buried.bury_many(backend.sync, [f"i{i}" for i in range(2_000)], shards=SHARDS)
    read: list[int] = []
    choice = Choice(KEYS, SHARDS, Selector(), 4)
    heard = choice.more(patience())
    effect = next(heard)
    assert isinstance(effect, Ask)
    read += [int(command[-1]) for command in effect.commands]
    assert sum(read) <= 16


@pytest.mark.parametrize("damage", ["letter", "books", "run", "reason"])
def test_books_that_differ_tell_nothing(server: Counting, backend: Backend, damage: str) -> None:
    """Where the books and the letters differ the letters are counted."""
    selector = Selector(runs=frozenset({"a"}))
    before = server.hold(dead.count(KEYS, SHARDS, selector, None, patience)).by_reason
    shard = KEYS.shard(0)
    changes: dict[str, Any] = {
        "letter": lambda: backend.sync.xadd(shard.dead, {"v": 9, "reason": "refused"}),
        "books": lambda: backend.sync.hset(shard.books, "dead", "junk"),
        "run": lambda: backend.sync.hincrby(shard.run("a"), "reason:refused", 1),
        "reason": lambda: backend.sync.hset(shard.books, "reason:refused", -3),
    }
    changes[damage]()
    assert server.hold(dead_known.booked(KEYS, SHARDS, (), ("a",), patience())) is None
    count = server.hold(dead.count(KEYS, SHARDS, selector, None, patience))
    assert (count.by_reason, count.unreadable) == (before, damage == "letter")
