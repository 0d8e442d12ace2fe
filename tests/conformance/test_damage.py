"""The scripts on damaged keys, on every server: all is done or nothing, and what they let into a stream can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
from upsertq_worker.stream import LEASE, MARK, RELEASE, SETTLE

import junk
from junk import KEYS, RUN, Stage
from upsertq import Server
from upsertq.contract.dead_letter import Reason, Verdict, decode_letter, encode_letter
from upsertq.contract.keys import CONSUMER, GROUP
from upsertq.contract.protocol import Failed, run_scripts
from upsertq.contract.wire import UnknownEntry, decode, one_record
from upsertq.dead.moves import DISCARD, REPLAY

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
        if kind == b"stream":
            asking.xinfo_groups(name)
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


def calls(stage: Stage) -> dict[str, Call]:
    """Each script with what it is called with; those of the worker hold the lease."""
    client = stage.client
    keys = [SHARD.stream, SHARD.books, SHARD.dead, SHARD.dead_ids, SHARD.run(RUN)]
    letters: Any = client.xrange(SHARD.dead)
    moves = [part for name, _ in letters for part in (name, 5)]
    entries: Any = client.xrange(SHARD.stream)
    (stream_id, fields), *_ = entries
    entry = decode(fields)
    arguments: list[Any] = [GROUP, EPOCH, 5, 1, stream_id, 7, RUN, len(entry.ids), entry.size, len(entry.ids) - 1, 0]
    arguments += [stream_id, 1, 2]
    letter = encode_letter(one_record(entry, 0, f"{stream_id.decode()}-0"), Verdict(Reason.REFUSED))
    arguments += [0, f"{stream_id.decode()}-0", "refused", len(letter), *letter, 2, "lsn:n", 7, 7, "requests", 1]
    settle = [SHARD.stream, SHARD.books, SHARD.lease, SHARD.dead, SHARD.dead_ids, SHARD.suspects, SHARD.run(RUN)]
    flat = [part for item in fields.items() for part in item]
    enqueue = [0, 0, 1000, 1, "n", 1, 2, 1, 50, len(flat), *flat]
    return {
        "replay": (REPLAY, keys, moves),
        "discard": (DISCARD, keys, moves),
        "settle": (SETTLE, settle, arguments),
        "enqueue": (_enqueue(), [SHARD.stream, SHARD.books, SHARD.ledger("t"), SHARD.run(RUN)], enqueue),
        "lease": (LEASE, [SHARD.lease, SHARD.books, SHARD.stream], [GROUP, "me", 1, 9000, "1"]),
        "mark": (MARK, [SHARD.stream, SHARD.lease, SHARD.suspects], [GROUP, EPOCH, " by me", stream_id, "alone"]),
        "release": (RELEASE, [SHARD.lease], [EPOCH, 0]),
    }


def _enqueue() -> Script:
    from upsertq.client.enqueue import ENQUEUE  # noqa: PLC0415 - named apart from the calls above

    return ENQUEUE


def take(stage: Stage) -> None:
    """Set the queue up, with the lease and all entries of shard 0 in a worker's hands."""
    stage.reset()
    stage.client.set(SHARD.lease, EPOCH, px=600_000)
    stage.client.xreadgroup(GROUP, CONSUMER, {SHARD.stream: ">"})


def letters_of(client: redis.Redis) -> int:
    """Dead letters in shard 0."""
    found: Any = client.xlen(SHARD.dead)
    return int(found)


def fields_of_shard() -> Iterator[Damage]:
    """Each field of each key of shard 0, with some of the values that are none."""
    found = [one for one in junk.bad_fields() if SHARD.books.removesuffix("books") in one.name]
    yield from (one for at, one in enumerate(found) if (at + at // 7) % 7 == 0)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["replay", "discard", "settle", "enqueue", "lease", "mark", "release"])
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
        if not isinstance(reply, Failed):
            continue
        failed += 1
        after = contents(stage.client)
        assert after == before, (damage.name, reply)
        assert reply.message.startswith("DAMAGED upsertq:{q:0}:"), (damage.name, reply)
        assert len(reply.message) < 300, reply
    assert failed or name == "release", "nothing failed: nothing was tried"


@pytest.mark.timeout(600)
def test_no_letter_is_lost(stage: Stage) -> None:
    """A damaged counter costs no letter: those of the entry are written, or it stays pending."""
    server = Server(stage.client)
    for damage in fields_of_shard():
        take(stage)
        script, keys, arguments = calls(stage)["settle"]
        damage.do(stage.client)
        held, dead = stage.client.xlen(SHARD.stream), letters_of(stage.client)
        (reply,) = server.hold(run_scripts(script, [(keys, arguments)]))
        done = not isinstance(reply, Failed) and reply == [1, 1]
        assert stage.client.xlen(SHARD.stream) == held - done, (damage.name, reply)
        assert letters_of(stage.client) == dead + done, (damage.name, reply)


@pytest.mark.timeout(600)
def test_what_is_replayed_can_be_read(stage: Stage) -> None:
    """The script moves a letter just where `decode_letter` reads it: none stops a shard, none that is sound stays."""
    server = Server(stage.client)
    for what, fields in junk.bad_versions(junk.LETTER):
        stage.reset()
        dead_id: Any = stage.client.xadd(SHARD.dead, fields)  # type: ignore[arg-type]
        keys = [SHARD.stream, SHARD.books, SHARD.dead, SHARD.dead_ids]
        found: Any = stage.client.xrange(SHARD.dead, dead_id, dead_id)
        try:
            decode_letter(0, "1-1", {**found[0][1], b"reason": b"refused"})
            readable = True
        except UnknownEntry:
            readable = False
        (reply,) = server.hold(run_scripts(REPLAY, [(keys, [dead_id, 0])]))
        if isinstance(reply, Failed):
            assert "reason" in what, (what, reply)
            continue
        assert reply in ([1], [2]), (what, reply)
        assert reply == [1] or not readable, f"{what}: a sound letter stays"
        if reply == [1]:
            entries: Any = stage.client.xrevrange(SHARD.stream, count=1)
            assert readable, f"{what}: a damaged letter was moved"
            decode(entries[0][1])
