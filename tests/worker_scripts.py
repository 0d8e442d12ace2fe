"""Owns how tests call the worker's scripts: past the worker's own code, by the headers of the scripts alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from upsertq.contract.protocol import Script, run_scripts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from upsertq import Server
    from upsertq.contract.keys import ShardKeys
    from upsertq.contract.protocol import Argument

LEASE: Final = Script.load("upsertq_worker", "lease")
RELEASE: Final = Script.load("upsertq_worker", "release")
MARK: Final = Script.load("upsertq_worker", "mark")
SETTLE: Final = Script.load("upsertq_worker", "settle")
LIFE_MS: Final = 600_000


@dataclass(frozen=True)
class DeadRow:
    """A letter to be written: the record's row, its sequence, why it died, and the fields of the letter."""

    row: int
    seq: str
    reason: str
    fields: Sequence[Argument]


@dataclass(frozen=True)
class Settling:
    """What becomes of one entry; `figures` are (run or '' for the shard's books, name, value)."""

    stream_id: str
    namespace: str
    run: str
    records: int
    size: int
    acked: int
    superseded: int = 0
    sequence: str = ""
    letters: Sequence[DeadRow] = ()
    figures: Sequence[tuple[str, str, int | str]] = ()
    ids: Sequence[str] = ()
    """Told to the script where every entry of the call has them."""


@dataclass
class ShardWorker:
    """One worker at one shard: `mark` is what it believes its lease to be."""

    server: Server
    keys: ShardKeys
    incarnation: str
    name: str = "me"
    epoch: int = 0
    asked: list[list[Any]] = field(default_factory=list)
    """The replies to the last settling, one a call."""

    @property
    def mark(self) -> str:
        """The value of the lease when it is this worker's."""
        return f"{self.epoch}:{self.name}"

    def call(self, script: Script, names: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Call a script of the shard's."""
        (reply,) = self.server.hold(run_scripts(script, [(names, [self.incarnation, *arguments])]))
        return reply

    def lease(self, *, take: bool = True, life_ms: int = LIFE_MS) -> Any:
        """Take or prolong the lease; notes the epoch that was given."""
        arguments: list[Argument] = [self.name, self.epoch, life_ms, "1" if take else "0", 0]
        reply = self.call(LEASE, [self.keys.lease, self.keys.books], arguments)
        if isinstance(reply, list) and reply[0] >= 0:
            self.epoch = reply[0]
        return reply

    def release(self, keep_ms: int = 0) -> Any:
        """Give the lease up."""
        return self.call(RELEASE, [self.keys.lease, self.keys.books], [self.mark, keep_ms])

    def note(self, mark: str, deaths: int | str = "") -> Any:
        """Write the mark of what is sent."""
        return self.call(MARK, [self.keys.lease, self.keys.books], [self.mark, deaths, mark])

    def settle(self, settlings: Sequence[Settling], *, now_ms: int = 0, also: Iterable[str] = ()) -> Any:
        """Settle entries, naming other runs as the script asks for them; returns its last reply."""
        more, self.asked = list(also), []
        while True:
            reply = self.call(SETTLE, *settle_call(self.keys, self.mark, settlings, now_ms, more))
            self.asked.append(reply)
            if not isinstance(reply, list) or reply[0] != 2:
                return reply
            fresh = [run.decode() for run in reply[1:]]
            assert fresh, "no run is named"
            assert not set(fresh) & set(more), "a run was named in vain"
            more += fresh


def settle_call(
    keys: ShardKeys,
    mark: str,
    settlings: Sequence[Settling],
    now_ms: int = 0,
    also: Sequence[str] = (),
    told: int = 0,
) -> tuple[list[str], list[Argument]]:
    """Keys and arguments (without the incarnation) of one call of the settle script."""
    names = [keys.lease, keys.books, keys.lanes, keys.dead, keys.dead_ids]
    place: dict[str, int] = {keys.books: 2}

    def placed(name: str) -> int:
        if name not in place:
            names.append(name)
            place[name] = len(names)
        return place[name]

    arguments: list[Argument] = [mark, told, now_ms, len(settlings)]
    for one in settlings:
        books = placed(keys.run(one.run)) if one.run else 0
        arguments += [one.stream_id, placed(keys.stream(one.namespace)), one.namespace, books, one.run]
        arguments += [one.records, one.size, one.acked, one.superseded, one.sequence or one.stream_id]
        arguments += [len(one.letters), len(one.figures)]
        for letter in one.letters:
            arguments += [letter.row, letter.seq, letter.reason, len(letter.fields), *letter.fields]
        for run, name, value in one.figures:
            arguments += [placed(keys.run(run) if run else keys.books), name, value]
    if all(one.ids for one in settlings):
        arguments += ["ids", *(orjson.dumps(one.ids) for one in settlings)]
    if also:
        arguments.append("also")
        for run in also:
            arguments += [placed(keys.run(run)), run]
    return names, arguments
