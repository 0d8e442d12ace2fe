"""The scripts on damaged keys, on every server: all is done or nothing, and what they let into a stream can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

import junk
from junk import KEYS, RUN, Stage
from upsertq import Server
from upsertq.client import enqueue
from upsertq.contract import queue, runs
from upsertq.contract.dead_letter import Reason, Verdict, decode_letter, encode_letter
from upsertq.contract.protocol import Failed, run_scripts
from upsertq.contract.wire import UnknownEntry, decode, one_record
from upsertq.dead import moves
from worker_scripts import LEASE, MARK, RELEASE, SETTLE, DeadRow, Settling, settle_call

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from junk import Damage
    from servers import RealServer
    from upsertq.contract.protocol import Script

SHARD: Final = KEYS.shard(0)
EPOCH: Final = "1:me"


@pytest.fixture
def stage(any_server: RealServer) -> Iterator[Stage]:
    """Provide a queue with something in every key, on every kind of server."""
    stage = Stage(any_server)
    yield stage
    stage.close()


def contents(client: redis.Redis) -> dict[bytes, Any]:
    """All that the server holds: what a script that failed must not have changed."""
    names: list[bytes] = sorted(client.keys("*"))  # type: ignore[arg-type]
    asking = client.pipeline(transaction=False)
    for name in names:
        asking.type(name)
    kinds = asking.execute()
    for name, kind in zip(names, kinds, strict=True):
        asking.execute_command(*READ[kind.decode()].replace("KEY", name.decode()).split())  # type: ignore[no-untyped-call]
    found = asking.execute()
    return {b"names": names, b"found": [sorted(one) if isinstance(one, set) else one for one in found]}


READ: Final = {
    "string": "GET KEY",
    "hash": "HGETALL KEY",
    "stream": "XRANGE KEY - +",
    "list": "LRANGE KEY 0 -1",
    "set": "SMEMBERS KEY",
    "zset": "ZRANGE KEY 0 -1 WITHSCORES",
}
Call = tuple["Script", list[str], list[Any]]
NAMES: Final = (
    "replay",
    "discard",
    "settle",
    "enqueue",
    "lease",
    "mark",
    "release",
    "create",
    "found",
    "dimension",
    "run",
)
LANE: Final = ""
"""The namespace whose stream is settled and enqueued into."""


def calls(stage: Stage) -> dict[str, Call]:
    """Each script with what it is called with; those of the worker hold the lease."""
    made = stage.incarnation
    lease = [SHARD.lease, SHARD.books]
    return {
        **_of_letters(stage),
        "settle": _settle(stage),
        "enqueue": _enqueue(stage),
        "lease": (LEASE, lease, [made, "me", 1, 9000, "1", 0]),
        "mark": (MARK, lease, [made, EPOCH, 0, junk.MARK]),
        "release": (RELEASE, lease, [made, EPOCH, 0]),
        "create": (queue.CREATE, [KEYS.meta], [made, 2, junk.SHARDS, 0, "ready"]),
        "found": (queue.FOUND, [SHARD.books], [made, "1"]),
        "dimension": (queue.DIMENSION, [KEYS.meta], [made, 4]),
        "run": (runs.RUN, [KEYS.meta, KEYS.runs], [made, "new", 5, "seal", 3]),
    }


def _of_letters(stage: Stage) -> dict[str, Call]:
    letters: Any = stage.client.xrange(SHARD.dead)
    head = [SHARD.books, SHARD.lanes, SHARD.bell, SHARD.dead, SHARD.dead_ids]
    replayed = [part for name, _ in letters for part in (name, 6, 7, "n", RUN)]
    discarded = [part for name, _ in letters for part in (name, 4, RUN)]
    books = [SHARD.books, SHARD.dead, SHARD.dead_ids, SHARD.run(RUN)]
    return {
        "replay": (
            moves.REPLAY,
            [*head, SHARD.stream("n"), SHARD.run(RUN)],
            [stage.incarnation, len(letters), *replayed],
        ),
        "discard": (moves.DISCARD, books, [stage.incarnation, *discarded]),
    }


def _settle(stage: Stage) -> Call:
    """The oldest entry of a lane is settled; its first record dies."""
    found: Any = stage.client.xrange(SHARD.stream(LANE), count=1)
    stream_id, entry = found[0][0].decode(), decode(found[0][1])
    seq = f"{stream_id}-0"
    letter = encode_letter(one_record(entry, 0, seq), Verdict(Reason.REFUSED))
    one = Settling(
        stream_id,
        LANE,
        RUN,
        len(entry.ids),
        entry.size,
        len(entry.ids) - 1,
        letters=[DeadRow(0, seq, Reason.REFUSED, letter)],
        figures=[("", "lsn:n", "7"), (RUN, "requests", 1)],
    )
    names, arguments = settle_call(SHARD, EPOCH, [one], 7)
    return SETTLE, names, [stage.incarnation, *arguments]


def _enqueue(stage: Stage) -> Call:
    """Two entries come, into a lane that has some and into a new one."""
    flat = [part for item in junk.ENTRY.items() for part in item]
    names = [SHARD.books, SHARD.lanes, SHARD.bell, SHARD.ledger("t"), SHARD.run(RUN), SHARD.stream(LANE)]
    entries: list[Any] = [6, LANE, 1, 2, 1, 50, len(flat), *flat, 7, "new", 1, 2, 1, 50, len(flat), *flat]
    arguments = [stage.incarnation, 0, 0, 1000, 5, 2, *entries]
    return enqueue.ENQUEUE, [*names, SHARD.stream("new")], arguments


def take(stage: Stage) -> None:
    """Set the queue up, with the lease of shard 0 in a worker's hands."""
    stage.reset()
    stage.client.set(SHARD.lease, EPOCH, px=600_000)


