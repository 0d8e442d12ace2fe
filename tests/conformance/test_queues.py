"""What a queue and its runs are on every server: fixed at creation, found again, refused where they are not ours."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from upsertq.contract import queue, runs
from upsertq.contract.errors import NotFound, QueueLost, QueueMismatch, ServerRefused, UsageError
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Patience
from upsertq.contract.wire import FORMAT

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Backend
    from upsertq.contract.server import Server

KEYS = QueueKeys("q")
SHARDS = 4


def no_patience() -> Patience:
    """Return a patience that is over at once."""
    return Patience(0, lambda: 0.0, random.Random(1))


def find() -> Any:
    """Return the conversation that finds the queue."""
    return queue.find_queue(KEYS, no_patience())


def test_the_number_of_shards_is_fixed_at_creation(backend: Backend, server: Server) -> None:
    """A producer that comes later finds the first one's number, and is refused when asking for another."""
    assert server.hold(queue.open_queue(KEYS, 2, 5, no_patience())).shards == 2
    assert server.hold(queue.open_queue(KEYS, None, 6, no_patience())).shards == 2
    assert server.hold(queue.open_queue(KEYS, 2, 6, no_patience())).shards == 2
    with pytest.raises(QueueMismatch, match="has 2 shards, not 4"):
        server.hold(queue.open_queue(KEYS, 4, 6, no_patience()))
    assert backend.sync.hget(KEYS.meta, "created") == b"5"
    assert server.hold(queue.open_queue(QueueKeys("new"), None, 0, no_patience())).shards == queue.DEFAULT_SHARDS


@pytest.mark.parametrize("shards", [0, -1, 3, 1023, 2048, 1.5, True])
def test_an_impossible_number_of_shards(backend: Backend, server: Server, shards: int) -> None:
    """A queue has a power of two of shards, 1,024 at most; where something else is asked for, nothing is created."""
    with pytest.raises(UsageError, match="choose a power of two from 1 to 1024"):
        server.hold(queue.open_queue(KEYS, shards, 0, no_patience()))
    assert not backend.sync.exists(KEYS.meta)


SOUND = {"format": str(FORMAT), "incarnation": "i", "shards": "8", "state": "ready"}


@pytest.mark.parametrize(
    ("meta", "cure"),
    [
        ({"format": str(FORMAT + 1), "shards": "8"}, "upgrade upsertq"),
        ({"format": "1", "shards": "8", "created": "5"}, "drain it with the version of upsertq that made it"),
        ({"format": "0", "shards": "8"}, "choose another queue name"),
        ({"shards": "8"}, "choose another queue name"),
        (SOUND | {"shards": "many"}, "choose another queue name"),
        (SOUND | {"dimension": "wide"}, "choose another queue name"),
        (SOUND | {"state": "odd"}, "choose another queue name"),
        (SOUND | {"incarnation": ""}, "choose another queue name"),
    ],
)
@pytest.mark.parametrize("way", [lambda: queue.open_queue(KEYS, None, 0, no_patience()), find])
def test_a_foreign_or_newer_queue_is_refused(
    backend: Backend, server: Server, meta: dict[Any, Any], cure: str, way: Callable[[], Any]
) -> None:
    """A queue of another format is neither read nor changed."""
    backend.sync.hset(KEYS.meta, mapping=meta)
    with pytest.raises(QueueMismatch, match=cure):
        server.hold(way())
    assert backend.sync.hgetall(KEYS.meta) == {k.encode(): v.encode() for k, v in meta.items()}
    assert backend.sync.dbsize() == 1


def test_finding_creates_nothing(backend: Backend, server: Server) -> None:
    """A mistyped queue or run is `NotFound` and leaves no key behind."""
    with pytest.raises(NotFound, match="no queue 'q'"):
        server.hold(find())
    assert backend.sync.dbsize() == 0
    shape = server.hold(queue.open_queue(KEYS, SHARDS, 0, no_patience()))
    with pytest.raises(NotFound, match="no run 'r'"):
        server.hold(runs.find_run(KEYS, shape, "r", no_patience()))
    assert backend.sync.dbsize() == 1 + SHARDS


def test_the_first_claim_of_the_dimension_holds(backend: Backend, server: Server) -> None:
    """Of several producers with different dimensions one wins, and all learn which; a queue that is gone has none."""
    shape = server.hold(queue.open_queue(KEYS, None, 0, no_patience()))
    assert server.hold(queue.claim_dimension(KEYS, shape, 3, no_patience())) == 3
    assert server.hold(queue.claim_dimension(KEYS, shape, 4, no_patience())) == 3
    assert server.hold(find()).dimension == 3
    backend.sync.flushall()
    with pytest.raises(QueueLost, match="meta"):
        server.hold(queue.claim_dimension(KEYS, shape, 3, no_patience()))
    assert backend.sync.dbsize() == 0


def test_a_run_is_begun_sealed_and_opened_again(backend: Backend, server: Server) -> None:
    """It keeps its first time; it is sealed by the server's time; to begin it opens it; a lost queue has no runs."""
    shape = server.hold(queue.open_queue(KEYS, None, 0, no_patience()))

    def register(now: int) -> runs.RunState:
        return server.hold(runs.register_run(KEYS, shape, "r", now, no_patience()))

    def seal(now: int) -> runs.RunState:
        return server.hold(runs.seal_run(KEYS, shape, "r", now, no_patience()))

    def now() -> int:
        told: Any = backend.sync.time()
        return int(told[0] * 1000 + told[1] // 1000)

    assert register(5) == register(9) == runs.RunState(5, None)
    assert server.hold(runs.find_run(KEYS, shape, "r", no_patience())) == runs.RunState(5, None)
    before = now()
    first, second = seal(10), seal(11)
    assert first.sealed is not None
    assert second.sealed is not None
    assert before <= first.sealed <= second.sealed <= now()
    assert (first.begun, first.records) == (5, 0)
    assert server.hold(runs.find_run(KEYS, shape, "r", no_patience())) == second
    assert register(12) == runs.RunState(5, None)
    assert seal(13).sealed is not None
    backend.sync.flushall()
    for act in (register, seal):
        with pytest.raises(QueueLost):
            act(14)
    assert backend.sync.dbsize() == 0


@pytest.mark.parametrize("noted", ["", "7", "[]", '{"begun":"x","sealed":null}', '{"begun":1,"sealed":1.5}', "{"])
def test_a_run_that_cannot_be_read(backend: Backend, server: Server, noted: str) -> None:
    """It is named, and nothing else happens."""
    shape = server.hold(queue.open_queue(KEYS, SHARDS, 0, no_patience()))
    backend.sync.hset(KEYS.runs, "r", noted)
    with pytest.raises(ServerRefused, match="run 'r'"):
        server.hold(runs.find_run(KEYS, shape, "r", no_patience()))
