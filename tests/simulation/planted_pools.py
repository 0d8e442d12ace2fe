"""Owns the planted bugs around pools: how shards are shared out, given back and taken again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from scenario import SILENCES
from upsertq_worker.delivery.sender import Turns
from upsertq_worker.pool import keeper
from upsertq_worker.pool.handover import Handover
from upsertq_worker.pool.share_out import Plan, share_out
from upsertq_worker.queue.lease import Leases

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from upsertq_worker.queue.lease import Change
    from upsertq_worker.queue.protocols import Grant


def released_before_settled() -> AbstractContextManager[Any]:
    """A shard is released although requests with its records travel."""
    return patch.multiple(Turns, carries=lambda *_: False)


def late_handover_without_quarantine() -> AbstractContextManager[Any]:
    """Requests that outlast the time of a handover count as over."""
    owed = Handover.owed

    def hurried(self: Handover) -> tuple[dict[int, int], dict[int, float]]:
        held, keep = owed(self)
        return held, dict.fromkeys(keep, 0.0)

    return patch.object(Handover, "owed", hurried)


def nothing_given_back() -> AbstractContextManager[Any]:
    """Surplus shards are kept."""

    def greedy(*told: Any) -> Plan:
        plan = share_out(*told)
        return Plan(plan.target, frozenset(), plan.take, plan.line)

    return patch.object(keeper, "share_out", greedy)


def silence_counts_as_an_answer() -> AbstractContextManager[Any]:
    """A lease counts as prolonged although the node that has it did not say so."""
    granted = Leases.granted

    def deaf(self: Leases, grants: Sequence[Grant], *times: float) -> Change:
        return granted(self, [replace(grant, silent=False) for grant in grants], *times)

    return patch.object(Leases, "granted", deaf)


PLANTED_POOLS: Final[dict[Callable[[], AbstractContextManager[Any]], str]] = {
    released_before_settled: "pools",
    late_handover_without_quarantine: "pools",
    nothing_given_back: "pools",
    silence_counts_as_an_answer: SILENCES,
}
"""Each of them, and the climate in which it shows soon."""
