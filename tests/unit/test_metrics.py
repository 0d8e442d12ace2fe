"""Every event changes the figures that the table of metrics names, and no tenant's text makes the table long."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from standings import FINE, METRICS, NOW, PAUSE, series, worker
from upsertq.admin.status import Backlog
from upsertq.contract.books import Books
from upsertq.contract.pauses import Paused, scope_of
from upsertq_worker.delivery.outcome import Accepted, Busy, LaneRefused, RecordRefused, ShortAck, TooLarge
from upsertq_worker.delivery.policy import counted_as
from upsertq_worker.delivery.response import Refusal, TransportFailure, TransportKind
from upsertq_worker.edge.exposition import Exposition
from upsertq_worker.edge.monitor import unready
from upsertq_worker.events import Event
from upsertq_worker.metrics import books, lanes, table
from upsertq_worker.metrics.counts import OUTCOMES, Counts
from upsertq_worker.metrics.table import Distribution, Kind
from upsertq_worker.settings import Settings
from upsertq_worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from upsertq.admin.status import Standing
    from upsertq_worker.delivery.outcome import Outcome
    from upsertq_worker.metrics.table import Family

CONTRACT = {
    "upsertq_records_total": ("counter", ("state",)),
    "upsertq_pending_records": ("gauge", ()),
    "upsertq_pending_bytes": ("gauge", ()),
    "upsertq_oldest_pending_seconds": ("gauge", ()),
    "upsertq_requests_total": ("counter", ("outcome",)),
    "upsertq_request_duration_seconds": ("histogram", ()),
    "upsertq_batch_records": ("histogram", ()),
    "upsertq_batch_bytes": ("histogram", ()),
    "upsertq_retries_total": ("counter", ("cause",)),
    "upsertq_pace_requests_per_second": ("gauge", ("lane",)),
    "upsertq_in_flight_requests": ("gauge", ("lane",)),
    "upsertq_lane_paused": ("gauge", ("lane",)),
    "upsertq_leases_held": ("gauge", ()),
    "upsertq_lease_handovers_total": ("counter", ()),
    "upsertq_lease_lost_total": ("counter", ()),
}
"""What a worker exports, by name: scripts and dashboards of others depend on it."""
REFUSAL = Refusal(400, "", "no", "", "")
SENT = {"lane": "the default namespace", "namespace": ""}


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def heard(*events: tuple[Event, dict[str, Any]], clock: Clock | None = None) -> Counts:
    """The counts after these events."""
    counts = Counts(clock or Clock())
    for event, fields in events:
        counts.hear(event, fields)
    return counts


def values(families: list[Family], metric: table.Metric) -> dict[str, Any]:
    """The values of a metric by its last label, "" where it has none."""
    (found,) = [family for family in families if family.metric is metric]
    return {names[-1] if names else "": value for names, value in found.values.items()}


def figures(counts: Counts, metric: table.Metric) -> dict[str, Any]:
    """The same of what a worker counted, without zeros."""
    return {name: value for name, value in values(counts.families("q", 0, {}, {}), metric).items() if value}


def test_a_worker_exports_the_table_of_the_contract() -> None:
    """Names, types and labels, none more and none less."""
    families = [*heard().families("q", 0, {}, {}), *books.families(FINE)]
    found = {one.metric.name: (str(one.metric.kind), one.metric.labels) for one in families}
    assert found == CONTRACT
    others = {family.metric for family in books.more_families(FINE)}
    assert {family.metric for family in families} == {*METRICS} - others


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (Accepted(None), "ok"),
        (ShortAck(1, "why", REFUSAL), "short_ack"),
        (RecordRefused(REFUSAL), "refused"),
        (TooLarge(REFUSAL), "refused"),
        (LaneRefused(REFUSAL, "queue", "unauthorized"), "refused"),
        (Busy(REFUSAL, answer_lost=False, rate=True), "throttled"),
        (Busy(REFUSAL, answer_lost=True), "server_error"),
        (Busy(TransportFailure(TransportKind.TIMEOUT, "late"), answer_lost=True), "transport"),
        (Busy(TransportFailure(TransportKind.CONNECT, "gone"), answer_lost=False), "transport"),
    ],
)
def test_each_outcome_has_its_word(outcome: Outcome, word: str) -> None:
    """The words of the table, and a series of each from the beginning."""
    assert counted_as(outcome) == word
    assert word in OUTCOMES
    sent = heard((Event.BATCH_SENT, {"records": 7, "outcome": word, **SENT}))
    assert values(sent.families("q", 0, {}, {}), table.REQUESTS) == {**dict.fromkeys(OUTCOMES, 0), word: 1}


def test_batches_and_requests_are_distributions() -> None:
    """Records of a batch, bytes and seconds of a request, in buckets that add up."""
    counts = heard(
        (Event.BATCH_SENT, {"records": 100, "outcome": "ok", **SENT}),
        (Event.BATCH_SENT, {"records": 3, "outcome": "ok", **SENT}),
        (Event.REQUEST_ENDED, {"bytes": 70_000, "seconds": 0.03, "answered": True}),
    )
    batches = figures(counts, table.BATCH_RECORDS)[""]
    assert (batches.count, batches.total) == (2, 103)
    assert dict(batches.cumulated()) == {
        "1": 0,
        "5": 1,
        "10": 1,
        "25": 1,
        "50": 1,
        "75": 1,
        "100": 2,
        "250": 2,
        "500": 2,
        "1000": 2,
        "+Inf": 2,
    }
    assert figures(counts, table.BATCH_BYTES)[""].total == 70_000
    assert figures(counts, table.DURATION)[""].total == 0.03
    assert figures(counts, table.REQUESTS) == {"ok": 2}


def test_a_value_beyond_all_bounds_is_counted() -> None:
    """In the bucket without a bound alone."""
    found = Distribution((1.0, 2.0))
    for value in (1.0, 2.5):
        found.observe(value)
    assert found.cumulated() == [("1", 1), ("2", 1), ("+Inf", 2)]


def test_a_request_that_was_given_up_counts_as_transport() -> None:
    """No answer of it is ever judged; so requests are as many as the worker's tally says."""
    counts = heard((Event.REQUEST_ENDED, {"bytes": 1, "seconds": 1.0, "answered": False}))
    assert figures(counts, table.REQUESTS) == {"transport": 1}


