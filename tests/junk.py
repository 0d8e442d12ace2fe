"""A queue with something in every key, and junk to put there in the place of what upsertq wrote."""

from __future__ import annotations

import contextlib
import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import redis

import buried
from upsertq import Producer, Server
from upsertq.cli.main import run_command_line
from upsertq.contract import pauses
from upsertq.contract.dead_letter import Reason
from upsertq.contract.keys import QueueKeys

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from servers import RealServer

QUEUE: Final = "q"
KEYS: Final = QueueKeys(QUEUE)
SHARDS: Final = 2
RUN: Final = "r"
WORKER: Final = "w1"
OTHER: Final = "other"
"""A namespace that has entries beside those of the default one."""
MARK: Final = '[["1-1",null,0]]'
VALUES: Final = (
    b"",
    b"abc",
    b"-1",
    b" 5",
    b"05",
    b"1e14",
    b"0x10",
    b"nan",
    b"5-",
    b"9007199254740993",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9" * 5_000,
    b"\xff\xfe",
    b"\x1b[31mred\n\r",
    b"null",
    b"{}",
    b"[]",
    b"[" * 1_000 + b"]" * 1_000,
    b'{"a":' * 500 + b"1" + b"}" * 500,
    "²".encode(),
)
"""What may stand in the place of a value: no number, no JSON, too much of either, and what a terminal would act on."""
DEEP_NOTE: Final = (
    b'{"reason":' + b"[" * 1_000 + b"]" * 1_000 + b',"message":"m","since":1,"by":"x","at":1,"token":"t","run":"r",'
    b'"files":[],"done":false}'
)


@dataclass(frozen=True)
class Damage:
    """Commands that damage one key; `name` says which and how."""

    name: str
    commands: tuple[tuple[str | bytes, ...], ...]

    def do(self, client: redis.Redis) -> None:
        """Damage it."""
        for command in self.commands:
            client.execute_command(*command)  # type: ignore[no-untyped-call]


class Stage:
    """The queue as it was built, to be set up again and again on one server."""

    refused: Final = redis.ResponseError

    def __init__(self, server: RealServer) -> None:
        self.server = server
        self.client = server.client()
        self._build()
        found: Any = self.client.hget(KEYS.meta, "incarnation")
        self.incarnation: str = found.decode()
        self.names: list[bytes] = sorted(self.client.keys("*"))  # type: ignore[arg-type]
        self._dumps = [(name, self.client.dump(name)) for name in self.names]

    def reset(self) -> None:
        """Set it up."""
        pipeline = self.client.pipeline(transaction=False)
        pipeline.flushall()
        for name, dump in self._dumps:
            pipeline.restore(name, 0, dump)  # type: ignore[arg-type]
        pipeline.execute()

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def _build(self) -> None:
        client = self.client
        client.flushall()
        server = Server(client)
        with Producer(QUEUE, url=server, shards=SHARDS) as producer:
            ids = [f"{kind}{number}" for kind in "xyg" for number in range(6)]
            matrix = np.ones((len(ids), 4), np.float32)
            producer.put_many(ids, matrix, metadata=[{"of": i} for i in ids], namespace="n", run=RUN)
            producer.flush()
            buried.settle(server, client, _judge, shards=SHARDS)
            producer.put_many([f"p{number}" for number in range(6)], matrix[:6], run=RUN)
            producer.put_many([f"q{number}" for number in range(6)], matrix[:6], namespace=OTHER, run=RUN)
            producer.flush()
        now = time.time()
        client.hset(KEYS.paused, "namespace:m", pauses.note(pauses.Paused("quota", "none left", now, WORKER)))
        beat = {"name": WORKER, "at": now, "every": 2.5, "shards": [0], "alarms": {"index": "away"}, "posted": 3}
        client.hset(KEYS.workers, WORKER, orjson.dumps(beat))
        note = {"token": "t", "run": RUN, "since": int(now * 1000), "files": ["a"], "done": False}
        client.hset(KEYS.loads, "f", orjson.dumps(note))
        for shard in range(SHARDS):
            keys = KEYS.shard(shard)
            known: dict[Any, Any] = {"lsn:n": 5, "requests": 2, "settled_at": int(now * 1000)}
            client.hset(keys.books, mapping=known | {"epoch": 1, "deaths": 1, "mark": MARK, "boundary": "1-0"})
            client.set(keys.lease, f"1:{WORKER}")


