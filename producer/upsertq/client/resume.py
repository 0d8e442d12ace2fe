"""Owns how an interrupted load is found again and what of it is already in the queue; it decides, the server remembers.

Every record of a load has an ordinal: its place over all sources, whatever becomes of it. With each enqueue the server
notes, per shard and namespace, the last ordinal that it took (see `upsertq.client.pack`), so that what is missing after
any interruption is known exactly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from upsertq.contract.errors import QueueDamaged
from upsertq.contract.figures import whole
from upsertq.contract.keys import QueueKeys, is_name, shard_of
from upsertq.contract.protocol import Conversation, Patience, ask_all, pairs, persistently
from upsertq.contract.record import id_text
from upsertq.contract.wire import default_namespace

LEDGER_MS: Final = 7 * 24 * 3600 * 1000
"""How long after its beginning, or its last resumption, a load can be resumed."""
REMEMBERED: Final = 1_000
"""Loads that a queue remembers before the expired ones are forgotten."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A load as the server remembers it: its ledger's token, its run, when it began or was last resumed (ms)."""

    token: str
    run: str
    since: int
    files: tuple[str, ...] = ()
    done: bool = False

    def expired(self, now_ms: int) -> bool:
        """Whether its ledger may be gone."""
        return now_ms - self.since >= LEDGER_MS


@dataclass(frozen=True, slots=True)
class Ledger:
    """The last ordinal taken, per shard and namespace; empty for a fresh load."""

    shards: int
    taken: Sequence[Mapping[str, int]]

    def __bool__(self) -> bool:
        return any(self.taken)

    def holds(self, ids: Sequence[Any], namespaces: str | Sequence[Any], first: int) -> list[bool]:
        """For each of these records, the first of which has the ordinal `first`, whether the queue took it before.

        An id or namespace that no valid record can have was never taken.
        """
        count = len(ids)
        spaces = [namespaces] * count if isinstance(namespaces, str) else namespaces
        return [
            self._holds(record_id, space, ordinal)
            for record_id, space, ordinal in zip(ids, spaces, range(first, first + count), strict=True)
        ]

    def _holds(self, given: Any, space: Any, ordinal: int) -> bool:
        record_id = given if isinstance(given, str) else id_text(given)
        if not (isinstance(record_id, str) and isinstance(space, str) and record_id.isascii() and space.isascii()):
            return False
        namespace = default_namespace(space)
        return ordinal <= self.taken[shard_of(namespace, record_id, self.shards)].get(namespace, -1)


NOTHING: Final = Ledger(1, ({},))


def find_attempt(keys: QueueKeys, fingerprint: str, patience: Patience) -> Conversation[Attempt | None]:
    """The load with this fingerprint, `None` where the queue knows none."""
    ask = ask_all([["HGET", keys.loads, fingerprint]])
    (reply,) = yield from persistently(ask, patience, "look for the interrupted load")
    attempt = None if reply is None else _attempt(reply)
    if reply is not None and attempt is None:
        raise QueueDamaged(
            f"the note of this load in {keys.loads} is damaged, so what was taken of it is not known: leave --resume "
            "out, and all of it is loaded again"
        )
    return attempt


def remember(keys: QueueKeys, fingerprint: str, attempt: Attempt, patience: Patience) -> Conversation[None]:
    """Note the load; where very many are noted, forget those that cannot be resumed any more."""
    note: list[str | bytes] = ["HSET", keys.loads, fingerprint, orjson.dumps(asdict(attempt))]
    replies = yield from persistently(ask_all([note, ["HLEN", keys.loads]]), patience, "note the load")
    if int(replies[1]) <= REMEMBERED:
        return
    (known,) = yield from persistently(ask_all([["HGETALL", keys.loads]]), patience, "read the noted loads")
    noted = {field: _attempt(told) for field, told in pairs(known).items()}
    old: list[bytes] = [field for field, one in noted.items() if one is not None and one.expired(attempt.since)]
    if old:
        yield from persistently(ask_all([["HDEL", keys.loads, *old]]), patience, "forget expired loads")


def ledger_tokens(keys: QueueKeys, patience: Patience) -> Conversation[list[str]]:
    """The tokens of the ledgers of all loads that are noted."""
    (known,) = yield from persistently(ask_all([["HVALS", keys.loads]]), patience, "read the noted loads")
    return sorted({attempt.token for told in known if (attempt := _attempt(told))})


def read_ledger(keys: QueueKeys, shards: int, token: str, patience: Patience) -> Conversation[Ledger]:
    """What the queue took of a load; from now on the ledger lives its whole life again."""
    names = [keys.shard(k).ledger(token) for k in range(shards)]
    # renewed first: what is read afterwards will not expire while it is used
    renew: list[list[str | int]] = [["PEXPIRE", name, LEDGER_MS] for name in names]
    yield from persistently(ask_all(renew), patience, "renew the load's ledger")
    replies = yield from persistently(ask_all([["HGETALL", name] for name in names]), patience, "read the ledger")
    return Ledger(shards, [_taken(pairs(reply)) for reply in replies])


def _taken(reply: Mapping[bytes, bytes]) -> dict[str, int]:
    """The last ordinals; what is none counts as nothing taken: better twice than never."""
    told = {space.decode("ascii", "replace"): whole(last) for space, last in reply.items()}
    return {space: last for space, last in told.items() if last is not None}


def _attempt(told: bytes) -> Attempt | None:
    try:
        fields: Any = orjson.loads(told)
        token, run, since, files, done = (fields[name] for name in ("token", "run", "since", "files", "done"))
    except (ValueError, KeyError, TypeError):
        return None
    sound = all(isinstance(text, str) and is_name(text) for text in (token, run))
    if not sound or type(since) is not int or not isinstance(files, list):
        return None
    if not all(isinstance(file, str) for file in files):
        return None
    return Attempt(token, run, since, tuple(files), done is True)
