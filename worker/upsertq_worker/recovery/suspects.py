"""Owns what unclean deaths say of the records that were in flight: what goes alone next, and what is given up. Pure.

A shard whose holders died `DEATHS` times in a row is drained with care at first: what its new holder inherited goes an
entry at a time, and a mark on the server says which. So after the next death it is known what was alone in flight: an
entry goes record by record from then on, and a record that was alone at `ALONE` deaths is given up.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, TypeAlias

import orjson

from upsertq.contract.dead_letter import Reason, Verdict
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import Held, Item
from upsertq_worker.ordering.ready import is_delayed
from upsertq_worker.settings import BatchLimits

DEATHS: Final = 2
"""Unclean deaths of a shard's holders in a row from which on it is drained with care."""
ALONE: Final = 2
"""Deaths at which a record was alone in flight that are held against it."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """An entry, or one record of it, and the deaths at which it was alone in flight: at `ALONE` a record is given up.

    The mark of a shard holds what is alone in flight now, and what was given up until its entry is settled: no death in
    between makes that a suspect again.
    """

    stream_id: str
    row: int | None = None
    deaths: int = 0

    @property
    def given_up(self) -> bool:
        """Whether it is not to be sent any more."""
        return self.row is not None and self.deaths >= ALONE


Mark: TypeAlias = tuple[Suspect, ...]


def written(mark: Mark) -> str:
    """The text of a mark; empty when it says nothing."""
    return orjson.dumps([(one.stream_id, one.row, one.deaths) for one in mark]).decode() if mark else ""


def read(text: str) -> Mark:
    """The mark of a text; one that says nothing where it cannot be read: the deaths are counted beside it."""
    try:
        return tuple(
            Suspect(str(stream_id), None if row is None else int(row), int(deaths))
            for stream_id, row, deaths in orjson.loads(text or "[]")
        )
    except (ValueError, TypeError):
        return ()


def kept(mark: Mark) -> Mark:
    """A mark without what is alone in flight."""
    return tuple(one for one in mark if one.given_up)


def died(mark: Mark) -> Mark:
    """What a mark says after the holder that wrote it died."""
    return tuple(one if one.given_up else replace(one, deaths=one.deaths + 1) for one in mark)


class Line:
    """The suspects of one shard, in turn.

    Args:
        hold: what was read.
        shard: the shard.
        limits: what one request carries.
        mark: what was alone in flight at the latest death goes first, record by record.
        entries: what else may have been in flight goes an entry at a time.
    """

    def __init__(self, hold: Hold, shard: int, limits: BatchLimits, mark: Mark, entries: Iterable[Held]) -> None:
        self._hold = hold
        self._shard = shard
        self._limits = limits
        self._turns: deque[Suspect] = deque()
        self._known: set[str] = set()
        """Stream ids of all entries that ever stood in line."""
        for one in mark:
            held = hold.entries.find(shard, one.stream_id)
            if held is not None and not one.given_up:
                self._known.add(one.stream_id)
                accused = () if one.row is None else (one,)
                others = (Suspect(one.stream_id, row) for row in range(len(held.entry.ids)) if row != one.row)
                self._turns.extend((*accused, *others))
        self._line_up(entries)

    def __len__(self) -> int:
        """Entries and records that are still to go."""
        return len(self._turns)

    @property
    def accused(self) -> bool:
        """Whether the next to go was alone at the latest death."""
        return bool(self._turns) and self._turns[0].deaths > 0

    def next(
        self, now: float, admits: Callable[[str], bool], left_out: Callable[[str], bool]
    ) -> tuple[list[Item], Suspect] | None:
        """Take the next suspect; `None` while there is none that may be sent."""
        for _ in range(len(self._turns)):
            one = self._turns.popleft()
            held = self._hold.entries.find(self._shard, one.stream_id)
            if held is None or left_out(held.namespace):
                continue
            if not admits(held.namespace):
                self._turns.appendleft(one)
                return None
            items, waits = self._take(held, one.row, now)
            self._line_up(_newer(held))
            if waits and one.deaths:
                self._turns.appendleft(one)
                return None  # nothing goes before it: a mark of something else would forget its deaths
            if waits or (items and one.row is None):
                self._turns.append(one)  # what was not taken may follow: a quarantine ends, a request takes no more
            if items:
                return items, replace(one, row=0) if len(held.entry.ids) == 1 else one
        return None

    def _line_up(self, entries: Iterable[Held]) -> None:
        """Let these entries go alone, too, where they did not stand in line yet."""
        for held in entries:
            if held.stream_id not in self._known:
                self._known.add(held.stream_id)
                self._turns.append(Suspect(held.stream_id))

    def _take(self, held: Held, row: int | None, now: float) -> tuple[list[Item], bool]:
        """Take what may be sent of an entry, as much as one request carries; and whether some of it must wait."""
        ready, ids = self._hold.ready, len(held.entry.ids)
        most = max(1, min(self._limits.records, self._limits.bytes * ids // max(1, held.estimate)))
        if row is None and held.versions is None and ids <= most:
            return ready.take_entry(held, now), False
        versions = self._hold.take_apart(held, now)[slice(row, None if row is None else row + 1)]
        taken = list(islice((one for one in versions if ready.take_version(one, now)), most))
        return list(taken), any(is_delayed(one, now) for one in versions)


def in_turn(inherited: Iterable[Held], records: int) -> Iterator[Held]:
    """The entries that the former holder may have had in flight: the first `records` records, lanes in turn.

    A holder sends each lane in order and lanes in turn, so what it had in flight stands near the heads of the lanes.
    `inherited` has the entries oldest first.
    """
    ranks: Counter[str] = Counter()

    def rank(held: Held) -> int:
        ranks[held.namespace] += 1
        return ranks[held.namespace]

    for held in sorted(inherited, key=rank):
        if records <= 0:
            return
        records -= len(held.entry.ids)
        yield held


def _newer(held: Held) -> Iterator[Held]:
    """The entries that have the newest version of an id of this one: that version is sent in place of this one's."""
    for version in held.versions or ():
        waiting = version.chain.waiting
        if waiting and waiting[-1].held is not held:
            yield waiting[-1].held


def verdict(worker: str, now: float) -> Verdict:
    """Why a record that was alone at too many deaths is given up; `now` in seconds since 1970."""
    return Verdict(
        Reason.CRASH_LOOP,
        message=f"{ALONE} workers in a row died while this record alone was in flight",
        attempts=ALONE,
        last_ms=int(now * 1000),
        worker=worker,
    )
