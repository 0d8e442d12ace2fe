"""Owns what `status` reads: how a queue stands, its books, backlog, leases, workers, pauses and runs at one moment.

It reads alone, and bears with whatever a worker of another version has written about itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import orjson

from upsertq import books, pauses
from upsertq.books import COUNTERS, Books
from upsertq.exchange import Conversation, Patience, Script, ask_all, named, persistently, run_scripts
from upsertq.figures import LAST_MS, whole
from upsertq.keys import QueueKeys
from upsertq.pauses import Paused
from upsertq.queue import QueueShape

GLANCE: Final = Script.load("upsertq", "glance")
BEATS_MISSED: Final = 3
"""A worker whose last beat is older than so many intervals is gone."""
DEFAULT_BEAT: Final = 5.0
"""What the counters of dead letters by reason begin with, in the books."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who may drain a shard: `epoch` is the fencing number, `expires_in` the seconds until it lapses."""

    shard: int
    worker: str
    epoch: int | None
    expires_in: float | None


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's latest beat; `age` is its age in seconds, `gone` says that too many beats are missing.

    `alarms` says what keeps it from working: why the index refuses, or why a shard stands still.
    """

    name: str
    age: float
    gone: bool
    host: str = ""
    pid: int = 0
    started_at: float = 0.0
    shards: tuple[int, ...] = ()
    in_flight: int = 0
    posted: int = 0
    requests: int = 0
    standby: bool = False
    alarms: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunStanding:
    """A run: `since` is when a producer first used it, in seconds since 1970."""

    run: str
    since: float
    books: Books


@dataclass(frozen=True, slots=True)
class Standing:
    """How a queue stands; times are the server's, in seconds.

    `books` are those of `run` where it is not empty, and so are `reasons`: the dead letters by the reason they died of.
    """

    shape: QueueShape
    run: str
    at: float
    books: Books
    reasons: Mapping[str, int]
    entries: int
    oldest_age: float | None
    leases: tuple[Lease, ...]
    workers: tuple[Worker, ...]
    paused: Mapping[str, Paused]
    runs: tuple[RunStanding, ...]
    runs_known: int

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
            "leases": [asdict(lease) for lease in self.leases],
            "workers": [asdict(worker) for worker in self.workers],
            "paused": [pauses.as_dict(scope, paused) for scope, paused in self.paused.items()],
            "runs": [{"run": run.run, "since": run.since, **run.books.as_dict()} for run in self.runs],
            "runs_known": self.runs_known,
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
    keys: QueueKeys, shape: QueueShape, run: str, patience: Patience, *, most_runs: int = 10
) -> Conversation[Standing]:
    """How the queue stands now; of its runs only the `most_runs` newest."""
    shards = [keys.shard(k) for k in range(shape.shards)]
    commands: list[list[str]] = [["TIME"], ["HGETALL", keys.workers], ["HGETALL", keys.lanes], ["HGETALL", keys.runs]]
    hashes = [shard.run(run) if run else shard.books for shard in shards]
    commands += [["HGETALL", name] for name in hashes]
    commands += [["GET", shard.lease] for shard in shards] + [["PTTL", shard.lease] for shard in shards]
    replies = yield from persistently(ask_all(commands), patience, f"read the queue '{keys.queue}'")
    (seconds, micros), beats, lanes, runs = replies[:4]
    of_shards = replies[4:]
    now = int(seconds) + int(micros) / 1e6
    n = shape.shards
    counters = [named(reply) for reply in of_shards[:n]]
    entries, oldest = yield from _backlog(keys, n, patience)
    shown_runs = yield from _runs(keys, n, named(runs), most_runs, patience)
    return Standing(
        shape=shape,
        run=run,
        at=now,
        books=books.total(
            books.of_reply([of_shard.get(name) for name in COUNTERS], key)
            for of_shard, key in zip(counters, hashes, strict=True)
        ),
        reasons=books.reasons_of(counters),
        entries=entries,
        oldest_age=None if oldest is None else max(0.0, round(now - oldest, 3)),
        leases=leases_of(of_shards[n : 2 * n], of_shards[2 * n :]),
        workers=workers_of(named(beats), now),
        paused=pauses.of_reply(lanes),
        runs=shown_runs,
        runs_known=len(named(runs)),
    )


def leases_of(holders: Sequence[bytes | None], expiries: Sequence[int]) -> tuple[Lease, ...]:
    """The leases that are held, out of each shard's `epoch:name` and its time to live in ms."""
    leases = []
    for shard, (holder, expiry) in enumerate(zip(holders, expiries, strict=True)):
        if holder is None:
            continue
        epoch, _, name = holder.decode("utf-8", "backslashreplace").partition(":")
        leases.append(Lease(shard, name, whole(epoch, most=2**63 - 1), expiry / 1000 if expiry > 0 else None))
    return tuple(leases)


def workers_of(beats: Mapping[str, bytes], now: float) -> tuple[Worker, ...]:
    """The workers by name, those alive first; a beat that cannot be read makes a worker that is gone."""
    return tuple(sorted((_worker(name, beat, now) for name, beat in beats.items()), key=lambda w: (w.gone, w.name)))


def _worker(name: str, beat: bytes, now: float) -> Worker:
    try:
        said = orjson.loads(beat)
        age = round(max(0.0, now - float(said["at"])), 3)
        return Worker(
            name=name,
            age=age,
            gone=age > BEATS_MISSED * float(said.get("every", DEFAULT_BEAT)),
            host=str(said.get("host", "")),
            pid=_count(said.get("pid", 0)),
            started_at=float(said.get("started_at", 0)),
            shards=tuple(_count(shard) for shard in said.get("shards", ())),
            in_flight=_count(said.get("in_flight", 0)),
            posted=_count(said.get("posted", 0)),
            requests=_count(said.get("requests", 0)),
            standby=bool(said.get("standby", False)),
            alarms={str(name): str(alarm) for name, alarm in said.get("alarms", {}).items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return Worker(name=name, age=0.0, gone=True)


def _count(said: Any) -> int:
    number = int(said)
    if abs(number) >= 2**63:
        raise ValueError("no number that JSON takes")
    return number


def _backlog(keys: QueueKeys, shards: int, patience: Patience) -> Conversation[tuple[int, float | None]]:
    """The entries of all shards, and when the oldest of them was enqueued, in seconds."""

    def ask() -> Conversation[list[Any]]:
        return (yield from run_scripts(GLANCE, [([keys.shard(k).stream], []) for k in range(shards)]))

    replies = yield from persistently(ask, patience, "read the backlog")
    ages = [int(oldest.split(b"-")[0]) / 1000 for _, oldest in replies if oldest]
    return sum(length for length, _ in replies), min(ages, default=None)


def _runs(
    keys: QueueKeys, shards: int, known: Mapping[str, bytes], most: int, patience: Patience
) -> Conversation[tuple[RunStanding, ...]]:
    since = {run: whole(at, most=LAST_MS) or 0 for run, at in known.items()}
    newest = sorted(since, key=lambda run: (-since[run], run))[:most]
    if not newest:
        return ()
    hashes = [keys.shard(k).run(run) for run in newest for k in range(shards)]
    replies = yield from persistently(
        ask_all([["HMGET", name, *COUNTERS] for name in hashes]), patience, "read the runs"
    )
    found = [books.of_reply(reply, name) for reply, name in zip(replies, hashes, strict=True)]
    return tuple(
        RunStanding(run, since[run] / 1000, books.total(found[i * shards : (i + 1) * shards]))
        for i, run in enumerate(newest)
    )
