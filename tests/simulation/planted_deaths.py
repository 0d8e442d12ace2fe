"""Owns the planted bugs around dead letters: what is given up, how it is counted, and what guards a replay."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from model_letters import Letters
from queue_link import QueueLink
from upsertq.contract.dead_letter import Reason
from upsertq_worker.delivery import apply, policy
from upsertq_worker.delivery.apply import Applier
from upsertq_worker.delivery.bisect import Search
from upsertq_worker.delivery.outcome import LaneRefused
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import Fate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from upsertq_worker.delivery.outcome import Outcome
    from upsertq_worker.delivery.policy import Facts
    from upsertq_worker.ordering.model import Version


def replay_without_guard() -> AbstractContextManager[Any]:
    """It is not looked up whether a newer version was acknowledged while a letter was dead or replayed."""

    async def ignorant(_: QueueLink, replayed: Sequence[object]) -> list[bool]:
        return [False for _ in replayed]

    return patch.object(QueueLink, "superseded", ignorant)


def neighbours_given_up() -> AbstractContextManager[Any]:
    """All records of a refused batch are given up."""
    return patch.object(policy, "_narrow", lambda _facts, reason, *_: policy.GiveUp(reason))


def mistakes_of_the_operator_given_up() -> AbstractContextManager[Any]:
    """A wrong key, a missing index or an exhausted quota counts as the fault of a record."""
    follow = policy.follow

    def unforgiving(outcome: Outcome, facts: Facts, max_attempts: int) -> policy.Consequence:
        if isinstance(outcome, LaneRefused):
            return policy._narrow(facts, Reason.REFUSED)
        return follow(outcome, facts, max_attempts)

    return patch.object(apply, "follow", unforgiving)


@contextmanager
def whole_backlog_given_up() -> Iterator[None]:
    """That everything is refused is not noticed."""
    give_up = Applier._give_up

    def unwary(self: Applier, *given: Any) -> None:
        self._barren.clear()
        give_up(self, *given)

    with patch.object(Search, "refused", lambda *_, **__: None), patch.object(Applier, "_give_up", unwary):
        yield


def dead_letter_counted_twice() -> AbstractContextManager[Any]:
    """A dead record is written down twice."""
    finish = Hold.finish

    def twice(self: Hold, version: Version, *rest: Any) -> None:
        finish(self, version, *rest)
        for entry in [one for one in self.settlements if len(one.dead) == 1]:
            self.settlements[self.settlements.index(entry)] = replace(entry, dead=entry.dead * 2)

    return patch.object(Hold, "finish", twice)


def superseded_letters_still_dead() -> AbstractContextManager[Any]:
    """A letter that a newer acknowledged version removes stays in the books as dead."""
    return patch.object(Letters, "supersede", lambda self, dead_id, _outdated: self.stream.pop(dead_id, None))


def no_quarantine_of_the_dead() -> AbstractContextManager[Any]:
    """That the last answer for a record was lost is forgotten when it is given up."""
    finish = Hold.finish

    def forgetful(self: Hold, version: Version, fate: Fate, *rest: Any) -> None:
        if fate is Fate.DEAD:
            version.chain.quarantined_until, version.chain.lost = 0.0, None
        finish(self, version, fate, *rest)

    return patch.object(Hold, "finish", forgetful)


PLANTED_DEATHS: Final[dict[Callable[[], AbstractContextManager[Any]], str]] = {
    replay_without_guard: "letters",
    neighbours_given_up: "",
    mistakes_of_the_operator_given_up: "refusals",
    whole_backlog_given_up: "refusals",
    dead_letter_counted_twice: "letters",
    superseded_letters_still_dead: "letters",
    no_quarantine_of_the_dead: "",
}
"""Each of them, and the climate in which it shows soon (`""`: any)."""
