"""Owns going through what may be very large on a server, in steps that do not hold up others. A conversation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from upsertq.contract.protocol import Conversation, Nodes, Patience, ask_all, pairs, persistently

STEP: Final = 1_000
"""Keys or fields that the server looks at in one step: less than a millisecond."""


def keys_like(
    pattern: str,
    visit: Callable[[Sequence[bytes]], Conversation[None]],
    patience: Callable[[], Patience],
    what: str,
) -> Conversation[None]:
    """Have all keys that match `pattern` visited, a step's at a time, some of them twice.

    A key that is there from the beginning to the end, on one node of a cluster, is visited for certain. `visit` is
    called after each step, with none as well; each step has a patience of its own; `what` names the purpose in errors.
    """
    for node in (yield from nodes(patience(), what)):
        cursor: Any = b"0"
        while True:
            scan = ask_all([["SCAN", cursor, "MATCH", pattern, "COUNT", STEP]], node)
            ((cursor, found),) = yield from persistently(scan, patience(), what)
            yield from visit(found)
            if int(cursor) == 0:
                break


def nodes(patience: Patience, what: str) -> Conversation[list[str]]:
    """The names of the servers that hold the keys, for `Ask`."""

    def ask() -> Conversation[list[Any]]:
        return (yield Nodes())

    return (yield from persistently(ask, patience, what))


def fields_of(key: str, patience: Callable[[], Patience], what: str) -> Conversation[Mapping[bytes, bytes]]:
    """All fields of a hash, read a step at a time."""
    cursor: Any = b"0"
    fields: dict[bytes, bytes] = {}
    while True:
        ask = ask_all([["HSCAN", key, cursor, "COUNT", STEP]])
        ((cursor, found),) = yield from persistently(ask, patience(), what)
        fields.update(pairs(found))
        if int(cursor) == 0:
            return fields
