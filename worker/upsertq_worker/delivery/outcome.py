"""Judges one upsert request: from what was sent and what came back to an outcome, by pure rules.

Never sleeps, logs, sends or settles; it says what an answer means for the records, the lane and the pace, and the
caller acts.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Literal

from upsertq_worker.delivery.messages import (
    ADVICE,
    forbidden_reason,
    is_monthly,
    is_too_large,
    mismatched_dimensions,
    named_limit,
    spoken_by_service,
    suspects,
    whole_index,
)
from upsertq_worker.delivery.response import (
    TransportFailure,
    printable,
    read_body,
    refusal_of,
    request_lsn,
    retry_after,
    upserted_count,
)

if TYPE_CHECKING:
    from upsertq_worker.delivery.messages import LimitUnit, Reason
    from upsertq_worker.delivery.response import Answer, Body, Refusal, Sent

Scope = Literal["queue", "namespace"]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A 2xx that counts every record sent. `lsn` is the namespace's log position, where named."""

    lsn: int | None


@dataclass(frozen=True, slots=True)
class ShortAck:
    """A 2xx that does not count every record sent.

    Args:
        reported: the count, `None` where none can be read.
        why: a line about it.
        refusal: what was said in its place.
    """

    reported: int | None
    why: str
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class RecordRefused:
    """A refusal that concerns records: at least one of those sent is not acceptable.

    Args:
        refusal: what the service said.
        suspects: positions in `Sent.ids` of the ids that the message quotes; empty if it names none.
        dimension: (a vector's, the index's) where these differ. The caller knows the records: where all of them
            have that dimension, no record is at fault and the lane should pause, for reason `dimension`.
    """

    refusal: Refusal
    suspects: tuple[int, ...] = ()
    dimension: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The request as a whole is too large: it should be split."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Busy:
    """Not now: the same request may succeed later.

    Args:
        cause: what the service said, or why there is no answer.
        answer_lost: whether the request may have been applied, or may yet be.
        rate: whether a pace is asked for; else it is a trouble.
        retry_after: seconds that the service asks to wait, at most 300.
        limit: the rate named, above 0, in `limit_unit` a second.
        limit_unit: what the limit counts; it may be known without a number.
    """

    cause: Refusal | TransportFailure
    answer_lost: bool
    rate: bool = False
    retry_after: float | None = None
    limit: float | None = None
    limit_unit: LimitUnit | None = None


@dataclass(frozen=True, slots=True)
class LaneRefused:
    """A refusal that no record caused: the queue, or this namespace of it, waits until an operator has acted."""

    refusal: Refusal
    scope: Scope
    reason: Reason


Outcome = Accepted | ShortAck | RecordRefused | TooLarge | Busy | LaneRefused

_OK: Final = HTTPStatus.OK
_NOT_YET: Final = frozenset({408, 409, 425, 429})
"""The 4xx that ask to come again, and that say the request was not carried out."""
_BY_STATUS: Final[dict[int, Reason]] = {
    401: "unauthorized",
    402: "payment",
    403: "forbidden",
    404: "not_found",
    410: "not_found",
}


def judge(reply: Answer | TransportFailure, sent: Sent, now: float) -> Outcome:
    """What `reply` means for what was `sent`; `now` is epoch seconds, for `Retry-After` dates. Never raises."""
    if isinstance(reply, TransportFailure):
        return Busy(reply, reply.answer_lost)
    if _OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES:
        return _judge_success(reply, sent)
    body = read_body(reply)
    refusal = refusal_of(reply, body)
    match reply.status:
        case 400 | 422:
            return _judge_request(body, refusal, sent)
        case 413:
            return TooLarge(refusal)
        case status if _OK <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _NOT_YET:
            return _judge_refusal(body, refusal, sent)
        case _:
            return _judge_wait(reply, body, refusal, sent, now)


