"""The verdict of a chaos run: a good history passes, and every planted violation is named."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsertq.contract.books import Books
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Ask, Failed, Trouble
from upsertq.contract.wire import Entry, encode
from upsertq_chaos.cast import SERVER_SECONDS, Cast, Role, is_poison, namespace_of, usual_faults
from upsertq_chaos.checking import Applied, Evidence, Put, judge
from upsertq_chaos.putting import next_batch, read_notes
from upsertq_chaos.settled import Look, Looks, Settled
from upsertq_chaos.watching import look_at, watched
from upsertq_emulator.spec import parse_faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CAST = Cast(
    seconds=60, seed=3, workers=4, producers=2, records=1_000, hot=20, kill_probability=0.5, kill_every=5, server=True
)


def history() -> tuple[Put, Applied, Books]:
    """Two ids that landed, one of them in three versions of which the second was superseded, and one poison."""
    put, applied = Put(), Applied()
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
    applied = Applied()
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


HOT = "hot-0-0"
REVIVED = "an older version was applied over a settled one"


def settled(*looks: Look, confirmed: dict[int, float] | None = None) -> Settled:
    """What these looks tell of versions 1 and 3 of `HOT`, confirmed at 10 and at 20 unless told otherwise."""
    seen = Looks()
    for look in looks:
        seen.note(look)
    times = {1: 10.0, 3: 20.0} if confirmed is None else confirmed
    return Settled(seen, 1, {(0, version): at for version, at in times.items()})


def stepping(known: Settled, at: float, *versions: int) -> Applied:
    """A journal in which `versions` of `HOT` are applied, one a second, the last of them at `at`."""
    applied = Applied(known)
    for place, version in enumerate(versions, start=1 - len(versions)):
        applied.note(HOT, version, at + place)
    return applied


EMPTY = Look(0, 21.0, 22.0, set())
"""Nothing is in the stream: all that was confirmed before 21 was settled by 22."""


def test_a_step_back_over_a_settled_version_is_condemned() -> None:
    """An older version that comes when the newer one had left its stream was settled and revived, however soon."""
    put, _, _ = history()
    put.note_tried([HOT], 3)
    applied = stepping(settled(EMPTY), 22.6, 1, 3, 1, 3)
    applied.note("cold-0-0", 0, 23.0)
    assert (applied.steps_back, applied.over_settled) == (1, []), "before the look had ended nothing was certain"
    applied.note(HOT, 1, 23.0)
    applied.note(HOT, 3, 23.1)
    found = evidence(put=put, applied=applied, books=Books(enqueued=5, acked=3, superseded=1, dead=1))
    assert [str(one) for one in judge(found)] == [f"{REVIVED}: 1 (hot-0-0: 1 over 3)"]


def test_a_step_back_over_an_unsettled_version_is_a_figure() -> None:
    """However long it lasts, while the newer version stands in its stream its older one may come again."""
    looks = [Look(0, at, at + 0.1, {(0, 3)}) for at in (15.0, 3_000.0)]
    applied = stepping(settled(*looks), 3_600.0, 1, 3, 1, 3)
    assert (applied.steps_back, applied.steps_of_unsettled, applied.over_settled) == (1, 1, [])


@pytest.mark.parametrize(
    ("look", "confirmed", "at", "condemned"),
    [
        (EMPTY, 20.9, 22.1, True),
        (EMPTY, 20.9, 22.0, False),  # settled by the end of the look, perhaps not before it
        (EMPTY, 21.0, 22.1, False),  # confirmed at its beginning: perhaps enqueued after it
        (EMPTY, inf, 22.1, False),
        (Look(0, 21.0, 22.0, {(0, 3)}), 20.9, 22.1, False),
        (Look(0, 21.0, 22.0, {(0, 2), (0, 4), (1, 3)}), 20.9, 22.1, True),  # others are pending
        (Look(1, 21.0, 22.0, set()), 20.9, 22.1, False),  # of another shard
    ],
)
def test_what_is_not_certain_is_not_condemned(look: Look, confirmed: float, at: float, *, condemned: bool) -> None:
    """Only what was confirmed before a look began, and was applied after it had ended, is judged by it."""
    applied = stepping(settled(look, confirmed={3: confirmed}), at, 3, 1)
    assert (applied.steps_back, len(applied.over_settled)) == (1, int(condemned))


def test_a_version_is_settled_by_the_first_look_after_the_last_that_saw_it() -> None:
    """One look that found nothing is no proof while a later one sees the batch: it may have been enqueued between."""
    looks = Looks()
    for at, pending in ((5.0, {(0, 3)}), (6.0, set[tuple[int, int]]()), (7.0, {(0, 3)}), (8.0, set()), (9.0, set())):
        looks.note(Look(0, at, at + 0.1, pending))
    assert (looks.settled_by(0, (0, 3), 4.0), looks.settled_by(0, (0, 3), 8.5)) == (8.1, 9.1)
    assert (looks.settled_by(0, (0, 2), 4.0), looks.settled_by(0, (0, 3), 9.0)) == (5.1, inf)
    assert len(looks) == 5
    assert looks.gaps() == [pytest.approx(1.1)] * 4


def test_an_older_version_over_a_settled_one_is_found_beneath_an_unsettled_one() -> None:
    """The newest version in the index need not be settled: one between it and the old one condemns too."""
    applied = stepping(settled(EMPTY), 23.5, 1, 3, 9, 1, 2)
    assert [(step.old, step.new, step.settled) for step in applied.over_settled] == [(1, 9, 3), (2, 9, 3)]


def test_replayed_letters_may_step_back() -> None:
    """A version that was applied and yet buried is no reason to hold back an older one that is replayed."""
    applied = stepping(settled(EMPTY), 22.5, 1, 3)
    applied.replayed = {HOT}
    applied.note(HOT, 1, 23.0)
    assert (applied.steps_back, applied.steps_of_replayed, applied.steps_of_unsettled) == (1, 1, 0)
    assert applied.over_settled == []


ACTS = st.lists(st.tuples(st.sampled_from(["put", "confirm", "settle", "look"]), st.integers(0, 2)), max_size=60)


@given(ACTS, st.randoms(use_true_random=False))
def test_nothing_unsettled_is_ever_taken_for_settled(acts: list[tuple[str, int]], rng: Any) -> None:
    """Whatever the order of events and the ties of the clock, what is called settled was; in the end all is known."""
    now, version, looks = 0, 0, Looks()
    stream: set[int] = set()
    gone: dict[int, int] = {}
    confirmed: dict[tuple[int, int], float] = {}
    for act, passed in acts:
        now += passed
        if act == "put":
            version += 1
            stream.add(version)
        elif act == "confirm" and version:
            confirmed.setdefault((0, version), now)
        elif act == "settle" and stream:
            one = rng.choice(sorted(stream))
            stream.remove(one)
            gone[one] = now
        elif act == "look":
            before, now = now, now + rng.randrange(2)
            looks.note(Look(0, before, now, {(0, one) for one in stream}))
    known = Settled(looks, 1, confirmed)
    for one in range(1, version + 1):
        for at in range(now + 2):
            if known.newest(HOT, [one], at) is not None:
                assert gone[one] < at
    looks.note(Look(0, now + 1, now + 1, set()))
    assert all(known.newest(HOT, [one], now + 2) == one for _, one in confirmed)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=40),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.sets(st.integers(0, 5), max_size=4)), max_size=8),
    st.dictionaries(st.integers(0, 5), st.integers(0, 20)),
)
def test_what_the_fold_forgets_does_not_matter(
    journal: list[tuple[int, int]], looks: list[tuple[int, int, set[int]]], confirmed: dict[int, int]
) -> None:
    """The steps over settled versions are those that a judge finds who remembers every version ever applied."""
    shown, begin = list[Look](), 0
    for passed, took, pending in looks:
        begin += passed
        shown.append(Look(0, begin, begin + took, {(0, version) for version in pending}))
        begin += took
    known = settled(*shown, confirmed={version: float(at) for version, at in confirmed.items()})
    applied, seen, expected, now = Applied(known), set[int](), [], 0
    for version, passed in journal:
        now += passed
        applied.note(HOT, version, now)
        if any(one > version and known.newest(HOT, [one], now) is not None for one in seen):
            expected.append((version, now))
        seen.add(version)
    assert [(step.old, step.at) for step in applied.over_settled] == expected


def test_a_look_asks_every_shard_between_two_times() -> None:
    """A shard of which a part does not answer is left out; without a lane nothing is pending."""
    keys = QueueKeys("q")
    clock = iter([5.0, 6.0])
    looking = look_at(keys, 4, lambda: next(clock))
    asked = next(looking)
    assert isinstance(asked, Ask)
    assert asked.commands == [["SMEMBERS", keys.shard(shard).lanes] for shard in range(4)]
    asked = looking.send([{b"tenant-1"}, Failed(Trouble.AWAY, "gone"), set(), {b"", b"tenant-1"}])
    assert isinstance(asked, Ask)
    streams = [asked_for[1] for asked_for in asked.commands]
    other, last = keys.shard(3).stream(""), keys.shard(3).stream("tenant-1")
    assert sorted(map(str, streams)) == sorted([keys.shard(0).stream("tenant-1"), other, last])
    assert asked.commands == [["XRANGE", stream, "-", "+"] for stream in streams]
    rows = {"hot-1-0": 7, "hot-1-3": 8}
    metadata = json.dumps([{"version": version} for version in rows.values()]).encode()
    told = encode(Entry("tenant-1", tuple(rows), 1, bytes(8), metadata=metadata))
    fields = [one if isinstance(one, bytes) else str(one).encode() for one in told]
    replies = [Failed(Trouble.AWAY, "gone") if stream == other else [(b"70-2", fields)] for stream in streams]
    with pytest.raises(StopIteration) as ended:
        looking.send(replies)
    assert ended.value.value == [Look(0, 5.0, 6.0, {(1, 7), (1, 8)}), Look(2, 5.0, 6.0, set())]


def test_a_watcher_that_saw_nothing_is_a_mishap() -> None:
    """Without looks the rule would condemn nothing, and a good verdict would prove nothing."""
    with watched("redis://127.0.0.1:1/0", "chaos-none") as watch:
        assert watch.mishaps() == ["the watcher never saw the streams"]
    assert watch.mishaps() == ["the watcher of the streams ended by itself"]


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
    notes.write_bytes(b'\n{"tried":0}\n{"confirmed":0, "at":7.5}\n\n{"tried":1}\n{"conf\n{"tried":2}\n')
    share = CAST.share(1)
    read_notes(notes, share, put)
    assert next_batch(notes) == 3
    assert put.confirmed == dict.fromkeys(share.ids(0), 0)
    assert put.confirmed_at == {(1, 0): 7.5}
    assert put.records_tried == sum(len(share.ids(batch)) for batch in range(3))
