"""Owns what is known of dead letters without reading them: how many by the books, and where an id's are by the marks.

Everything here is a conversation, and changes nothing. It tells nothing where books and letters disagree.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from upsertq.contract.books import REASON
from upsertq.contract.dead_letter import Reason
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Conversation, Patience, ask_all, pairs, persistently

LOOKS: Final = 3
"""Times that the books are read: between two commands of one look a worker may have settled something."""
MARKS: Final = 5_000
"""Marks that the server looks at, or is asked for, in one command."""
_COUNT: Final = re.compile(rb"[0-9]{1,19}")
_GLOB: Final = re.compile(rb"([\\*?\[\]])")
_DEAD: Final = re.compile(rb"(?:^| )D,[0-9-]+,([0-9]{1,20}-[0-9]{1,20})(?=[ ,]|$)")


def booked(
    keys: QueueKeys, shards: int, reasons: Collection[Reason], runs: Collection[str], patience: Patience
) -> Conversation[dict[Reason, int] | None]:
    """Letters by reason, of these reasons and runs (none: of all).

    `None` where the books cannot tell: they differ from the letters that are there, or know of reasons that we do not.
    """
    for _ in range(LOOKS):
        found = yield from _look(keys, shards, runs, patience)
        if found is not None:
            return {reason: found[reason] for reason in Reason if found[reason] and (not reasons or reason in reasons)}
    return None


def _look(
    keys: QueueKeys, shards: int, runs: Collection[str], patience: Patience
) -> Conversation[dict[Reason, int] | None]:
    counters = ["dead", *(f"{REASON}{reason}" for reason in Reason)]
    commands = list[list[str]]()
    for shard in map(keys.shard, range(shards)):
        commands += [["XLEN", shard.dead], ["HMGET", shard.books, *counters]]
        commands += [["HMGET", shard.run(run), *counters] for run in runs]
    replies = yield from persistently(ask_all(commands), patience, "count the dead letters")
    whole = dict.fromkeys(Reason, 0)
    width = 2 + len(runs)
    for first in range(0, len(replies), width):
        letters, *books = replies[first : first + width]
        counts = [_counts(reply) for reply in books]
        if counts[0][:1] != [letters] or any(dead != sum(by_reason) for dead, *by_reason in counts):
            return None
        for _, *by_reason in counts[1:] or counts:
            for reason, count in zip(Reason, by_reason, strict=True):
                whole[reason] += count
    return whole


def _counts(reply: Sequence[bytes | None]) -> list[int]:
    """The counters as numbers; what never adds up where one is none, or below zero."""
    texts = [value or b"0" for value in reply]
    return [int(text) for text in texts] if all(map(_COUNT.fullmatch, texts)) else [-1]


def marked(
    keys: QueueKeys, shards: int, ids: Collection[str], namespaces: Collection[str], patience: Patience
) -> Conversation[list[tuple[int, str]]]:
    """Shard and stream id of the letters of these ids, in these namespaces (none: in any), by their marks."""
    wanted = {name.encode("utf-8", "surrogatepass") for name in ids}
    found: set[tuple[int, str]] = set()
    if namespaces:
        fields = [name.encode("utf-8", "surrogatepass") + b"\0" + one for name in namespaces for one in wanted]
        for first in range(0, len(fields), MARKS):
            some = fields[first : first + MARKS]
            ask = ask_all([["HMGET", keys.shard(shard).dead_ids, *some] for shard in range(shards)])
            replies = yield from persistently(ask, patience, "read the marks of dead letters")
            found.update((shard, at) for shard in range(shards) for mark in replies[shard] for at in _letters(mark))
        return sorted(found)
    only = b"*\0" + _GLOB.sub(rb"\\\1", next(iter(wanted))) if len(wanted) == 1 else b"*"
    cursors: dict[int, Any] = dict.fromkeys(range(shards), 0)
    while cursors:
        ask = ask_all(
            [["HSCAN", keys.shard(shard).dead_ids, at, "MATCH", only, "COUNT", MARKS] for shard, at in cursors.items()]
        )
        replies = yield from persistently(ask, patience, "look through the marks of dead letters")
        for shard, (cursor, marks) in zip(list(cursors), replies, strict=True):
            for field, mark in pairs(marks).items():
                if field.partition(b"\0")[2] in wanted:
                    found.update((shard, at) for at in _letters(mark))
            cursors[shard] = cursor
        cursors = {shard: cursor for shard, cursor in cursors.items() if int(cursor)}
    return sorted(found)


def _letters(mark: bytes | None) -> Iterator[str]:
    """The stream ids of the letters that a mark names."""
    return (at.decode("ascii") for at in _DEAD.findall(mark or b""))