def _judge_success(reply: Answer, sent: Sent) -> Outcome:
    if reply.body == b'{"upsertedCount":%d}' % len(sent.ids) and not reply.truncated:
        return Accepted(request_lsn(reply.headers))  # as nearly always
    body = read_body(reply)
    count = upserted_count(reply, body)
    if count == len(sent.ids):
        return Accepted(request_lsn(reply.headers))
    refusal = refusal_of(reply, body)
    if count is not None:
        return ShortAck(count, f"the service counts {count} of {len(sent.ids)} records", refusal)
    return ShortAck(None, f"no count of records in the answer: {refusal.message}", refusal)


def _judge_request(body: Body, refusal: Refusal, sent: Sent) -> Outcome:
    """A 400 or 422: about the request's size, the whole index, or (known or not) records."""
    words = spoken_by_service(body.text, sent)
    if is_too_large(words):
        return TooLarge(refusal)
    if reason := whole_index(words):
        return LaneRefused(refusal, "queue", reason)
    named = () if body.markup else suspects(body.text, sent.ids)
    return RecordRefused(refusal, named, mismatched_dimensions(words))


def _judge_refusal(body: Body, refusal: Refusal, sent: Sent) -> Outcome:
    """A 3xx or a 4xx that no record can cause."""
    if refusal.status < HTTPStatus.BAD_REQUEST:
        return LaneRefused(refusal, "queue", "not_an_index")
    reason = _BY_STATUS.get(refusal.status, "unexpected")
    if reason == "forbidden":
        reason = forbidden_reason(spoken_by_service(body.text, sent)) or (
            "quota" if refusal.code == "QUOTA_EXCEEDED" else reason
        )
    # writes to the namespaces that exist already still succeed
    return LaneRefused(refusal, "namespace" if reason == "namespaces_full" else "queue", reason)


def _judge_wait(reply: Answer, body: Body, refusal: Refusal, sent: Sent, now: float) -> Busy | LaneRefused:
    """A rate, a timeout, or trouble on the way or in the service."""
    status, wait = reply.status, retry_after(reply.headers, now)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        words = spoken_by_service(body.text, sent)
        if is_monthly(words):
            return LaneRefused(refusal, "queue", "quota")
        limit, unit = named_limit(words)
        return Busy(refusal, answer_lost=False, rate=True, retry_after=wait, limit=limit, limit_unit=unit)
    # 408, 409 and 425 say that the request was not carried out; anything else may come from a gateway that gave up on
    # a service still at work (502 and 504; Envoy's 503 too, for a connection that broke after sending)
    return Busy(refusal, answer_lost=status not in _NOT_YET, retry_after=wait)


def concerns_lane(outcome: Outcome) -> bool:
    """Whether the lane, or all records that were sent together, may be what is refused."""
    return isinstance(outcome, LaneRefused) or (isinstance(outcome, RecordRefused) and outcome.dimension is not None)


def describe(outcome: Outcome) -> str:
    """`outcome` as one plain line, with what to do where an operator must act."""
    match outcome:
        case Accepted():
            return "accepted"
        case ShortAck(why=why):
            return f"short acknowledgement: {why}"
        case RecordRefused(refusal=refusal):
            return f"refused for a record: {_said(refusal)}"
        case TooLarge(refusal=refusal):
            return f"request too large: {_said(refusal)}"
        case Busy():
            return _describe_busy(outcome)
        case LaneRefused(refusal=refusal, scope=scope, reason=reason):
            return f"{scope} refused: {_said(refusal)}: {ADVICE[reason]}"


def _describe_busy(outcome: Busy) -> str:
    cause = outcome.cause
    if isinstance(cause, TransportFailure):
        return f"no answer ({cause.kind.value}): {printable(cause.message)}"
    wait = "" if outcome.retry_after is None else f" (asks to wait {outcome.retry_after:.1f} s)"
    return f"busy: {_said(cause)}{wait}"


def _said(refusal: Refusal) -> str:
    try:
        phrase = HTTPStatus(refusal.status).phrase
    except ValueError:
        phrase = ""
    head = f"HTTP {refusal.status} {phrase}".rstrip()
    # many bodies only repeat the status
    return head if refusal.message in (phrase, "empty body") else f"{head}: {refusal.message}"
