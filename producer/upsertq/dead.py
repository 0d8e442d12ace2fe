"""Owns how dead letters are read: page through them, find them by their ids, choose some, and make a plan of these.

Everything that talks to the server is a conversation, and nothing here changes anything. A plan names its letters once:
what dies afterwards, even of the same records, is never part of it. `upsertq.dead_moves` carries it out.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from typing import Any, Final, NamedTuple

from upsertq.errors import NotFound, shown
from upsertq.exchange import Conversation, Patience, Script, ask_all, persistently, run_scripts
from upsertq.keys import QueueKeys
from upsertq.letter import Head, Letter, Reason, decode_head, decode_letter, place
from upsertq.wire import UnknownEntry

HEADS: Final = Script.load("upsertq", "heads")
PAGE_HEADS: Final = 500
PAGE_LETTERS: Final = 50
"""Whole letters read at once: a vector may take 80 kB, its metadata another 40."""


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


class Pick(NamedTuple):
    """One letter of a plan: where it stands, and what is needed to move it and to know it again."""

    shard: int
    stream_id: str
    seq: str
    run: str
    mark: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Plan:
    """The letters to replay or to discard, in the order of their versions; `unreadable` ones were passed over."""

    picks: Sequence[Pick]
    unreadable: int = 0

    @property
    def by_reason(self) -> dict[str, int]:
        """How many there are of each reason, the most frequent first."""
        return dict(Counter(pick.reason.value for pick in self.picks).most_common())


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive letters of one shard; `last` is where the next page goes on, empty at the end."""

    heads: Sequence[Head]
    unreadable: int
    last: str


def read_page(
    keys: QueueKeys, shard: int, after: str, patience: Patience, most: int = PAGE_HEADS
) -> Conversation[Page]:
    """The letters of a shard that come after the stream id `after` (empty: from the oldest), `most` at once."""
    arguments: list[str | int] = [f"({after}" if after else "-", "+", most]

    def ask() -> Conversation[list[Any]]:
        return (yield from run_scripts(HEADS, [([keys.shard(shard).dead], arguments)]))

    (reply,) = yield from persistently(ask, patience, "read the dead letters")
    heads = [head for head in (_head(shard, letter) for letter in reply) if head is not None]
    last = reply[-1][0].decode("ascii") if len(reply) == most else ""
    return Page(heads, len(reply) - len(heads), last)


def _head(shard: int, letter: Sequence[Any]) -> Head | None:
    flat = letter[1]
    try:
        return decode_head(shard, letter[0].decode("ascii"), dict(zip(flat[::2], flat[1::2], strict=True)))
    except UnknownEntry:
        return None


def walk(
    hold: Callable[[Conversation[Page]], Page],
    keys: QueueKeys,
    shards: int,
    patience: Callable[[], Patience],
    unreadable: Callable[[int], None] = lambda _: None,
) -> Iterator[Head]:
    """Every letter of the queue in the order of death, read page by page; `hold` performs a conversation."""
    most = max(10, PAGE_HEADS * 8 // max(8, shards))

    def of_shard(shard: int) -> Iterator[Head]:
        after = ""
        while True:
            page = hold(read_page(keys, shard, after, patience(), most))
            if page.unreadable:
                unreadable(page.unreadable)
            yield from page.heads
            after = page.last
            if not after:
                return

    return merge(*map(of_shard, range(shards)), key=_death)


def _death(head: Head) -> tuple[tuple[int, ...], int]:
    return place(head.stream_id), head.shard


def make_plan(
    keys: QueueKeys, shards: int, selector: Selector, limit: int | None, patience: Callable[[], Patience]
) -> Conversation[Plan]:
    """Choose the letters, of more than `limit` those that died first; nothing is changed."""
    chosen: list[Pick] = []
    unreadable = 0
    for shard in range(shards):
        after, first = "", len(chosen)
        while True:
            page = yield from read_page(keys, shard, after, patience())
            unreadable += page.unreadable
            chosen += [_pick(head) for head in page.heads if selector.takes(head)]
            after = page.last
            if not after or (limit is not None and len(chosen) - first >= limit):
                break
    if limit is not None:
        chosen.sort(key=lambda pick: (place(pick.stream_id), pick.shard))
        del chosen[limit:]
    return plan_of(chosen, unreadable)


def plan_of(picks: Sequence[Pick], unreadable: int = 0) -> Plan:
    """The plan of these letters: of one id the older version goes first."""
    return Plan(sorted(picks, key=lambda pick: place(pick.seq)), unreadable)


def find_picks(keys: QueueKeys, shards: int, dead_ids: Sequence[str], patience: Patience) -> Conversation[Plan]:
    """The plan of letters that are named; `NotFound` names those that are not there."""
    letters = yield from find_letters(keys, shards, dead_ids, patience)
    return plan_of([_pick(one) for one in letters])


def find_letters(
    keys: QueueKeys,
    shards: int,
    dead_ids: Sequence[str],
    patience: Patience,
    *,
    missing_ok: bool = False,
    damaged: list[UnknownEntry] | None = None,
) -> Conversation[list[Letter]]:
    """The letters by these ids, each once; `NotFound` names those that are not there, unless that is `missing_ok`.

    What is wrong with letters that cannot be read is put into `damaged`; where there is none, the first is raised.
    """
    wanted = list(dict.fromkeys(dead_ids))
    where = [_where(dead_id, shards) for dead_id in wanted]
    found: list[Letter] = []
    missing = [name for name, spot in zip(wanted, where, strict=True) if spot is None]
    spots = [spot for spot in where if spot is not None]
    for first in range(0, len(spots), PAGE_LETTERS):
        some = spots[first : first + PAGE_LETTERS]
        ask = ask_all([["XRANGE", keys.shard(shard).dead, at, at] for shard, at in some])
        replies = yield from persistently(ask, patience, "read the dead letters")
        for (shard, at), reply in zip(some, replies, strict=True):
            if not reply:
                missing.append(f"{shard}:{at}")
                continue
            try:
                found.append(decode_letter(shard, at, _fields(reply[0][1])))
            except UnknownEntry as error:
                if damaged is None:
                    raise
                damaged.append(error)
    if missing and not missing_ok:
        names = ", ".join(shown(name) for name in missing[:5]) + (", …" if len(missing) > 5 else "")  # noqa: PLR2004
        raise NotFound(
            f"there is no dead letter {names} in queue '{keys.queue}': it was replayed, discarded or superseded, or "
            "the id is mistyped; `upsertq dead list` shows those that are there"
        )
    return found


def _where(dead_id: str, shards: int) -> tuple[int, str] | None:
    shard, _, stream_id = dead_id.partition(":")
    numbers = stream_id.split("-")
    sound = all(part.isascii() and part.isdigit() and len(part) <= 20 for part in (shard, *numbers))  # noqa: PLR2004
    # a bare time would stand for every letter of its millisecond
    if not sound or len(numbers) != 2 or int(shard) >= shards or max(map(int, numbers)) >= 2**64:  # noqa: PLR2004
        return None
    return int(shard), "-".join(str(int(number)) for number in numbers)


def _fields(reply: Any) -> dict[bytes, bytes]:
    if isinstance(reply, dict):
        return reply
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _pick(letter: Head | Letter) -> Pick:
    at = letter if isinstance(letter, Head) else letter.entry
    mark = f"{at.namespace}\0{letter.id}"
    return Pick(letter.shard, letter.stream_id, at.seq, at.run, mark, letter.verdict.reason)