def test_retries_and_leases_are_counted() -> None:
    """Retries by cause; leases that were handed over, and those that were lost."""
    counts = heard(
        (Event.BATCH_RETRIED, {"records": 7, "cause": "throttled", **SENT}),
        (Event.BATCH_RETRIED, {"records": 7, "cause": "throttled", **SENT}),
        (Event.SHARDS_GAINED, {"shards": [0, 1, 2], "handed_over": 2}),
        (Event.LEASE_LOST, {"shard": 2}),
        (Event.SETTLED, {"entries": 4}),
    )
    assert figures(counts, table.RETRIES) == {"throttled": 2}
    assert figures(counts, table.HANDOVERS) == {"": 2}
    assert figures(counts, table.LOST) == {"": 1}
    assert values(counts.families("q", 5, {}, {}), table.LEASES) == {"": 5}


def test_lanes_that_were_busy_lately_are_shown_for_a_year() -> None:
    """What weighs more the later it comes does not outgrow a float, nor forget the lanes of now."""
    busiest = lanes.Busiest(0.0)
    for now in (0.0, 3e3, 6e3, 1e5, 3e7):
        for name in ("a", "b", "b"):
            busiest.note(name, now)
        assert busiest.names()[:2] == ["b", "a"]
    for _ in range(3):
        busiest.note("c", 3e7 + 10 * lanes.SECONDS)
    assert busiest.names() == ["c", "b", "a"]


