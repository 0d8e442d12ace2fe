"""The conversation of a wait, held with a script of replies: no server and no time."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from upsertq.client.waiting import MAX_POLL, OPEN_TIMEOUT, PATIENCE_SECONDS, Wait, wait_until_settled
from upsertq.contract.books import Books
from upsertq.contract.circumstances import Circumstances
from upsertq.contract.errors import (
    LanePaused,
    NotFound,
    QueueDamaged,
    QueueLost,
    RunOpen,
    ServerUnavailable,
    WaitTimeout,
)
from upsertq.contract.keys import QueueKeys
from upsertq.contract.pauses import QUEUE, by_hand, note, scope_of
from upsertq.contract.protocol import Ask, Failed, Pause, Trouble
from upsertq.contract.queue import QueueShape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from upsertq.contract.pauses import Paused
    from upsertq.contract.protocol import Command, Conversation

KEYS = QueueKeys("q")
SHAPE = QueueShape("q", 2, None, "i1")
OPEN = {"begun": 1, "sealed": None}


@dataclass
class Told:
    """What the server says: `books` of each shard, and what is noted of the run."""

    books: list[dict[str, int]] = field(default_factory=lambda: [{}, {}])
    run: dict[str, Any] | bytes | None = None
    meta: str = "i1"
    shards: list[str | None] = field(default_factory=lambda: ["i1", "i1"])
    paused: dict[str, Paused] = field(default_factory=dict)
    away: bool = False
    held: bool = True
    """Whether what is pending is in a stream."""
    counters: dict[str, bytes] = field(default_factory=dict)
    """Counters of the first shard as they stand, in place of numbers."""

    def replies(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to a round of commands."""
        if self.away:
            return [Failed(Trouble.AWAY, "gone")] * len(commands)
        return [self._reply(command) for command in commands]

    def _reply(self, command: Command) -> Any:
        name = command[3] if command[0] == "SCAN" else command[1]
        if name == KEYS.meta:
            return [self.meta.encode() or None, b"5"]
        if name == KEYS.runs:
            return orjson.dumps(self.run) if isinstance(self.run, dict) else self.run
        if name == KEYS.paused:
            return {scope.encode(): note(paused) for scope, paused in self.paused.items()}
        shard = next(k for k in range(2) if str(name).startswith(KEYS.shard(k).tag))
        if command[0] == "HMGET":
            told = {of: b"%d" % n for of, n in self.books[shard].items()} | (self.counters if shard == 0 else {})
            return [told.get(str(counter)) for counter in command[2:]]
        found = self.shards[shard]
        of_lanes = {"SRANDMEMBER": [b"n"] * self.held, "XLEN": int(self.held), "SCAN": [b"0", []]}
        return {**of_lanes, "HGET": None if found is None else found.encode()}[str(command[0])]


class Talk:
    """A wait whose pauses pass at once; `happens` is called in each, with the seconds since the wait began."""

    def __init__(self, told: Told, happens: Callable[[float], object] = lambda _: None) -> None:
        self.told = told
        self.now = 0.0
        self.pauses: list[float] = []
        self.watched: list[Books] = []
        self._happens = happens

    def hold(self, run: str = "r", **limits: Any) -> Books:
        """Hold it to its end."""
        world = Circumstances(lambda: self.now, lambda: 1e9 + self.now, random.Random(1))
        talk: Conversation[Books] = wait_until_settled(Wait(KEYS, SHAPE, run, **limits), world, self.watched.append)
        replies: list[Any] | None = None
        while True:
            try:
                effect = next(talk) if replies is None else talk.send(replies)
            except StopIteration as stop:
                result: Books = stop.value
                return result
            replies = []
            if isinstance(effect, Ask):
                replies = self.told.replies(effect.commands)
            elif isinstance(effect, Pause):
                self.pauses.append(effect.seconds)
                assert len(self.pauses) < 10_000, "it waits for ever"
                self.now += effect.seconds
                self._happens(self.now)


