"""Owns which dead letters are chosen, and how these are read: page by page in the order of death, or by their marks.

Everything that talks to the server is a conversation, and nothing here changes anything.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from upsertq.contract.dead_letter import Head, Reason, decode_head, place
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Conversation, Patience, Script, persistently, run_scripts
from upsertq.contract.wire import UnknownEntry
from upsertq.dead import known as dead_known

HEADS: Final = Script.load("upsertq.contract", "heads")
PAGE_HEADS: Final = 500


@dataclass(frozen=True, slots=True)
class Selector:
    """Which letters: each criterion that is not empty must hold. Times are milliseconds of the last failure.

    `since_ms` is the first that is in, `until_ms` the first that is out.
    """

    reasons: frozenset[Reason] = frozenset()
    statuses: frozenset[int] = frozenset()
    runs: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    since_ms: int | None = None
    until_ms: int | None = None

    @property
    def in_books(self) -> bool:
        """Whether the books know how many it takes."""
        return replace(self, reasons=frozenset(), runs=frozenset()) == Selector()

    def takes(self, head: Head) -> bool:
        """Whether the letter is chosen."""
        verdict = head.verdict
        return (
            (not self.reasons or verdict.reason in self.reasons)
            and (not self.statuses or verdict.status in self.statuses)
            and (not self.runs or head.run in self.runs)
            and (not self.namespaces or head.namespace in self.namespaces)
            and (not self.ids or head.id in self.ids)
            and (self.since_ms is None or verdict.last_ms >= self.since_ms)
            and (self.until_ms is None or verdict.last_ms < self.until_ms)
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive letters of one shard; `last` is where the next page goes on, empty at the end."""

    heads: Sequence[Head]
    unreadable: int
    last: str


def read_pages(
    keys: QueueKeys, calls: Sequence[tuple[int, str, str, int]], patience: Patience
) -> Conversation[list[Page]]:
    """A page of each of these: shard, first and last stream id as XRANGE takes them, and how many at once."""

    def ask() -> Conversation[list[Any]]:
        return (
            yield from run_scripts(
                HEADS, [([keys.shard(shard).dead], [first, last, most]) for shard, first, last, most in calls]
            )
        )

    replies = yield from persistently(ask, patience, "read the dead letters")
    pages = []
    for (shard, _, _, most), reply in zip(calls, replies, strict=True):
        heads = [head for head in (_head(shard, letter) for letter in reply) if head is not None]
        last = reply[-1][0].decode("ascii") if len(reply) == most else ""
        pages.append(Page(heads, len(reply) - len(heads), last))
    return pages


def _head(shard: int, letter: Sequence[Any]) -> Head | None:
    flat = letter[1]
    try:
        return decode_head(shard, letter[0].decode("ascii"), dict(zip(flat[::2], flat[1::2], strict=True)))
    except UnknownEntry:
        return None


class Choice:
    """The letters that a selector takes, of more than `limit` those that died first, handed over in the order of death.

    Letters whose ids are named are found by their marks; others are read page by page, no more of them than it takes.
    `unreadable` counts those that were passed over.
    """

    def __init__(self, keys: QueueKeys, shards: int, selector: Selector, limit: int | None = None) -> None:
        self.over = False
        self.unreadable = 0
        self._keys = keys
        self._shards = shards
        self._selector = selector
        self._left = limit
        self._after = dict.fromkeys(range(shards), "")
        """Where the next page of each shard goes on; a shard that is read to its end is left out."""
        self._read: list[Head] = []
        """What is read and not handed over: a shard that is behind may have older ones."""
        self._most = max(10, PAGE_HEADS * 8 // max(8, shards))
        self._page = self._most if limit is None else min(self._most, limit, 2 * (limit // shards) + 10)

    def more(self, patience: Patience) -> Conversation[list[Head]]:
        """The letters that come next, which may be none; at the end `over` is set."""
        if self._selector.ids:
            ready = yield from self._marked(patience)
        else:
            ready = yield from self._next(patience)
        chosen = [head for head in ready if self._selector.takes(head)][: self._left]
        if self._left is not None:
            self._left -= len(chosen)
            self.over = self.over or not self._left
        return chosen

    def _marked(self, patience: Patience) -> Conversation[list[Head]]:
        ids, namespaces = self._selector.ids, self._selector.namespaces
        spots = yield from dead_known.marked(self._keys, self._shards, ids, namespaces, patience)
        found: list[Head] = []
        for first in range(0, len(spots), PAGE_HEADS):
            calls = [(shard, at, at, 1) for shard, at in spots[first : first + PAGE_HEADS]]
            for page in (yield from read_pages(self._keys, calls, patience)):
                found += page.heads
                self.unreadable += page.unreadable
        self.over = True
        return sorted(found, key=_death)

    def _next(self, patience: Patience) -> Conversation[list[Head]]:
        """Read on in the shards of which nothing is left here, and return what no shard can have older ones of."""
        here = {head.shard for head in self._read}
        behind = [shard for shard in self._after if shard not in here]
        calls = [(shard, f"({self._after[shard]}" if self._after[shard] else "-", "+", self._page) for shard in behind]
        self._page = min(2 * self._page, self._most)
        for shard, page in zip(behind, (yield from read_pages(self._keys, calls, patience)), strict=True):
            self._read += page.heads
            self.unreadable += page.unreadable
            if page.last:
                self._after[shard] = page.last
            else:
                del self._after[shard]
        self._read.sort(key=_death)
        if not self._after:
            self.over = True
            ready, self._read = self._read, []
            return ready
        known = min((place(after), shard) for shard, after in self._after.items())
        count = bisect_right(self._read, known, key=_death)
        ready, self._read = self._read[:count], self._read[count:]
        return ready


def _death(head: Head) -> tuple[tuple[int, ...], int]:
    return place(head.stream_id), head.shard
