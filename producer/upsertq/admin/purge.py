"""Owns the removal of the books of old, finished runs. What they counted stays in the books of the queue.

A run goes in three steps: its note says that it is purged, its books go shard by shard, its note goes. A purge that is
killed in between is completed by the next one; a run that is added to meanwhile stays.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from upsertq.admin.run_list import Listed, books_of, decoded
from upsertq.admin.workers import time_of
from upsertq.contract import scanning
from upsertq.contract.books import check_incarnations
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Argument, Conversation, Patience, Script, ask_all, ask_script, persistently
from upsertq.contract.queue import OTHER, QueueShape, meta_lost
from upsertq.contract.runs import RunState

RENOTE: Final = Script.load("upsertq.contract", "renote")
PURGE: Final = Script.load("upsertq.contract", "purge")
_PURGED: Final = b',"purged":true'
_NUMBER: Final = re.compile(rb'("records":)\d+')
CALL_RUNS: Final = 100
"""Runs of one call at most, which the server carries out at once: well below a millisecond."""
ROUND_RUNS: Final = 16_000
"""Books of runs that are removed in one round trip at most, over all shards."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a purge would remove.

    Attributes:
        notes: by run, its note as it stands.
        records: how many records they enqueued.
        interrupted: how many of them an earlier purge began to remove.
        kept: runs as old that stay, by why: `unfinished`, `dead` (letters), `damaged`.
    """

    notes: Mapping[bytes, bytes]
    records: int
    interrupted: int
    kept: Mapping[str, int]


def candidates(
    keys: QueueKeys, shape: QueueShape, age: float, patience: Callable[[], Patience]
) -> Conversation[Candidates]:
    """The runs that were finished `age` seconds ago or before, by the server's clock, and have no dead letters."""
    (told,) = yield from persistently(ask_all([["TIME"]]), patience(), "read the server's time")
    before = int((time_of(told) - age) * 1000)
    noted = yield from scanning.fields_of(keys.runs, patience, "read the runs")
    states = {run: decoded(note) for run, note in noted.items()}
    old = {run: state for run, state in states.items() if state and _at(state) <= before}
    begun = [run for run, state in states.items() if state and state.purged]
    listed = yield from books_of(keys, shape, {run: state for run, state in old.items() if run not in begun}, patience)
    notes = {run: noted[run] for run in begun}
    records, kept = 0, Counter({"damaged": sum(state is None for state in states.values())})
    for run, one in zip((run for run in old if run not in begun), listed, strict=True):
        why = _why_kept(one)
        if why:
            kept[why] += 1
        elif one.books and one.settled <= before:
            notes[run] = noted[run]
            records += one.books.enqueued
    return Candidates(notes, records, len(begun), +kept)


def _at(state: RunState) -> int:
    return state.begun if state.sealed is None else state.sealed


def _why_kept(one: Listed) -> str:
    if one.books is None or one.state is None or one.books.enqueued < one.state.records:
        return "damaged"
    if one.stage != "done":
        return "unfinished"
    return "dead" if one.books.dead else ""


def purge(
    keys: QueueKeys,
    shape: QueueShape,
    notes: Mapping[bytes, bytes],
    patience: Callable[[], Patience],
    watch: Callable[[int], None] = lambda _: None,
) -> Conversation[int]:
    """Remove the books of these runs where they stand as they were noted; returns how many are gone.

    `watch` is told how many were looked at.
    """
    gone, names = 0, list(notes)
    many = max(1, min(CALL_RUNS, ROUND_RUNS // shape.shards))
    for at in range(0, len(names), many):
        some = names[at : at + many]
        gone += yield from _purge(keys, shape, {run: notes[run] for run in some}, patience)
        watch(at + len(some))
    return gone


def _purge(
    keys: QueueKeys, shape: QueueShape, notes: Mapping[bytes, bytes], patience: Callable[[], Patience]
) -> Conversation[int]:
    marks = {run: _mark(note) for run, note in notes.items()}
    marked = yield from _renote(keys, shape, [(run, notes[run], marks[run]) for run in notes], patience())
    if not marked:
        return 0
    calls = [_call(keys, shape, shard, marked) for shard in range(shape.shards)]
    replies = yield from persistently(ask_script(PURGE, calls), patience(), "remove the books of runs")
    for shard, reply in enumerate(replies):
        if reply[0] == OTHER:
            check_incarnations(keys, {shard: reply[1]}, shape.incarnation)
    changes = [
        (run, marks[run], b"" if all(removed) else marks[run].replace(_PURGED, b""))
        for run, *removed in zip(marked, *replies, strict=True)
    ]
    noted = yield from _renote(keys, shape, changes, patience())
    yield from _recount(keys, shape, [run for run in marked if run not in noted], patience)
    return sum(new == b"" for run, _, new in changes if run in noted)


def _recount(
    keys: QueueKeys, shape: QueueShape, runs: Sequence[bytes], patience: Callable[[], Patience]
) -> Conversation[None]:
    """Correct the notes of runs that were added to, and sealed, before all of their old books were removed.

    They would name more records than the books have, which is taken for a loss.
    """
    if not runs:
        return
    (notes,) = yield from persistently(ask_all([["HMGET", keys.runs, *runs]]), patience(), "read the runs")
    sealed = {run: (note, state) for run, note in zip(runs, notes, strict=True) if note and (state := decoded(note))}
    listed = yield from books_of(keys, shape, {run: state for run, (_, state) in sealed.items()}, patience)
    changes = [
        (run, note, _NUMBER.sub(b"\\g<1>%d" % one.books.enqueued, note))
        for (run, (note, state)), one in zip(sealed.items(), listed, strict=True)
        if one.books and one.books.enqueued < state.records
    ]
    yield from _renote(keys, shape, changes, patience())


def _mark(note: bytes) -> bytes:
    """The note of a run that is purged: what is put into it from now on is counted from nothing."""
    state: Any = orjson.loads(note)
    return orjson.dumps({"begun": state["begun"], "sealed": state["sealed"], "records": 0, "purged": True})


def _call(keys: QueueKeys, shape: QueueShape, shard: int, runs: Sequence[bytes]) -> tuple[list[str], list[Argument]]:
    own = keys.shard(shard)
    return [own.books, *(own.run(run.decode("utf-8", "surrogateescape")) for run in runs)], [shape.incarnation]


def _renote(
    keys: QueueKeys, shape: QueueShape, changes: Sequence[tuple[bytes, bytes, bytes]], patience: Patience
) -> Conversation[list[bytes]]:
    """Change the notes of runs from one text to another; returns those that have the new one now."""
    if not changes:
        return []
    arguments: list[Argument] = [shape.incarnation, *(part for change in changes for part in change)]
    ask = ask_script(RENOTE, [([keys.meta, keys.runs], arguments)])
    (reply,) = yield from persistently(ask, patience, "note what becomes of runs")
    if reply[0] == OTHER:
        raise meta_lost(keys, None, shape, reply[1])
    return [run for (run, *_), done in zip(changes, reply, strict=True) if done]
