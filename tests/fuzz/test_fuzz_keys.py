"""Whatever stands in any key of a queue, a command ends by the contract, and a worker's calls say what is wrong."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from upsertq_worker.stream import RedisQueue

import junk
from fuzzing import fuzzed
from junk import KEYS, QUEUE, RUN, SHARDS, WORKER, Stage
from mutants import VALUES, mutated
from upsertq.contract.errors import UpsertqError
from upsertq.contract.queue import QueueShape
from upsertq.contract.server import AsyncServer

if TYPE_CHECKING:
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
        *(*junk.COUNTERS, *junk.FIGURES, "format", "shards", "dimension", "created", RUN, WORKER, "f", "queue"),
        *("namespace:n", "n\0x0", "\0p0", "1-1"),
    ]
)


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[str | bytes, ...]]:
    """Commands that damage one or two keys."""
    done: list[tuple[str | bytes, ...]] = []
    for key, kind in draw(st.lists(st.sampled_from(sorted(junk.all_keys().items())), min_size=1, max_size=2)):
        if draw(st.integers(0, 5)) == 0:
            done += [("DEL", key), *draw(st.sampled_from([(("SET", key, "x"),), (("RPUSH", key, "x"),), ()]))]
        elif kind == "hash":
            done.append(("HSET", key, draw(FIELDS | st.binary(max_size=12)), draw(VALUES)))
        elif kind == "string":
            done.append(("SET", key, draw(VALUES | VALUES.map(lambda value: value + b":me"))))
        else:
            fields = draw(mutated(junk.LETTER if key.endswith("dead") else junk.ENTRY))
            if fields:
                done.append(("XADD", key, "*", *(part for item in fields.items() for part in item)))
    return done


def worker_step(url: str) -> None:
    """Lease, read and look around as a worker does: what fails does so by name."""

    async def step() -> None:
        server = AsyncServer.at(url)
        queue = RedisQueue(server, QueueShape(QUEUE, SHARDS, 4), "me", 1.0)
        held = dict.fromkeys(range(SHARDS), 0)
        for call in (
            lambda: queue.lease(held, take=True),
            queue.pauses,
            queue.books,
            lambda: queue.marks(list(held)),
            lambda: queue.read(dict.fromkeys(held, ">"), 5, 0.001),
            lambda: queue.backlog(list(held)),
            queue.leave,
        ):
            try:
                await call()
            except UpsertqError as error:
                assert len(str(error)) < 1_000  # noqa: PT017 - any of them may fail, each in one line
        await server.close()

    asyncio.run(step())


@pytest.mark.timeout(600)
def test_a_command_ends_well(redis_server: RealServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One or two keys are damaged, then one command runs, and a worker's step."""
    monkeypatch.setenv("UPSERTQ_REDIS_URL", redis_server.url)
    stage = Stage(redis_server)

    @fuzzed(examples=600)
    @given(damages(), st.sampled_from(COMMANDS))
    def tried(damage: list[tuple[str | bytes, ...]], command: tuple[str, ...]) -> None:
        stage.reset()
        for line in damage:
            try:
                stage.client.execute_command(*line)  # type: ignore[no-untyped-call]
            except stage.refused:
                continue  # the second damage did not fit what the first left
        junk.check([*command, "--queue", QUEUE], repr(damage))
        worker_step(redis_server.url)

    tried()
    assert KEYS.queue == QUEUE
    stage.close()
