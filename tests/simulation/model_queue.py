"""Owns the queue's server as a model: streams, pending lists, leases and books as the worker's scripts treat them.

It lives in memory and in virtual time, answers at once, and never decides what a worker does.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from checker import Filed
from model_letters import Letters
from upsertq import wire
from upsertq.books import COUNTERS, REASON, Books, total
from upsertq.letter import mark_field
from upsertq_worker.queue.protocols import NEW, Delivery, Grant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from checker import Checker, Key
    from upsertq.pauses import Paused
    from upsertq.wire import Entry
    from upsertq_worker.queue.usage import Postage
    from upsertq_worker.ordering.model import Settlement
    from virtual_time import VirtualLoop

T = TypeVar("T")
Place = tuple[int, int]


def place_of(stream_id: str) -> Place:
    """Return the stream id as a pair that sorts."""
    milliseconds, _, number = stream_id.partition("-")
    return int(milliseconds), int(number)


@dataclass(slots=True)
class Shard:
    """What the server keeps of one shard."""

    stream: dict[str, tuple[dict[bytes, bytes], Entry]] = field(default_factory=dict)
    """Entries by stream id, oldest first."""
    pending: dict[str, int] = field(default_factory=dict)
    """Deliveries of the entries read and not yet acknowledged, oldest first."""
    delivered: Place = (0, 0)
    """The last entry that was read as new."""
    added: Place = (0, 0)
    holder: str = ""
    epoch: int = 0
    """Of the lease as it stands."""
    expires_at: float = 0.0
    last_epoch: int = 0
    books: Counter[str] = field(default_factory=Counter)
    runs: dict[str, Counter[str]] = field(default_factory=dict)
    letters: Letters = field(default_factory=Letters)
    suspects: dict[str, str] = field(default_factory=dict)
    """Marks of entries that are in work with care, by stream id."""


class ModelQueue:
    """The server's side: every method is one script or command, carried out at once and whole."""

    def __init__(self, loop: VirtualLoop, shards: int, lease: float, checker: Checker) -> None:
        self.shards = [Shard() for _ in range(shards)]
        self.checker = checker
        self.paused: dict[str, Paused] = {}
        self._loop = loop
        self._lease = lease
        self._blocked: list[Callable[[], bool]] = []

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
        """XADD."""
        milliseconds = int(self._loop.now * 1000) + 1
        model.added = max((milliseconds, 0), (model.added[0], model.added[1] + 1))
        stream_id = f"{model.added[0]}-{model.added[1]}"
        flat = [_bytes(item) for item in wire.encode(entry)]
        model.stream[stream_id] = (dict(zip(flat[::2], flat[1::2], strict=True)), entry)
        return stream_id

    def stir(self) -> None:
        """Let the reads that wait for new entries look again."""
        self._blocked = [look for look in self._blocked if not look()]

    def lease(self, shard: int, epoch: int, name: str, *, take: bool) -> Grant:
        """`lease.lua`."""
        model = self.shards[shard]
        holder = self.holder(shard)
        if holder and (model.epoch, holder) == (epoch, name):
            model.expires_at = self._loop.now + self._lease
            return Grant(shard, epoch, name)
        if holder:
            return Grant(shard, 0, holder)
        if not take:
            return Grant(shard, 0, "")
        if epoch == 0 or model.last_epoch != epoch:
            model.last_epoch += 1
        model.holder, model.epoch = name, model.last_epoch
        model.expires_at = self._loop.now + self._lease
        self.checker.note("lease", f"shard {shard} goes to {name}, epoch {model.epoch}")
        return Grant(shard, model.epoch, name)

    def release(self, shard: int, epoch: int, name: str, keep: float) -> None:
        """`release.lua`."""
        model = self.shards[shard]
        if not self.owns(shard, epoch, name):
            return
        self.checker.note("release", f"shard {shard} by {name}, kept for {keep:.3f} s")
        if int(keep * 1000) > 0:
            model.expires_at = self._loop.now + int(keep * 1000) / 1000
        else:
            model.holder = ""

    def read(self, cursors: Mapping[int, str], count: int) -> list[Delivery]:
        """XREADGROUP without waiting: what was read before behind a cursor, or new entries."""
        found: list[Delivery] = []
        for shard, cursor in cursors.items():
            model = self.shards[shard]
            if cursor == NEW:
                ids = [stream_id for stream_id in model.stream if place_of(stream_id) > model.delivered][:count]
                if ids:
                    model.delivered = place_of(ids[-1])
            else:
                after = place_of(cursor)
                ids = [stream_id for stream_id in model.pending if place_of(stream_id) > after][:count]
            for stream_id in ids:
                model.pending[stream_id] = model.pending.get(stream_id, 0) + 1
                found.append(Delivery(shard, stream_id, model.stream[stream_id][0]))
        return found

    def oldest_pending(self, shard: int, after: str) -> str:
        """XPENDING behind an id, for one entry; `""` when there is none."""
        pending = self.shards[shard].pending
        return next((stream_id for stream_id in pending if place_of(stream_id) > place_of(after)), "")

    def mark(self, shard: int, epoch: int, name: str, marks: Mapping[str, str]) -> None:
        """`mark.lua`."""
        model = self.shards[shard]
        ours = self.owns(shard, epoch, name)
        for stream_id, mark in marks.items():
            if not ours and not model.suspects.get(stream_id, "").endswith(f" by {name}"):
                continue
            if not mark:
                model.suspects.pop(stream_id, None)
            elif stream_id in model.pending:
                model.suspects[stream_id] = f"{mark} by {name}"
                self.checker.note("mark", f"{name}: {shard} {stream_id} {mark}")

    def settle(self, shard: int, epoch: int, name: str, settlements: Sequence[Settlement]) -> bool:
        """`settle.lua`; returns whether the lease was the caller's."""
        model = self.shards[shard]
        if not self.owns(shard, epoch, name):
            return False
        for one in settlements:
            if not self.acknowledge(model, one):
                continue
            _, entry = model.stream.pop(one.stream_id, (None, None))
            model.suspects.pop(one.stream_id, None)
            for books in self._books_of(model, one.run):
                books.update(
                    pending=-one.records, bytes=-one.size, acked=one.acked, superseded=one.superseded, dead=one.dead
                )
                books.update(f"reason:{grave.verdict.reason}" for grave in one.graves)
                books["settled_at"] = max(books["settled_at"], *(other.settled_ms for other in settlements))
            for books, postage in zip(self._books_of(model, one.run), (one.queue_postage, one.postage), strict=False):
                add_figures(books, postage)
            if entry is not None:
                self._mark(model, one, entry)
            self.checker.settled(name, one, self.holder(shard) if model.epoch == epoch else "")
        self.check_books(shard)
        return True

    def _mark(self, model: Shard, settlement: Settlement, entry: Entry) -> None:
        """Write the dead letters of a settled entry, and bring the marks of its ids up to date."""

        def outdated(older: Entry, reason: str) -> None:
            for books in self._books_of(model, older.run):
                books.update({"dead": -1, f"reason:{reason}": -1, "superseded": 1})

        letters, replayed, run = model.letters, bool(entry.seq), settlement.run
        dead = {grave.row for grave in settlement.graves}
        for grave in settlement.graves:
            dead_id, name = letters.write(grave.entry, grave.verdict.reason), mark_field(grave.entry)
            letters.update(name, grave.entry.seq, replayed=replayed, letter=dead_id, run=run, outdated=outdated)
        for row, record_id in enumerate(entry.ids):
            if row not in dead:
                sequence = settlement.sequence if replayed else f"{settlement.sequence}-{row}"
                name = f"{entry.namespace}\0{record_id}"
                letters.update(name, sequence, replayed=replayed, letter="", run=run, outdated=outdated)

    def superseded(self, shard: int, entry: Entry) -> bool:
        """HGET of the mark of a replayed entry's record, and what it says."""
        return self.shards[shard].letters.superseded(entry)

    def acknowledge(self, model: Shard, settlement: Settlement) -> bool:
        """XACK; returns whether the entry was pending."""
        return model.pending.pop(settlement.stream_id, None) is not None

    def owns(self, shard: int, epoch: int, name: str) -> bool:
        """Whether the shard's lease is held by `name` under `epoch`."""
        return self.holder(shard) == name and self.shards[shard].epoch == epoch

    def holder(self, shard: int) -> str:
        """Whose the shard's lease is now, `""` when it is free."""
        model = self.shards[shard]
        return model.holder if self._loop.now < model.expires_at else ""

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

    def backlog(self, shard: int) -> int:
        """XLEN."""
        return len(self.shards[shard].stream)

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
            self.checker.replayed(shard, stream_id, self.shards[shard].stream[stream_id][1])
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
        entries = [entry for _, entry in model.stream.values()]
        letters = list(model.letters.stream.values())
        for name, books in [("", model.books), *model.runs.items()]:
            if sum(count for counter, count in books.items() if counter.startswith(REASON)) != books["dead"]:
                self.checker.violated(f"the reasons in the books of {(shard, name)} do not add up: {books}")
            counted = [entry for entry in entries if not name or entry.run == name]
            self.checker.booked(
                (shard, name),
                _books(books),
                records=sum(len(entry.ids) for entry in counted),
                size=sum(entry.size for entry in counted),
                dead=sum(not name or letter.run == name for letter in letters),
            )

    def _books_of(self, model: Shard, run: str) -> list[Counter[str]]:
        return [model.books, model.runs.setdefault(run, Counter())] if run else [model.books]


def add_figures(books: Counter[str], postage: Postage | None) -> None:
    """`add_figure` of `settle.lua`, for all that a settlement brings."""
    for name, value in (postage.figures() if postage else {}).items():
        books[name] = max(books[name], value) if name.startswith("lsn:") else books[name] + value


def _books(counter: Counter[str]) -> Books:
    return Books(*(counter[name] for name in COUNTERS))


def _bytes(item: str | bytes | int) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()
