"""Owns which lanes are paused, since when and why, and when one may be probed. Pure: it is told the time.

A pause by the service ends by itself after a probe that is not refused; one by hand ends by hand.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from upsertq.contract.pauses import QUEUE, Paused, scope_of
from upsertq_worker.flow.backoff import Backoff

PROBE: Final = Backoff(1.0, 15.0)
"""Seconds between two probes of a paused lane."""


class PauseNotes(Protocol):
    """What is needed of the queue for pauses."""

    async def note(self, changes: Mapping[str, Paused | None]) -> None:
        """Note pauses that began (`None`: that ended), by scope; those by hand are left alone."""

    async def pauses(self) -> dict[str, Paused]:
        """Every pause that is noted, by scope."""


@dataclass(slots=True)
class _Watch:
    paused: Paused
    probe_at: float
    delay: float | None = None
    probing: bool = False


@dataclass(slots=True)
class Pauses:
    """The pauses of one queue, by scope: the queue, or one namespace."""

    _watches: dict[str, _Watch] = field(default_factory=dict)

    @property
    def paused(self) -> dict[str, Paused]:
        """What is paused now."""
        return {scope: watch.paused for scope, watch in self._watches.items()}

    def holds(self, namespace: str) -> bool:
        """Whether nothing of this namespace may be sent, but for probes."""
        return bool(self._watches) and (QUEUE in self._watches or scope_of(namespace) in self._watches)

    def probes(self, namespace: str) -> bool:
        """Whether what is held of this namespace is probed now and then, and not held by hand."""
        watches = (self._watches.get(scope) for scope in (QUEUE, scope_of(namespace)))
        return not any(watch is not None and watch.paused.by_hand for watch in watches)

    def reason(self, scope: str) -> str | None:
        """Why the service paused this scope; `None` when it did not."""
        watch = self._watches.get(scope)
        return None if watch is None or watch.paused.by_hand else watch.paused.reason

    def pause(self, scope: str, paused: Paused, now: float, rng: random.Random) -> bool:
        """Pause a scope, or note that a probe of it was refused again; returns whether it is news."""
        news = scope not in self._watches
        watch = self._watches.setdefault(scope, _Watch(paused, now))
        watch.probing = False
        watch.delay = PROBE.next(watch.delay, rng)
        watch.probe_at = now + watch.delay
        return news

    def resume(self, scope: str) -> bool:
        """End a pause; returns whether there was one."""
        return self._watches.pop(scope, None) is not None

    def due(self, now: float) -> Iterator[str]:
        """The scopes that may be probed now."""
        for scope, watch in list(self._watches.items()):
            if not watch.paused.by_hand and not watch.probing and watch.probe_at <= now:
                yield scope

    def hurry(self, now: float) -> None:
        """Let every scope that the service has paused be probed at once."""
        for watch in self._watches.values():
            watch.probe_at, watch.delay = min(watch.probe_at, now), None

    def probed_with(self, scope: str, namespace: str) -> bool:
        """Whether a record of this namespace may tell whether `scope`, which the service paused, is taken again."""
        if scope == QUEUE:
            watch = self._watches.get(scope_of(namespace))
            return watch is None or not watch.paused.by_hand
        return QUEUE not in self._watches and scope_of(namespace) == scope

    def probed(self, scope: str) -> None:
        """A probe of this scope is out."""
        self._watches[scope].probing = True

    def next_probe(self) -> float | None:
        """When the next scope may be probed, `None` when none will."""
        return min(
            (watch.probe_at for watch in self._watches.values() if not watch.paused.by_hand and not watch.probing),
            default=None,
        )

    def adopt(self, noted: Mapping[str, Paused], now: float) -> tuple[set[str], set[str]]:
        """Follow what the queue's server notes: pauses by hand begin, what is noted no more ends. (begun, ended)."""
        ended = {scope for scope in self._watches if scope not in noted}
        for scope in ended:
            del self._watches[scope]
        begun = set()
        for scope, paused in noted.items():
            watch = self._watches.get(scope)
            if watch is None:
                self._watches[scope] = _Watch(paused, now)
                begun.add(scope)
            else:
                watch.paused = paused
        return begun, ended
