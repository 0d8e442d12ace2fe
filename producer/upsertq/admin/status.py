"""Owns what `status` reads: how a queue stands, its books, backlog, leases, workers, pauses and runs at one moment.

It reads alone.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from upsertq.admin.workers import Lease, Worker, leases_of, time_of, workers_of
from upsertq.contract import books, fitness, pauses
from upsertq.contract.books import COUNTERS, Books
from upsertq.contract.figures import whole
from upsertq.contract.fitness import ServerFacts
from upsertq.contract.keys import QueueKeys
from upsertq.contract.pauses import Paused
from upsertq.contract.protocol import Conversation, Patience, Script, ask_all, ask_script, named, persistently
from upsertq.contract.queue import QueueShape
from upsertq.contract.runs import RunState, decode_run

GLANCE: Final = Script.load("upsertq.contract", "glance")
CAREFUL_DEATHS: Final = 2
"""Holders in a row that ended without release, from which on a shard is drained one entry at a time."""
MOST_STREAMS: Final = 200_000
"""Streams that one look looks at; of more, a part that chance chose."""
CALL_STREAMS: Final = 200
ROUND_CALLS: Final = 50
LARGEST_LANES: Final = 10


@dataclass(frozen=True, slots=True)
class RunStanding:
    """A run: `since` is when a producer first used it, in seconds since 1970; `sealed` that nothing more is to come."""

    run: str
    since: float
    books: Books
    sealed: bool


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is pending in the streams of all lanes.

    Attributes:
        entries: of all lanes.
        oldest: when the oldest of them was enqueued, in seconds; `None` where there is none.
        lanes: namespaces that have any.
        largest: those with the most, with their entries.
        sampled: whether there were so many streams that only a part of them was looked at.
    """

    entries: int
    oldest: float | None
    lanes: int
    largest: tuple[tuple[str, int], ...]
    sampled: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """How a queue stands; times are the server's, in seconds.

    `books` are those of `run` where it is not empty, and so are `reasons`: the dead letters by the reason they died of.
    `careful` has the shards that are drained one entry at a time, with how many holders in a row ended without release.
    """

    shape: QueueShape
    run: str
    at: float
    books: Books
    reasons: Mapping[str, int]
    backlog: Backlog
    careful: Mapping[int, int]
    leases: tuple[Lease, ...]
    workers: tuple[Worker, ...]
    paused: Mapping[str, Paused]
    runs: tuple[RunStanding, ...]
    runs_known: int
    server: ServerFacts

    @property
    def entries(self) -> int:
        """Entries that are pending."""
        return self.backlog.entries

    @property
    def oldest_age(self) -> float | None:
        """Seconds since the oldest pending entry was enqueued, `None` where none is pending."""
        return None if self.backlog.oldest is None else max(0.0, round(self.at - self.backlog.oldest, 3))

    def as_dict(self) -> dict[str, Any]:
        """The JSON document of `status --json`, but for the rates."""
        document: dict[str, Any] = {"queue": self.shape.name}
        if self.run:
            document["run"] = self.run
        return {
            **document,
            **self.books.as_dict(),
            "reasons": dict(self.reasons),
            "at": self.at,
            "shards": self.shape.shards,
            "dimension": self.shape.dimension,
            "entries": self.entries,
            "oldest_age": self.oldest_age,
            "lanes": self.backlog.lanes,
            "largest_lanes": [{"namespace": name, "entries": count} for name, count in self.backlog.largest],
            "careful": {str(shard): deaths for shard, deaths in self.careful.items()},
            "leases": [asdict(lease) for lease in self.leases],
            "workers": [asdict(worker) for worker in self.workers],
            "paused": [pauses.as_dict(scope, paused) for scope, paused in self.paused.items()],
            "runs": [
                {"run": run.run, "since": run.since, "sealed": run.sealed, **run.books.as_dict()} for run in self.runs
            ],
            "runs_known": self.runs_known,
            "server": self.server.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class Rates:
    """Records a second between two looks, over `seconds`."""

    seconds: float
    enqueued: float
    acked: float
    settled: float

    @classmethod
    def between(cls, before: Standing, after: Standing) -> "Rates":
        """The rates from one look to a later one."""
        seconds = max(after.at - before.at, 1e-3)

        def per_second(then: int, now: int) -> float:
            return round((now - then) / seconds, 1)

        first, second = before.books, after.books
        return cls(
            seconds=round(seconds, 3),
            enqueued=per_second(first.enqueued, second.enqueued),
            acked=per_second(first.acked, second.acked),
            settled=per_second(first.enqueued - first.pending, second.enqueued - second.pending),
        )


def look(
    keys: QueueKeys,
    shape: QueueShape,
    run: str,
    patience: Patience,
    *,
    most_runs: int = 10,
    most_streams: int = MOST_STREAMS,
) -> Conversation[Standing]:
    """How the queue stands now; of its runs only the `most_runs` newest, of its backlog about `most_streams`."""
    shards = [keys.shard(k) for k in range(shape.shards)]
    commands: list[list[str]] = [["TIME"], ["HGETALL", keys.workers], ["HGETALL", keys.paused], ["HGETALL", keys.runs]]
    hashes = [shard.run(run) if run else shard.books for shard in shards]
    commands += [["HGETALL", name] for name in hashes] + [["HGET", shard.books, "deaths"] for shard in shards]
    commands += [["GET", shard.lease] for shard in shards] + [["PTTL", shard.lease] for shard in shards]
    replies = yield from persistently(ask_all(commands), patience, f"read the queue '{keys.queue}'")
    told, beats, paused, noted = replies[:4]
    now, n = time_of(told), shape.shards
    found, dead, holders, expiries = (replies[at : at + n] for at in range(4, 4 + 4 * n, n))
    counters = [named(reply) for reply in found]
    facts = yield from fitness.ask_facts(patience, "read the server's settings")
    backlog = yield from _backlog(keys, n, most_streams, patience)
    shown_runs = yield from _runs(keys, n, named(noted), most_runs, patience)
    deaths = {shard: whole(count) or 0 for shard, count in enumerate(dead)}
    return Standing(
        shape=shape,
        run=run,
        at=now,
        books=books.total(
            books.of_reply([of_shard.get(name) for name in COUNTERS], key)
            for of_shard, key in zip(counters, hashes, strict=True)
        ),
        reasons=books.reasons_of(counters),
        backlog=backlog,
        careful={shard: count for shard, count in deaths.items() if count >= CAREFUL_DEATHS},
        leases=leases_of(holders, expiries),
        workers=workers_of(named(beats), now),
        paused=pauses.of_reply(paused),
        runs=shown_runs,
        runs_known=len(named(noted)),
        server=facts,
    )


def _backlog(keys: QueueKeys, shards: int, most_streams: int, patience: Patience) -> Conversation[Backlog]:
    reading = f"read the lanes of queue '{keys.queue}'"
    sizes = yield from persistently(ask_all([["SCARD", keys.shard(k).lanes] for k in range(shards)]), patience, reading)
    most = max(1, most_streams // shards)
    ask = ask_all([["SRANDMEMBER", keys.shard(k).lanes, most] for k in range(shards)])
    lanes = yield from persistently(ask, patience, reading)
    named_lanes = [[name.decode("utf-8", "surrogateescape") for name in of_shard] for of_shard in lanes]
    calls = [
        (shard, of_shard[at : at + CALL_STREAMS])
        for shard, of_shard in enumerate(named_lanes)
        for at in range(0, len(of_shard), CALL_STREAMS)
    ]
    entries, oldest = Counter[str](), list[int]()
    for at in range(0, len(calls), ROUND_CALLS):
        some = calls[at : at + ROUND_CALLS]
        ask = ask_script(GLANCE, [([keys.shard(k).stream(name) for name in names], []) for k, names in some])
        for (_, names), (first, *lengths) in zip(
            some, (yield from persistently(ask, patience, "read the backlog")), strict=True
        ):
            oldest += [int(first.split(b"-")[0])] if first else []
            for name, length in zip(names, lengths, strict=True):
                entries[name] += length
    return Backlog(
        entries=entries.total(),
        oldest=min(oldest, default=0) / 1000 if oldest else None,
        lanes=len(+entries),
        largest=tuple((_spelled(name), count) for name, count in entries.most_common(LARGEST_LANES) if count),
        sampled=any(size > most for size in sizes),
    )


def _spelled(name: str) -> str:
    """A lane's name as JSON takes it, also where it is no UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _runs(
    keys: QueueKeys, shards: int, known: Mapping[str, bytes], most: int, patience: Patience
) -> Conversation[tuple[RunStanding, ...]]:
    states = {run: _state(noted) for run, noted in known.items()}
    newest = sorted(states, key=lambda run: (-states[run].begun, run))[:most]
    if not newest:
        return ()
    hashes = [keys.shard(k).run(run) for run in newest for k in range(shards)]
    replies = yield from persistently(
        ask_all([["HMGET", name, *COUNTERS] for name in hashes]), patience, "read the runs"
    )
    parts = [books.of_reply(reply, name) for reply, name in zip(replies, hashes, strict=True)]
    totals = [books.total(parts[at : at + shards]) for at in range(0, len(parts), shards)]
    return tuple(
        RunStanding(run, states[run].begun / 1000, found, states[run].is_sealed(found.enqueued))
        for run, found in zip(newest, totals, strict=True)
    )


def _state(noted: bytes) -> RunState:
    try:
        return decode_run(noted)
    except ValueError:
        return RunState(0, None)
