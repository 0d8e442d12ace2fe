"""Owns how dead letters are found: in their order, by their dead ids, as a plan of those chosen, or as a count.

Everything that talks to the server is a conversation, and nothing here changes anything. A plan names its letters once:
what dies afterwards, even of the same records, is never part of it. `upsertq.dead.moves` carries it out.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from upsertq.contract.dead_letter import Head, Letter, Reason, decode_letter, place
from upsertq.contract.errors import NotFound, shown
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Conversation, Patience, ask_all, persistently
from upsertq.contract.wire import UnknownEntry
from upsertq.dead import known as dead_known
from upsertq.dead.choice import Choice, Selector

PAGE_LETTERS: Final = 50
"""Whole letters read at once: a vector may take 80 kB, its metadata another 40."""


class Pick(NamedTuple):
    """One letter of a plan: where it stands, and what is needed to move it and to know it again."""

    shard: int
    stream_id: str
    seq: str
    run: str
    mark: str
    reason: Reason

    @property
    def namespace(self) -> str:
        """The record's namespace."""
        return self.mark.partition("\0")[0]


@dataclass(frozen=True, slots=True)
class Plan:
    """The letters to replay or to discard, in the order of their versions; `unreadable` ones were passed over."""

    picks: Sequence[Pick]
    unreadable: int = 0

    @property
    def count(self) -> "Count":
        """How many there are."""
        return Count(Counter(pick.reason.value for pick in self.picks), self.unreadable)


class Count:
    """How many letters: by reason, the most frequent first; `unreadable` ones, passed over, are not among them."""

    def __init__(self, by_reason: Mapping[str, int], unreadable: int = 0) -> None:
        self.by_reason = dict(Counter(by_reason).most_common())
        self.unreadable = unreadable

    @property
    def total(self) -> int:
        """Of all reasons."""
        return sum(self.by_reason.values())


def walk(
    hold: Callable[[Conversation[list[Head]]], list[Head]],
    keys: QueueKeys,
    shards: int,
    patience: Callable[[], Patience],
    unreadable: Callable[[int], None] = lambda _: None,
    *,
    selector: Selector = Selector(),  # noqa: B008 - it is frozen
    limit: int | None = None,
) -> Iterator[Head]:
    """The letters chosen (unless told otherwise: all) in the order of death, as they are read.

    `hold` performs a conversation; `unreadable` is told at the end how many were passed over.
    """
    choice = Choice(keys, shards, selector, limit)
    while not choice.over:
        yield from hold(choice.more(patience()))
    unreadable(choice.unreadable)


def make_plan(
    keys: QueueKeys, shards: int, selector: Selector, limit: int | None, patience: Callable[[], Patience]
) -> Conversation[Plan]:
    """Choose the letters, of more than `limit` those that died first; nothing is changed."""
    choice, chosen = Choice(keys, shards, selector, limit), list[Pick]()
    while not choice.over:
        chosen += map(_pick, (yield from choice.more(patience())))
    return plan_of(chosen, choice.unreadable)


def count(
    keys: QueueKeys, shards: int, selector: Selector, limit: int | None, patience: Callable[[], Patience]
) -> Conversation[Count]:
    """How many letters a plan would name: by the books where they know, else by reading, which holds none of them."""
    if selector.in_books:
        known = yield from dead_known.booked(keys, shards, selector.reasons, selector.runs, patience())
        if known is not None and (limit is None or len(known) < 2 or sum(known.values()) <= limit):  # noqa: PLR2004
            return Count({reason.value: many if limit is None else min(many, limit) for reason, many in known.items()})
    choice, by_reason = Choice(keys, shards, selector, limit), Counter[str]()
    while not choice.over:
        by_reason.update(head.verdict.reason.value for head in (yield from choice.more(patience())))
    return Count(by_reason, choice.unreadable)


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
