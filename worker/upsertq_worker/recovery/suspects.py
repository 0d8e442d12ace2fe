"""Owns what unclean deaths say of the records that were in flight: what goes alone, and what is given up. Pure.

A shard whose holders died `DEATHS` times in a row is drained with care at first: what its new holder inherited goes an
entry at a time, and a mark on the server says which. So after the next death it is known what was alone in flight: an
entry goes record by record from then on, and a record that was alone at `ALONE` deaths is given up.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from upsertq.contract.dead_letter import Reason, Verdict
from upsertq_worker.ordering.model import Held

DEATHS: Final = 2
"""Unclean deaths of a shard's holders in a row from which on it is drained with care."""
ALONE: Final = 2
"""Deaths at which a record was alone in flight that are held against it."""
HANGING: Final = 5.0
"""Seconds without an answer after which what was sent has not killed, and keeps nothing else waiting."""


@dataclass(frozen=True, slots=True)
class Alone:
    """What is alone in flight: an entry, or one record of it, and the deaths at which it was alone before."""

    stream_id: str
    row: int | None = None
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """What is noted of a shard's suspects: what is alone in flight, and the records given up (stream id, row).

    Those given up stay noted until their entries are settled, so that no death makes them suspects again.
    """

    alone: Alone | None = None
    given_up: tuple[tuple[str, int], ...] = ()

    def text(self) -> str:
        """The mark as it is written down; empty when it says nothing."""
        if self.alone is None and not self.given_up:
            return ""
        alone = self.alone and [self.alone.stream_id, self.alone.row, self.alone.deaths]
        return orjson.dumps({"alone": alone, "given_up": self.given_up}).decode()

    def died(self) -> "Mark":
        """What it says after the holder that wrote it died."""
        alone = self.alone
        if alone is None:
            return self
        deaths = alone.deaths + 1
        if alone.row is None or deaths < ALONE:
            return replace(self, alone=replace(alone, deaths=deaths))
        return Mark(None, (*self.given_up, (alone.stream_id, alone.row)))


def read_mark(text: str) -> Mark:
    """The mark of a text; one that says nothing where it cannot be read: the deaths are counted beside it."""
    try:
        said: Any = orjson.loads(text) if text else {}
        alone = said.get("alone")
        return Mark(
            Alone(str(alone[0]), None if alone[1] is None else int(alone[1]), int(alone[2])) if alone else None,
            tuple((str(stream_id), int(row)) for stream_id, row in said.get("given_up") or ()),
        )
    except (ValueError, TypeError, AttributeError, IndexError, KeyError):
        return Mark()


def in_turn(inherited: Iterable[Held], records: int) -> list[Held]:
    """The entries that the former holder may have had in flight: the first `records` records, lanes in turn.

    A holder sends each lane in order and lanes in turn, so what it had in flight stands near the heads of the lanes.
    """
    ranks: dict[str, int] = defaultdict(int)
    ranked = []
    for held in sorted(inherited, key=lambda one: one.order):
        ranked.append((ranks[held.namespace], held.order, held))
        ranks[held.namespace] += 1
    ranked.sort(key=lambda one: one[:2])
    chosen, left = [], records
    for _, _, held in ranked:
        if left <= 0:
            break
        chosen.append(held)
        left -= len(held.entry.ids)
    return chosen


def verdict(worker: str, now: float) -> Verdict:
    """Why a record that was alone at too many deaths is given up; `now` in seconds since 1970."""
    return Verdict(
        Reason.CRASH_LOOP,
        message=f"{ALONE} workers in a row died while this record alone was in flight",
        attempts=ALONE,
        last_ms=int(now * 1000),
        worker=worker,
    )
