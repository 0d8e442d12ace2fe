"""A queue at one moment, for tests of what is made of it: nothing is wrong with it."""

from __future__ import annotations

from typing import Any

import orjson

from upsertq.admin.status import Backlog, Standing
from upsertq.admin.workers import workers_of
from upsertq.contract.books import Books
from upsertq.contract.fitness import ServerFacts
from upsertq.contract.pauses import Paused
from upsertq.contract.queue import QueueShape
from upsertq_worker.metrics import table

NOW = 1_800_000_000.0
FINE = Standing(
    shape=QueueShape("q", 2, 4, "i"),
    run="",
    at=NOW,
    books=Books(),
    reasons={},
    backlog=Backlog(0, None, 0, ()),
    careful={},
    leases=(),
    workers=workers_of({"w": orjson.dumps({"at": NOW - 1, "every": 2.5})}, NOW),
    paused={},
    runs=(),
    runs_known=0,
    server=ServerFacts(),
)
PAUSE = {"queue": Paused("quota", "over", NOW - 9, "w")}
METRICS = tuple(one for one in vars(table).values() if isinstance(one, table.Metric))
"""All of the table."""


def worker(**said: Any) -> Any:
    """The workers of one beat."""
    return workers_of({"w": orjson.dumps({"at": NOW, "every": 2.5, **said})}, NOW)


def series(metric: table.Metric) -> set[str]:
    """The names of a metric's series, as they are asked for in PromQL."""
    endings = ("_bucket", "_sum", "_count") if metric.kind is table.Kind.HISTOGRAM else ("",)
    return {metric.name + ending for ending in endings}