def letters_of(client: redis.Redis) -> int:
    """Dead letters in shard 0."""
    found: Any = client.xlen(SHARD.dead)
    return int(found)


def length_of(client: redis.Redis, namespace: str) -> int:
    """Entries of a lane in shard 0."""
    found: Any = client.xlen(SHARD.stream(namespace))
    return int(found)


def fields_of_shard() -> Iterator[Damage]:
    """Each field of each key of shard 0, with some of the values that are none."""
    found = [one for one in junk.bad_fields() if SHARD.books.removesuffix("books") in one.name]
    yield from (one for at, one in enumerate(found) if (at + at // 7) % 7 == 0)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_all_or_nothing(stage: Stage, name: str) -> None:
    """Whatever is damaged, a script that fails has changed nothing, and says which key; else it has done all."""
    take(stage)
    script, keys, arguments = calls(stage)[name]
    server = Server(stage.client)
    damages = [*junk.foreign_types(), *fields_of_shard()]
    failed = 0
    for damage in damages:
        take(stage)
        damage.do(stage.client)
        before = contents(stage.client)
        (reply,) = server.hold(run_scripts(script, [(keys, arguments)]))
        other = isinstance(reply, list) and reply[0] == -1
        if not isinstance(reply, Failed) and not other:
            continue
        failed += 1
        after = contents(stage.client)
        assert after == before, (damage.name, reply)
        if isinstance(reply, Failed):
            assert reply.message.startswith(("DAMAGED upsertq:{q:0}:", "DAMAGED upsertq:{q}:")), (damage.name, reply)
            assert len(reply.message) < 300, reply
    assert failed, "nothing failed: nothing was tried"


@pytest.mark.timeout(600)
def test_no_letter_is_lost(stage: Stage) -> None:
    """A damaged counter costs no letter: those of the entry are written, or it stays pending."""
    server, ways = Server(stage.client), set[bool]()
    for damage in fields_of_shard():
        take(stage)
        script, keys, arguments = calls(stage)["settle"]
        damage.do(stage.client)
        held, dead = length_of(stage.client, LANE), letters_of(stage.client)
        (reply,) = server.hold(run_scripts(script, [(keys, arguments)]))
        done = not isinstance(reply, Failed) and reply[:2] == [1, 1]
        assert length_of(stage.client, LANE) == held - done, (damage.name, reply)
        assert letters_of(stage.client) == dead + done, (damage.name, reply)
        ways.add(done)
    assert ways == {True, False}, "all were settled, or none: nothing was tried"


@pytest.mark.timeout(600)
def test_what_is_replayed_can_be_read(stage: Stage) -> None:
    """The script moves a letter just where `decode_letter` reads it: none stops a shard, none that is sound stays."""
    server, seen = Server(stage.client), set[int]()
    for what, fields in junk.bad_versions(junk.LETTER):
        stage.reset()
        dead_id: Any = stage.client.xadd(SHARD.dead, fields)  # type: ignore[arg-type]
        # as whatever plans a replay names them
        namespace, run = (fields.get(name, b"").decode("latin-1") for name in ("ns", "run"))
        head = [SHARD.books, SHARD.lanes, SHARD.bell, SHARD.dead, SHARD.dead_ids]
        keys = [*head, SHARD.stream(namespace), *([SHARD.run(run)] if run else [])]
        arguments = [stage.incarnation, 1, dead_id, 6, 7 if run else 0, namespace, run]
        found: Any = stage.client.xrange(SHARD.dead, dead_id, dead_id)
        try:
            decode_letter(0, "1-1", {**found[0][1], b"reason": b"refused"})
            readable = True
        except UnknownEntry:
            readable = False
        (reply,) = server.hold(run_scripts(moves.REPLAY, [(keys, arguments)]))
        if isinstance(reply, Failed):
            assert "reason" in what, (what, reply)
            continue
        assert reply in ([1], [2]), (what, reply)
        seen.add(reply[0])
        assert reply == [1] or not readable, f"{what}: a sound letter stays"
        if reply == [1]:
            entries: Any = stage.client.xrevrange(SHARD.stream(namespace), count=1)
            assert readable, f"{what}: a damaged letter was moved"
            decode(entries[0][1])
    assert seen == {1, 2}, "all moved, or none: nothing was tried"
