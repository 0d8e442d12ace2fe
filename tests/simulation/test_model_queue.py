"""The model of the queue's server answers as the real scripts do, on every server: otherwise it would prove nothing."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

import model_queue
from checker import Checker
from model_queue import ModelQueue, place_of
from upsertq.client.enqueue import Enqueuer, Limits
from upsertq.client.pack import Packer
from upsertq.contract import wire
from upsertq.contract.books import COUNTERS, REASON
from upsertq.contract.dead_letter import Reason, Verdict, decode_letter, mark_field
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Patience
from upsertq.contract.queue import open_queue
from upsertq.contract.server import AsyncServer
from upsertq.dead.finding import Pick
from upsertq.dead.moves import Tally, replay
from upsertq_worker.flow.usage import Metered, Usage
from upsertq_worker.ordering.model import DeadRecord, Settlement
from upsertq_worker.queue.protocols import START
from upsertq_worker.queue.redis_queue import RedisQueue
from virtual_time import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from conftest import Backend
    from upsertq_worker.queue.protocols import Delivery, Grant, Ring

SHARDS: Final = 2
LEASE: Final = 60.0
KEYS: Final = QueueKeys("q")
STEPS: Final = 150
BELL: Final = 100
RUNS: Final = ("", "monday", "tuesday")
NAMESPACES: Final = ("", "docs", "images")
WORKERS: Final = ("ann", "bob")
BEFORE: Final = -1
"""The number of the place before the first entry."""


def _patience() -> Patience:
    return Patience(5.0, time.monotonic, random.Random(0))


class Twins:
    """The same queue twice: on a server and as a model. Entries are known by their number in the order enqueued."""

    def __init__(self, backend: Backend, seed: int) -> None:
        self.rng = random.Random(f"twins {seed}")
        self.sync = backend.sync
        self.server = AsyncServer(backend.make_async())
        self.loop = VirtualLoop()
        self.model = ModelQueue(self.loop, SHARDS, LEASE, Checker(self.loop.time, traced=False))
        self.epochs = {name: dict.fromkeys(range(SHARDS), 0) for name in WORKERS}
        self.real: dict[str, RedisQueue] = {}
        self.ids: list[tuple[int, str, str]] = []
        """Shard, real stream id and the model's, by number."""
        self.numbers: dict[tuple[int, str], int] = {}
        """The number of an entry by shard and either of its ids."""
        self.entries: list[wire.Entry] = []
        self.origins: dict[int, tuple[int, int]] = {}
        """Of each replayed entry: the entry in which its record was enqueued, and its row there."""
        self.latest = dict.fromkeys(range(SHARDS), START)
        self.ordinal = 0

    async def open(self) -> None:
        """Create the queue on the server."""
        self.shape = await self.server.hold(open_queue(KEYS, SHARDS, 1, _patience()))
        self.enqueuer = Enqueuer(KEYS, self.shape, Limits(None, None), "ledger", 60_000)
        for name in WORKERS:
            self.real[name] = RedisQueue(AsyncServer(self.server._link._client), self.shape, name, LEASE)

    # the producer

    async def enqueue(self, *ids: tuple[str, str]) -> None:
        """Enqueue the same records in both, a few drawn ones unless they are given (namespace and id)."""
        rng, packer = self.rng, Packer(SHARDS)
        count = rng.randrange(1, 5)
        run = rng.choice(RUNS)
        for namespace, record_id in ids or [(rng.choice(NAMESPACES), f"r{rng.randrange(9)}") for _ in range(count)]:
            self.ordinal += 1
            record = wire.Record(record_id, namespace, b"\0\0\x80?", b"", b"")
            packer.add(record, run=run, ordinal=self.ordinal, at=1)
        packer.close_all(1)
        entries = {shard: [parcel.entry for parcel in parcels] for shard, parcels in packer.ready.items()}
        await self.server.hold(self.enqueuer.enqueue(packer, _patience))
        for shard, ones in entries.items():
            new = self._new_ids(shard)
            for stream_id, entry in zip(new, ones, strict=True):
                self._add(shard, stream_id, self.model.enqueue(shard, entry), entry)

    def _new_ids(self, shard: int) -> list[str]:
        """Stream ids that came since the last look, in order."""
        lanes: Any = self.sync.smembers(KEYS.shard(shard).lanes)
        found: list[str] = []
        for lane in lanes:
            entries: Any = self.sync.xrange(KEYS.shard(shard).stream(lane.decode()), min=self.latest[shard])
            found += [stream_id.decode() for stream_id, _ in entries]
        new = sorted({stream_id for stream_id in found if (shard, stream_id) not in self.numbers}, key=place_of)
        self.latest[shard] = new[-1] if new else self.latest[shard]
        return new

    def _add(self, shard: int, real: str, model: str, entry: wire.Entry) -> None:
        self.numbers[shard, real] = self.numbers[shard, model] = len(self.ids)
        self.ids.append((shard, real, model))
        self.entries.append(entry)

    # the leases

    async def lease(self) -> None:
        """Ask for both shards, now and then with an epoch that is not ours."""
        rng = self.rng
        name = rng.choice(WORKERS)
        wanted = dict(self.epochs[name])
        if rng.random() < 0.2:
            wanted[rng.randrange(SHARDS)] = rng.randrange(4)
        take = rng.random() < 0.8
        grants = await self.real[name].lease(wanted, take=take)
        theirs = [self.model.lease(shard, epoch, name, take=take) for shard, epoch in wanted.items()]
        assert list(map(self._told, grants)) == list(map(self._told, theirs))
        for grant in grants:
            self.epochs[name][grant.shard] = grant.epoch
            if not grant.clean:
                boundary: Any = self.sync.hget(KEYS.shard(grant.shard).books, "boundary")
                assert boundary.decode() == grant.clock

    def _told(self, grant: Grant) -> tuple[Grant, int]:
        return replace(grant, clock=""), self.number(grant.shard, grant.clock)

    async def expire(self) -> None:
        """Let a lease run out."""
        shard = self.rng.randrange(SHARDS)
        self.sync.delete(KEYS.shard(shard).lease)
        self.model.shards[shard].expires_at = 0.0

    async def release(self) -> None:
        """Give both shards up, ours or not, at once or later."""
        name = self.rng.choice(WORKERS)
        held = dict(self.epochs[name])
        keep = {shard: self.rng.choice((0.0, 0.0004, 50.0)) for shard in range(SHARDS)}
        await self.real[name].release(held, keep)
        for shard, epoch in held.items():
            self.model.release(shard, epoch, name, keep[shard])

    async def mark(self) -> None:
        """Write the marks of both shards, ours or not."""
        rng = self.rng
        name = rng.choice(WORKERS)
        held = dict(self.epochs[name])
        marks = {shard: rng.choice(("", '[["1-0",null,0]]')) for shard in range(SHARDS)}
        deaths = rng.choice((None, None, 0, 2))
        foreign = await self.real[name].mark(held, marks, deaths)
        ours = {shard: self.model.mark(shard, held[shard], name, text, deaths) for shard, text in marks.items()}
        assert foreign == {shard for shard, done in ours.items() if not done}

    # reading

    async def lanes(self) -> None:
        """List the lanes of both shards."""
        for shard, found in (await self.real["ann"].lanes(range(SHARDS))).items():
            theirs = self.model.lanes(shard)
            assert found.namespaces == theirs.namespaces
            assert self.number(shard, found.place) == self.number(shard, theirs.place)

    async def read(self) -> None:
        """Read some streams, there or not, and the bells, each behind some entry."""
        rng = self.rng
        streams = [(shard, name) for shard in range(SHARDS) for name in (*NAMESPACES, "none")]
        real, model, bells, their_bells = {}, {}, {}, {}
        for stream in rng.sample(streams, rng.randrange(1, len(streams))):
            real[stream], model[stream] = self._some_place(stream[0])
        for shard in range(SHARDS):
            if rng.random() < 0.7:
                bells[shard], their_bells[shard] = self._some_place(shard)
        count = rng.choice((1, 3, 200))
        found, theirs = await self.real["ann"].read(real, bells, count, 0.0), self.model.read(model, their_bells, count)
        assert self._numbered(found.deliveries) == self._numbered(theirs.deliveries)
        assert self._heard(found.rings) == self._heard(theirs.rings)

    def _some_place(self, shard: int) -> tuple[str, str]:
        places = [(START, START), *((real, model) for of, real, model in self.ids if of == shard)]
        return self.rng.choice((places[0], self.rng.choice(places)))

    def _numbered(self, deliveries: Sequence[Delivery]) -> list[tuple[int, str, Mapping[bytes, bytes]]]:
        return sorted(
            (self.number(one.shard, one.stream_id), one.namespace, {**one.fields, b"seq": b""}) for one in deliveries
        )

    def _heard(self, rings: Sequence[Ring]) -> list[tuple[int, str]]:
        return sorted((self.number(one.shard, one.place), str(one.namespace)) for one in rings)

    def number(self, shard: int, stream_id: str) -> int:
        """Return the number of an entry by either of its ids."""
        return BEFORE if stream_id in {"", START} else self.numbers[shard, stream_id]

    # settling

    async def settle(self) -> None:
        """Settle some entries, pending or not, settled before or not, under an epoch that is right or wrong."""
        rng = self.rng
        holders = [holder for shard in range(SHARDS) if (holder := self.model.holder(shard))]
        name = rng.choice(holders if holders and rng.random() < 0.8 else WORKERS)
        held = dict(self.epochs[name])
        if rng.random() < 0.2:
            held[rng.randrange(SHARDS)] += 1
        known: Sequence[int] = range(len(self.ids))
        pending = [number for number, (shard, _, model) in enumerate(self.ids) if self._is_pending(shard, model)]
        known = pending if pending and rng.random() < 0.7 else known
        numbers = sorted(rng.sample(known, min(len(known), rng.randrange(1, 9))))
        if rng.random() < 0.1:
            numbers += numbers[:1]
        dead = {number: self._some_rows(number) for number in numbers}
        real, model = ([self._metered(number, twin, dead[number]) for number in numbers] for twin in (1, 2))
        came = await self.real[name].settle(held, real)
        emptied: dict[tuple[int, str], int] = {}
        foreign = set()
        for shard in sorted({one.settlement.shard for one in model}):
            ours = self.model.settle(shard, held[shard], name, [one for one in model if one.settlement.shard == shard])
            if ours is None:
                foreign.add(shard)
            emptied |= {stream: self.number(shard, clock) for stream, clock in (ours or {}).items()}
        assert came.foreign == foreign
        assert {stream: self.number(stream[0], clock) for stream, clock in (came.emptied or {}).items()} == emptied

    def _metered(self, number: int, twin: int, dead: Sequence[int]) -> Metered:
        """The settlement of an entry of which some rows are dead, and the last of the others is superseded."""
        shard, stream_id, entry = self.ids[number][0], str(self.ids[number][twin]), self.entries[number]
        sequence = self.original(number, twin) or stream_id
        singles = {row: wire.one_record(entry, row, sequence if entry.seq else f"{sequence}-{row}") for row in dead}
        reason = list(Reason)[number % len(Reason)]
        letters = tuple(DeadRecord(row, single, Verdict(reason, worker="ann")) for row, single in singles.items())
        n, superseded = len(entry.ids), int(len(dead) < len(entry.ids))
        acked = n - len(dead) - superseded
        one = Settlement(
            *(shard, stream_id, entry.namespace, entry.run, n, entry.size, acked, superseded, sequence, letters)
        )
        usage = Usage(number, number % 2, 10 * number, {"": number % 7, "n": 5})
        return Metered(one, number % 50, usage if entry.run else None, usage if number % 3 else None)

    def _is_pending(self, shard: int, stream_id: str) -> bool:
        return stream_id in self.model.shards[shard].entries

    def _some_rows(self, number: int) -> list[int]:
        return [row for row in range(len(self.entries[number].ids)) if self.rng.random() < 0.4]

    # dead letters

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

    def letters(self, shard: int) -> list[tuple[Pick, str]]:
        """Each dead letter as a command picks it, and the model's stream id, after a comparison of what they hold."""
        real: Any = self.sync.xrange(KEYS.shard(shard).dead)
        found = [decode_letter(shard, dead_id.decode(), fields) for dead_id, fields in real]
        theirs = self.model.shards[shard].letters.stream
        assert [self._read_letter(shard, one.entry) for one in found] == [
            self._read_letter(shard, one) for one in theirs.values()
        ]
        picks = [
            Pick(shard, one.stream_id, one.entry.seq, one.entry.run, mark_field(one.entry), one.verdict.reason)
            for one in found
        ]
        return list(zip(picks, theirs, strict=True))

    def _read_letter(self, shard: int, entry: wire.Entry) -> tuple[tuple[int, int], wire.Entry]:
        return self.origin(shard, entry.seq), entry._replace(seq="")

    async def replay(self) -> None:
        """Replay some dead letters, and again when they are gone."""
        shard = self.rng.randrange(SHARDS)
        pairs = self.letters(shard)
        picked = self.rng.sample(pairs, min(len(pairs), 2))
        for moved in (len(picked), 0):
            tally = Tally()
            await self.server.hold(replay(KEYS, self.shape, [pick for pick, _ in picked], tally, _patience))
            assert (len(tally.moved), tally.gone, tally.damaged) == (moved, len(picked) - moved, 0)
        for (_, dead_id), stream_id in zip(picked, self._new_ids(shard), strict=True):
            letter = self.model.shards[shard].letters.stream[dead_id]
            new = self.model.replay(shard, dead_id)
            assert self.model.replay(shard, dead_id) == ""
            self.origins[len(self.ids)] = self.origin(shard, letter.seq)
            self._add(shard, stream_id, new, self.model.shards[shard].entries[new])

    async def superseded(self) -> None:
        """Compare what the marks say of every replayed entry, and the marks themselves."""
        for number in self.origins:
            shard, entry = self.ids[number][0], self.entries[number]
            real = entry._replace(seq=self.original(number, 1))
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

    # the books

    async def compare(self) -> None:
        """Compare the books of the shards and of the runs, and the streams."""
        assert await self.real["ann"].books() == self.model.books()
        for shard in range(SHARDS):
            keys, model = KEYS.shard(shard), self.model.shards[shard]
            books = [(keys.run(run), model.runs.get(run, Counter())) for run in RUNS[1:]]
            for name, theirs in (*books, (keys.books, model.books)):
                told: Any = self.sync.hgetall(name)
                real = {counter.decode(): int(count) for counter, count in told.items() if _is_counter(counter)}
                assert +Counter(real) == +theirs
            for namespace in NAMESPACES:
                entries: Any = self.sync.xrange(keys.stream(namespace))
                assert [self.number(shard, stream_id.decode()) for stream_id, _ in entries] == [
                    self.number(shard, stream_id) for stream_id in model.streams.get(namespace, ())
                ]
                assert self.sync.exists(keys.stream(namespace)) == (namespace in model.streams)


