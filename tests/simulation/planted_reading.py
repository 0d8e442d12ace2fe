"""Owns the planted bugs around reading: who is suspected of a death, what is parked on the server and read again."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from upsertq_worker.ordering.hold import Hold
from upsertq_worker.marks import Marks
from upsertq_worker.parking import Parking
from upsertq_worker.places import Place
from upsertq_worker.suspicion import Mark, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from upsertq_worker.marks import Key


ROWS: Final = 25
"""Records of an entry at most."""


def convicted_in_company() -> AbstractContextManager[Any]:
    """Whatever was in work among others when a worker died is given up."""
    parse = Mark.parse

    def hasty(text: str) -> Mark:
        mark = parse(text)
        return Mark(Stage.ALONE, None, tuple(range(ROWS))) if mark.stage is Stage.COMPANY else mark

    return patch.object(Mark, "parse", hasty)


@contextmanager
def marks_of_the_living_count() -> Iterator[None]:
    """A worker that lost its shards, or that ends in good order, leaves its marks behind."""
    learn = Marks._learn

    async def leave(_: Marks, _keys: Iterable[Key]) -> None:
        pass

    async def unknowing(self: Marks) -> bool:
        for shard in [shard for shard, known in self._shards.items() if known.found is None]:
            self._before.pop(shard, None)
        return await learn(self)

    with (
        patch.object(Marks, "take_back", leave),
        patch.object(Marks, "_learn", unknowing),
    ):
        yield


def convicted_in_company_alone() -> AbstractContextManager[Any]:
    """A death in company counts as two alone: the first record of each suspect is given up."""
    parse = Mark.parse

    def hasty(text: str) -> Mark:
        mark = parse(text)
        return Mark(Stage.AGAIN, 0, mark.dead) if mark.stage is Stage.COMPANY else mark

    return patch.object(Mark, "parse", hasty)


def suspects_never_alone() -> AbstractContextManager[Any]:
    """Nothing is ever held against anybody: what kills is sent among others for ever."""
    return patch.object(Marks, "suspects", lambda *_: [])


def taken_in_again() -> AbstractContextManager[Any]:
    """What is read again is taken in again, though it is held or settled."""
    return patch.object(Place, "expects", lambda *_: True)


def parked_ones_overtaken() -> AbstractContextManager[Any]:
    """What comes of a parked namespace is taken in before what is parked of it."""
    return patch.object(Place, "waits", lambda *_: False)


def parked_for_ever() -> AbstractContextManager[Any]:
    """What is parked is never read again."""
    return patch.object(Parking, "bring_back", lambda *_: None)


def older_ones_shed() -> AbstractContextManager[Any]:
    """The oldest entries are put aside, so that newer ones overtake them."""
    shed = Hold.shed

    def upside_down(self: Hold, namespace: str, spare: int, now: float) -> dict[int, list[str]]:
        for entries in self._held.values():
            turned = list(reversed(entries.items()))
            entries.clear()
            entries.update(turned)
        return shed(self, namespace, spare, now)

    return patch.object(Hold, "shed", upside_down)


PLANTED_READING: Final[dict[Callable[[], AbstractContextManager[Any]], str]] = {
    convicted_in_company: "kills",
    convicted_in_company_alone: "kills",
    marks_of_the_living_count: "starved",
    suspects_never_alone: "deadly",
    taken_in_again: "parked",
    parked_ones_overtaken: "parked",
    parked_for_ever: "parked",
    older_ones_shed: "parked",
}
"""Each of them, and the climate in which it shows soon (`""`: any)."""
