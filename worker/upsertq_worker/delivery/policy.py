"""Owns what follows from a judged answer for the batch that it answers. Pure: it decides, `apply` carries it out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import orjson

from upsertq.contract.dead_letter import Reason, Verdict
from upsertq.contract.wire import Entry
from upsertq_worker.delivery.bisect import Part, take_apart
from upsertq_worker.delivery.messages import Reason as LaneReason
from upsertq_worker.delivery.outcome import (
    Accepted,
    Busy,
    LaneRefused,
    Outcome,
    RecordRefused,
    Scope,
    ShortAck,
    TooLarge,
    describe,
)
from upsertq_worker.delivery.response import Refusal, TransportFailure


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a batch: one item a record in `dims` and `sparse`."""

    dims: Sequence[int]
    sparse: Sequence[bool]
    short_acks: int
    """Short acknowledgements it had before."""
    failures: int
    """Failures that count: those while others succeeded."""
    unreadable: bool = False
    """The latest success was another batch's, and had no count that can be read either."""
    unread: bool = False
    """It, or what it is a part of, had such a success before, and nothing has landed since."""
    part: bool = False
    """It is a part of another batch."""
    searching: bool = False
    """It is a part of a refused batch, so that what is refused here need not be so for its neighbours."""
    lane_refusals: int = 0
    """Times that it was refused together with its lane before."""
    refused: bool = False
    """It, or something in it, was refused together with its lane before, maybe as a part of another batch."""
    lane_lands: bool = False
    """Something of its namespace landed that was sent after that refusal."""
    others_land: bool = False
    """Something of any namespace did."""
    landed_meanwhile: bool = False
    """Something landed since it was sent."""

    @property
    def size(self) -> int:
        """Records in it."""
        return len(self.dims)


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """All of it is acknowledged."""


@dataclass(frozen=True, slots=True)
class Retry:
    """It is sent again; `at_once` without waiting for a backoff."""

    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Split:
    """It is sent again in parts. `searching` when a record in it is at fault."""

    parts: tuple[Part, ...]
    searching: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Its one record is given up."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Pause:
    """No record is at fault: the lane, or the whole queue, waits."""

    scope: Scope
    reason: LaneReason
    refusal: Refusal


_BAD_REQUEST: Final = frozenset({400, 422})
_FOR_CONTENT: Final = frozenset({403, 429})
"""With these, too, a request may be refused for what it carries: firewalls do so."""

Consequence = Acknowledge | Retry | Split | GiveUp | Pause


def follow(outcome: Outcome, facts: Facts, max_attempts: int) -> Consequence:  # noqa: PLR0911 - one for each outcome
    """What to do after `outcome`."""
    match outcome:
        case Accepted():
            return Acknowledge()
        case ShortAck(reported=None, refusal=refusal) if _is_wrong_host(facts):
            return Pause("queue", "not_an_index", refusal)
        case ShortAck(reported=reported):
            # a page comes sooner than an acknowledgement: others shall have time to land
            again = Retry(at_once=reported is not None)
            return again if facts.short_acks == 0 else _narrow(facts, Reason.SHORT_ACK)
        case TooLarge():
            return GiveUp(Reason.TOO_LARGE) if facts.size == 1 else Split(take_apart(facts.size, ()), searching=False)
        case Busy():
            return Retry() if facts.failures < max_attempts else _narrow(facts, Reason.MAX_ATTEMPTS)
        case RecordRefused():
            return _after_refusal(outcome, facts, max_attempts)
        case LaneRefused(refusal=refusal, scope=scope, reason=reason):
            suspects = [position for position, sparse in enumerate(facts.sparse) if sparse]
            if reason == "sparse_unsupported" and suspects and (facts.searching or len(suspects) < facts.size):
                return _narrow(facts, Reason.REFUSED, suspects)
            return _after_lane_refusal(Pause(scope, reason, refusal), facts, max_attempts)


