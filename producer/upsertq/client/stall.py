"""Owns when a wait is stuck on a pause. It decides from the notes, the books and the times that it is given alone."""

from collections.abc import Mapping
from typing import Final

from upsertq.contract import pauses
from upsertq.contract.books import Books
from upsertq.contract.errors import LanePaused
from upsertq.contract.keys import QueueKeys
from upsertq.contract.pauses import QUEUE, Paused
from upsertq.contract.protocol import Conversation, Patience

PROBED_SECONDS: Final = 30.0
"""Within this time a worker has probed a lane that the service refuses at least twice."""


def stuck_on(
    paused: Mapping[str, Paused], *, now: float, begun: float, settled: float | None, limit: float
) -> tuple[str, Paused] | None:
    """The pause that a wait is stuck on: it stands for `limit` seconds, in which nothing was settled.

    Only a pause of the whole queue can be told from its note. One by the service must stand while a worker, which may
    have been started with this wait, had time to probe it; one of a namespace must stand for all of `limit` under our
    eyes, for what is waited for may lie in other namespaces.

    Args:
        paused: the pauses by scope.
        now: seconds since 1970, as all times here.
        begun: when the wait began.
        settled: when it last saw a record settled, `None` where it saw none.
        limit: seconds to bear with a pause.
    """
    for scope, pause in sorted(paused.items(), key=lambda item: item[0] != QUEUE):
        stands = now - max(pause.since, pause.since if settled is None else settled)
        watched = now - max(pause.since, begun)
        must_watch = limit if scope != QUEUE else 0.0 if pause.by_hand else min(limit, PROBED_SECONDS)
        if stands >= limit and watched >= must_watch:
            return scope, pause
    return None


def told(keys: QueueKeys, scope: str, pause: Paused) -> str:
    """What is paused, and what ends it."""
    by_hand, by_itself = f"`{pauses.resuming(keys, scope)}` ends it", "it ends by itself after an accepted probe"
    return f"paused: {pauses.describe(scope, pause)}; {by_hand if pause.by_hand else by_itself}"


class Stall:
    """What one wait has seen of progress.

    Args:
        keys: the queue's.
        limit: seconds to bear with a pause.
        begun: when the wait began, in seconds since 1970.
    """

    def __init__(self, keys: QueueKeys, limit: float, begun: float) -> None:
        self._keys = keys
        self._limit = limit
        self._begun = begun
        self._settled: float | None = None
        self._before: int | None = None

    def check(self, found: Books, what: str, now: float, patience: Patience) -> Conversation[None]:
        """Raise `LanePaused`, beginning with `what`, when the books, which have something pending, are stuck."""
        if self._before is not None and found.settled != self._before:
            self._settled = now
        self._before = found.settled
        paused = yield from pauses.read_pauses(self._keys, patience)
        stuck = stuck_on(paused, now=now, begun=self._begun, settled=self._settled, limit=self._limit)
        if stuck is not None:
            raise LanePaused(f"{what}: {told(self._keys, *stuck)}")
