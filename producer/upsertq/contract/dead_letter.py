"""Owns the format of a dead letter: one record in the form of an entry, with why it was given up. No I/O.

A letter stands in its shard's `dead` stream. The hash `dead:ids` marks its (namespace, id), so that a newer version
that is acknowledged supersedes it, and a replayed letter can be told to be stale.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from upsertq.contract.figures import LAST_MS, whole
from upsertq.contract.wire import MAX_DIMENSION, Entry, UnknownEntry, decode, encode, is_sequence, legible

Argument = str | bytes | int


class Reason(StrEnum):
    """Why a record is dead."""

    REFUSED = "refused"
    """The service refuses this very record."""
    TOO_LARGE = "too_large"
    """The service calls a request with this record alone too large."""
    SHORT_ACK = "short_ack"
    """The service answered that it took nothing, twice."""
    MAX_ATTEMPTS = "max_attempts"
    """It kept failing while others succeeded."""
    CRASH_LOOP = "crash_loop"
    """Workers died again and again while they had it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a record was given up, and what is known of it.

    Attributes:
        reason: one of `Reason`.
        status: the HTTP status, 0 where there was no answer.
        code: the service's code.
        message: what it said, or what was seen.
        details: its details as JSON text.
        request_id: the service's id of the last request.
        path: how the record was isolated: the sizes of the groups it was refused in, the last being 1.
        attempts: requests that carried it.
        first_ms: time in milliseconds of the first failure.
        last_ms: time in milliseconds of the last failure.
        worker: the one that gave it up.
    """

    reason: Reason
    status: int = 0
    code: str = ""
    message: str = ""
    details: str = ""
    request_id: str = ""
    path: str = ""
    attempts: int = 0
    first_ms: int = 0
    last_ms: int = 0
    worker: str = ""


_VERDICT_FIELDS = ("reason", "status", "code", "message", "details", "request_id", "path", "attempts")


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it stands in the stream: `dead_id` is `shard:stream id`, `seq` the version's place in order."""

    shard: int
    stream_id: str
    entry: Entry
    verdict: Verdict

    @property
    def dead_id(self) -> str:
        """By which commands name it."""
        return f"{self.shard}:{self.stream_id}"

    @property
    def id(self) -> str:
        """The record's id."""
        return self.entry.ids[0]


@dataclass(frozen=True, slots=True)
class Head:
    """A dead letter without its vector, sparse values and metadata: what lists and choices need.

    `seq` is the place of the version in order ('ms-n-row'), `at` the enqueue time in milliseconds, `depth` how often it
    was replayed before.
    """

    shard: int
    stream_id: str
    namespace: str
    id: str
    run: str
    seq: str
    dim: int
    at: int
    depth: int
    verdict: Verdict

    @property
    def dead_id(self) -> str:
        """By which commands name it."""
        return f"{self.shard}:{self.stream_id}"


def encode_letter(entry: Entry, verdict: Verdict) -> list[Argument]:
    """The flat field-value list of a letter's stream entry; `entry` holds the one record, with its `seq`."""
    fields: list[Argument] = list(encode(entry))
    for name in _VERDICT_FIELDS:
        value = getattr(verdict, name)
        if value:
            fields += [name, str(value)]
    return [*fields, "first", verdict.first_ms, "last", verdict.last_ms, "worker", verdict.worker]


def decode_letter(shard: int, stream_id: str, fields: Mapping[bytes, bytes]) -> Letter:
    """The letter of a stream entry's fields; `UnknownEntry` when it is of another version or damaged."""
    try:
        entry = decode(fields)
    except UnknownEntry as error:
        what = str(error).removeprefix("a queue entry ").removesuffix("; it stays in the queue")
        raise _damaged(shard, stream_id, what) from None
    if len(entry.ids) != 1 or not entry.seq:
        raise _damaged(shard, stream_id, f"holds {len(entry.ids)} records, or does not tell its place in order")
    return Letter(shard, stream_id, entry, _verdict_of(shard, stream_id, fields))


def decode_head(shard: int, stream_id: str, fields: Mapping[bytes, bytes]) -> Head:
    """The head of a stream entry's fields, which may lack the payload; `UnknownEntry` as `decode_letter`."""
    # the payload is left out by `heads.lua`: what it says of itself is as if there were none
    without = {name: value for name, value in fields.items() if name not in {b"values", b"sparse", b"meta", b"dim"}}
    letter = decode_letter(shard, stream_id, {**without, b"dim": b"0"})
    dim = whole(fields.get(b"dim"), 0, MAX_DIMENSION)
    if dim is None:
        raise _damaged(shard, stream_id, "does not tell its dimension")
    entry = letter.entry
    return Head(
        shard=shard,
        stream_id=stream_id,
        namespace=entry.namespace,
        id=letter.id,
        run=entry.run,
        seq=entry.seq,
        dim=dim,
        at=entry.at,
        depth=entry.depth,
        verdict=letter.verdict,
    )


def place(seq: str) -> tuple[int, ...]:
    """The place of a version in order, to compare: (milliseconds, number, row)."""
    return tuple(map(int, seq.split("-")))


def _verdict_of(shard: int, stream_id: str, fields: Mapping[bytes, bytes]) -> Verdict:
    text = {name.decode(): fields.get(name, b"").decode("utf-8", "replace") for name in _TEXT_FIELDS}
    try:
        reason = Reason(text["reason"])
    except ValueError:
        raise _damaged(shard, stream_id, f"has the reason {legible(text['reason'])}, which is none") from None
    return Verdict(
        reason=reason,
        # what is told of the failure beside is for people: a number that is none is left out
        status=whole(text["status"], most=_MOST_STATUS) or 0,
        code=text["code"],
        message=text["message"],
        details=text["details"],
        request_id=text["request_id"],
        path=text["path"],
        attempts=whole(text["attempts"]) or 0,
        first_ms=whole(text["first"], most=LAST_MS) or 0,
        last_ms=whole(text["last"], most=LAST_MS) or 0,
        worker=text["worker"],
    )


def _damaged(shard: int, stream_id: str, what: str) -> UnknownEntry:
    return UnknownEntry(f"dead letter {shard}:{stream_id} {what}; it stays where it is")


_MOST_STATUS = 999


_TEXT_FIELDS = tuple(name.encode() for name in (*_VERDICT_FIELDS, "first", "last", "worker"))


def mark_field(entry: Entry) -> str:
    """Under which name `dead:ids` marks the one record of an entry."""
    return f"{entry.namespace}\0{entry.ids[0]}"


def is_superseded(mark: bytes | None, seq: str) -> bool:
    """Whether a mark says that a version newer than `seq` was acknowledged."""
    acked = [token[2:] for token in (mark or b"").decode("ascii", "replace").split() if token.startswith("A,")]
    # a mark that cannot be read says nothing here: the script that settles refuses to go over it
    return any(place_of(one) > place_of(seq) for one in acked if is_sequence(one))


def place_of(seq: str) -> tuple[int, int, int]:
    """A sequence as something to compare: milliseconds, number, row."""
    milliseconds, number, *row = map(int, seq.split("-"))
    return milliseconds, number, row[0] if row else 0
