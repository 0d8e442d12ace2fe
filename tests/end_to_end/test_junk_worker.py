"""A worker on junk: what is not essential stops nothing, what is essential its shard alone, with an alarm."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import orjson
import pytest

import buried
import junk
from fuzzing import sampled
from junk import KEYS, QUEUE, SHARDS, Stage
from upsertq.contract.errors import QueueLost
from upsertq.contract.queue import QueueShape
from upsertq.contract.server import AsyncServer
from upsertq_worker.delivery.response import Answer
from upsertq_worker.queue.redis_queue import RedisQueue
from upsertq_worker.settings import BatchLimits, Settings
from upsertq_worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from junk import Damage
    from servers import RealServer
    from upsertq_worker.delivery.encoder import Body
    from upsertq_worker.delivery.response import TransportFailure

SETTINGS: Final = Settings(
    batch=BatchLimits(linger=0.0), lease=1.0, quarantine=0.05, grace=1.0, until_empty=True, stop_after=4.0
)


class Index:
    """An index that takes everything, and remembers the ids."""

    def __init__(self) -> None:
        self.landed: set[str] = set()

    async def upsert(self, body: Body) -> Answer | TransportFailure:
        """Take a batch."""
        vectors = orjson.loads(bytes(body))["vectors"]
        self.landed |= {vector["id"] for vector in vectors}
        return Answer(200, {}, orjson.dumps({"upsertedCount": len(vectors)}))


def drain(stage: Stage, settings: Settings = SETTINGS) -> tuple[set[str], Exception | None, dict[str, str]]:
    """Let one worker drain the queue; returns what landed, what ended it, and its alarms."""

    async def work() -> tuple[set[str], Exception | None, dict[str, str]]:
        server, index = AsyncServer.at(stage.server.url), Index()
        try:
            seam = RedisQueue(server, QueueShape(QUEUE, SHARDS, 4, stage.incarnation), "me", settings.lease)
            worker = Worker("me", SHARDS, seam, index, settings)
            ended: Exception | None = None
            try:
                await worker.run()
            except Exception as error:  # noqa: BLE001 - it is what is asked for
                ended = error
            return index.landed, ended, dict(worker.report()["alarms"])
        finally:
            await server.close()

    return asyncio.run(work())


@pytest.fixture
def stage(redis_server: RealServer) -> Iterator[Stage]:
    """Provide a queue with something in every key."""
    stage = Stage(redis_server)
    yield stage
    stage.close()


def ready(stage: Stage, damage: Damage | None = None) -> tuple[set[str], set[str]]:
    """Set the queue up, without leases and other workers, and damage it; returns the ids pending in shards 0 and 1."""
    stage.reset()
    stage.client.hdel(KEYS.workers, junk.WORKER)
    ids = []
    for shard in range(SHARDS):
        stage.client.delete(KEYS.shard(shard).lease)
        entries = buried.pending(stage.client, KEYS.shard(shard))
        ids.append({name for _, fields in entries for name in orjson.loads(fields[b"ids"])})
    if damage is not None:
        damage.do(stage.client)
    return ids[0], ids[1]


PASSING: Final = (KEYS.workers, KEYS.runs, KEYS.paused, KEYS.loads)
"""What stops no worker."""


def check(stage: Stage, damage: Damage) -> None:
    """Whatever is damaged in shard 0: the other shard lands, and only a complaint that names it ends the worker."""
    here, there = ready(stage, damage)
    landed, ended, alarms = drain(stage)
    told = (damage.name, landed, ended, alarms)
    if "'incarnation'" in damage.name:
        assert isinstance(ended, QueueLost), told  # the shard is of another creation of the queue
        return
    assert there <= landed, told
    assert ended is None or type(ended).__module__.startswith("upsertq"), told
    if damage.name.startswith(PASSING):
        assert here <= landed, told
        assert ended is None, told
    if not here <= landed:
        assert alarms, told
        assert ended is not None, told
        assert any(name in str(ended) for name in (KEYS.shard(0).tag, "entry ", "shard 0")), told


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_foreign_types(stage: Stage) -> None:
    """Each key as each other type."""
    for damage in sampled(junk.foreign_types(), 0.4):
        if not damage.name.startswith(KEYS.meta):
            check(stage, damage)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(4))
def test_fields(stage: Stage, part: int) -> None:
    """Values that are none, in each field; a sample of them, all by `make fuzz`, as below."""
    for damage in sampled(junk.bad_fields(), 4.0)[part::4]:
        if not damage.name.startswith((KEYS.meta, "shards", "no ")):
            check(stage, damage)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_entries(stage: Stage) -> None:
    """An entry that cannot be read stops its lane in that shard; all else lands."""
    for damage in sampled(junk.bad_entries(), 4.0):
        here, there = ready(stage, damage)
        landed, ended, alarms = drain(stage)
        alarms.pop("namespace:m")
        told = (damage.name, landed, ended, alarms)
        assert here | there <= landed, told
        assert (ended is None) == (not alarms), told
        assert alarms or landed & {"junk", "a"} or "\\ud800" in damage.name, told
        assert all("entry " in alarm and len(alarm) < 400 for alarm in alarms.values()), told
