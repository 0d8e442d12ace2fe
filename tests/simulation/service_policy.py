"""Owns what the service takes and what it refuses: poisonous records, requests too large, times when it takes nothing.

It decides by the records of a request and the time, and never at the sender.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

import orjson

from upsertq_worker.delivery.response import Answer

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from checker import Key


class Poison(Enum):
    """What is wrong with a record."""

    NAMED = "named"
    """It is refused, and the answer names it."""
    UNNAMED = "unnamed"
    """It is refused, and the answer says nothing about which one it is."""
    MISNAMED = "misnamed"
    """It is refused, and the answer names another one."""
    DEADLY = "deadly"
    """The worker that sends it dies."""
    SILENT = "silent"
    """It is not taken, and not counted; its neighbours are."""


class Refusal(Enum):
    """Why the service takes nothing at all for a while; each but the last says so."""

    UNAUTHORIZED = "401"
    FORBIDDEN = "403"
    NOT_FOUND = "404"
    QUOTA = "quota"
    SYSTEMIC = "systemic"
    """It refuses as if a record were to blame."""


REFUSED: Final = (Poison.NAMED, Poison.UNNAMED, Poison.MISNAMED, Poison.SILENT)
"""What the service is to blame for."""
_FINE: Final = (None, 0.0)
_REFUSALS: Final = {
    Refusal.UNAUTHORIZED: (401, "Invalid API key"),
    Refusal.FORBIDDEN: (403, "Forbidden"),
    Refusal.NOT_FOUND: (404, "Not found"),
    Refusal.QUOTA: (429, "Request failed. You've reached your write unit limit for the current month (2000000)"),
    Refusal.SYSTEMIC: (400, "Invalid vector"),
}


@dataclass(slots=True)
class ServicePolicy:
    """What the service of one history takes.

    Args:
        rng: the seed's.
        now: seconds of virtual time.
        kinds: of poison there may be.
        most_bytes: of a request's body; a larger one is refused.
        refusals: (refusal, start, end) in seconds.
    """

    rng: random.Random
    now: Callable[[], float]
    kinds: tuple[Poison, ...] = REFUSED
    most_bytes: int = 2_000_000
    refusals: list[tuple[Refusal, float, float]] = field(default_factory=list)
    healed: bool = False
    """It takes everything from now on, but for what kills."""
    deaths_due: bool = True
    """What kills still does."""
    _poison: dict[tuple[Key, int], tuple[Poison, float]] = field(default_factory=dict)

    def spoil(self, record: tuple[Key, int], until: float) -> Poison:
        """Make a version of a key poisonous until a time in seconds."""
        kind = self.rng.choice(self.kinds)
        self._poison[record] = kind, until
        return kind

    def silent(self, records: Sequence[tuple[Key, int]]) -> list[tuple[Key, int]]:
        """Those of the records that are left out without a word."""
        return [record for record in records if self._is(record, Poison.SILENT)]

    def deadly(self, records: Sequence[tuple[Key, int]]) -> list[tuple[Key, int]]:
        """Those of the records that kill."""
        return [record for record in records if self.deaths_due and self._poison.get(record, _FINE)[0] is Poison.DEADLY]

    def refusal(self, records: Sequence[tuple[Key, int]], size: int) -> tuple[Answer, str] | None:
        """How a request of `size` bytes is refused, and a word for it; `None` when it is taken."""
        if self.healed:
            return None
        for refusal, start, end in self.refusals:
            if start <= self.now() < end:
                return _refused(*_REFUSALS[refusal]), refusal.value
        if size > self.most_bytes:
            return _refused(413, "Request entity too large"), "too_large"
        refused = [record for record in records if self._is(record, Poison.NAMED, Poison.UNNAMED, Poison.MISNAMED)]
        return (_refused(400, self._complaint(records, refused)), "refused") if refused else None

    def _complaint(self, records: Sequence[tuple[Key, int]], refused: Sequence[tuple[Key, int]]) -> str:
        first = refused[0]
        match self._poison[first][0]:
            case Poison.NAMED:
                named = first
            case Poison.MISNAMED:
                named = self.rng.choice(records)
            case _:
                return "Invalid metadata"
        return f"Invalid metadata of vector '{named[0][1]}'"

    def _is(self, record: tuple[Key, int], *kinds: Poison) -> bool:
        kind, until = self._poison.get(record, _FINE)
        return not self.healed and kind in kinds and self.now() < until


def _refused(status: int, message: str) -> Answer:
    return Answer(status, {}, orjson.dumps({"code": 3, "message": message, "details": []}))
