"""Owns what unclean deaths say of the records that were in flight: what goes alone next, and what is given up. Pure.

A shard whose holders died `DEATHS` times in a row is drained with care at first: what its new holder inherited goes an
entry at a time, and a mark on the server says which. So after the next death it is known what was alone in flight: that
is blamed until something comes back for it. A blamed entry goes record by record; a record that is blamed for `ALONE`
deaths is given up.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest
from typing import Final, NamedTuple

import orjson

from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import Held, Item, Version
from upsertq_worker.ordering.ready import is_delayed
from upsertq_worker.settings import BatchLimits

DEATHS: Final = 2
"""Unclean deaths of a shard's holders in a row from which on it is drained with care."""
ALONE: Final = 2
"""Deaths for which a record is blamed, after which it is given up."""
UNCHECKED: Final = 5.0
"""Seconds in which it is known of a replayed record whether it may be sent, unless its shard is damaged."""


class Suspect(NamedTuple):
    """An entry, or one record of it."""

    stream_id: str
    row: int | None = None


def written(blamed: dict[Suspect, int], alone: Suspect | None = None) -> str:
    """The text of a mark: what goes alone now, and for how many deaths what is blamed; empty when it says nothing."""
    if alone is None and not blamed:
        return ""
    return orjson.dumps([alone and [*alone], *([*one, deaths] for one, deaths in blamed.items())]).decode()


def read(mark: str, *, died: bool) -> dict[Suspect, int]:
    """What is blamed, and for how many deaths: what was alone as well, where the holder that wrote the mark died.

    Nothing, where the mark cannot be read: the deaths are counted beside it.
    """
    blamed = Counter[Suspect]()
    try:
        alone, *rest = orjson.loads(mark or "[null]")
        for stream_id, row, deaths in (*rest, *([[*alone, 1]] if alone and died else ())):
            blamed[Suspect(str(stream_id), None if row is None else int(row))] += int(deaths)
    except (ValueError, TypeError):
        return {}
    return dict(blamed)


@dataclass(eq=False, slots=True)
class Case:
    """What is known of the deaths over a shard of ours, and of its suspects."""

    hold: Hold
    shard: int
    mark: str | None
    """As it stands on the server; `None` when that is not known."""
    deaths: int
    """Of its holders in a row, without a release."""
    forget_at: float
    """When these are forgotten, where they are too few for care."""
    blamed: dict[Suspect, int]
    line: list[Suspect] | None = field(init=False, default=None)
    """The suspects that are left, the next first; `None` until all that was inherited is read."""

    @property
    def careful(self) -> bool:
        """Whether the shard is drained with care."""
        return self.deaths >= DEATHS

    @property
    def turn(self) -> int:
        """Its turn among the shards: blamed records first, which may be in flight at a later death by chance."""
        records = any(one.row is not None and deaths < ALONE for one, deaths in self.blamed.items())
        return 0 if records else 1 if self.blamed else 2

    def is_over(self, now: float) -> bool:
        """Whether the deaths may be forgotten: all suspects went, or there was a while of steady work."""
        return self.line is not None and not self.line if self.careful else self.deaths > 0 and self.forget_at <= now

    def given_up(self, stream_id: str) -> set[int]:
        """The rows of an entry that are not to be sent any more."""
        known = (one for one, deaths in self.blamed.items() if one.stream_id == stream_id and deaths >= ALONE)
        return {one.row for one in known if one.row is not None}

    def prune(self, *, over: bool, all_read: bool) -> None:
        """Blame nothing that is settled, where everything is read; after care only what is given up."""
        for one in list(self.blamed):
            settled = all_read and self.hold.entries.find(self.shard, one.stream_id) is None
            if settled or (over and one.row not in self.given_up(one.stream_id)):
                del self.blamed[one]

    def line_up(self, inherited: Iterable[Held], records: int) -> None:
        """Let go alone what is blamed, then what may have been in flight beside it: about so many records.

        What is blamed goes first: where something kills at the same moment each time, another one is in flight then.
        """
        found = (self.hold.entries.find(self.shard, one.stream_id) for one in self.blamed)
        blamed = dict.fromkeys(held for held in found if held)
        self.line = [Suspect(held.stream_id, row) for held in blamed for row in range(len(held.entry.ids))]
        self.line.sort(key=lambda one: one not in self.blamed)
        others = (held for held in in_turn(inherited, records) if held not in blamed)
        self.line += (Suspect(held.stream_id, 0 if len(held.entry.ids) == 1 else None) for held in others)

    def next(self, now: float, admits: Callable[[str], bool], left_out: Callable[[str], bool]) -> Suspect | None:
        """The first in line that may be sent now. Those of which nothing waits any more leave the line."""
        line, at = self.line or [], 0
        while at < len(line):
            one = line[at]
            held = self.hold.entries.find(self.shard, one.stream_id)
            waiting = [] if held is None or left_out(held.namespace) else self._waiting(held, one.row, now)
            if not waiting:
                del line[at]
                continue
            for item in waiting if admits(waiting[0].namespace) else ():
                if isinstance(item, Held):
                    return one
                if not is_delayed(item, now):
                    return one if one.row is None else Suspect(item.held.stream_id, item.row)
            at += 1
        return None

    def take(self, one: Suspect, now: float, limits: BatchLimits) -> list[Item]:
        """Take a suspect to send it, as much of it as one request carries; empty where it may not be sent any more."""
        held, ready = self.hold.entries.find(self.shard, one.stream_id), self.hold.ready
        if held is None:
            return []
        ids = len(held.entry.ids)
        most = max(1, min(limits.records, limits.bytes * ids // max(1, held.estimate)))
        if one.row is None and held.versions is None and ids <= most:
            return ready.take_entry(held, now)
        versions = self.hold.take_apart(held, now)
        wanted = self._waiting(held, None, now) if one.row is None else versions[one.row : one.row + 1]
        return list(islice((it for it in wanted if isinstance(it, Version) and ready.take_version(it, now)), most))

    def _waiting(self, held: Held, row: int | None, now: float) -> list[Held] | list[Version]:
        """What waits of an entry or a record to be sent: of several versions of an id the newest, in any entry.

        Not what was replayed and cannot be asked about, since something is damaged: it would wait for an operator.
        """
        if held.versions is None and row is None:
            return [held] if held.queued else []
        versions = self.hold.take_apart(held, now)
        own = versions if row is None else versions[row : row + 1]
        newest = (one.chain.waiting[-1] for one in own if one.chain.flying is None and one in one.chain.waiting)
        return [one for one in newest if not one.barred or now < one.held.since + UNCHECKED]


def in_turn(inherited: Iterable[Held], records: int) -> Iterator[Held]:
    """The entries that the former holder may have had in flight: about the first `records` records, lanes in turn.

    A holder sends each lane in order and lanes in turn, so what it had in flight stands near the heads of the lanes.
    `inherited` has the entries oldest first.
    """
    lanes: defaultdict[str, list[Held]] = defaultdict(list)
    for held in inherited:
        lanes[held.namespace].append(held)
    for held in chain.from_iterable(zip_longest(*lanes.values())):
        if held is not None and records > 0:
            records -= len(held.entry.ids)
            yield held