def _judge(name: str) -> Any:
    if name.startswith("x"):
        return buried.refused("no good")
    return buried.refused("huge", Reason.TOO_LARGE, 413) if name.startswith("y") else None


def foreign_types() -> Iterator[Damage]:
    """Each key as each type that it is not."""
    makers: dict[str, tuple[str | bytes, ...]] = {
        "string": ("SET", "", "junk"),
        "list": ("RPUSH", "", "junk"),
        "set": ("SADD", "", "junk"),
        "zset": ("ZADD", "", "1", "junk"),
        "hash": ("HSET", "", "junk", "junk"),
        "stream": ("XADD", "", "*", "junk", "junk"),
    }
    for name, own in all_keys().items():
        for kind, (verb, _, *rest) in makers.items():
            if kind != own:
                yield Damage(f"{name} is a {kind}", (("DEL", name), (verb, name, *rest)))


def all_keys() -> dict[str, str]:
    """Every key of the queue (of its shards the first) with its type."""
    shard = KEYS.shard(0)
    return {
        KEYS.meta: "hash",
        KEYS.runs: "hash",
        KEYS.workers: "hash",
        KEYS.paused: "hash",
        KEYS.loads: "hash",
        shard.stream(""): "stream",
        shard.lanes: "set",
        shard.bell: "stream",
        shard.books: "hash",
        shard.lease: "string",
        shard.dead: "stream",
        shard.dead_ids: "hash",
        shard.run(RUN): "hash",
    }


COUNTERS: Final = ("enqueued", "acked", "superseded", "discarded", "dead", "pending", "bytes")
FIGURES: Final = ("settled_at", "lsn:n", "requests", "retries", "posted", "reason:refused", "reason:odd")
OF_HOLDERS: Final = ("incarnation", "epoch", "released", "clock", "deaths", "mark", "boundary")
"""What the books of a shard know beside counters."""


def bad_fields() -> Iterator[Damage]:
    """Each field of each hash, and each string, with each value that it cannot have; and fields that nothing wrote."""
    shard = KEYS.shard(0)
    fields = {
        KEYS.meta: ("format", "incarnation", "state", "shards", "dimension", "created"),
        KEYS.runs: (RUN, "\x1b[31m"),
        KEYS.workers: (WORKER, "\x1b[31m"),
        KEYS.paused: ("queue", "namespace:n", "namespace:", "\x1b[31m"),
        KEYS.loads: ("f", "\x1b[31m"),
        shard.books: (*COUNTERS, *FIGURES, *OF_HOLDERS),
        shard.run(RUN): (*COUNTERS, *FIGURES),
        shard.dead_ids: ("n\0x0", "\0p0", "n\0g0", "junk"),
    }
    for key, names in fields.items():
        for field in names:
            for value in (*VALUES, DEEP_NOTE):
                yield Damage(f"{key} {field!r}={_short(value)}", (("HSET", key, field, value),))
    for count in ("0", "1000000000", "3", "1025"):
        yield Damage(f"shards={count}", (("HSET", KEYS.meta, "shards", count),))
    for value in VALUES:
        yield Damage(f"{shard.lanes} has {_short(value)}", (("SADD", shard.lanes, value),))
        yield Damage(f"{shard.bell} has {_short(value)}", (("XADD", shard.bell, "*", "ns", value),))
    yield Damage(f"{shard.bell} has no ns", (("XADD", shard.bell, "*", "junk", "junk"),))
    for name in ("format", "shards", "incarnation", "state"):
        yield Damage(f"no {name}", (("HDEL", KEYS.meta, name),))
    for value in (*VALUES, b"abc:me", b"100000000000000:me", b"9223372036854775807:me", b"1:\xff", b"1:\x1b[31m"):
        yield Damage(f"lease={_short(value)}", (("SET", shard.lease, value, "PX", "1000"),))


def _short(value: bytes) -> str:
    return repr(value[:24])


