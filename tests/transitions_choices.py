"""Owns what the machine of the transitions draws from: shards, ids, limits, selections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypothesis import strategies as st

from upsertq.client.enqueue import Limits
from upsertq.contract import pauses
from upsertq.contract.dead_letter import Reason
from upsertq.dead.choice import Selector

if TYPE_CHECKING:
    from transitions_model import Version

SHARDS: Final = 2
RUNS: Final = ("", "r1", "r2")
NAMESPACES: Final = ("", "n")
LIMITS: Final = (Limits(None, None), Limits(30, None), Limits(None, 1_000))
SELECTORS: Final = (
    Selector(),
    Selector(),
    Selector(),
    Selector(runs=frozenset({"r1"})),
    Selector(reasons=frozenset({Reason.REFUSED, Reason.TOO_LARGE})),
    Selector(ids=frozenset("ab")),
    Selector(namespaces=frozenset({"n"})),
)
SELECTION: Final = st.sampled_from(SELECTORS)
LIMIT: Final = st.sampled_from([None, None, 1, 3])
SCOPES: Final = (pauses.QUEUE, pauses.scope_of(""), pauses.scope_of("n"))

shards = st.integers(0, SHARDS - 1)
several = st.sampled_from([(0,), (1,), (0, 1), (0, 1)])
two, three = st.integers(0, 1), st.integers(0, 2)
namespaces = st.sampled_from(["", "", "n"])
luck = st.integers(0, 9_999)
rarely = st.sampled_from([False, False, False, True])
mostly = st.sampled_from([True, True, True, False])
few = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4)
many = st.lists(st.sampled_from("abcdefgh"), min_size=6, max_size=25)


def takes(which: Selector, version: Version) -> bool:
    """Whether the selector takes the version's letter."""
    return (
        (not which.runs or version.run in which.runs)
        and (not which.reasons or version.reason in which.reasons)
        and (not which.ids or version.key[1] in which.ids)
        and (not which.namespaces or version.key[0] in which.namespaces)
    )