def _is_counter(name: bytes) -> bool:
    text = name.decode()
    figures = {*COUNTERS, "requests", "retries", "posted", "settled_at", "settles"}
    return text in figures or text.startswith((REASON, "lsn:"))


@pytest.mark.parametrize("seed", range(3))
async def test_the_model_answers_as_the_server_does(
    backend: Backend, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both get the same random calls of two workers, and give the same answers all the way."""
    monkeypatch.setattr(model_queue, "BELL_LENGTH", BELL)
    twins = Twins(backend, seed)
    try:
        await twins.open()
        await twins.enqueue()
        for _ in range(STEPS):
            step = twins.rng.choice(
                (
                    *(twins.lease, twins.lease, twins.release, twins.mark, twins.lanes, twins.read, twins.read),
                    *(twins.settle, twins.settle, twins.settle, twins.replay, twins.superseded, twins.compare),
                )
            )
            for _ in range(twins.rng.randrange(3)):
                await twins.enqueue()
            if twins.rng.random() < 0.1:
                await twins.expire()
            await step()
        await twins.compare()
        await twins.superseded()
        assert len(twins.origins) > 2
    finally:
        twins.loop.close()


async def test_a_bell_keeps_its_latest_hundred(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """More lanes get a stream than the bell keeps: model and server tell of the same ones."""
    monkeypatch.setattr(model_queue, "BELL_LENGTH", BELL)
    twins = Twins(backend, 0)
    try:
        await twins.open()
        for number in range(120):
            await twins.enqueue(*((f"n{number}", f"{record}") for record in range(8)))
        for shard in range(SHARDS):
            found, theirs = (
                await twins.real["ann"].read({}, {shard: START}, 200, 0.0),
                twins.model.read({}, {shard: START}, 200),
            )
            assert len(found.rings) == BELL
            assert twins._heard(found.rings) == twins._heard(theirs.rings)
        await twins.lanes()
    finally:
        twins.loop.close()
