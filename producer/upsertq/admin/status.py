"""Owns what `status` reads: how a queue stands, its books, backlog, leases, workers, pauses and runs at one moment.

It reads alone, and bears with whatever a worker of another version has written about itself.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import orjson

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
BEATS_MISSED: Final = 3
"""A worker whose last beat is older than so many intervals is gone."""
DEFAULT_BEAT: Final = 5.0
FORGOTTEN: Final = 3600.0
"""Seconds after its last beat when a worker is not shown any more, and workers take its beat away."""
CAREFUL_DEATHS: Final = 2
"""Holders in a row that ended without release, from which on a shard is drained one entry at a time."""
MOST_STREAMS: Final = 200_000
"""Streams that one look looks at; of more, a part that chance chose."""
CALL_STREAMS: Final = 200
ROUND_CALLS: Final = 50
LARGEST_LANES: Final = 10
_UNREADABLE: Final = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to drain a shard: `epoch` is the fencing number, `expires_in` the seconds until it lapses."""

    shard: int
    worker: str
    epoch: int | None
    expires_in: float | None


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's latest beat; `age` is its age in seconds, `gone` says that too many beats are missing.

    Times are the server's: `at` of the beat, 0 where that cannot be read, and `started_at`. `alarms` says what keeps it
    from working: why the index refuses, or why a shard stands still; one that is gone has none.
    """

    name: str
    age: float
    gone: bool
    at: float = 0.0
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
    of_shards = replies[4:]
    now = time_of(told)
    n = shape.shards
    counters = [named(reply) for reply in of_shards[:n]]
    facts = yield from fitness.ask_facts(patience, "read the server's settings")
    backlog = yield from _backlog(keys, n, most_streams, patience)
    shown_runs = yield from _runs(keys, n, named(noted), most_runs, patience)
    deaths = {shard: whole(found) or 0 for shard, found in enumerate(of_shards[n : 2 * n])}
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
        leases=leases_of(of_shards[2 * n : 3 * n], of_shards[3 * n :]),
        workers=workers_of(named(beats), now),
        paused=pauses.of_reply(paused),
        runs=shown_runs,
        runs_known=len(named(noted)),
        server=facts,
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
    """The workers by name, those alive first; a beat that cannot be read makes a worker that is gone.

    Those that are gone for so long that they are forgotten are left out.
    """
    workers = [_worker(name, beat, now) for name, beat in beats.items()]
    return tuple(sorted((w for w in workers if not w.at or _known(w.at, now)), key=lambda w: (w.gone, w.name)))


def forgotten(beats: Mapping[str, bytes], now: float) -> list[str]:
    """The workers whose beats are to be taken away: gone for long, or unreadable."""
    return [name for name, beat in beats.items() if not _known(_worker(name, beat, now).at, now)]


def _known(at: float, now: float) -> bool:
    """Whether a beat of then is worth showing; one of a time to come is of a clock that was set back since."""
    return abs(now - at) <= FORGOTTEN


def beat_at(report: Mapping[str, Any], now: float) -> dict[str, Any]:
    """A worker's report, its times moved from the worker's clock to the server's, by which they are judged."""
    own = report.get("at", now)
    return {**report, "at": now, "started_at": report.get("started_at", own) + now - own}


def time_of(reply: Sequence[Any]) -> float:
    """The server's time in seconds out of the reply to TIME."""
    seconds, micros = reply
    return int(seconds) + int(micros) / 1e6


def _worker(name: str, beat: bytes, now: float) -> Worker:
    try:
        said = orjson.loads(beat)
        at = float(said["at"])
        age = round(max(0.0, now - at), 3)
        gone = age > BEATS_MISSED * float(said.get("every", DEFAULT_BEAT))
        return Worker(
            name=name,
            age=age,
            gone=gone,
            at=at,
            host=str(said.get("host", "")),
            pid=_count(said.get("pid", 0)),
            started_at=float(said.get("started_at", 0)),
            shards=tuple(_count(shard) for shard in said.get("shards", ())),
            in_flight=_count(said.get("in_flight", 0)),
            posted=_count(said.get("posted", 0)),
            requests=_count(said.get("requests", 0)),
            standby=bool(said.get("standby", False)),
            alarms={} if gone else {str(name): str(alarm) for name, alarm in said.get("alarms", {}).items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return Worker(name=name, age=0.0, gone=True)


def _count(said: Any) -> int:
    number = int(said)
    if abs(number) >= 2**63:
        raise ValueError("no number that JSON takes")
    return number


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