def test_a_hundred_thousand_lanes_are_fifty_and_others() -> None:
    """The busy ones by name, the sum of the rest as one; and only so many are remembered."""
    clock = Clock()
    counts = heard(clock=clock)
    for number in range(100_000):
        clock.now += 0.0001
        name = f"tenant-{number}" if number % 2 else f"busy-{number // 2 % 50}"
        counts.hear(Event.BATCH_SENT, {"records": 1, "outcome": "ok", "lane": "x", "namespace": name})
    paces = {"busy-7": 98.5, "tenant-1": 50.0, "tenant-3": 20.0}
    assert values(counts.families("q", 0, {}, paces), table.PACE) == {"busy-7": 98.5, lanes.OTHER: 70}
    assert len(counts._busiest._weights) <= 2 * lanes.KEPT
    in_flight = counts.families("q", 0, {"busy-1": 2, **{f"tenant-{number}": 1 for number in range(1_000)}}, {})
    assert values(in_flight, table.IN_FLIGHT) == {"busy-1": 2, lanes.OTHER: 1_000}


ODD = ["other", "*", "", "__default__", 'a"b', "\n", "\udc80", "\x1b[2J", "\u202e"]
NAMES = st.text(max_size=8) | st.sampled_from(ODD)


@given(st.dictionaries(NAMES, st.integers(1, 9), max_size=20), st.sets(NAMES, max_size=20))
def test_labels_are_distinct_printable_and_lose_nothing(found: dict[str, float], shown: set[str]) -> None:
    """Whatever tenants call their namespaces: what is exported parses, and its sum is the sum of all."""
    labelled = lanes.labelled(found, shown)
    assert sum(labelled.values()) == sum(found.values())
    assert lanes.QUEUE_ITSELF not in labelled
    assert all(label.isprintable() for label in labelled)
    text, _ = Exposition().text([table.by_label(table.IN_FLIGHT, "q", labelled)], "")
    samples = [one for family in text_string_to_metric_families(text.decode()) for one in family.samples]
    ours = {one.labels["lane"]: one.value for one in samples if one.name == "upsertq_in_flight_requests"}
    assert ours == labelled


def test_the_text_says_what_was_counted() -> None:
    """Every series in the text has its type, its labels and its value; what was made of it can be parsed again."""
    counts = heard(
        (Event.BATCH_SENT, {"records": 100, "outcome": "ok", **SENT}),
        (Event.REQUEST_ENDED, {"bytes": 70_000, "seconds": 0.03, "answered": True}),
    )
    families = [*counts.families("q", 3, {"": 2}, {"": 98.5}), *books.families(FINE), *books.more_families(FINE)]
    text, content_type = Exposition().text(families, "")
    assert content_type.startswith("text/plain; version=0.0.4")
    parsed = {one.name: one for one in text_string_to_metric_families(text.decode())}
    for family in families:
        counter = family.metric.kind is Kind.COUNTER
        found = parsed[family.metric.name.removesuffix("_total") if counter else family.metric.name]
        assert found.type == family.metric.kind
        assert {sample.labels["queue"] for sample in found.samples} == {"q"}
        assert {sample.name for sample in found.samples} == series(family.metric)
    assert 'upsertq_requests_total{outcome="ok",queue="q"} 1.0' in text.decode()
    assert 'upsertq_in_flight_requests{lane="__default__",queue="q"} 2.0' in text.decode()
    assert 'upsertq_batch_records_bucket{le="100",queue="q"} 1.0' in text.decode()
    assert not re.search(r"upsertq_\w+_created", text.decode())
    assert {name for name in parsed if not name.startswith("upsertq_")} <= {
        *("process_virtual_memory_bytes", "process_resident_memory_bytes", "process_start_time_seconds"),
        *("process_cpu_seconds", "process_open_fds", "process_max_fds"),
    }


