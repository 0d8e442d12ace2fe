"""The vocabulary of fault specs: each kind's options, their order in compact text, and the action they build."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from http import HTTPStatus
from math import inf
from typing import Any, Final

from upsertq_emulator import texts
from upsertq_emulator.answer import rpc_status
from upsertq_emulator.faults import (
    Action,
    Drop,
    Late,
    Latency,
    Poison,
    Reset,
    Respond,
    Stall,
    Throttle,
    TooLarge,
    Truncate,
)
from upsertq_emulator.reading import (
    Convert,
    choice,
    flag,
    number,
    seconds_or_auto,
    text,
    whole_number,
)

REQUIRED: Final = object()


@dataclass(frozen=True, slots=True)
class Option:
    """How one option is read, and what it is when left out (`REQUIRED`: it may not be)."""

    convert: Convert
    default: Any = REQUIRED


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault; `positional` names the options in compact text, by the first argument where it matters."""

    build: Callable[[Mapping[str, Any]], Action]
    positional: tuple[str, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)
    by_first: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    upserts_only: bool = False

    def positions(self, arguments: Sequence[str]) -> tuple[str, ...]:
        """The names of compact `arguments`, in order."""
        return self.by_first.get(arguments[0], self.positional) if arguments else self.positional


# what every kind takes besides its own; `on` only where it makes sense
COMMON: Final[Mapping[str, Option]] = {
    "rate": Option(number(0, 1), 1.0),
    "from": Option(number(), 0.0),
    "until": Option(number(), inf),
    "first": Option(whole_number(1), None),
    "namespace": Option(text, None),
    "id": Option(text, None),
    "on": Option(choice("upsert", "fetch", "list", "stats", "delete", "any"), "upsert"),
}

_RETRY: Final[Mapping[str, Option]] = {
    "retry_after": Option(number(), None),
    "retry_form": Option(choice("seconds", "date"), "seconds"),
}
_POISON_MESSAGES: Final[Mapping[str, str]] = {
    "id": texts.ZERO_VECTOR,
    "field": texts.METADATA_TYPE.replace("{got}", "null"),
    "nothing": texts.METADATA_SIZE.format(size=42_177, limit=40_960),
}
_DISTRIBUTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "constant": ("seconds",),
    "uniform": ("low", "high"),
    "lognormal": ("median", "sigma"),
}


def _error(given: Mapping[str, Any]) -> Respond:
    status, body = given["status"], given["body"]
    if body is not None:
        encoded, content_type = body.encode(), given["content_type"] or "text/plain"
    else:
        encoded = rpc_status(status, given["message"] or texts.usual_text(status), code=given["code"])
        content_type = given["content_type"] or "application/json"
    return Respond(
        status=status,
        body=encoded,
        content_type=content_type,
        retry_after=given["retry_after"],
        retry_form=given["retry_form"],
        applied=given["applied"],
    )


def _deny(given: Mapping[str, Any]) -> Respond:
    status = given["status"]
    body = texts.UNAUTHORIZED if status == HTTPStatus.UNAUTHORIZED else rpc_status(status, texts.usual_text(status))
    return Respond(status=status, body=body)


def _quota(given: Mapping[str, Any]) -> Respond:
    message = texts.MONTHLY_QUOTA.format(limit=given["limit"])
    return Respond(
        status=429,
        body=rpc_status(429, message),
        retry_after=given["retry_after"],
        retry_form=given["retry_form"],
    )


def _latency(given: Mapping[str, Any]) -> Latency:
    names = _DISTRIBUTIONS[given["distribution"]]
    every = [name for others in _DISTRIBUTIONS.values() for name in others]
    if any((given[name] is None) == (name in names) for name in every):
        raise ValueError(f"{given['distribution']} latency takes {' and '.join(names)}")
    first, second = [*(given[name] for name in names), 0.0][:2]
    if given["distribution"] == "uniform" and first > second:
        raise ValueError(f"low {first:g} is above high {second:g}")
    return Latency(given["distribution"], first, second, given["most"])


