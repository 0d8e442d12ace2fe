"""Reads a fault spec, compact text or a document, into rules; reports every fault of the spec at once."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from upsertq_emulator.faults import Rule, When
from upsertq_emulator.kinds import COMMON, KINDS, REQUIRED, Kind, Option
from upsertq_emulator.reading import whole

_COMMON_TO_UPSERTS = {name: option for name, option in COMMON.items() if name != "on"}
_ITEM = re.compile(r"(?P<kind>[a-z]+)(?:=(?P<arguments>[^;]*))?(?P<options>(?:;[^;]*)*)")


class FaultSpecError(ValueError):
    """A fault spec cannot be used; `problems` says everything that is wrong with it."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("invalid fault spec: " + "; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """Rules with the `seed` of their luck; `document` is the same as JSON values."""

    seed: int = 0
    rules: tuple[Rule, ...] = ()
    document: Mapping[str, Any] = field(default_factory=lambda: {"seed": 0, "faults": []})


def parse_faults(source: str | Mapping[str, Any] | None) -> FaultSpec:
    """The spec of a compact text (`seed=7,error=503:0.1`) or of a document (`{"seed": 7, "faults": […]}`).

    Raises:
        FaultSpecError: with every problem found.
    """
    if source is None:
        return FaultSpec()
    problems: list[str] = []
    document = _document(source, problems) if isinstance(source, str) else source
    problems += [
        f"unknown field '{name}', the spec takes seed and faults" for name in document if name not in ("seed", "faults")
    ]
    seed = _value(document, "seed", Option(whole, 0), problems)
    items = document.get("faults", [])
    if not isinstance(items, Sequence) or isinstance(items, str):
        problems.append("faults: expected an array of tables")
        items = []
    rules = [_rule(item, f"fault {number}", problems) for number, item in enumerate(items, 1)]
    if problems:
        raise FaultSpecError(problems)
    kept = tuple(rule for rule in rules if rule is not None)
    return FaultSpec(seed, kept, {"seed": seed, "faults": [dict(item) for item in items]})


def _document(text: str, problems: list[str]) -> dict[str, Any]:
    document: dict[str, Any] = {"faults": []}
    for item in filter(None, (part.strip() for part in text.split(","))):
        matched = _ITEM.fullmatch(item)
        if matched is None:
            problems.append(f"'{item}': expected KIND=ARGUMENTS;OPTION=VALUE")
            continue
        kind, arguments = matched["kind"], matched["arguments"]
        if kind == "seed":
            document["seed"] = arguments
            continue
        fault: dict[str, Any] = {"kind": kind}
        if kind in KINDS and arguments is not None:
            fault |= _positional(KINDS[kind], arguments.split(":"), item, problems)
        for option in filter(None, matched["options"].split(";")):
            name, _, value = option.partition("=")
            fault[name.strip()] = value
        document["faults"].append(fault)
    return document


def _positional(kind: Kind, arguments: list[str], item: str, problems: list[str]) -> dict[str, str]:
    names = kind.positions(arguments)
    if len(arguments) > len(names):
        problems.append(f"'{item}': too many arguments, expected {':'.join(names) or 'none'}")
    return {name: value for name, value in zip(names, arguments, strict=False) if value}


def _rule(item: object, where: str, problems: list[str]) -> Rule | None:
    if not isinstance(item, Mapping):
        problems.append(f"{where}: expected a table with a kind")
        return None
    name = item.get("kind")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        problems.append(f"{where}: unknown kind '{name}', expected one of {', '.join(KINDS)}")
        return None
    found: list[str] = []
    taken = {**kind.options, **(_COMMON_TO_UPSERTS if kind.upserts_only else COMMON)}
    found += [
        f"unknown option '{option}', expected one of {', '.join(taken)}"
        for option in item
        if option != "kind" and option not in taken
    ]
    given = {option: _value(item, option, how, found) for option, how in taken.items()}
    rule = None if found else _built(kind, given, found)
    problems += [f"{where} ({name}): {problem}" for problem in found]
    return rule


def _value(item: Mapping[str, Any], name: str, option: Option, problems: list[str]) -> Any:
    if item.get(name) is None:
        if option.default is REQUIRED:
            problems.append(f"{name} is missing")
        return option.default
    try:
        return option.convert(item[name])
    except ValueError as error:
        problems.append(f"{name}: {error}")
        return None


def _built(kind: Kind, given: Mapping[str, Any], problems: list[str]) -> Rule | None:
    if given["from"] >= given["until"]:
        problems.append(f"from {given['from']:g} is not before until {given['until']:g}")
    try:
        action = kind.build(given)
    except ValueError as error:
        problems.append(str(error))
        return None
    when = When(
        rate=given["rate"],
        since=given["from"],
        until=given["until"],
        first=given["first"],
        namespace=given["namespace"],
        id=given["id"],
        on=given.get("on", "upsert"),
    )
    return Rule(action, when)