def _after_lane_refusal(pause: Pause, facts: Facts, max_attempts: int, *, sure: bool = False) -> Consequence:
    """Pause the lane, unless only some of its batches are refused: then whatever these carry is at fault.

    A record may make the service, or what stands before it, say what concerns a lane: by a text that it carries and
    that comes back, or by one that a firewall forbids. Others that land meanwhile tell; `sure` where what was sent
    bears the refusal out, so that nothing else is tried first.
    """
    by_record = pause.refusal.status in _BAD_REQUEST
    may_be_some = not sure and (by_record or pause.refusal.status in _FOR_CONTENT)
    if facts.lane_lands or (by_record and facts.others_land):
        if by_record or (may_be_some and facts.size > 1) or facts.lane_refusals + 1 >= max_attempts:
            return _narrow(facts, Reason.REFUSED)
        return Retry()
    if facts.others_land:
        pause = Pause("namespace", pause.reason, pause.refusal)
    if facts.lane_refusals or (facts.refused and not facts.searching):
        return pause
    if facts.searching:
        return Retry()  # the other parts shall have time to land
    if may_be_some and facts.size > 1:
        return _narrow(facts, Reason.REFUSED)
    return Retry() if may_be_some or facts.landed_meanwhile else pause


def _is_wrong_host(facts: Facts) -> bool:
    """Whether a success without a count means that no index answers.

    A proxy may answer with a page of its own now and then, or whatever carries a certain record: then others land.
    Until something did, a batch is sent twice, and in halves; no record is given up.
    """
    return facts.unreadable or (facts.unread and facts.short_acks > 0 and (facts.part or facts.size == 1))


def _after_refusal(outcome: RecordRefused, facts: Facts, max_attempts: int) -> Consequence:
    suspects = list(outcome.suspects)
    if outcome.dimension is not None:
        suspects = [position for position, dim in enumerate(facts.dims) if dim == outcome.dimension[0]]
        if len(suspects) == facts.size and not facts.searching:
            return _after_lane_refusal(Pause("queue", "dimension", outcome.refusal), facts, max_attempts, sure=True)
    return _narrow(facts, Reason.REFUSED, suspects)


def _narrow(facts: Facts, reason: Reason, suspects: Sequence[int] = ()) -> Consequence:
    if facts.size == 1:
        return GiveUp(reason)
    return Split(take_apart(facts.size, suspects), searching=True)


def verdict(reason: Reason, outcome: Outcome, path: Sequence[int]) -> Verdict:
    """Why the one record of a batch is given up; `path` holds the sizes of the groups it was refused in."""
    refusal = _refusal(outcome)
    return Verdict(
        reason=reason,
        status=refusal.status,
        code=refusal.code or "",
        message=refusal.message,
        details=refusal.details,
        request_id=refusal.request_id or "",
        path=" ".join(map(str, (*path, 1))),
    )


def sparse_rows(records: Sequence[tuple[Entry, int]]) -> list[bool]:
    """Whether the record at each row of an entry has sparse values."""
    parsed = {id(entry): orjson.loads(entry.sparse) for entry, _ in records if entry.sparse}
    return [bool(entry.sparse) and parsed[id(entry)][row] is not None for entry, row in records]


def _refusal(outcome: Outcome) -> Refusal:
    match outcome:
        case RecordRefused(refusal=refusal) | TooLarge(refusal=refusal) | LaneRefused(refusal=refusal):
            return refusal
        case Busy(cause=Refusal() as refusal):
            return refusal
        case ShortAck(refusal=refusal):
            return replace(refusal, message=describe(outcome))
        case _:
            return Refusal(0, None, describe(outcome), "", None)


def counted_as(outcome: Outcome) -> str:
    """The word under which metrics count `outcome`."""
    match outcome:
        case Accepted():
            return "ok"
        case ShortAck():
            return "short_ack"
        case RecordRefused() | TooLarge() | LaneRefused():
            return "refused"
        case Busy(cause=TransportFailure()):
            return "transport"
        case Busy(rate=rate):
            return "throttled" if rate else "server_error"