def _poison(given: Mapping[str, Any]) -> Poison:
    pattern = given["pattern"] if given["match"] == "regex" else translate(given["pattern"])
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern: {given['pattern']!r} is no regular expression: {error}") from None
    message = given["message"] or _POISON_MESSAGES[given["names"]].replace("{field}", given["field"])
    return Poison(pattern=compiled, message=message, status=given["status"])


def _throttle(given: Mapping[str, Any]) -> Throttle:
    requests, size = given["requests"] or None, given["bytes"] or None
    if requests is None and size is None:
        raise ValueError("give requests or bytes a second")
    return Throttle(
        requests=requests,
        bytes=size,
        burst=given["burst"],
        named=given["named"],
        retry_after=given["retry_after"],
        retry_form=given["retry_form"],
    )


def _too_large(given: Mapping[str, Any]) -> TooLarge:
    return TooLarge(given["bytes"], texts.BARE_413_HTML if given["body"] == "html" else b"")


def _unreadable(given: Mapping[str, Any]) -> Respond:
    return Respond(status=200, body=given["body"].encode(), content_type="text/html", applied=True)


KINDS: Final[Mapping[str, Kind]] = {
    "error": Kind(
        _error,
        ("status", "rate"),
        {
            "status": Option(whole_number(200, 599)),
            "body": Option(text, None),
            "content_type": Option(text, None),
            "message": Option(text, None),
            "code": Option(whole_number(0, 16), None),
            "applied": Option(flag, False),
            **_RETRY,
        },
    ),
    "deny": Kind(_deny, ("status", "until"), {"status": Option(whole_number(401, 404))}),
    "quota": Kind(_quota, ("rate",), {"limit": Option(whole_number(1), 2_000_000), **_RETRY}),
    "schema": Kind(lambda _: Respond(status=400, body=rpc_status(400, texts.DOCUMENT_SCHEMA)), ("rate",)),
    "poison": Kind(
        _poison,
        ("pattern", "status"),
        {
            "pattern": Option(text),
            "match": Option(choice("glob", "regex"), "glob"),
            "status": Option(whole_number(400, 499), 400),
            "names": Option(choice("id", "field", "nothing"), "id"),
            "field": Option(text, "x"),
            "message": Option(text, None),
        },
        upserts_only=True,
    ),
    "throttle": Kind(
        _throttle,
        ("requests", "bytes"),
        {
            "requests": Option(number(), None),
            "bytes": Option(number(), None),
            "burst": Option(number(0.001), 1.0),
            "named": Option(flag, True),
            "retry_after": Option(seconds_or_auto, None),
            "retry_form": _RETRY["retry_form"],
        },
    ),
    "latency": Kind(
        _latency,
        ("distribution",),
        {
            "distribution": Option(choice(*_DISTRIBUTIONS)),
            **{name: Option(number(), None) for names in _DISTRIBUTIONS.values() for name in names},
            "most": Option(number(), 60.0),
        },
        by_first={name: ("distribution", *names) for name, names in _DISTRIBUTIONS.items()},
    ),
    "stall": Kind(lambda _: Stall(), ("rate",)),
    "reset": Kind(
        lambda given: Reset(given["when"]),
        ("when", "rate"),
        {"when": Option(choice("before", "after"))},
    ),
    "truncate": Kind(lambda _: Truncate(), ("rate",)),
    "short": Kind(
        lambda given: Drop(given["count"], given["lose"]),
        ("count", "rate"),
        {"count": Option(whole_number(1), 1), "lose": Option(flag, False)},
        upserts_only=True,
    ),
    "toolarge": Kind(
        _too_large,
        ("bytes",),
        {"bytes": Option(whole_number(0)), "body": Option(choice("empty", "html"), "empty")},
    ),
    "unreadable": Kind(_unreadable, ("rate",), {"body": Option(text, "<html><body>OK</body></html>")}),
    "late": Kind(
        lambda given: Late(given["delay"], given["answer"]),
        ("delay", "rate"),
        {"delay": Option(number()), "answer": Option(choice("reset", "stall"), "reset")},
        upserts_only=True,
    ),
}
