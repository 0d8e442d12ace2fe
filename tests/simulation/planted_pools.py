"""Owns the planted bugs around pools: how shards are shared out, given back and taken again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from upsertq_worker.delivery.sender import Turns
from upsertq_worker.pool import keeper
from upsertq_worker.pool.handover import Handover
from upsertq_worker.pool.share_out import Plan, share_out

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


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


PLANTED_POOLS: Final[dict[Callable[[], AbstractContextManager[Any]], str]] = {
    released_before_settled: "pools",
    late_handover_without_quarantine: "pools",
    nothing_given_back: "pools",
}
"""Each of them, and the climate in which it shows soon."""