def spoken(*arguments: str) -> tuple[int, str, str]:
    """Run one command in this process; returns its exit code and what it printed on stdout and stderr."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_command_line(list(arguments))
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return code, texts[0], texts[1]


def check(arguments: Sequence[str], what: str) -> tuple[int, str]:
    """Run a command on junk: whatever is there, it ends by the contract; returns its exit code and its one line."""
    code, _, err = spoken(*arguments)
    told = f"{' '.join(arguments)} with {what}: exit code {code}, {err}"
    assert code in {0, 1, 2, 3, 4, 5}, told
    assert "Traceback" not in err, told
    assert "a bug" not in err, told
    assert "\x1b" not in err, told
    complaints = [line for line in err.splitlines() if line.startswith("upsertq: ") and NOTE not in line]
    assert len(complaints) <= 1, told
    assert code in {0, 3} or complaints or arguments[0] == "audit", told
    return code, "".join(complaints)


NOTE: Final = "dead letters cannot be read"


ENTRY: Final = {
    "v": b"2",
    "op": b"upsert",
    "n": b"1",
    "ns": b"n",
    "ids": b'["junk"]',
    "dim": b"4",
    "values": b"\0\0\x80?" * 4,
    "run": b"r",
    "at": b"5",
}
"""A sound entry of one record."""
SPARSE: Final = b'[{"indices":[1],"values":[0.5]}]'
LETTER: Final = {
    **ENTRY,
    "seq": b"1-1-0",
    "depth": b"1",
    "sparse": SPARSE,
    "meta": b'[{"k":1}]',
    "reason": b"refused",
    "status": b"400",
    "message": b"no",
    "details": b'{"a":1}',
    "attempts": b"3",
    "first": b"5",
    "last": b"6",
    "worker": b"w",
}
"""A sound letter."""
BAD_JSON: Final = (
    b"7",
    b'"a"',
    b"[]",
    b"[1]",
    b"[null,null]",
    b"[[]]",
    b'["a"]',
    b'{"k":1}',
    b'[{"k":1}',
    b'[{"k":NaN}]',
    b'[{"k":01}]',
    b'[{"k":"\xff"}]',
    b'[{"k":"\xc3\x28"}]',
    b'[{"k":"\\ud800"}]',
    b'[{"k":"a\nb"}]',
    b'[{"k":' + b"[" * 300 + b"]" * 300 + b"}]",
    b'[{"k":' + b"[" * 1_100 + b"]" * 1_100 + b"}]",
    b'[{"indices":[1],"values":[]}]',
    b'[{"indices":[-1],"values":[1]}]',
    b'[{"indices":[4294967296],"values":[1]}]',
    b'[{"indices":[1.5],"values":[1]}]',
    b'[{"indices":[1],"values":["x"]}]',
    b'[{"indices":1,"values":1}]',
    b'[{"indices":[1],"values":[1],"more":1}]',
)
"""Columns that are no JSON, or that have another form than a column has."""


def bad_versions(sound: dict[str, bytes]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """An entry or a letter with one field that is left out, or is not what it can be."""
    for name in sound:
        yield f"no {name}", {other: value for other, value in sound.items() if other != name}
    for name in (*sound, "seq", "depth", "sparse", "meta"):
        for value in (*VALUES, *BAD_JSON, b"[null]", b"5-1-", b"1-1-1-1", b"2", b"delete", b"x" * 600, b"0"):
            yield f"{name}={_short(value)}", {**sound, name: value}


def bad_letters() -> Iterator[Damage]:
    """Letters with one field that is none."""
    dead = KEYS.shard(0).dead
    for what, fields in bad_versions(LETTER):
        flat = [part for item in fields.items() for part in item]
        yield Damage(f"letter with {what}", (("XADD", dead, "*", *flat),))


def bad_entries() -> Iterator[Damage]:
    """Entries with one field that is none."""
    stream, books = KEYS.shard(0).stream("n"), KEYS.shard(0).books
    named = [("SADD", KEYS.shard(0).lanes, "n"), ("XADD", KEYS.shard(0).bell, "*", "ns", "n")]
    counted = [("HINCRBY", books, name, "1") for name in ("enqueued", "pending")]
    for what, fields in bad_versions(ENTRY):
        flat = [part for item in fields.items() for part in item]
        yield Damage(f"entry with {what}", (("XADD", stream, "*", *flat), *named, *counted))
