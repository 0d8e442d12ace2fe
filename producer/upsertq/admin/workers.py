"""Owns what is read of the workers of a queue: the leases they hold, and their heartbeats.

It bears with whatever a worker of another version has written about itself. Pure: it is told the time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from upsertq.contract.figures import whole

BEATS_MISSED: Final = 3
"""A worker whose last beat is older than so many intervals is gone."""
DEFAULT_BEAT: Final = 5.0
FORGOTTEN: Final = 3600.0
"""Seconds after its last beat when a worker is not shown any more, and workers take its beat away."""
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
    from working: why the index refuses, or why a shard stands still; one that is gone has none. One that was told to
    stop is `leaving`.
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
    leaving: bool = False
    alarms: Mapping[str, str] = field(default_factory=dict)


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
            leaving=bool(said.get("leaving", False)),
            alarms={} if gone else {str(name): str(alarm) for name, alarm in said.get("alarms", {}).items()},
        )
    except _UNREADABLE:
        return Worker(name=name, age=0.0, gone=True)


def _count(said: Any) -> int:
    number = int(said)
    if abs(number) >= 2**63:
        raise ValueError("no number that JSON takes")
    return number
