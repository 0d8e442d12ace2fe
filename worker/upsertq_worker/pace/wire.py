"""Owns how the pace is asked for: the script's arguments, and what its reply says. Pure."""

from collections.abc import Sequence
from typing import Any, Final

from upsertq.contract.protocol import Argument, Script
from upsertq_worker.pace.lane import Ask, Given

PACE: Final = Script.load("upsertq_worker", "pace")


def arguments(asks: Sequence[Ask]) -> list[Argument]:
    """The arguments about lanes."""
    found: list[Argument] = []
    for ask in asks:
        found += [ask.namespace, ask.wanted, repr(ask.size), ask.passed]
        told = ask.throttled
        found += ["", 0, "", 0] if told is None else [told.version, repr(told.limit), told.unit, repr(told.retry_after)]
    return found


def given_of(reply: Sequence[Any]) -> list[Given]:
    """What was given of each lane asked about."""
    lanes = (reply[place : place + 4] for place in range(1, len(reply), 4))
    return [Given(int(version), float(first), float(step), int(count)) for version, first, step, count in lanes]
