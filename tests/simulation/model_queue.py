"""Owns the queue's server as a model: streams, leases and books as the worker's scripts treat them.

It lives in memory and in virtual time, answers at once, and never decides what a worker does.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson

from checker import Filed
from model_letters import Letters
from upsertq.admin.workers import workers_of
from upsertq.contract import wire
from upsertq.contract.books import COUNTERS, REASON, Books, total
from upsertq.contract.dead_letter import mark_field
from upsertq_worker.pace.lane import answer
from upsertq_worker.queue.protocols import Counted, Delivery, Grant, LaneList, Read, Ring

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from checker import Checker, Key
    from upsertq.admin.workers import Worker
    from upsertq.contract.pauses import Paused
    from upsertq.contract.wire import Entry
    from upsertq_worker.flow.usage import Metered, Usage
    from upsertq_worker.ordering.model import Settlement
    from upsertq_worker.pace.lane import Ask, Given, Lane
    from upsertq_worker.queue.protocols import Stream
    from virtual_time import VirtualLoop

T = TypeVar("T")
Place = tuple[int, int]


@lru_cache(maxsize=1 << 16)
def place_of(stream_id: str) -> Place:
    """Return the stream id as a pair that sorts."""
    milliseconds, _, number = stream_id.partition("-")
    return int(milliseconds), int(number)


BELL_LENGTH: Final = 20
"""Rings that a bell keeps: fewer than the real one, so that some are missed."""


@dataclass(slots=True)
class Shard:
    """What the server keeps of one shard."""

    streams: dict[str, dict[str, tuple[dict[bytes, bytes], Entry]]] = field(default_factory=dict)
    """By namespace the entries by stream id, oldest first; a stream is gone with its last entry."""
    bell: list[tuple[str, str]] = field(default_factory=list)
    """The latest namespaces that got a stream, with the sequence of its first entry."""
    clock: Place = (0, 0)
    holder: str = ""
    epoch: int = 0
    """Of the lease as it stands."""
    expires_at: float = 0.0
    last_epoch: int = 0
    released: int = 0
    deaths: int = 0
    mark: str = ""
    books: Counter[str] = field(default_factory=Counter)
    runs: dict[str, Counter[str]] = field(default_factory=dict)
    letters: Letters = field(default_factory=Letters)

    @property
    def entries(self) -> dict[str, Entry]:
        """All entries by stream id."""
        return {stream_id: one[1] for stream in self.streams.values() for stream_id, one in stream.items()}


class ModelQueue:
    """The server's side: every method is one script or command, carried out at once and whole."""

    def __init__(self, loop: VirtualLoop, shards: int, lease: float, checker: Checker) -> None:
        self.shards = [Shard() for _ in range(shards)]
        self.checker = checker
        self.paused: dict[str, Paused] = {}
        self.beats: dict[str, dict[str, Any]] = {}
        """Each worker's report, dated by the server's time."""
        self._paces: dict[str, Lane] = {}
        self._loop = loop
        self._lease = lease
        self._blocked: list[Callable[[], bool]] = []
        self._sizes: dict[int, tuple[Entry, int]] = {}

    # what the scripts do

    def enqueue(self, shard: int, entry: Entry) -> str:
        """`enqueue.lua`, for one entry."""
        model = self.shards[shard]
        for books in self._books_of(model, entry.run):
            books.update(enqueued=len(entry.ids), pending=len(entry.ids), bytes=entry.size)
        return self._append(model, entry)

    def replay(self, shard: int, dead_id: str) -> str:
        """`replay.lua`, for one letter; returns its new stream id, `""` when it was gone."""
        model = self.shards[shard]
        taken = model.letters.take(dead_id)
        if taken is None:
            return ""
        entry, reason = taken
        for books in self._books_of(model, entry.run):
            books.update({"dead": -1, f"reason:{reason}": -1, "pending": 1, "bytes": entry.size})
        return self._append(model, entry)

    def _append(self, model: Shard, entry: Entry) -> str:
        """Make the next sequence, and add the entry to the stream of its lane."""
        model.clock = self.next_place(model)
        stream_id = _spoken(model.clock)
        flat = [_bytes(item) for item in wire.encode(entry)]
        if entry.namespace not in model.streams:
            model.streams[entry.namespace] = {}
            model.bell = [*model.bell, (stream_id, entry.namespace)][-BELL_LENGTH:]
        model.streams[entry.namespace][stream_id] = (dict(zip(flat[::2], flat[1::2], strict=True)), entry)
        return stream_id

    def next_place(self, model: Shard) -> Place:
        """The next sequence of a shard: greater than all before, whatever the clock on the wall says."""
        milliseconds = self.milliseconds()
        return (milliseconds, 0) if milliseconds > model.clock[0] else (model.clock[0], model.clock[1] + 1)

    def milliseconds(self) -> int:
        """The server's time, which goes back now and then."""
        return 1 + int(1000 * (self._loop.now - (self._loop.now % 7 > 6) * 3))

    def stir(self) -> None:
        """Let the reads that wait for new entries look again."""
        self._blocked = [look for look in self._blocked if not look()]

    def lease(self, shard: int, epoch: int, name: str, *, take: bool, told: int = 0) -> Grant:
        """`lease.lua`."""
        model = self.shards[shard]
        holder = self.holder(shard)
        if holder:
            if (model.epoch, holder) != (epoch, name) or model.released == model.epoch or model.books["settles"] < told:
                return Grant(shard, 0, holder)
            model.expires_at = self._loop.now + self._lease
            return Grant(shard, epoch, name)
        unnoticed = bool(epoch) and epoch == model.last_epoch and model.released != epoch
        unnoticed = unnoticed and model.books["settles"] >= told
        if not take or (epoch and not unnoticed):
            return Grant(shard, 0)
        model.expires_at = self._loop.now + self._lease
        if unnoticed:
            model.holder, model.epoch = name, epoch
            return Grant(shard, epoch, name)
        clean = model.last_epoch in {0, model.released}
        model.deaths = 0 if clean else model.deaths + 1
        model.last_epoch += 1
        if not clean and model.holder != name:
            self.checker.taken_over(shard, model.mark)
        model.holder, model.epoch = name, model.last_epoch
        self.checker.note("lease", f"shard {shard} goes to {name}, epoch {model.epoch}, {model.deaths} deaths")
        return Grant(shard, model.epoch, name, clean, model.deaths, model.mark, _spoken(model.clock))

    def release(self, shard: int, epoch: int, name: str, keep: float) -> None:
        """`release.lua`."""
        model = self.shards[shard]
        if not self.owns(shard, epoch, name):
            return
        self.checker.note("release", f"shard {shard} by {name}, kept for {keep:.3f} s")
        model.released = epoch
        if int(keep * 1000) > 0:
            model.expires_at = self._loop.now + int(keep * 1000) / 1000
        else:
            model.holder = ""

    def lanes(self, shard: int) -> LaneList:
        """XREVRANGE of the bell, and SMEMBERS."""
        model = self.shards[shard]
        return LaneList(model.bell[-1][0] if model.bell else "0-0", sorted(model.streams))

    def read(self, cursors: Mapping[Stream, str], bells: Mapping[int, str], count: int) -> Read:
        """XREAD without waiting."""
        deliveries: list[Delivery] = []
        for (shard, namespace), cursor in cursors.items():
            stream = self.shards[shard].streams.get(namespace, {})
            place = place_of(cursor)
            ids = list(islice((stream_id for stream_id in stream if place_of(stream_id) > place), count))
            deliveries += [Delivery(shard, namespace, stream_id, stream[stream_id][0]) for stream_id in ids]
        rings: list[Ring] = []
        for shard, cursor in bells.items():
            heard = [one for one in self.shards[shard].bell if place_of(one[0]) > place_of(cursor)][:count]
            rings += [Ring(shard, namespace, place) for place, namespace in heard]
        return Read(deliveries, rings)

    def mark(self, shard: int, epoch: int, name: str, mark: str, deaths: int | None) -> bool:
        """`mark.lua`."""
        model = self.shards[shard]
        if not self.owns(shard, epoch, name):
            return False
        model.mark = mark
        if deaths is not None:
            model.deaths = deaths
        self.checker.note("mark", f"{name}: {shard} {mark}")
        return True

    def settle(
        self, shard: int, epoch: int, name: str, settlements: Sequence[Metered], told: int = 0
    ) -> dict[Stream, str] | None:
        """`settle.lua`; returns the streams that it emptied, `None` where the lease is not the caller's."""
        model = self.shards[shard]
        if not self.owns(shard, epoch, name) or model.books["settles"] < told:
            return None
        for metered in settlements:
            one = metered.settlement
            stream = model.streams.get(one.namespace, {})
            entry = stream[one.stream_id][1] if one.stream_id in stream else None
            if not self.remove(model, one):
                continue
            model.books["settles"] += 1
            for books in self._books_of(model, one.run):
                books.update(
                    pending=-one.records,
                    bytes=-one.size,
                    acked=one.acked,
                    superseded=one.superseded,
                    dead=len(one.dead),
                )
                books.update(f"reason:{dead.verdict.reason}" for dead in one.dead)
                books["settled_at"] = max(books["settled_at"], *(other.settled_ms for other in settlements))
            for books, usage in zip(self._books_of(model, one.run), (metered.queue_usage, metered.usage), strict=False):
                add_figures(books, usage)
            if entry is not None:
                self._mark(model, one, entry)
            self.checker.settled(name, one, self.holder(shard) if model.epoch == epoch else "")
        self.check_books(shard)
        namespaces = {metered.settlement.namespace for metered in settlements}
        emptied = [namespace for namespace in sorted(namespaces) if not model.streams.get(namespace)]
        for namespace in emptied:
            model.streams.pop(namespace, None)
        return {(shard, namespace): _spoken(model.clock) for namespace in emptied}

    def _mark(self, model: Shard, settlement: Settlement, entry: Entry) -> None:
        """Write the dead letters of a settled entry, and bring the marks of its ids up to date."""

        def outdated(older: Entry, reason: str) -> None:
            for books in self._books_of(model, older.run):
                books.update({"dead": -1, f"reason:{reason}": -1, "superseded": 1})

        letters, replayed, run = model.letters, bool(entry.seq), settlement.run
        dead = {record.row for record in settlement.dead}
        for record in settlement.dead:
            dead_id, name = letters.write(record.entry, record.verdict.reason), mark_field(record.entry)
            letters.update(name, record.entry.seq, replayed=replayed, letter=dead_id, run=run, outdated=outdated)
        for row, record_id in enumerate(entry.ids):
            if row not in dead:
                sequence = settlement.sequence if replayed else f"{settlement.sequence}-{row}"
                name = f"{entry.namespace}\0{record_id}"
                letters.update(name, sequence, replayed=replayed, letter="", run=run, outdated=outdated)

    def superseded(self, shard: int, entry: Entry) -> bool:
        """HGET of the mark of a replayed entry's record, and what it says."""
        return self.shards[shard].letters.superseded(entry)

    def remove(self, model: Shard, settlement: Settlement) -> bool:
        """XDEL; returns whether the entry was there."""
        return model.streams.get(settlement.namespace, {}).pop(settlement.stream_id, None) is not None

    def owns(self, shard: int, epoch: int, name: str) -> bool:
        """Whether the shard's lease is held by `name` under `epoch`."""
        return self.holder(shard) == name and self.shards[shard].epoch == epoch

    def holder(self, shard: int) -> str:
        """Whose the shard's lease is now, `""` when it is free."""
        model = self.shards[shard]
        return model.holder if self._loop.now < model.expires_at else ""

    def held_by(self, name: str) -> list[int]:
        """The shards whose lease this worker holds now."""
        return [shard for shard in range(len(self.shards)) if self.holder(shard) == name]

    def note(self, changes: Mapping[str, Paused | None]) -> None:
        """Note pauses that began, and forget those that ended."""
        for scope, paused in changes.items():
            if scope in self.paused and self.paused[scope].by_hand:
                continue
            if paused is None:
                self.paused.pop(scope, None)
            else:
                self.paused.setdefault(scope, paused)

    def noted(self) -> dict[str, Paused]:
        """Every pause that is noted."""
        return dict(self.paused)

    def beat(self, name: str, report: Mapping[str, Any]) -> Sequence[Worker]:
        """HSET of a worker's heartbeat, and HGETALL."""
        now = self.milliseconds() / 1000
        self.beats[name] = {**report, "at": now}
        return workers_of({name: orjson.dumps(beat) for name, beat in self.beats.items()}, now)

    def leave(self, name: str) -> None:
        """HDEL of a heartbeat."""
        self.beats.pop(name, None)

    def pace(self, ask: Ask) -> Given:
        """`pace.lua`, for one lane."""
        lane, given = answer(self._paces.get(ask.namespace), ask, 1e9 + self._loop.now)
        self._paces.pop(ask.namespace, None)
        if lane is not None:
            self._paces[ask.namespace] = lane
        return given

    def backlog(self, shard: int) -> int:
        """XLEN of every stream of a shard."""
        return len(self.shards[shard].entries)

    def counted(self, shard: int) -> Counted:
        """What the books of a shard count as pending, and its clock."""
        model = self.shards[shard]
        return Counted(_books(model.books).pending, _spoken(model.clock))

    def books(self) -> Books:
        """Return the books of the queue."""
        return total(_books(model.books) for model in self.shards)

    # what the simulation needs besides

    def add(self, shard: int, entry: Entry, keys: Sequence[tuple[Key, int]]) -> None:
        """Enqueue an entry whose records are these versions of these keys, and tell the checker."""
        stream_id = self.enqueue(shard, entry)
        self.checker.enqueued(shard, stream_id, Filed(entry.run, entry.size, tuple(keys)))
        self.check_books(shard)
        self.stir()

    def revive(self, shard: int, dead_id: str) -> None:
        """Replay a letter, and tell the checker."""
        stream_id = self.replay(shard, dead_id)
        if stream_id:
            self.checker.replayed(shard, stream_id, self.shards[shard].entries[stream_id])
            self.check_books(shard)
            self.stir()

    def letters(self) -> list[tuple[int, str]]:
        """Shard and stream id of every dead letter."""
        return [(shard, dead_id) for shard, model in enumerate(self.shards) for dead_id in model.letters.stream]

    def marks(self) -> int:
        """Ids that are marked."""
        return sum(len(model.letters.marks) for model in self.shards)

    def block(self, look: Callable[[], bool]) -> None:
        """Call `look` whenever there are new entries, until it returns true."""
        self._blocked.append(look)

    def check_books(self, shard: int) -> None:
        """Have the books of a shard and of its runs compared with a recount."""
        model = self.shards[shard]
        counted: dict[str, list[int]] = {}
        for stream in model.streams.values():
            for _, entry in stream.values():
                size = self._size(entry)
                for name in {"", entry.run}:
                    of = counted.setdefault(name, [0, 0])
                    of[0] += len(entry.ids)
                    of[1] += size
        letters = list(model.letters.stream.values())
        for name, books in [("", model.books), *model.runs.items()]:
            if sum(count for counter, count in books.items() if counter.startswith(REASON)) != books["dead"]:
                self.checker.violated(f"the reasons in the books of {(shard, name)} do not add up: {books}")
            records, size = counted.get(name, (0, 0))
            self.checker.booked(
                (shard, name),
                _books(books),
                records=records,
                size=size,
                dead=sum(not name or letter.run == name for letter in letters),
            )

    def _size(self, entry: Entry) -> int:
        """The entry's size, measured once."""
        size = self._sizes.get(id(entry))
        if size is None or size[0] is not entry:
            size = self._sizes[id(entry)] = entry, entry.size
        return size[1]

    def _books_of(self, model: Shard, run: str) -> list[Counter[str]]:
        return [model.books, model.runs.setdefault(run, Counter())] if run else [model.books]


def add_figures(books: Counter[str], usage: Usage | None) -> None:
    """`add_figure` of `settle.lua`, for all that a settlement brings."""
    for name, value in (usage.figures() if usage else {}).items():
        books[name] = max(books[name], value) if name.startswith("lsn:") else books[name] + value


def _spoken(place: Place) -> str:
    return f"{place[0]}-{place[1]}"


def _books(counter: Counter[str]) -> Books:
    return Books(*(counter[name] for name in COUNTERS))


def _bytes(item: str | bytes | int) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()
