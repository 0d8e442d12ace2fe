"""Owns the audit: it recounts what a queue holds from the entries themselves and compares that with the books.

It reads alone and never repairs. Traffic may go on meanwhile: a count is believed only when the books stood still.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from upsertq.contract.books import COUNTERS, REASON, Books, check_incarnations
from upsertq.contract.dead_letter import Reason
from upsertq.contract.figures import counter
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Conversation, Patience, Script, ask_all, ask_script, persistently
from upsertq.contract.queue import OTHER, QueueShape

RECOUNT: Final = Script.load("upsertq.contract", "recount")
PAGE_ENTRIES: Final = 200
PAGE_LANES: Final = 100
TRIES: Final = 3
REASONS: Final = tuple(f"{REASON}{reason}" for reason in Reason)
ATOMIC_LANES: Final = 5_000
ATOMIC_ENTRIES: Final = 20_000
ATOMIC_BYTES: Final = 512_000_000
"""The largest shard that is recounted in one call, during which the server does nothing else: about a second."""


@dataclass(frozen=True, slots=True)
class Drift:
    """A counter that disagrees: `expected` by the primary keys (or the identity), `found` in the books.

    `counter` is `pending`, `bytes`, `dead`, `reason:…` (of the dead), or `enqueued` where the identity fails; `run` is
    empty for the shard's own. Where no counter stands, of whatever name, `found` is 0 and `told` is what does.
    """

    shard: int
    run: str
    counter: str
    expected: int
    found: int
    told: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit found; `inconclusive` names shards that never stood still and are too long to recount at once."""

    queue: str
    shards: int
    entries: int
    records: int
    bytes: int
    dead: int
    runs: int
    drifts: tuple[Drift, ...]
    inconclusive: tuple[int, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing drifts in what could be recounted."""
        return not self.drifts

    def as_dict(self) -> dict[str, Any]:
        """The report as one JSON document; `told` is left out where there is nothing to tell."""
        drifts = [{k: v for k, v in asdict(drift).items() if k != "told" or v} for drift in self.drifts]
        return {**asdict(self), "drifts": drifts, "ok": self.ok}


@dataclass(slots=True)
class _Count:
    """What one shard's entries add up to, and the books beside them."""

    entries: int = 0
    records: int = 0
    bytes: int = 0
    runs: dict[str, tuple[int, int]] = field(default_factory=dict)
    letters: int = 0
    last_letter: str = ""
    deaths: dict[str, int] = field(default_factory=dict)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Dead letters by run and counter of their reason."""
    length: int = 0
    """Entries in the streams of the latest call."""
    dead: int = 0
    lanes: int = 0
    clock: str = ""
    books: Books = field(default_factory=Books)
    run_books: dict[str, Books] = field(default_factory=dict)
    kept_reasons: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """What the books of each run (`""`: of the shard) say for each of `REASONS`."""
    damaged: dict[tuple[str, str], str] = field(default_factory=dict)
    """What stands in the books of each run in the place of a counter, by run and counter; it counts as 0."""

    def add(self, reply: Sequence[Any], asked: Sequence[str]) -> tuple[int, str]:
        """Add a call's reply; returns how many streams it read to their end, and its last id in the next one."""
        read, finished, last, records, size, by_run, letters, last_letter, deaths, reasons, *now = reply
        length, self.dead, self.lanes, clock, shard, *runs = now
        self.length, self.clock = length, clock.decode("ascii", "replace")
        self.letters, self.last_letter = self.letters + letters, last_letter.decode("ascii") or self.last_letter
        for name, more in zip(deaths[::2], deaths[1::2], strict=True):
            run = name.decode("ascii", "backslashreplace")
            self.deaths[run] = self.deaths.get(run, 0) + more
        for name, reason, more in zip(reasons[::3], reasons[1::3], reasons[2::3], strict=True):
            self.reasons[name.decode("ascii", "backslashreplace"), REASON + reason.decode("ascii", "replace")] += more
        self.entries, self.records, self.bytes = self.entries + read, self.records + records, self.bytes + size
        for name, more_records, more_bytes in zip(by_run[::3], by_run[1::3], by_run[2::3], strict=True):
            run = name.decode("ascii", "backslashreplace")
            before = self.runs.get(run, (0, 0))
            self.runs[run] = (before[0] + more_records, before[1] + more_bytes)
        self.books, self.kept_reasons[""] = self._kept("", shard)
        for run, kept in zip(asked, runs, strict=True):
            self.run_books[run], self.kept_reasons[run] = self._kept(run, kept)
        return finished, last.decode("ascii")

    @property
    def state(self) -> tuple[object, ...]:
        """What changes whenever anything in the shard moves."""
        return self.books, self.dead, self.lanes, self.clock

    def _kept(self, run: str, reply: Sequence[Any]) -> tuple[Books, tuple[int, ...]]:
        counts = []
        for name, value in zip((*COUNTERS, *REASONS), reply, strict=True):
            number = counter(value)
            if number is None:
                self.damaged[run, name] = (value or b"nothing").decode("ascii", "backslashreplace")
            counts.append(number or 0)
        return Books(*counts[: len(COUNTERS)]), tuple(counts[len(COUNTERS) :])


def audit(keys: QueueKeys, shape: QueueShape, patience: Patience) -> Conversation[Report]:
    """Recount every shard of the queue; `QueueLost` where one is not of this creation of the queue (any more)."""
    (known,) = yield from persistently(ask_all([["HKEYS", keys.runs]]), patience, "read the runs")
    runs = {name.decode("ascii", "backslashreplace") for name in known}
    drifts: list[Drift] = []
    inconclusive: list[int] = []
    sums = _Count()
    for shard in range(shape.shards):
        count = yield from _sure(_Shard(keys, shard, shape.incarnation, patience), runs)
        if count is None:
            inconclusive.append(shard)
            continue
        drifts += drifts_of(shard, count)
        sums.entries, sums.records = sums.entries + count.entries, sums.records + count.records
        sums.bytes, sums.dead = sums.bytes + count.bytes, sums.dead + count.dead
    return Report(
        queue=keys.queue,
        shards=shape.shards,
        entries=sums.entries,
        records=sums.records,
        bytes=sums.bytes,
        dead=sums.dead,
        runs=len(runs),
        drifts=tuple(drifts),
        inconclusive=tuple(inconclusive),
    )


def drifts_of(shard: int, count: _Count) -> list[Drift]:
    """Every counter of the shard and of its runs that disagrees with the count, or is no counter."""
    drifts = list(_compared(shard, "", count, count.books, (count.records, count.bytes, count.dead)))
    for run in sorted(count.run_books):
        counted = (*count.runs.get(run, (0, 0)), count.deaths.get(run, 0))
        drifts += _compared(shard, run, count, count.run_books[run], counted)
    for run in sorted(count.kept_reasons):
        for reason, found in zip(REASONS, count.kept_reasons[run], strict=True):
            of = (run,) if run else {name for name, _ in count.reasons}
            expected = sum(count.reasons[name, reason] for name in of)
            told = count.damaged.get((run, reason))
            if found != expected or told is not None:
                drifts.append(Drift(shard, run, reason, expected, found, told or ""))
    return drifts


def _compared(shard: int, run: str, count: _Count, kept: Books, counted: tuple[int, int, int]) -> Iterator[Drift]:
    expected = dict(zip(("pending", "bytes", "dead"), counted, strict=True))
    damaged = {name: told for (of, name), told in count.damaged.items() if of == run and name in COUNTERS}
    for name, number in expected.items():
        found = kept.as_dict()[name]
        if found != number or name in damaged:
            yield Drift(shard, run, name, number, found, damaged.get(name, ""))
    # the identity tells what the last of these ought to be
    whole = replace(kept, **{name: expected[name] for name in damaged if name in expected})
    unknown = [name for name in damaged if name not in expected]
    for name in unknown:
        right = whole.enqueued - whole.drift if name == "enqueued" else whole.drift
        yield Drift(shard, run, name, right, 0, damaged[name])
    if not unknown and whole.drift:
        yield Drift(shard, run, "enqueued", whole.enqueued - whole.drift, whole.enqueued)


@dataclass(frozen=True, slots=True)
class _Shard:
    """One shard that is recounted."""

    keys: QueueKeys
    shard: int
    incarnation: str
    patience: Patience

    def lanes(self) -> Conversation[list[str]]:
        """The namespaces that have a stream now, as they are written in keys."""
        ask = ask_all([["SMEMBERS", self.keys.shard(self.shard).lanes]])
        (found,) = yield from persistently(ask, self.patience, f"read the lanes of shard {self.shard}")
        return sorted(name.decode("utf-8", "surrogateescape") for name in found)

    def call(
        self, count: _Count, lanes: Sequence[str], runs: Iterable[str], most: int, start: str = "-"
    ) -> Conversation[tuple[int, str]]:
        """Add to `count` at most `most` entries of these lanes, from `start` in the first of them, and letters."""
        own, asked = self.keys.shard(self.shard), list(runs)
        names = [own.books, own.lanes, own.dead, *map(own.stream, lanes), *map(own.run, asked)]
        letters = f"({count.last_letter}" if count.last_letter else "-"
        places: list[str | bytes | int] = [self.incarnation, len(lanes), start, most, letters, most]
        arguments = [*places, *COUNTERS, *REASONS]
        ask = ask_script(RECOUNT, [(names, arguments)])
        (reply,) = yield from persistently(ask, self.patience, f"recount shard {self.shard}")
        if reply[0] == OTHER:
            check_incarnations(self.keys, {self.shard: reply[1]}, self.incarnation)
        return count.add(reply, asked)


def _sure(shard: _Shard, runs: set[str]) -> Conversation[_Count | None]:
    """A count of the shard that is sure; `None` when there was none. Runs found in entries are added to `runs`."""
    suspected: list[Drift] = []
    for _ in range(TRIES):
        count = yield from _by_pages(shard, runs)
        drifts = [] if count is None else drifts_of(shard.shard, count)
        # a letter that was replayed and died again within a pass leaves the books as they were: such a drift goes away
        if count is not None and (not drifts or drifts == suspected):
            return count
        suspected = drifts
    for _ in range(TRIES):
        count, whole = yield from _at_once(shard, runs)
        if count is None or (whole and {*count.runs, *count.deaths} <= set(count.run_books)):
            return count
    return None


def _by_pages(shard: _Shard, runs: set[str]) -> Conversation[_Count | None]:
    """Count page by page, then read the books of all runs; `None` when anything moved between first and last call."""
    count, lanes, start, seen = _Count(), (yield from shard.lanes()), "-", set[tuple[object, ...]]()
    streams = len(lanes)
    while True:
        letters = count.letters
        finished, last = yield from shard.call(count, lanes[:PAGE_LANES], (), PAGE_ENTRIES, start)
        lanes, start = lanes[finished:], f"({last}" if last else "-"
        seen.add(count.state)
        if len(seen) > 1:
            return None
        if not lanes and count.letters - letters < PAGE_ENTRIES:
            break
    runs.update(count.runs, count.deaths)
    yield from shard.call(count, (), sorted(runs), 0)
    seen.add(count.state)
    return count if len(seen) == 1 and count.lanes == streams else None


def _at_once(shard: _Shard, runs: set[str]) -> Conversation[tuple[_Count | None, bool]]:
    """Count the whole shard in one call, and whether that was all of it; `None` when it is too long for that."""
    look, lanes = _Count(), (yield from shard.lanes())
    if len(lanes) > ATOMIC_LANES:
        return None, False
    yield from shard.call(look, lanes, (), 0)
    if max(look.length, look.dead) > ATOMIC_ENTRIES or look.books.bytes > ATOMIC_BYTES:
        return None, False
    count = _Count()
    yield from shard.call(count, lanes, sorted(runs), 2 * ATOMIC_ENTRIES)
    runs.update(count.runs, count.deaths)
    return count, count.lanes == len(lanes) and count.entries == count.length
