"""Owns how the tests of the transitions read a shard's keys as they are: past upsertq's code but for its formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from upsertq.contract.dead_letter import decode_letter, place
from upsertq.contract.protocol import Failed, Trouble
from upsertq.contract.server import Server
from upsertq.contract.wire import decode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import redis

    from upsertq.contract.keys import QueueKeys
    from upsertq.contract.protocol import Command
    from upsertq.contract.wire import Entry

HELD = ("incarnation", "epoch", "released", "clock", "deaths", "mark", "boundary")
PAYLOAD = (b"ids", b"values", b"sparse", b"meta")


@dataclass(frozen=True)
class RawShard:
    """One shard's keys at one moment, the entries of all lanes in order; `books` by run, the shard's under `""`."""

    stream: Mapping[str, Mapping[bytes, bytes]]
    dead: Mapping[str, Mapping[bytes, bytes]]
    lanes: set[str]
    held: Mapping[str, str]
    """What the shard's books hold beside the counters."""
    books: Mapping[str, Mapping[str, int]]
    marks: Mapping[str, str]
    lease: str

    def size(self, run: str) -> int:
        """Bytes of payload in the stream, all or those of a run."""
        entries = [one for one in self.stream.values() if run in {"", one.get(b"run", b"").decode()}]
        return sum(len(one.get(name, b"")) for one in entries for name in PAYLOAD)

    def records(self, run: str) -> int:
        """Records in the stream, all or those of a run."""
        entries = [one for one in self.stream.values() if run in {"", one.get(b"run", b"").decode()}]
        return sum(len(orjson.loads(one[b"ids"])) for one in entries)

    def letters(self, run: str) -> int:
        """Dead letters, all or those of a run."""
        return sum(run in {"", one.get(b"run", b"").decode()} for one in self.dead.values())


def read_raw(
    client: redis.Redis, keys: QueueKeys, shards: int, runs: Sequence[str], namespaces: Sequence[str]
) -> list[RawShard]:
    """Every shard, in one round trip; `namespaces` are all that were ever used."""
    pipeline = client.pipeline(transaction=False)
    for own in map(keys.shard, range(shards)):
        pipeline.xrange(own.dead)
        pipeline.hgetall(own.dead_ids)
        pipeline.get(own.lease)
        pipeline.smembers(own.lanes)
        for run in runs:
            pipeline.hgetall(own.run(run) if run else own.books)
        for namespace in namespaces:
            pipeline.xrange(own.stream(namespace))
            pipeline.exists(own.stream(namespace))
    replies = pipeline.execute()
    step = 4 + len(runs) + 2 * len(namespaces)
    return [_shard(replies[at : at + step], runs) for at in range(0, len(replies), step)]


def _shard(replies: Sequence[Any], runs: Sequence[str]) -> RawShard:
    dead, marks, lease, lanes, *more = replies
    books, streams = more[: len(runs)], more[len(runs) :]
    assert [bool(entries) for entries in streams[::2]] == [bool(there) for there in streams[1::2]], "a stream is empty"
    entries = [(name.decode(), fields) for entries in streams[::2] for name, fields in entries]
    told = {name.decode(): value.decode() for name, value in books[0].items()}
    return RawShard(
        dict(sorted(entries, key=lambda one: place(one[0]))),
        {name.decode(): fields for name, fields in dead},
        {one.decode() for one in lanes},
        {name: value for name, value in told.items() if name in HELD},
        {run: _counters(one) for run, one in zip(runs, books, strict=True)},
        {name.decode(): mark.decode() for name, mark in marks.items()},
        (lease or b"").decode(),
    )


def _counters(told: Mapping[bytes, bytes]) -> dict[str, int]:
    return {name.decode(): int(n) for name, n in told.items() if name.decode() not in HELD}


def contents(entry: Entry) -> list[int]:
    """The number that each record carries, in its vector and, where it has any, in its metadata and sparse values."""
    numbers = [int(number) for number in np.frombuffer(entry.values, "<f4")]
    assert len(numbers) == len(entry.ids)
    for row, told in enumerate(orjson.loads(entry.metadata) if entry.metadata else ()):
        assert (told or {}) == metadata_of(numbers[row]), (row, numbers, told)
    for row, told in enumerate(orjson.loads(entry.sparse) if entry.sparse else ()):
        assert (told is None) == (sparse_of(numbers[row]) is None)
        assert told is None or told["indices"] == [numbers[row]], (row, numbers, told)
    return numbers


def metadata_of(number: int) -> dict[str, Any]:
    """The metadata of the record with this number: every second one has some."""
    return {"of": number} if number % 2 else {}


def sparse_of(number: int) -> dict[str, Any] | None:
    """The sparse values of the record with this number: every third one has some."""
    return None if number % 3 else {"indices": [number], "values": [1.0]}


def entry_at(raw: RawShard, stream_id: str) -> Entry:
    """An entry of the stream."""
    return decode(raw.stream[stream_id])


def letter_at(raw: RawShard, dead_id: str) -> tuple[Entry, str]:
    """A letter's one record as an entry, and its reason."""
    letter = decode_letter(0, dead_id, raw.dead[dead_id])
    return letter.entry, letter.verdict.reason.value


class LossyServer(Server):
    """A server that carries script calls out, but whose next answers are lost while `lose` says so."""

    lose = 0

    def _ask(self, commands: Sequence[Command], node: str = "") -> list[Any]:
        replies = super()._ask(commands, node)
        done = not any(isinstance(reply, Failed) for reply in replies)
        if self.lose and done and str(commands[0][0]).startswith("EVAL"):
            self.lose -= 1
            return [Failed(Trouble.AWAY, "the connection broke")] * len(commands)
        return replies
