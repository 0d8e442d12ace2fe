"""Whatever stands in any key of a queue, a command ends by the contract, and a worker's calls say what is wrong."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

import junk
from fuzzing import fuzzed
from junk import KEYS, QUEUE, RUN, SHARDS, WORKER, Stage
from mutants import VALUES, mutated
from upsertq.contract.errors import UpsertqError
from upsertq.contract.queue import QueueShape
from upsertq.contract.server import AsyncServer
from upsertq_worker.queue.protocols import START
from upsertq_worker.queue.redis_queue import RedisQueue

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from servers import RealServer

COMMANDS: Final = (
    ("status", "--json"),
    ("status", "--run", RUN),
    ("wait", "--timeout", "0"),
    ("audit", "--json"),
    ("dead", "list"),
    ("dead", "list", "--json"),
    ("dead", "export", "-"),
    ("dead", "replay", "--yes"),
    ("dead", "discard", "--yes"),
    ("pause",),
    ("resume",),
)
FIELDS: Final = st.sampled_from(
    [
        *(*junk.COUNTERS, *junk.FIGURES, *junk.OF_HOLDERS, "format", "shards", "state", "dimension"),
        *("created", RUN, WORKER, "f", "queue", "namespace:n", "n\0x0", "\0p0"),
    ]
)
NAMES: Final = VALUES | st.sampled_from([b"", b"n", b"other", b"\0", b"\xff"])
"""Namespaces: such as there are, and others."""


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[str | bytes, ...]]:
    """Commands that damage one or two keys."""
    done: list[tuple[str | bytes, ...]] = []
    for key, kind in draw(st.lists(st.sampled_from(sorted(junk.all_keys().items())), min_size=1, max_size=2)):
        if draw(st.integers(0, 5)) == 0:
            done += [("DEL", key), *draw(st.sampled_from([(("SET", key, "x"),), (("RPUSH", key, "x"),), ()]))]
        elif kind == "hash":
            done.append(("HSET", key, draw(FIELDS | st.binary(max_size=12)), draw(VALUES)))
        elif kind == "set":
            done.append(("SADD", key, draw(VALUES)))
        elif kind == "string":
            done.append(("SET", key, draw(VALUES | VALUES.map(lambda value: value + b":me"))))
        elif kind == "set":
            done.append((draw(st.sampled_from(["SADD", "SREM"])), key, draw(NAMES)))
        elif key.endswith("bell"):
            done.append(("XADD", key, "*", draw(st.sampled_from(["ns", "junk"])), draw(NAMES)))
        else:
            sound = {"dead": junk.LETTER, "bell": {"ns": b"n"}}.get(key.rpartition(":")[2], junk.ENTRY)
            fields = draw(mutated(sound))
            if fields:
                done.append(("XADD", key, "*", *(part for item in fields.items() for part in item)))
    return done


def worker_step(stage: Stage) -> None:
    """Lease, read and look around as a worker does: what fails does so by name."""

    async def tried(call: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await call()
        except UpsertqError as error:
            assert len(str(error)) < 1_000  # noqa: PT017 - any of them may fail, each in one line
            assert str(error).isprintable()  # noqa: PT017

    async def step() -> None:
        server = AsyncServer.at(stage.server.url)
        queue = RedisQueue(server, QueueShape(QUEUE, SHARDS, 4, stage.incarnation), "me", 1.0)
        held = dict.fromkeys(range(SHARDS), 0)
        grants = await tried(lambda: queue.lease(held, take=True)) or ()
        assert all(len(grant.fault) < 1_000 and grant.fault.isprintable() for grant in grants)
        held |= {grant.shard: grant.epoch for grant in grants}
        lists = await tried(lambda: queue.lanes(list(held))) or {}
        cursors = {(shard, name): START for shard, lanes in lists.items() for name in lanes.namespaces}
        bells = {shard: lanes.place for shard, lanes in lists.items()}
        await tried(lambda: queue.read(cursors, bells, 5, 0.001))
        for call in (
            queue.pauses,
            queue.books,
            lambda: queue.counted(list(held)),
            lambda: queue.streams(0),
            lambda: queue.mark(held, {0: junk.MARK}),
            lambda: queue.beat({"name": "me"}),
            lambda: queue.release(held, {}),
            queue.leave,
        ):
            await tried(call)
        await server.close()

    asyncio.run(step())


@pytest.mark.timeout(600)
def test_a_command_ends_well(redis_server: RealServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One or two keys are damaged, then one command runs, and a worker's step."""
    monkeypatch.setenv("UPSERTQ_REDIS_URL", redis_server.url)
    stage = Stage(redis_server)

    @fuzzed(examples=1_500)
    @given(damages(), st.sampled_from(COMMANDS))
    def tried(damage: list[tuple[str | bytes, ...]], command: tuple[str, ...]) -> None:
        stage.reset()
        for line in damage:
            try:
                stage.client.execute_command(*line)  # type: ignore[no-untyped-call]
            except stage.refused:
                continue  # the second damage did not fit what the first left
        junk.check([*command, "--queue", QUEUE], repr(damage))
        worker_step(stage)

    tried()
    assert KEYS.queue == QUEUE
    stage.close()
