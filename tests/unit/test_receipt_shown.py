"""A receipt as a person reads it: the books first, then only the lines that have something to tell."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from upsertq import Books, Receipt
from upsertq.cli.receipt_shown import page

FIRST = datetime(2026, 1, 31, 2, 0, 0, 51_000, UTC)
WHOLE = Receipt(
    queue="default",
    run="nightly",
    books=Books(enqueued=1_300_000, acked=1_299_988, superseded=9, dead=3),
    reasons={"refused": 2, "too_large": 1},
    requests=13_014,
    retries=11,
    posted_bytes=6_501_300_412,
    lsn={"__default__": 12_990, "articles": 24},
    first_enqueued_at=FIRST,
    last_settled_at=FIRST + timedelta(seconds=41.506),
)


def test_a_whole_receipt() -> None:
    """Each kind of figure has its line, with what to do about the dead."""
    assert page(WHOLE).splitlines() == [
        "enqueued 1,300,000, acked 1,299,988, superseded 9, discarded 0, dead 3, pending 0",
        "dead      refused 2, too_large 1: see `upsertq dead list --run nightly`",
        "requests  13,014 (11 of them retries), 6,501,300,412 bytes posted",
        "lsn       __default__ 12990, articles 24",
        "time      2026-01-31T02:00:00.051Z to 2026-01-31T02:00:41.557Z, 41.5 s",
    ]


def test_a_receipt_of_nothing() -> None:
    """What is not known is left out."""
    empty = Receipt("q", "", Books(), {}, 0, 0, 0, {}, None, None)
    assert page(empty) == "enqueued 0, acked 0, superseded 0, discarded 0, dead 0, pending 0"
    assert empty.as_dict()["seconds"] is None


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (replace(WHOLE, queue="q", run=""), "dead      refused 2, too_large 1: see `upsertq dead list --queue q`"),
        (replace(WHOLE, reasons={}), "dead      see `upsertq dead list --run nightly`"),
        (replace(WHOLE, retries=0), "requests  13,014, 6,501,300,412 bytes posted"),
        (
            replace(WHOLE, lsn={f"n{number}": number for number in range(8)}),
            "lsn       n0 0, n1 1, n2 2, n3 3, n4 4, and 3 more namespaces (all with --json)",
        ),
        (
            replace(WHOLE, lsn={f"n{number}": number for number in range(6)}),
            "lsn       n0 0, n1 1, n2 2, n3 3, n4 4, and 1 more namespace (all with --json)",
        ),
        (replace(WHOLE, last_settled_at=None), "time      since 2026-01-31T02:00:00.051Z, nothing settled yet"),
        (replace(WHOLE, first_enqueued_at=None), "time      settled until 2026-01-31T02:00:41.557Z"),
    ],
)
def test_lines(changed: Receipt, line: str) -> None:
    """Each line says what there is."""
    assert line in page(changed).splitlines()


def test_clocks_that_disagree_take_no_time() -> None:
    """Where the worker's clock is behind the producer's, the seconds are 0, not negative."""
    assert replace(WHOLE, last_settled_at=FIRST - timedelta(seconds=3)).seconds == 0
