"""Decides how much of what was read may be forgotten again without harm. Pure."""

from collections.abc import Sequence
from itertools import accumulate

from upsertq_worker.versions import Held, Version


def where_to_cut(entries: Sequence[Held], spare: int) -> int:
    """Where the tail of these entries (of one shard and namespace, oldest first) begins that may be forgotten.

    Nothing of the tail was sent or has a fate, and at least one entry and `spare` bytes are left before it.
    """
    kept = list(accumulate((held.weight for held in entries), initial=0))
    cut = len(entries)
    while cut > 1 and kept[cut - 1] >= spare and not any(map(_touched, entries[cut - 1].versions)):
        cut -= 1
    return cut


def _touched(version: Version) -> bool:
    """Whether something was made of this version, or an answer about its key was lost and may still take effect."""
    return version not in version.chain.waiting or version.chain.quarantined_until > 0
