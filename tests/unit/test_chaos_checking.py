"""The verdict of a chaos run: a good history passes, and every planted violation is named."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsertq.books import Books
from upsertq_emulator.spec import parse_faults
from upsertq_worker.chaos.cast import SERVER_SECONDS, Cast, Role, is_poison, namespace_of, usual_faults
from upsertq_worker.chaos.checking import Applied, Evidence, Put, judge
from upsertq_worker.chaos.putting import next_batch, read_notes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CAST = Cast(
    seconds=60, seed=3, workers=4, producers=2, records=1_000, hot=20, kill_probability=0.5, kill_every=5, server=True
)


def history() -> tuple[Put, Applied, Books]:
    """Two ids that landed, one of them in three versions of which the second was superseded, and one poison."""
    put, applied = Put(), Applied(window=30)
    for version, ids in ((0, ["hot-0-0", "cold-0-0"]), (1, ["hot-0-0"]), (2, ["hot-0-0", "bad-0-2"])):
        put.note_tried(ids, version)
        put.note_confirmed(ids, version)
    for at, (name, version) in enumerate([("hot-0-0", 0), ("cold-0-0", 0), ("hot-0-0", 2)]):
        applied.note(name, version, at)
    return put, applied, Books(enqueued=5, acked=3, superseded=1, dead=1)


def evidence(**changes: Any) -> Evidence:
    """The evidence of `history`, with changes."""
    put, applied, books = history()
    given = {"put": put, "applied": applied, "books": books, "dead": {"bad-0-2": "refused"}, "dead_letters": 1}
    return Evidence(**{**given, **changes})


def said(found: Evidence) -> list[str]:
    """What the verdict calls broken."""
    return [violation.what.split(":")[0] for violation in judge(found)]


def test_a_good_history_passes() -> None:
    """Where every promise was kept the verdict has nothing to say."""
    assert judge(evidence()) == []


def test_a_lost_record_is_found() -> None:
    """A confirmed record that is neither in the index nor dead is lost, and named."""
    found = evidence()
    found.put.note_confirmed(["cold-0-7"], 2)
    found.put.note_tried(["cold-0-7"], 2)
    lost, few = judge(found)
    assert str(lost) == "lost: confirmed, and not in the index: 1 (cold-0-7: 2)"
    assert few.what == "confirmed, and not in the books as enqueued"


def test_a_dead_poison_is_not_lost() -> None:
    """The same poison without its dead letter is lost."""
    assert said(evidence(dead={}, dead_letters=1)) == ["lost"]


def test_a_confirmed_version_that_never_landed_is_stale() -> None:
    """The index must hold the last confirmed version, not the one before."""
    applied = Applied(window=30)
    for name in ("hot-0-0", "cold-0-0"):
        applied.note(name, 0, 1.0)
    assert said(evidence(applied=applied, books=Books(enqueued=5, acked=2, superseded=2, dead=1))) == ["stale"]


def test_an_overwritten_newer_version_is_stale() -> None:
    """An old version that has the last word is stale, though the newer one had been applied."""
    found = evidence()
    found.applied.note("hot-0-0", 0, 4.0)
    assert said(found) == ["stale"]


def test_an_unconfirmed_version_that_was_overwritten_is_stale() -> None:
    """What was applied once must not be taken back, confirmed or not."""
    found = evidence()
    found.put.note_tried(["cold-0-0"], 9)
    for version, at in ((9, 4.0), (0, 5.0)):
        found.applied.note("cold-0-0", version, at)
    assert said(found) == ["stale"]


def test_an_unconfirmed_version_may_be_there_or_not() -> None:
    """A producer that was killed between put and confirmation promises nothing of that batch."""
    absent, present = evidence(), evidence(books=Books(enqueued=6, acked=4, superseded=1, dead=1))
    for found in (absent, present):
        found.put.note_tried(["cold-0-0"], 9)
    present.applied.note("cold-0-0", 9, 9.0)
    assert judge(absent) == judge(present) == []


def test_a_step_back_that_is_made_good_is_a_figure() -> None:
    """Redelivery after a crash may go back for a moment; it is counted and not condemned."""
    found = evidence()
    for version, at in ((0, 4.0), (2, 5.0)):
        found.applied.note("hot-0-0", version, at)
    assert judge(found) == []
    assert (found.applied.steps_back, found.applied.repeats, found.applied.longest) == (1, 1, 2.0)


def test_a_step_back_long_after_is_condemned() -> None:
    """An old version that comes long after the newer one was applied was settled and revived."""
    found = evidence()
    for version, at in ((0, 33.0), (2, 34.0)):
        found.applied.note("hot-0-0", version, at)
    assert said(found) == ["an older version was applied long after a newer one"]


def test_an_invented_version_is_found() -> None:
    """The index must hold nothing that no producer put."""
    found = evidence()
    found.applied.note("cold-0-8", 1, 9.0)
    assert said(found) == ["in the index, and never put"]


def test_an_innocent_dead_letter_is_found() -> None:
    """Nothing but poison may die."""
    found = evidence(dead={"bad-0-2": "refused", "cold-0-0": "crash_loop"})
    assert "dead, and nothing was wrong with it: 1 (cold-0-0: crash_loop)" in map(str, judge(found))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"acked": 2}, ["the books drift by records"]),
        ({"pending": 1, "superseded": 0}, ["still pending in the books"]),
        ({"enqueued": 6, "superseded": 2}, ["doubled"]),
        ({"enqueued": 4, "superseded": 0}, ["confirmed, and not in the books as enqueued"]),
        ({"acked": 4, "superseded": 0}, ["acknowledged, and never applied"]),
        ({"dead": 2, "superseded": 0}, ["dead letters that the books do not count alike"]),
    ],
)
def test_false_books_are_found(change: dict[str, int], what: list[str]) -> None:
    """Drift, leftovers, doubled and missing records each have their name."""
    assert said(evidence(books=replace(history()[2], **change))) == what


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"audit": ("shard 0",)}, "upsertq audit"),
        ({"unlike": ("cold-0-0",)}, "the index answers otherwise than its journal"),
        ({"mishaps": ("worker 0 ended by itself with code 1",)}, "went wrong"),
        ({"overlaps": 1}, "an id was carried by two requests at once"),
    ],
)
def test_what_others_found_is_passed_on(change: dict[str, Any], what: str) -> None:
    """A drift of the audit, an unlike record, a mishap and an overlap each break the verdict."""
    assert said(evidence(**change)) == [what]


@given(st.integers(0, 1_000), st.integers(1, 500), st.integers(0, 2_000), st.integers(1, 4))
def test_no_batch_has_an_id_twice(batch: int, hot: int, records: int, producers: int) -> None:
    """The batch number is the version of its records, so an id may be in it but once; producers share none."""
    cast = replace(CAST, hot=hot, records=records, producers=producers)
    every = [name for one in range(producers) for name in cast.share(one).ids(batch)]
    assert len(set(every)) == len(every)
    assert {namespace_of(name) for name in every} <= {cast.share(one).namespace for one in range(producers)}


def test_every_cold_id_is_put() -> None:
    """The cold ids of all producers are the number asked for, and their batches reach the last within the time."""
    batches = range(int(CAST.seconds * 0.9 / 0.25))
    ids = {name for one in range(2) for batch in batches for name in CAST.share(one).ids(batch)}
    assert sum(name.startswith("cold") for name in ids) == CAST.records
    assert sum(name.startswith("hot") for name in ids) == CAST.hot
    assert any(map(is_poison, ids))


@given(st.integers(0, 2**31))
def test_the_plan_follows_from_the_seed(seed: int) -> None:
    """Kills are in order, within the time, the same for the same seed, and never too many of the server."""
    kills = replace(CAST, seed=seed).kills()
    assert kills == replace(CAST, seed=seed).kills() == sorted(kills, key=lambda kill: kill.at)
    assert all(0 < kill.at < CAST.seconds for kill in kills)
    server = [kill.at for kill in kills if kill.role is Role.SERVER]
    assert all(later - earlier >= SERVER_SECONDS for earlier, later in pairwise(server))


@pytest.mark.parametrize("change", [lambda cast: replace(cast, server=False), lambda cast: replace(cast, workers=0)])
def test_only_who_is_there_is_killed(change: Callable[[Cast], Cast]) -> None:
    """A server that is not ours is never killed, nor a worker that there is not."""
    cast = change(CAST)
    roles = {kill.role for kill in cast.kills()}
    assert roles == {Role.PRODUCER, *([Role.SERVER] if cast.server else []), *([Role.WORKER] if cast.workers else [])}


def test_the_usual_faults_can_be_read() -> None:
    """The emulator takes the spec, and it has something of every kind that strikes a request."""
    spec = parse_faults(usual_faults(CAST))
    kinds = {fault["kind"] for fault in spec.document["faults"]}
    assert kinds >= {
        "poison",
        "throttle",
        "toolarge",
        "error",
        "reset",
        "truncate",
        "short",
        "stall",
        "late",
        "latency",
    }


def test_notes_survive_being_cut(tmp_path: Path) -> None:
    """A line that SIGKILL cut is passed over; a producer goes on with the batch after the last that it tried."""
    notes, put = tmp_path / "notes", Put()
    assert next_batch(notes) == 0
    notes.write_bytes(b'\n{"tried":0}\n{"confirmed":0}\n\n{"tried":1}\n{"conf\n{"tried":2}\n')
    share = CAST.share(1)
    read_notes(notes, share, put)
    assert next_batch(notes) == 3
    assert put.confirmed == dict.fromkeys(share.ids(0), 0)
    assert put.records_tried == sum(len(share.ids(batch)) for batch in range(3))
