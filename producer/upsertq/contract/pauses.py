"""Owns how a paused lane is noted on the server (its scope, time, reason and author) and how a note comes and goes.

Everything here is a conversation (see `upsertq.contract.protocol`) or pure; it never does I/O itself.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from upsertq.contract.keys import QueueKeys, queue_option
from upsertq.contract.printable import printable
from upsertq.contract.protocol import Conversation, Patience, ask_all, pairs, persistently

QUEUE: Final = "queue"
"""The scope of the whole queue."""
BY_HAND: Final = "by_hand"
"""The reason of a pause by hand."""
NO_MESSAGE: Final = "paused by hand"
"""The message of a pause for which none was given."""
MESSAGE_MAX: Final = 500
_NAMESPACE: Final = "namespace:"
_LAST_YEAR: Final = 253_402_300_799.0
"""The last second of the year 9999: what another program noted as later is taken as this, so that it can be shown."""


def scope_of(namespace: str) -> str:
    """The scope of one namespace."""
    return f"{_NAMESPACE}{namespace}"


def namespace_of(scope: str) -> str | None:
    """The namespace of a scope, `None` for the whole queue."""
    return scope.removeprefix(_NAMESPACE) if scope.startswith(_NAMESPACE) else None


@dataclass(frozen=True, slots=True)
class Paused:
    """Why a scope is paused.

    Attributes:
        reason: a word for programs (`unauthorized`, `quota`, `systemic`, `by_hand`, …).
        message: a line for people: what was said and what to do.
        since: seconds since 1970.
        by: the worker that noticed, or who paused it by hand.
        by_hand: it ends by hand only.
    """

    reason: str
    message: str
    since: float
    by: str
    by_hand: bool = False


def by_hand(message: str, since: float, by: str) -> Paused:
    """A pause by hand; `message`, where there is one, becomes one printable line of at most 500 characters."""
    return Paused(BY_HAND, one_line(message)[:MESSAGE_MAX] or NO_MESSAGE, since, one_line(by), by_hand=True)


def one_line(text: str) -> str:
    """`text` as one printable line: whoever can write to the server shall not write to the reader's terminal."""
    return printable(" ".join(text.split()))


def read_pauses(keys: QueueKeys, patience: Patience) -> Conversation[dict[str, Paused]]:
    """Every paused scope."""
    (reply,) = yield from persistently(ask_all([["HGETALL", keys.paused]]), patience, "read the paused lanes")
    return of_reply(reply)


def set_pause(
    keys: QueueKeys, scope: str, wanted: Paused, patience: Patience
) -> Conversation[tuple[Paused | None, Paused]]:
    """Pause a scope by hand; returns its pause before and now.

    One by the service becomes one by hand. One by hand keeps its beginning, and all of it where no message is new.
    """
    before = (yield from read_pauses(keys, patience)).get(scope)
    now = wanted
    if before is not None and before.by_hand:
        if wanted.message in {before.message, NO_MESSAGE}:
            return before, before
        now = replace(wanted, since=before.since)
    yield from persistently(ask_all([["HSET", keys.paused, scope, note(now)]]), patience, f"pause {spoken(scope)}")
    return before, now


def clear_pause(
    keys: QueueKeys, scope: str | None, patience: Patience
) -> Conversation[tuple[dict[str, Paused], dict[str, Paused]]]:
    """End the pause of a scope, or every pause (`None`), also one noted elsewhere; returns those ended and left."""
    (reply,) = yield from persistently(ask_all([["HGETALL", keys.paused]]), patience, "read the paused lanes")
    before = of_reply(reply)
    # all: by name, so that a pause of this very moment stays, and with those whose notes cannot be read
    fields = [scope] if scope is not None else list(pairs(reply))
    if fields:
        yield from persistently(ask_all([["HDEL", keys.paused, *fields]]), patience, "end the pause")
    ended = {name: paused for name, paused in before.items() if scope in {None, name}}
    return ended, {name: paused for name, paused in before.items() if name not in ended}


def of_reply(reply: Mapping[bytes, bytes] | Sequence[bytes]) -> dict[str, Paused]:
    """The pauses out of an HGETALL, by scope; a note that cannot be read is passed over."""
    found = {}
    for scope, noted in sorted(pairs(reply).items()):
        paused = _read(noted)
        if paused is not None:
            found[scope.decode("utf-8", "backslashreplace")] = paused
    return found


def _read(noted: bytes) -> Paused | None:
    try:
        document: Any = orjson.loads(noted)
        reason, message, since, by = (document[name] for name in ("reason", "message", "since", "by"))
        by_hand = document.get("by_hand", False)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    # exact types: what is nested a thousand deep has no text
    if not all(isinstance(text, str) for text in (reason, message, by)) or type(since) not in {int, float}:
        return None
    return Paused(reason, message, min(max(float(since), 0.0), _LAST_YEAR), by, by_hand is True)


def note(paused: Paused) -> bytes:
    """The pause as it is noted."""
    return orjson.dumps(asdict(paused))


def as_dict(scope: str, paused: Paused) -> dict[str, Any]:
    """The pause as commands print it with `--json`; `namespace` is null for the whole queue."""
    return {"scope": scope, "namespace": namespace_of(scope), **asdict(paused)}


def spoken(scope: str) -> str:
    """A scope as people say it."""
    namespace = namespace_of(scope)
    if namespace is None:
        return "the queue" if scope == QUEUE else one_line(scope)
    return f"namespace '{printable(namespace)}'" if namespace else "the default namespace"


def resuming(keys: QueueKeys, scope: str) -> str:
    """The command that ends a pause of this scope."""
    namespace = namespace_of(scope) or ""
    name = shlex.quote(printable(namespace))
    return f"upsertq resume{queue_option(keys.queue)}{'' if scope == QUEUE else f' --namespace {name}'}"


def describe(scope: str, paused: Paused) -> str:
    """A pause as one line: what is paused, why, since when, and what set it."""
    since = datetime.fromtimestamp(paused.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    why = paused.message if paused.by_hand else f"{paused.reason}: {paused.message}"
    return one_line(f"{spoken(scope)}: {why} (since {since}, by {paused.by}{', by hand' if paused.by_hand else ''})")