def sealed(records: int) -> dict[str, Any]:
    """A run that was sealed with so many records."""
    return {"begun": 1, "sealed": 2, "records": records}


def test_a_queue_is_done_when_nothing_is_pending() -> None:
    """At once, whatever its runs are; the books are those of all shards together."""
    talk = Talk(Told([{"enqueued": 2, "acked": 2}, {"enqueued": 1, "dead": 1}]))
    assert talk.hold("") == Books(enqueued=3, acked=2, dead=1)
    assert talk.pauses == []
    assert talk.watched == [Books(enqueued=3, acked=2, dead=1)]


@pytest.mark.parametrize(
    ("enqueued", "records", "done"),
    [(3, 3, True), (0, 0, True), (4, 3, False)],
    ids=["as sealed", "empty", "added since"],
)
def test_a_run_is_done_when_it_is_sealed_too(enqueued: int, records: int, done: bool) -> None:  # noqa: FBT001
    """Of what was added after it was sealed the seal says nothing."""
    talk = Talk(Told([{"enqueued": enqueued, "acked": enqueued}, {}], sealed(records)))
    if done:
        assert talk.hold().acked == enqueued
        assert talk.now == 0
        return
    with pytest.raises(RunOpen):
        talk.hold()


def test_a_seal_ends_the_wait_for_an_open_run() -> None:
    """It is looked for again and again, in steps that grow to a second."""
    told = Told([{"enqueued": 3, "acked": 3}, {}], OPEN)

    def happens(now: float) -> None:
        if now > 20:
            told.run = sealed(3)

    talk = Talk(told, happens)
    assert talk.hold().acked == 3
    assert talk.pauses == sorted(talk.pauses)
    assert (talk.pauses[0], talk.pauses[-1]) == (0.05, MAX_POLL)


@pytest.mark.parametrize("limit", [0.0, 7.0, OPEN_TIMEOUT])
def test_an_open_run_is_borne_with_for_so_long(limit: float) -> None:
    """From the last addition that the wait saw, or from its beginning."""
    told = Told([{"enqueued": 3, "acked": 3}, {}], OPEN)
    talk = Talk(told)
    with pytest.raises(RunOpen, match=f"run 'r' is not complete: its 3 records are settled.*for {limit:g} s"):
        talk.hold(open_timeout=limit)
    assert limit <= talk.now <= limit + MAX_POLL
    added: list[float] = []

    def happens(now: float) -> None:
        if not added and now > 5:
            added.append(now)
            told.books[1] = {"enqueued": 1, "acked": 1}

    talk = Talk(told, happens)
    if limit > 5:
        with pytest.raises(RunOpen, match="its 4 records"):
            talk.hold(open_timeout=limit)
        assert added[0] + limit <= talk.now <= added[0] + limit + 2 * MAX_POLL


def test_pending_records_of_an_open_run_are_waited_for() -> None:
    """The patience with an open run is for one of which all is settled."""
    talk = Talk(Told([{"enqueued": 3, "pending": 3}, {}], OPEN))
    with pytest.raises(WaitTimeout, match=r"3 of 3 records of run 'r' are pending after 500 s: is a worker running\?"):
        talk.hold(timeout=500, open_timeout=1)
    assert 500 <= talk.now <= 500.01


def test_the_end_of_the_time_says_what_is_missing() -> None:
    """The settled open run, the paused queue, and a pause that may have to do with it."""
    told = Told([{"enqueued": 3, "acked": 3}, {}], OPEN)
    with pytest.raises(WaitTimeout, match="the run is open"):
        Talk(told).hold(timeout=5)
    told.books[0] = {"enqueued": 3, "pending": 3}
    told.paused = {scope_of("n"): by_hand("", 1.0, "me")}
    with pytest.raises(WaitTimeout, match=r"is a worker running.*namespace 'n'"):
        Talk(told).hold(timeout=5)
    told.paused[QUEUE] = by_hand("maintenance", 1.0, "me")
    with pytest.raises(WaitTimeout, match="after 0 s: paused: the queue: maintenance"):
        Talk(told).hold(timeout=0)


