"""Owns what is wrong with a queue at one look, for probes: no worker, alarms, pauses, what waits too long. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from upsertq.admin.status import Standing
from upsertq.contract import pauses


class Wrong(StrEnum):
    """What kind of thing is wrong."""

    NO_WORKER = "no_worker"
    """No worker beats: nothing is drained."""
    ALARM = "alarm"
    """A worker says that an operator is needed."""
    PAUSED = "paused"
    """The queue or a namespace is paused, by the service or by hand."""
    OLD = "old"
    """The oldest pending entry is older than it may be."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and a line that says what."""

    kind: Wrong
    message: str


def problems(now: Standing, max_age: float | None) -> tuple[Problem, ...]:
    """Everything that is wrong, the gravest first; `max_age` is in seconds, `None` for any age."""
    return (*_workers(now), *_pauses(now), *_age(now, max_age))


def only_paused(found: tuple[Problem, ...]) -> bool:
    """Whether a pause is all that is wrong; what grows old meanwhile is of it."""
    kinds = {problem.kind for problem in found}
    return Wrong.PAUSED in kinds and kinds <= {Wrong.PAUSED, Wrong.OLD}


def _workers(now: Standing) -> Iterator[Problem]:
    alive = [worker for worker in now.workers if not worker.gone]
    if not alive:
        yield Problem(Wrong.NO_WORKER, "no worker drains it")
    for worker in alive:
        for name, alarm in sorted(worker.alarms.items()):
            if name not in now.paused:  # a worker's alarm of a pause says what the pause says
                yield Problem(Wrong.ALARM, pauses.one_line(f"alarm of worker {worker.name}: {name}: {alarm}"))


def _pauses(now: Standing) -> Iterator[Problem]:
    for scope, paused in now.paused.items():
        yield Problem(Wrong.PAUSED, f"paused: {pauses.describe(scope, paused)}")


def _age(now: Standing, most: float | None) -> Iterator[Problem]:
    if most is not None and now.oldest_age is not None and now.oldest_age > most:
        yield Problem(Wrong.OLD, f"the oldest pending entry is {now.oldest_age:,.0f} s old, more than {most:,.10g} s")
