"""Owns the planted bugs around reading: who is suspected of a death, what is parked on the server and read again."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from upsertq_worker import hold
from upsertq_worker.caution import Caution
from upsertq_worker.hold import Hold
from upsertq_worker.parking import Parking
from upsertq_worker.places import Place
from upsertq_worker.suspicion import Mark, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from upsertq_worker.versions import Held

ROWS: Final = 25
"""Records of an entry at most."""


def convicted_in_company() -> AbstractContextManager[Any]:
    """Whatever was in work among others when a worker died is given up."""
    parse = Mark.parse

    def hasty(text: str) -> Mark:
        mark = parse(text)
        return Mark(Stage.COHORT, None, tuple(range(ROWS))) if mark.stage is Stage.COMPANY else mark

    return patch.object(Mark, "parse", hasty)


@contextmanager
def marks_of_the_living_count() -> Iterator[None]:
    """A worker that lost its shards, or that ends in good order, leaves its marks behind."""
    learn = Caution.learn

    async def leave(*_: Any) -> None:
        pass

    async def unknowing(self: Caution, places: Mapping[int, Place]) -> None:
        for key in [key for key in self._before if key[0] in places and places[key[0]].marks is None]:
            self._forget(key)
        await learn(self, places)

    with (
        patch.object(Caution, "clear_us", leave),
        patch.object(Caution, "end", leave),
        patch.object(Caution, "learn", unknowing),
    ):
        yield


def row_convicted_in_a_cohort() -> AbstractContextManager[Any]:
    """A death in a cohort counts as one alone: its first record is given up."""
    parse = Mark.parse

    def hasty(text: str) -> Mark:
        mark = parse(text)
        return Mark(Stage.RECORD, 0, mark.dead) if mark.stage is Stage.COHORT and not mark.dead else mark

    return patch.object(Mark, "parse", hasty)


def suspects_never_alone() -> AbstractContextManager[Any]:
    """Nothing is ever held against anybody: what kills is sent among others for ever."""

    async def blind(_self: Caution, places: Mapping[int, Place]) -> None:
        for place in places.values():
            place.marks = {}

    return patch.object(Caution, "learn", blind)


def taken_in_again() -> AbstractContextManager[Any]:
    """What is read again is taken in again, though it is held or settled."""
    return patch.object(Place, "expects", lambda *_: True)


def parked_ones_overtaken() -> AbstractContextManager[Any]:
    """What comes of a parked namespace is taken in before what is parked of it."""
    return patch.object(Place, "waits", lambda *_: False)


def parked_for_ever() -> AbstractContextManager[Any]:
    """What is parked is never read again."""
    return patch.object(Parking, "bring_back", lambda *_: None)


def touched_ones_shed() -> AbstractContextManager[Any]:
    """What may still take effect, or has a newer version under way, is put aside too."""
    return patch.object(hold, "_touched", lambda version: version not in version.chain.waiting)


def keys_cut_in_two() -> AbstractContextManager[Any]:
    """Of a key some versions are put aside, and older ones kept."""

    def cut(_self: Hold, entries: list[Held], spare: int) -> int:
        kept = list(accumulate((held.weight for held in entries), initial=0))
        found = len(entries)
        for position in range(len(entries) - 1, -1, -1):
            if entries[position].open < len(entries[position].versions) or kept[position] < spare:
                break
            if any(hold._touched(version) for version in entries[position].versions):
                break
            found = position
        return found

    return patch.object(Hold, "_cut", cut)


PLANTED_READING: Final[dict[Callable[[], AbstractContextManager[Any]], str]] = {
    convicted_in_company: "kills",
    row_convicted_in_a_cohort: "kills",
    marks_of_the_living_count: "starved",
    suspects_never_alone: "deadly",
    taken_in_again: "parked",
    parked_ones_overtaken: "parked",
    parked_for_ever: "parked",
    touched_ones_shed: "parked",
    keys_cut_in_two: "parked",
}
"""Each of them, and the climate in which it shows soon (`""`: any)."""
