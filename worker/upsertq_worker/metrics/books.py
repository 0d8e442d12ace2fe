"""Owns what is exported of a queue: of its books, its backlog and its pauses, as `status` reads them. Pure."""

from collections import Counter
from collections.abc import Mapping
from math import ceil
from typing import Any, Final

from upsertq.admin.status import Standing
from upsertq.contract.dead_letter import Reason
from upsertq.contract.pauses import QUEUE, Paused, namespace_of
from upsertq_worker.metrics import lanes, table
from upsertq_worker.metrics.table import Family, by_label, one

RECORDS_PER_WORKER: Final = 50_000
"""Pending records for which one worker is enough, unless told otherwise."""
STATES: Final = ("enqueued", "acked", "superseded", "discarded", "dead")


def families(now: Standing) -> list[Family]:
    """What every process that knows the queue exports of it."""
    queue, books = now.shape.name, now.books.as_dict()
    return [
        by_label(table.RECORDS, queue, {state: books[state] for state in STATES}),
        one(table.PENDING, queue, books["pending"]),
        one(table.PENDING_BYTES, queue, books["bytes"]),
        one(table.OLDEST, queue, now.oldest_age or 0.0 if books["pending"] else 0.0),
        by_label(table.PAUSED, queue, _paused(now.paused)),
    ]


def more_families(now: Standing) -> list[Family]:
    """What is exported of the queue by the one process that has nothing else to do."""
    queue = now.shape.name
    doing = Counter("gone" if one.gone else "standby" if one.standby else "draining" for one in now.workers)
    reasons = {str(reason): 0.0 for reason in Reason}
    for reason, count in now.reasons.items():
        known = reason if reason in reasons else lanes.OTHER
        reasons[known] = reasons.get(known, 0.0) + count
    return [
        by_label(table.DEAD, queue, reasons),
        one(table.RUNS, queue, now.runs_known),
        one(table.SHARDS, queue, now.shape.shards),
        by_label(table.WORKERS, queue, {state: doing[state] for state in ("draining", "standby", "gone")}),
        one(table.ALARMS, queue, sum(len(worker.alarms) for worker in now.workers)),
    ]


def scale(now: Standing, records_per_worker: int) -> dict[str, Any]:
    """The document for an autoscaler: `workers` is how many the backlog is worth, 0 where nothing is pending.

    Records in flight are pending as well. More workers than shards would stand by, and a paused queue needs but the
    one that probes.
    """
    pending, most = now.books.pending, 1 if QUEUE in now.paused else now.shape.shards
    return {
        "queue": now.shape.name,
        "pending": pending,
        "paused": QUEUE in now.paused,
        "shards": now.shape.shards,
        "records_per_worker": records_per_worker,
        "workers": min(most, ceil(pending / records_per_worker)),
    }


def _paused(paused: Mapping[str, Paused]) -> dict[str, float]:
    """The longest paused lanes by name; the queue itself is there always, so that an alert on it resolves."""
    by_age = sorted(paused, key=lambda scope: paused[scope].since)
    namespaces = [name for name in map(namespace_of, by_age) if name is not None]
    values = lanes.labelled(dict.fromkeys(namespaces, 1.0), namespaces[: lanes.SHOWN])
    return {lanes.QUEUE_ITSELF: float(QUEUE in paused), **values}
