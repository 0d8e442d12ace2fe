"""Owns what must hold of one shard's keys after every step: by themselves, and beside the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transitions_model import State, order_of
from transitions_raw import contents, entry_at, letter_at
from upsertq.contract.books import COUNTERS, of_reply

if TYPE_CHECKING:
    from transitions_model import Shard
    from transitions_raw import RawShard


def books_balance(raw: RawShard, model: Shard) -> None:
    """No counter is negative, all add up, and they are those of the keys and of the model, as are the reasons."""
    for run, told in raw.books.items():
        assert all(value >= 0 for value in told.values()), told
        books = of_reply([str(told.get(name, 0)).encode() for name in COUNTERS])
        assert books.drift == 0, books
        assert (books.pending, books.bytes, books.dead) == (raw.records(run), raw.size(run), raw.letters(run)), run
        expected = model.books(run)
        assert {name: told.get(name, 0) for name in COUNTERS} == {
            **{name: expected[name] for name in COUNTERS},
            "bytes": raw.size(run),
        }
        reasons = {name.removeprefix("reason:"): n for name, n in told.items() if name.startswith("reason:")}
        assert sum(reasons.values()) == books.dead
        assert {name: n for name, n in reasons.items() if n} == model.reasons(run)


def each_record_is_once(raw: RawShard, model: Shard) -> None:
    """Entries and letters are exactly the versions that are pending and dead, whole, each in its lane's stream."""
    assert raw.lanes == model.lanes()
    assert list(raw.stream) == list(model.entries)
    for stream_id, versions in model.entries.items():
        entry = entry_at(raw, stream_id)
        assert contents(entry) == [version.content for version in versions]
        assert [(entry.namespace, name) for name in entry.ids] == [version.key for version in versions]
        assert {(entry.run, entry.depth, stream_id)} == {(one.run, one.depth, one.spot) for one in versions}
        assert all(one.seq == (entry.seq or f"{stream_id}-{row}") for row, one in enumerate(versions))
    dead = {version.spot: version for version in model.of(State.DEAD)}
    assert set(raw.dead) == set(dead)
    for dead_id, version in dead.items():
        entry, reason = letter_at(raw, dead_id)
        assert contents(entry) == [version.content]
        found = (entry.namespace, entry.ids[0], entry.run, entry.seq, entry.depth, reason)
        assert found == (*version.key, version.run, version.seq, version.depth, version.reason)
        assert not model.stale(version), "a letter is older than what was acknowledged"


def the_shard_is_held_as_told(raw: RawShard, model: Shard) -> None:
    """Lease, epochs, deaths, mark and clock are those of the model."""
    assert raw.lease == ("" if model.lease is None else f"{model.lease[1]}:{model.lease[0]}")
    assert int(raw.held.get("epoch", 0)) == model.epoch
    assert int(raw.held.get("released", 0)) == model.released
    assert int(raw.held.get("deaths", 0)) == model.deaths
    assert raw.held.get("mark", "") == model.mark
    assert order_of(raw.held.get("clock", "0-0")) == model.last


def marks_are_of_letters(raw: RawShard, model: Shard) -> None:
    """An id is marked where it has letters or replaying versions, with these and the newest acknowledged at most."""
    found = {name: mark.split() for name, mark in raw.marks.items()}
    assert {name: {one for one in words if one[0] != "A"} for name, words in found.items()} == model.marks()
    for name, words in found.items():
        assert len(words) == len(set(words)), "a word stands twice"
        acked = [order_of(one[2:]) for one in words if one[0] == "A"]
        assert len(acked) <= any(one[0] == "R" for one in words)
        finished = {one.order for one in model.of(State.ACKED, State.SUPERSEDED) if "\0".join(one.key) == name}
        assert set(acked) <= finished