def test_a_scraper_may_ask_for_openmetrics() -> None:
    """Prometheus does, and gets it."""
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    text, content_type = Exposition().text(books.families(FINE), accept)
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def test_a_queues_figures_are_its_books() -> None:
    """As `status` has them."""
    now = replace(
        FINE,
        books=Books(enqueued=100, acked=60, superseded=5, discarded=4, dead=3, pending=28, bytes=999),
        backlog=Backlog(9, NOW - 61.5, 1, ()),
        reasons={"refused": 2, "<script>": 1},
        workers=(*worker(alarms={"shard 1": "odd", "index": "away"}), *worker(standby=True), *worker(at=NOW - 60)),
        runs_known=12,
    )
    found = [*books.families(now), *books.more_families(now)]
    assert values(found, table.RECORDS) == {"enqueued": 100, "acked": 60, "superseded": 5, "discarded": 4, "dead": 3}
    assert values(found, table.PENDING) == {"": 28}
    assert values(found, table.PENDING_BYTES) == {"": 999}
    assert values(found, table.OLDEST) == {"": 61.5}
    assert {name: count for name, count in values(found, table.DEAD).items() if count} == {"refused": 2, "other": 1}
    assert values(found, table.WORKERS) == {"draining": 1, "standby": 1, "gone": 1}
    assert values(found, table.ALARMS) == {"": 2}
    assert values(found, table.RUNS) == {"": 12}
    drained = books.families(replace(now, books=Books(enqueued=100, acked=100)))
    assert values(drained, table.OLDEST) == {"": 0}  # a backlog that was seen a moment ago is none any more


def test_paused_lanes_are_shown_by_name_the_longest_first() -> None:
    """Fifty of them; how many more there are; and the queue itself, also while it is not paused."""
    paused = {scope_of(f"n{number}"): Paused("quota", "over", NOW - number, "w") for number in range(60)}
    shown = values(books.families(replace(FINE, paused=paused)), table.PAUSED)
    assert shown == {"*": 0, **{f"n{number}": 1 for number in range(10, 60)}, "other": 10}
    assert values(books.families(replace(FINE, paused={**PAUSE, "junk": PAUSE["queue"]})), table.PAUSED)["*"] == 1


@pytest.mark.parametrize(
    ("pending", "paused", "workers"),
    [(0, False, 0), (1, False, 1), (100, False, 1), (101, False, 2), (10_000, False, 2), (500, True, 1), (0, True, 0)],
)
def test_the_backlog_is_worth_so_many_workers(pending: int, paused: bool, workers: int) -> None:  # noqa: FBT001
    """One for each share, rounded up; none beyond the shards; one for a paused queue, whose probes must go on."""
    now: Standing = replace(FINE, books=Books(enqueued=pending, pending=pending), paused=PAUSE if paused else {})
    found = books.scale(now, 100)
    assert found["workers"] == workers
    assert found["pending"] == pending


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda _: None, ""),
        (lambda it: vars(it.leases).update(epochs={}, holders={0: "other"}), ""),
        (lambda it: vars(it.leases).update(epochs={}), "no shard can be had"),
        (lambda it: it.stop(), "stopping"),
        (lambda it: it.signals.away.begins("read", "no route", 100.0), "the queue's server does not answer"),
        (lambda it: vars(it.leases).update(valid_until=100.0), "the queue's server does not answer"),
    ],
)
def test_when_a_worker_is_ready(change: Callable[[Worker], object], why: str) -> None:
    """With leases, or as a standby of those that have them."""
    nothing: Any = None
    it = Worker("w", 4, nothing, nothing, Settings(), clock=lambda: 100.0)
    it.leases.epochs, it.leases.valid_until = {0: 1}, 101.0
    change(it)
    assert unready(it) == why


def test_a_process_is_not_ready_before_its_worker() -> None:
    """As while the queue's server does not answer at the start."""
    assert unready(None) == "starting"
