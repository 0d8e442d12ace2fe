"""Owns values within values: how deep JSON may be nested, and how a dotted name finds its way into a record."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

MAX_DEPTH: Final = 64
"""Levels of nesting that are read: far beyond any record, far below what ends Python's recursion."""
MISSING: Final = object()
TOKEN: Final = re.compile(rb'[{}\[\]]|"(?:[^"\\]++|\\.)*+("?)', re.DOTALL)
"""A bracket of JSON, or a whole string; group 1 is empty where the string does not end."""
_OPENING: Final = b"{["
_STRING: Final = b'"'


def too_deep(text: str | bytes) -> bool:
    """Whether JSON text is nested deeper than `MAX_DEPTH`; takes time only where it has as many brackets."""
    if not has_many_brackets(text):
        return False
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogatepass")
    depth = 0
    for token in TOKEN.finditer(text):
        first = token[0][:1]
        if first in _OPENING:
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif first != _STRING:
            depth -= 1
    return False


def has_many_brackets(text: str | bytes) -> bool:
    """Whether JSON text could be nested deeper than `MAX_DEPTH`, told in almost no time where it could not."""
    if isinstance(text, str):
        return _has_many(text.find, "{") or _has_many(text.find, "[")
    # most records have one bracket and one or two braces, which is seen without a loop
    find = text.find
    second = find(b"{", find(b"{") + 1)
    if find(b"[", find(b"[") + 1) < 0 and (second < 1 or find(b"{", second + 1) < 0):
        return False
    return _has_many(find, b"{") or _has_many(find, b"[")


def _has_many(find: Callable[[Any, int], int], bracket: str | bytes) -> bool:
    # to find the few that there are is a tenth of the time of counting them
    at = -1
    for _ in range(MAX_DEPTH // 2 + 1):
        at = find(bracket, at + 1)
        if at < 0:
            return False
    return True


def found(value: Any, path: str) -> Any:
    """What the names and positions in `path` lead to, `MISSING` if nothing; a name that itself has dots wins."""
    if isinstance(value, Mapping):
        if path in value:
            return value[path]
        at = path.rfind(".")
        while at > 0:
            if path[:at] in value:
                inner = found(value[path[:at]], path[at + 1 :])
                if inner is not MISSING:
                    return inner
            at = path.rfind(".", 0, at)
        return MISSING
    if not isinstance(value, list):
        return MISSING
    place, _, rest = path.partition(".")
    if not (place.isascii() and place.isdigit()) or len(place) > len(str(len(value))) or int(place) >= len(value):
        return MISSING
    return found(value[int(place)], rest) if rest else value[int(place)]


def names_towards(row: Mapping[str, Any], path: str) -> Sequence[str]:
    """The dotted names that there are where `path` leads nowhere, for a message."""
    prefix, inner = "", row
    parts = path.split(".")
    for count in range(1, len(parts)):
        reached = found(row, ".".join(parts[:count]))
        if isinstance(reached, list):
            reached = {str(place): None for place in range(len(reached))}
        if isinstance(reached, Mapping):
            prefix, inner = ".".join(parts[:count]) + ".", reached
    return [f"{prefix}{name}" for name in inner]
