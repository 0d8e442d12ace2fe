"""Owns the list of a queue's runs: when each began, how far it is, and its books; it reads alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from upsertq.client.receipt import spoken, time_of
from upsertq.contract import books, scanning
from upsertq.contract.books import COUNTERS, Books
from upsertq.contract.errors import ServerRefused
from upsertq.contract.figures import LAST_MS, whole
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Conversation, Patience, ask_all, persistently
from upsertq.contract.queue import QueueShape
from upsertq.contract.runs import RunState, decode_run

Stage: TypeAlias = Literal["open", "sealed", "done", "purged", "damaged"]
CALL_COMMANDS: Final = 1_000
"""Commands of one round trip, about."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A run.

    Attributes:
        run: its name.
        state: when it began and was sealed; `None` where that cannot be read.
        books: its records; `None` where a counter of them is none.
        settled: when a record of it was settled last, in milliseconds; 0 where none was.
        problem: what is damaged; empty where nothing is.
    """

    run: str
    state: RunState | None = None
    books: Books | None = None
    settled: int = 0
    problem: str = ""

    @property
    def stage(self) -> Stage:
        """`open` while something may be added, `sealed` while something of it is pending, then `done`.

        `purged` is one whose books are being removed.
        """
        if self.state is None or self.books is None:
            return "damaged"
        if self.state.purged:
            return "purged"
        if not self.state.is_sealed(self.books.enqueued):
            return "open"
        return "sealed" if self.books.pending else "done"

    def as_dict(self) -> dict[str, Any]:
        """One item of `runs --json`; what is not known is null."""
        counts = self.books.as_dict() if self.books else dict.fromkeys(COUNTERS)
        state = self.state
        times = {
            "begun_at": spoken(time_of(state.begun if state else 0)),
            "sealed_at": spoken(time_of(state.sealed or 0 if state else 0)),
            "last_settled_at": spoken(time_of(self.settled)),
        }
        return {"run": self.run, "state": self.stage, **times, **counts, "problem": self.problem or None}


def runs(
    keys: QueueKeys, shape: QueueShape, limit: int, patience: Callable[[], Patience]
) -> Conversation[tuple[list[Listed], int]]:
    """The `limit` newest runs, those that cannot be read at the end; and how many runs the queue knows."""
    noted = yield from scanning.fields_of(keys.runs, patience, "read the runs")
    states = {name: decoded(note) for name, note in noted.items()}
    newest = sorted(states, key=lambda name: (-_begun(states[name]), name))[:limit]
    return (yield from books_of(keys, shape, {name: states[name] for name in newest}, patience)), len(states)


def decoded(note: bytes) -> RunState | None:
    """The run as it is noted; `None` where that cannot be read."""
    try:
        return decode_run(note)
    except ValueError:
        return None


def _begun(state: RunState | None) -> int:
    return state.begun if state else -1


def books_of(
    keys: QueueKeys, shape: QueueShape, states: Mapping[bytes, RunState | None], patience: Callable[[], Patience]
) -> Conversation[list[Listed]]:
    """Runs with their books, in the order given; what is damaged is told of each."""
    listed: list[Listed] = []
    left = list(states)
    many = max(1, CALL_COMMANDS // shape.shards)
    while left:
        some = left[:many]
        try:
            listed += yield from _read(keys, shape, {name: states[name] for name in some}, patience())
        except ServerRefused as error:
            if many == 1:
                listed.append(Listed(_shown(some[0]), states[some[0]], problem=str(error)))
            else:  # one of them is damaged: each by itself tells which
                many = 1
                continue
        left = left[many:]
    return listed


def _read(
    keys: QueueKeys, shape: QueueShape, states: Mapping[bytes, RunState | None], patience: Patience
) -> Conversation[list[Listed]]:
    names = {run: run.decode("utf-8", "surrogateescape") for run in states}
    hashes = [keys.shard(shard).run(name) for name in names.values() for shard in range(shape.shards)]
    ask = ask_all([["HMGET", name, *COUNTERS, "settled_at"] for name in hashes])
    replies = yield from persistently(ask, patience, "read the books of runs")
    found = []
    for at, (run, state) in enumerate(states.items()):
        part = slice(at * shape.shards, (at + 1) * shape.shards)
        settled = max(whole(reply[-1], most=LAST_MS) or 0 for reply in replies[part])
        found.append(_listed(_shown(run), state, hashes[part], replies[part], settled))
    return found


def _listed(
    run: str, state: RunState | None, hashes: Sequence[str], replies: Sequence[Sequence[bytes | None]], settled: int
) -> Listed:
    problem = "" if state else "its note cannot be read"
    try:
        parts = [books.of_reply(reply[:-1], name) for reply, name in zip(replies, hashes, strict=True)]
    except ServerRefused as error:
        return Listed(run, state, None, settled, str(error))
    return Listed(run, state, books.total(parts), settled, problem)


def _shown(run: bytes) -> str:
    return run.decode("utf-8", "backslashreplace")
