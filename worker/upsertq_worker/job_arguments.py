"""Owns what the arguments of an RQ job may be: plain, small and without secrets.

They are judged before they go to Redis, and again when they came from there.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

from upsertq.contract.errors import UsageError, shown
from upsertq.contract.keys import checked_name

T = TypeVar("T")

MOST_BYTES: Final = 65_536
"""Bytes of JSON that all arguments of a job may take."""
MOST_TEXT: Final = 4_096
"""Characters of one text."""
DEEPEST: Final = 4
_LOGIN: Final = re.compile(r"[a-z][a-z0-9+.-]{1,30}:/+\S*@", re.IGNORECASE)
"""A URL with a login, also within a text, and with slashes that were taken for those of a path."""
_SECRET: Final = "secrets come from the environment of the rq worker, never in the arguments of a job"  # noqa: S105


def check(arguments: object) -> None:
    """Raise `UsageError` unless the arguments are plain JSON of a bounded size, and hold no login."""
    for text in _texts(arguments, 0):
        if len(text) > MOST_TEXT:
            raise UsageError(f"an argument has {len(text):,} characters: a job takes texts of up to {MOST_TEXT:,}")
        if not text.isprintable():
            raise UsageError(f"an argument holds a character that cannot be printed: {shown(text)}")
        if _LOGIN.search(text):
            raise UsageError(f"an argument is a URL with a login: {_SECRET}")
    size = len(json.dumps(arguments))
    if size > MOST_BYTES:
        raise UsageError(
            f"the arguments take {size:,} bytes of at most {MOST_BYTES:,}: name a folder or a pattern instead of files"
        )


def fitted(kind: type[T], given: object, **fixed: Any) -> T:
    """A `kind` (a dataclass) with the options `given` by name, checked against its types, and with `fixed` fields.

    Raises:
        UsageError: `given` has a name that is no option, or a value of another type.
    """
    if not isinstance(given, Mapping):
        raise UsageError(f"the options of a job are an object, with the options by name, not {shown(given)}")
    hints = get_type_hints(kind)
    known = {one.name for one in fields(kind) if one.name not in fixed}  # type: ignore[arg-type]
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"{shown(name)} is no option of this job: it knows {', '.join(sorted(known))}; {_SECRET}")
        fixed[name] = _of_type(hints[name], value, name)
    return kind(**fixed)


def texts(name: str, value: object) -> tuple[str, ...]:
    """`value` as texts; raises `UsageError` where it is anything but a list of some."""
    found: tuple[str, ...] = _of_type(tuple[str, ...], value, name)
    if not found:
        raise UsageError(f"{name} is empty")
    return found


def named(kind: str, value: object) -> str:
    """`value` as the name of a queue or of a run; raises `UsageError` where it is none."""
    return checked_name(kind, str(_of_type(str, value, kind)))


def _of_type(hint: Any, value: object, name: str) -> Any:
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(_of_type(get_args(hint)[0], item, name) for item in value)
    for one in get_args(hint) if get_origin(hint) is UnionType else (hint,):
        if one is Path and isinstance(value, str):
            return Path(value)
        if one is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(_counted(value, name))
        if type(value) is one:
            return _counted(value, name) if one is int else value
    raise UsageError(f"{name} is {shown(value)}, which has not the type that it takes")


def _counted(number: Any, name: str) -> Any:
    if not 0 <= number <= 2**63 - 1:
        raise UsageError(f"{name} is {number}: give a number from 0 on")
    return number


def _texts(value: object, depth: int) -> Iterator[str]:
    """Every text in `value`, names included; raises `UsageError` at what is not plain."""
    if depth > DEEPEST:
        raise UsageError(f"the arguments are nested more than {DEEPEST} levels deep")
    match value:
        case None | bool() | int():
            return
        case float() if isfinite(value):
            return
        case str():
            yield value
        case list() | tuple():
            for item in value:
                yield from _texts(item, depth + 1)
        case dict():
            for name, item in value.items():
                yield from _texts(name if isinstance(name, str) else object(), depth + 1)
                yield from _texts(item, depth + 1)
        case _:
            raise UsageError(f"an argument is {shown(value)}: a job takes texts, numbers, lists and objects of them")