def test_a_pause_that_lasts_ends_the_wait() -> None:
    """After the time to bear with it, and only where something is pending."""
    told = Told([{"enqueued": 3, "acked": 3}, {}], sealed(3), paused={QUEUE: by_hand("", 1e9, "me")})
    assert Talk(told).hold(pause_timeout=10).acked == 3
    told.books[0] = {"enqueued": 3, "pending": 3}
    talk = Talk(told)
    with pytest.raises(LanePaused, match="3 of 3 records of run 'r' are pending: paused: the queue"):
        talk.hold(pause_timeout=10)
    assert 10 <= talk.now <= 10 + MAX_POLL


@pytest.mark.parametrize(
    ("what", "error", "match"),
    [
        ({"meta": ""}, QueueLost, "meta"),
        ({"meta": "i2"}, QueueLost, "another creation"),
        ({"shards": ["i1", None]}, QueueLost, "shard 1 is gone"),
        ({"shards": ["i2", "i1"]}, QueueLost, "shard 0 is of another creation"),
        ({"books": [{}, {}]}, QueueLost, "run 'r' had 3 records and has 0 now"),
        ({"books": [{"enqueued": 2, "acked": 2}, {}]}, QueueLost, "had 3 records and has 2"),
        ({"counters": {"pending": b"none"}}, QueueDamaged, "pending"),
    ],
)
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_absence_is_no_success(what: dict[str, Any], error: type[Exception], match: str, when: str) -> None:
    """Whatever is not there, or not any more, ends the wait with an error that names it."""
    settled = Told([{"enqueued": 3, "acked": 3}, {}], sealed(3))
    told = Told([{"enqueued": 3, "pending": 3}, {}], sealed(3))

    def vanish(_: float = 0.0) -> None:
        told.books = settled.books
        for name, value in what.items():
            setattr(told, name, value)

    if when == "before":
        vanish()
    talk = Talk(told, vanish)
    with pytest.raises(error, match=match):
        talk.hold()
    assert len(talk.pauses) == (when == "meanwhile")


def test_a_run_is_absent_or_lost() -> None:
    """One that the wait saw before is lost; one that it never saw is perhaps mistyped."""
    told = Told([{"enqueued": 3, "pending": 3}, {}])
    with pytest.raises(NotFound, match="no run 'r'"):
        Talk(told).hold()
    told.run = OPEN
    with pytest.raises(QueueLost, match="run 'r'"):
        Talk(told, lambda _: setattr(told, "run", None)).hold()


def test_pending_records_that_no_stream_holds_are_lost() -> None:
    """The books stand still, and what they count is nowhere: it will never be settled."""
    talk = Talk(Told([{"enqueued": 3, "pending": 3}, {}], OPEN, held=False))
    with pytest.raises(QueueLost, match="3 records are pending that no stream holds"):
        talk.hold()
    assert talk.now < OPEN_TIMEOUT


def test_fewer_records_than_the_caller_enqueued_are_a_loss() -> None:
    """Also where the wait sees the queue for the first time."""
    told = Told([{"enqueued": 3, "acked": 3}, {}])
    assert Talk(told).hold("", enqueued=3).acked == 3
    with pytest.raises(QueueLost, match="queue 'q' had 4 records and has 3 now"):
        Talk(told).hold("", enqueued=4)


def test_an_absent_server_is_borne_with_for_a_while() -> None:
    """For half a minute each time, or for what is left of the time to wait."""
    told = Told([{"enqueued": 3, "acked": 3}, {}], sealed(3), away=True)

    def back(now: float) -> None:
        told.away = now < PATIENCE_SECONDS - 5

    assert Talk(told, back).hold().acked == 3
    told.away = True
    for timeout, ends in ((None, PATIENCE_SECONDS), (7, 7)):
        talk = Talk(told)
        with pytest.raises(ServerUnavailable):
            talk.hold(timeout=timeout)
        assert ends <= talk.now <= ends + 0.01
