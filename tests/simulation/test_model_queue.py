"""The model of the queue's server answers as the real scripts do, on every server: otherwise it would prove nothing."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from checker import Checker
from model_queue import ModelQueue, place_of
from upsertq import wire
from upsertq.dead_moves import REPLAY
from upsertq.exchange import run_scripts
from upsertq.keys import QueueKeys
from upsertq.letter import Reason, Verdict, decode_letter
from upsertq.queue import QueueShape
from upsertq.server import AsyncServer
from upsertq_worker.postage import Postage
from upsertq_worker.seams import NEW
from upsertq_worker.stream import RedisQueue
from upsertq_worker.versions import Grave, Settlement
from virtual_time import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from conftest import Backend
    from upsertq_worker.seams import Delivery

SHARDS = 2
LEASE = 60.0
KEYS = QueueKeys("q")
STEPS = 250


class Twins:
    """The same queue twice: on a server and as a model. Entries are known by their number in the order enqueued."""

    def __init__(self, backend: Backend, seed: int) -> None:
        self.rng = random.Random(f"twins {seed}")
        self.sync = backend.sync
        self.sync.hset(KEYS.meta, mapping={"format": wire.FORMAT, "shards": SHARDS, "created": 1})
        shape = QueueShape("q", SHARDS, None)
        self.real = {name: RedisQueue(AsyncServer(backend.make_async()), shape, name, LEASE) for name in ("ann", "bob")}
        self.loop = VirtualLoop()
        self.model = ModelQueue(self.loop, SHARDS, LEASE, Checker(self.loop.time, traced=False))
        self.epochs = {name: dict.fromkeys(range(SHARDS), 0) for name in self.real}
        self.ids: list[tuple[int, str, str]] = []
        """Shard, real stream id and the model's, by number."""
        self.entries: list[wire.Entry] = []
        self.origins: dict[int, tuple[int, int]] = {}
        """Of each replayed entry: the entry in which its record was enqueued, and its row there."""

    def enqueue(self) -> None:
        """Append the same entry to both."""
        rng, shard = self.rng, self.rng.randrange(SHARDS)
        records = [wire.Record(f"r{rng.randrange(9)}", "", b"\0\0\x80?", b"", b"") for _ in range(rng.randrange(1, 4))]
        entry = wire.pack(records, run=rng.choice(("", "monday")), at=1)
        flat = wire.encode(entry)
        keys = KEYS.shard(shard)
        fields: dict[Any, Any] = dict(zip(flat[::2], flat[1::2], strict=True))
        real: Any = self.sync.xadd(keys.stream, fields)
        for books in [keys.books, *([keys.run(entry.run)] if entry.run else [])]:
            for name, count in (("enqueued", len(records)), ("pending", len(records)), ("bytes", entry.size)):
                self.sync.hincrby(books, name, count)
        self.ids.append((shard, real.decode(), self.model.enqueue(shard, entry)))
        self.entries.append(entry)

    def number(self, shard: int, stream_id: str) -> int:
        """Return the number of an entry by either of its ids."""
        return next(n for n, (of, *ids) in enumerate(self.ids) if of == shard and stream_id in ids)

    async def lease(self) -> None:
        """Ask for both shards, now and then with an epoch that is not ours."""
        name = self.rng.choice(list(self.real))
        wanted = dict(self.epochs[name])
        if self.rng.random() < 0.2:
            wanted[self.rng.randrange(SHARDS)] = self.rng.randrange(4)
        take = self.rng.random() < 0.8
        grants = await self.real[name].lease(wanted, take=take)
        assert grants == [self.model.lease(shard, epoch, name, take=take) for shard, epoch in wanted.items()]
        for grant in grants:
            self.epochs[name][grant.shard] = grant.epoch

    def expire(self) -> None:
        """Let a lease run out."""
        shard = self.rng.randrange(SHARDS)
        self.sync.delete(KEYS.shard(shard).lease)
        self.model.shards[shard].holder = ""

    async def release(self) -> None:
        """Give both shards up, ours or not."""
        name = self.rng.choice(list(self.real))
        held = dict(self.epochs[name])
        await self.real[name].release(held, {})
        for shard, epoch in held.items():
            self.model.release(shard, epoch, name, 0.0)

    async def read(self) -> None:
        """Read what is new or what is pending behind some entry."""
        real: dict[int, str] = {}
        model: dict[int, str] = {}
        for shard in range(SHARDS):
            real[shard], model[shard] = self._some_place(shard) if self.rng.random() < 0.5 else (NEW, NEW)
        count = self.rng.randrange(1, 5)
        found = await self.real["ann"].read(real, count, 0.001)
        assert self._numbered(found) == self._numbered(self.model.read(model, count))

    async def oldest_pending(self) -> None:
        """Look for the oldest pending entry behind some entry."""
        places = {shard: self._some_place(shard) for shard in range(SHARDS)}
        found = await self.real["bob"].oldest_pending({shard: real for shard, (real, _) in places.items()})
        for shard, (_, behind) in places.items():
            theirs = self.model.oldest_pending(shard, behind)
            assert (self.number(shard, found[shard]) if shard in found else None) == (
                self.number(shard, theirs) if theirs else None
            )

    async def settle(self) -> None:
        """Settle some entries, pending or not, settled before or not, under an epoch that is right or wrong."""
        holders = [holder for shard in range(SHARDS) if (holder := self.model.holder(shard))]
        name = self.rng.choice(holders if holders and self.rng.random() < 0.7 else list(self.real))
        held = dict(self.epochs[name])
        if self.rng.random() < 0.2:
            held[self.rng.randrange(SHARDS)] += 1
        known: Sequence[int] = range(len(self.ids))
        pending = [number for number, (shard, _, model) in enumerate(self.ids) if self._is_pending(shard, model)]
        known = pending if pending and self.rng.random() < 0.7 else known
        numbers = sorted(self.rng.sample(known, min(len(known), self.rng.randrange(1, 5))))
        dead = {number: self._some_rows(number) for number in numbers}
        real, model = ([self._settlement(number, twin, dead[number]) for number in numbers] for twin in (1, 2))
        foreign = await self.real[name].settle(held, real)
        for shard in sorted({one.shard for one in model}):
            ours = self.model.settle(shard, held[shard], name, [one for one in model if one.shard == shard])
            assert ours == (shard not in foreign)

    async def compare(self) -> None:
        """Compare the books, of the runs too, and the backlogs."""
        assert await self.real["ann"].books() == self.model.books()
        backlog = await self.real["ann"].backlog(range(SHARDS))
        assert backlog == {shard: self.model.backlog(shard) for shard in range(SHARDS)}
        for shard in range(SHARDS):
            keys, model = KEYS.shard(shard), self.model.shards[shard]
            for name, books in (keys.run("monday"), model.runs.get("monday", Counter())), (keys.books, model.books):
                told: Any = self.sync.hgetall(name)
                real = {counter.decode(): int(count) for counter, count in told.items() if counter != b"epoch"}
                assert +Counter(real) == +books

    def _some_place(self, shard: int) -> tuple[str, str]:
        places = [("0-0", "0-0"), *((real, model) for of, real, model in self.ids if of == shard)]
        return self.rng.choice(places)

    def _numbered(self, deliveries: Sequence[Delivery]) -> list[tuple[int, Mapping[bytes, bytes] | None]]:
        deliveries = sorted(deliveries, key=lambda one: (one.shard, place_of(one.stream_id)))
        return [
            (self.number(one.shard, one.stream_id), one.fields and {**one.fields, b"seq": b""}) for one in deliveries
        ]

    def _settlement(self, number: int, twin: int, dead: Sequence[int]) -> Settlement:
        """The settlement of an entry of which some rows are dead, and the last of the others is superseded."""
        shard, stream_id, entry = self.ids[number][0], str(self.ids[number][twin]), self.entries[number]
        sequence = self.original(number, twin) or stream_id
        singles = {row: wire.one_record(entry, row, sequence if entry.seq else f"{sequence}-{row}") for row in dead}
        reasons = list(Reason)
        graves = tuple(
            Grave(row, single, Verdict(reasons[number % len(reasons)], worker="ann")) for row, single in singles.items()
        )
        n, superseded = len(entry.ids), int(len(dead) < len(entry.ids))
        acked = n - len(dead) - superseded
        postage = Postage(number, number % 2, 10 * number, {"": number % 7, "n": 5})
        return Settlement(
            *(shard, stream_id, entry.run, n, entry.size, acked, superseded, sequence, graves),
            settled_ms=number % 50,
            postage=postage if entry.run else None,
            queue_postage=postage if number % 3 else None,
        )

    def _is_pending(self, shard: int, stream_id: str) -> bool:
        return stream_id in self.model.shards[shard].pending

    def _some_rows(self, number: int) -> list[int]:
        return [row for row in range(len(self.entries[number].ids)) if self.rng.random() < 0.4]

    def original(self, number: int, twin: int) -> str:
        """The sequence of a replayed entry in the words of a twin, `""` of one that is no replay."""
        if number not in self.origins:
            return ""
        origin, row = self.origins[number]
        return f"{self.ids[origin][twin]}-{row}"

    def origin(self, shard: int, sequence: str) -> tuple[int, int]:
        """The number of the entry, and the row in it, that a sequence names."""
        stream_id, _, row = sequence.rpartition("-")
        return self.number(shard, stream_id), int(row)

    def letters(self, shard: int) -> list[tuple[str, str]]:
        """The real and the model's stream id of each dead letter, after a comparison of what these hold."""
        real: Any = self.sync.xrange(KEYS.shard(shard).dead)
        found = [decode_letter(shard, dead_id.decode(), fields) for dead_id, fields in real]
        theirs = self.model.shards[shard].letters.stream
        assert [self._told(shard, one.entry) for one in found] == [self._told(shard, one) for one in theirs.values()]
        return list(zip((one.stream_id for one in found), theirs, strict=True))

    def _told(self, shard: int, entry: wire.Entry) -> tuple[tuple[int, int], wire.Entry]:
        return self.origin(shard, entry.seq), replace(entry, seq="")

    async def replay(self) -> None:
        """Replay some dead letters, now and then one that is gone."""
        shard = self.rng.randrange(SHARDS)
        pairs = self.letters(shard)
        for real_id, model_id in self.rng.sample(pairs, min(len(pairs), 2)):
            letter = self.model.shards[shard].letters.stream[model_id]
            call = run_scripts(REPLAY, [self._replay_call(shard, real_id, letter.run)])
            (moved,) = await self.real["ann"]._server.hold(call)
            assert moved == [1]
            new = self.model.replay(shard, model_id)
            assert self.model.replay(shard, model_id) == ""
            tail: Any = self.sync.xrevrange(KEYS.shard(shard).stream, count=1)
            self.origins[len(self.ids)] = self.origin(shard, letter.seq)
            self.ids.append((shard, tail[0][0].decode(), new))
            self.entries.append(self.model.shards[shard].stream[new][1])

    def _replay_call(self, shard: int, dead_id: str, run: str) -> tuple[list[str], list[str | bytes | int]]:
        keys = KEYS.shard(shard)
        runs = [keys.run(run)] if run else []
        return [keys.stream, keys.books, keys.dead, keys.dead_ids, *runs], [dead_id, 5 if run else 0]

    async def superseded(self) -> None:
        """Compare what the marks say of every replayed entry, and the marks themselves."""
        for number in self.origins:
            shard, entry = self.ids[number][0], self.entries[number]
            real = replace(entry, seq=self.original(number, 1))
            assert await self.real["bob"].superseded([(shard, real)]) == [self.model.superseded(shard, entry)]
        for shard in range(SHARDS):
            marks: Any = self.sync.hgetall(KEYS.shard(shard).dead_ids)
            told = {name.decode(): [self._read(shard, word) for word in mark.split()] for name, mark in marks.items()}
            model = self.model.shards[shard].letters.marks
            assert told == {
                name: [(one.kind, self.origin(shard, one.sequence), one.run) for one in mark]
                for name, mark in model.items()
            }

    def _read(self, shard: int, word: bytes) -> tuple[str, tuple[int, int], str]:
        kind, sequence, *letter = word.decode().split(",")
        return kind, self.origin(shard, sequence), letter[1] if letter else ""


@pytest.mark.parametrize("seed", range(3))
async def test_the_model_answers_as_the_server_does(backend: Backend, seed: int) -> None:
    """Both get the same random calls of two workers, and give the same answers all the way."""
    twins = Twins(backend, seed)
    try:
        twins.enqueue()
        await twins.lease()
        for shard in range(SHARDS):  # the group must be there before anybody reads
            grants = await twins.real["ann"].lease({shard: 0}, take=True)
            assert grants == [twins.model.lease(shard, 0, "ann", take=True)]
        for _ in range(STEPS):
            step = twins.rng.choice(
                (
                    *(twins.lease, twins.release, twins.read, twins.read, twins.oldest_pending),
                    *(twins.settle, twins.settle, twins.replay, twins.superseded, twins.compare),
                )
            )
            for _ in range(twins.rng.randrange(3)):
                twins.enqueue()
            if twins.rng.random() < 0.1:
                twins.expire()
            await step()
        await twins.compare()
        await twins.superseded()
        assert len(twins.origins) > 2
    finally:
        twins.loop.close()
