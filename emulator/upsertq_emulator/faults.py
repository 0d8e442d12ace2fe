"""Decides which fault, if any, befalls a request; it does no I/O, reads no clock and acts on nothing.

Rules are asked in the order written: latencies add up, and the first other rule that fires wins. Every rule
that a request matches draws from the generator, so that one rule's luck does not shift another's.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import inf
from random import Random
from typing import Literal

from upsertq_emulator import texts
from upsertq_emulator.answer import rpc_status

RetryForm = Literal["seconds", "date"]
_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a request: `ids` and `namespace` of a readable upsert, `size` of its body in bytes."""

    operation: str
    namespace: str = ""
    ids: Sequence[str] = ()
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """Which requests a rule befalls.

    `rate` is a probability; `since` and `until` are seconds since the faults were switched on; `first` is
    a number of matching requests; `namespace` and `id` are patterns with `*` and `?` (an upsert matches
    when any of its ids does); `on` is an operation or `any`.
    """

    rate: float = 1.0
    since: float = 0.0
    until: float = inf
    first: int | None = None
    namespace: str | None = None
    id: str | None = None
    on: str = "upsert"

    def matches(self, facts: Facts, now: float) -> bool:
        """Whether the request is one of those meant, luck and `first` aside."""
        if self.on not in ("any", facts.operation) or not self.since <= now < self.until:
            return False
        name = facts.namespace or "__default__"
        if self.namespace is not None and not fnmatchcase(name, self.namespace or "__default__"):
            return False
        return self.id is None or any(fnmatchcase(record_id, self.id) for record_id in facts.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Respond:
    """Answer so instead of asking the index; `applied` writes are applied all the same.

    `retry_after` is in seconds and `retry_form` is how the header says it.
    """

    status: int
    body: bytes
    content_type: str = "application/json"
    retry_after: float | None = None
    retry_form: RetryForm = "seconds"
    applied: bool = False


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the connection without an answer, before or after the write is applied."""

    when: Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Truncate:
    """Apply the write, send half of the answer's body and close."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Apply nothing and never answer."""


@dataclass(frozen=True, slots=True)
class Late:
    """Give no answer, and apply the write `delay` seconds later."""

    delay: float
    answer: Literal["reset", "stall"]


@dataclass(frozen=True, slots=True)
class Short:
    """Report fewer records than were sent: `missing` fewer, and those in `skipped` are not applied."""

    missing: int
    skipped: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Latency:
    """Wait before the request is looked at: seconds drawn from a distribution, never above `most`.

    `first` and `second` are: constant seconds; uniform low and high; lognormal median and sigma.
    """

    distribution: Literal["constant", "uniform", "lognormal"]
    first: float
    second: float = 0.0
    most: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Poison:
    """Refuse a batch with an id that `pattern` matches in full; `message` may hold `{id}` and `{namespace}`."""

    pattern: re.Pattern[str]
    message: str
    status: int = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """A token bucket per namespace: requests and bytes a second, with `burst` seconds' worth in store.

    `retry_after` is seconds, `auto` for the time until the bucket has enough, or None for no header. Without `named`
    the answer does not say which limit was reached.
    """

    requests: float | None = None
    bytes: float | None = None
    burst: float = 1.0
    named: bool = True
    retry_after: float | Literal["auto"] | None = None
    retry_form: RetryForm = "seconds"


@dataclass(frozen=True, slots=True)
class TooLarge:
    """Refuse bodies above `most` bytes with a bare 413."""

    most: int
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Drop:
    """Report `count` records fewer, or those whose ids match the rule's `id`; `lose` leaves them out indeed."""

    count: int
    lose: bool = False


Fault = Respond | Reset | Truncate | Stall | Late | Short
Action = Respond | Reset | Truncate | Stall | Late | Latency | Poison | Throttle | TooLarge | Drop


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a fault spec: what happens, and when."""

    action: Action
    when: When = When()


@dataclass(frozen=True, slots=True)
class Plan:
    """What befalls one request: wait `latency` seconds, then `fault`, or an honest answer where it is None."""

    latency: float = 0.0
    fault: Fault | None = None


@dataclass(slots=True)
class _Bucket:
    requests: float
    bytes: float
    at: float


@dataclass(slots=True)
class _Progress:
    """What one rule remembers between requests."""

    matched: int = 0
    buckets: dict[str, _Bucket] = field(default_factory=dict)


class Faults:
    """The rules at work; the same seed and the same requests in the same order give the same faults."""

    def __init__(self, rules: Sequence[Rule], *, seed: int = 0) -> None:
        self._rules = [(rule, _Progress()) for rule in rules]
        self._rng = Random(seed)

    def plan(self, facts: Facts, now: float) -> Plan:
        """What befalls the next request; `now` is in seconds since the faults were switched on."""
        latency, fault = 0.0, None
        for rule, progress in self._rules:
            if not rule.when.matches(facts, now):
                continue
            progress.matched += 1
            if rule.when.first is not None and progress.matched > rule.when.first:
                continue
            lucky = rule.when.rate >= 1 or self._rng.random() < rule.when.rate
            if isinstance(rule.action, Latency):
                drawn = draw_latency(rule.action, self._rng)
                latency += drawn if lucky else 0.0
            elif lucky and fault is None:
                fault = _fault(rule, progress, facts, now)
        return Plan(latency, fault)


def draw_latency(latency: Latency, rng: Random) -> float:
    """Seconds to wait, between 0 and `latency.most`."""
    match latency.distribution:
        case "constant":
            seconds = latency.first
        case "uniform":
            seconds = rng.uniform(latency.first, latency.second)
        case "lognormal":
            seconds = latency.first * rng.lognormvariate(0.0, latency.second)
    return min(max(seconds, 0.0), latency.most)


def _fault(rule: Rule, progress: _Progress, facts: Facts, now: float) -> Fault | None:
    match rule.action:
        case Poison() as poison:
            return _poisoned(poison, facts)
        case Throttle() as throttle:
            return _throttled(throttle, progress.buckets, facts, now)
        case TooLarge(most, body):
            kind = "text/html" if body else "text/plain"
            return Respond(status=413, body=body, content_type=kind) if facts.size > most else None
        case Drop() as drop:
            return _short(drop, rule.when, facts)
        case Latency():
            return None
        case Respond() | Reset() | Truncate() | Stall() | Late() as fault:
            return fault


def _poisoned(poison: Poison, facts: Facts) -> Respond | None:
    for record_id in facts.ids:
        if poison.pattern.fullmatch(record_id):
            message = poison.message.replace("{namespace}", facts.namespace).replace("{id}", record_id)
            return Respond(status=poison.status, body=rpc_status(poison.status, message))
    return None


def _short(drop: Drop, when: When, facts: Facts) -> Short:
    if when.id is None:
        dropped = list(facts.ids)[max(len(facts.ids) - drop.count, 0) :]
    else:
        dropped = [record_id for record_id in facts.ids if fnmatchcase(record_id, when.id)]
    return Short(len(dropped), frozenset(dropped) if drop.lose else frozenset())


def _throttled(throttle: Throttle, buckets: dict[str, _Bucket], facts: Facts, now: float) -> Respond | None:
    requests = inf if throttle.requests is None else throttle.requests
    volume = inf if throttle.bytes is None else throttle.bytes
    most_requests, most_bytes = max(1.0, requests * throttle.burst), volume * throttle.burst
    bucket = buckets.setdefault(facts.namespace, _Bucket(most_requests, most_bytes, now))
    passed = max(0.0, now - bucket.at)
    if passed > 0:
        bucket.requests = min(most_requests, bucket.requests + passed * requests)
        bucket.bytes = min(most_bytes, bucket.bytes + passed * volume)
        bucket.at = now
    needed = min(float(facts.size), most_bytes)
    if bucket.requests >= 1 and bucket.bytes >= needed:
        bucket.requests -= 1
        bucket.bytes -= needed
        return None
    name = facts.namespace or "__default__"
    if bucket.requests < 1:
        wait = (1 - bucket.requests) / requests
        message = texts.UPSERT_RATE.format(namespace=name, limit=f"{requests:g}")
    else:
        wait = (needed - bucket.bytes) / volume
        limit = f"{volume / _MEGABYTE:g} MB"
        message = texts.UPSERT_BYTES.format(namespace=name, limit=limit)
    after = wait if throttle.retry_after == "auto" else throttle.retry_after
    body = rpc_status(429, message if throttle.named else texts.usual_text(429))
    return Respond(status=429, body=body, retry_after=after, retry_form=throttle.retry_form)
