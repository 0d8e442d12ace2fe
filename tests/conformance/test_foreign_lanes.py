"""A lane that another program made, whatever its name, stops nothing that looks at the queue, and is told as text."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import orjson
import pytest

from upsertq import AsyncServer, Producer, Server
from upsertq.admin.audit import audit
from upsertq.admin.status import look
from upsertq.client.held import check_held
from upsertq.contract.circumstances import Circumstances
from upsertq.contract.keys import QueueKeys
from upsertq.contract.queue import find_queue

if TYPE_CHECKING:
    from servers import RealServer

KEYS = QueueKeys("q")
SHARD = KEYS.shard(0)
WORLD = Circumstances(time.monotonic, time.time)
LANES = [(b"\x80", "\\x80"), ("é\U0001f600".encode(), "é\U0001f600"), (b"a b", "a b")]


@pytest.mark.parametrize(("lane", "told"), LANES)
def test_it_is_looked_at(any_server: RealServer, lane: bytes, told: str) -> None:
    """Over a URL, by which redis-py packs commands as in the field."""
    server = Server.at(any_server.url)
    with Producer("q", url=Server.at(any_server.url), shards=1) as producer:
        producer.put("a", [1.0])
    with any_server.client() as client:
        client.sadd(SHARD.lanes, lane)
        client.xadd(SHARD.stream("").encode() + lane, {"n": 2, "ids": '["x","y"]'})
    patience = WORLD.patience(0)
    shape = server.hold(find_queue(KEYS, patience))
    report = server.hold(audit(KEYS, shape, patience))
    assert (report.entries, report.records) == (2, 3)
    standing = server.hold(look(KEYS, shape, "", patience))
    assert (told, 1) in standing.backlog.largest
    assert orjson.dumps(standing.backlog.largest)
    server.hold(check_held(KEYS, shape, patience))
    server.close()


@pytest.mark.parametrize(("lane", "told"), LANES)
async def test_it_is_looked_at_asynchronously(any_server: RealServer, lane: bytes, told: str) -> None:
    """The same by the other driver."""
    with any_server.client() as client, Producer("q", url=Server.at(any_server.url), shards=1) as producer:
        producer.put("a", [1.0])
        producer.flush()
        client.sadd(SHARD.lanes, lane)
        client.xadd(SHARD.stream("").encode() + lane, {"n": 2, "ids": '["x","y"]'})
    server = AsyncServer.at(any_server.url)
    patience = WORLD.patience(0)
    shape = await server.hold(find_queue(KEYS, patience))
    assert (await server.hold(audit(KEYS, shape, patience))).entries == 2
    standing = await server.hold(look(KEYS, shape, "", patience))
    assert (told, 1) in standing.backlog.largest
    await server.close()
