"""Judges one upsert request: from what was sent and what came back to an outcome, by pure rules.

Never sleeps, logs, sends or settles; it says what an answer means for the records, the lane and the pace, and the
caller acts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal

from upsertq_worker.answer import (
    Answer,
    Body,
    Refusal,
    Sent,
    TransportFailure,
    TransportKind,
    printable,
    read_body,
    refusal_of,
    request_id,
    request_lsn,
    retry_after,
    upserted_count,
)

BusyKind = Literal["rate", "server", "timeout", "connection"]
Scope = Literal["queue", "namespace"]
@dataclass(frozen=True, slots=True)
class Accepted:
    """A 2xx that counts every record sent. `lsn` is the namespace's log position, where named."""

    lsn: int | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class ShortAck:
    """A 2xx that does not count every record sent; `reported` is None where no count can be read."""

    reported: int | None
    why: str
    request_id: str | None


@dataclass(frozen=True, slots=True)
class RecordRefused:
    """A refusal that concerns records: at least one of those sent is not acceptable.

    Args:
        refusal: what the service said.
        suspects: positions in `Sent.ids` of the ids that the message quotes; empty if it names none.
        field: the metadata field that the message names, as it stands there, so that the caller can find its holder.
        dimension: (a vector's, the index's) where these differ. The caller knows the records: where all of them
            have that dimension, no record is at fault and the lane should pause, for reason `dimension`.
    """

    refusal: Refusal
    suspects: tuple[int, ...] = ()
    field: str | None = None
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
        kind: `rate` names a pace, `server`, `timeout` and `connection` a trouble.
        answer_lost: whether the request may have been applied, or may yet be.
        retry_after: seconds that the service asks to wait, at most 300.
        limit: the rate named, above 0, in `limit_unit` a second.
        limit_unit: what the limit counts; it may be known without a number.
    """

    cause: Refusal | TransportFailure
    kind: BusyKind
    answer_lost: bool
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
        kind: BusyKind = "timeout" if reply.kind is TransportKind.TIMEOUT else "connection"
        return Busy(reply, kind, reply.answer_lost)
    body = read_body(reply)
    refusal = refusal_of(reply, body)
    match reply.status:
        case status if 200 <= status < 300:
            return _judge_success(reply, body, refusal, sent)
        case 400 | 422:
            return _judge_request(body, refusal, sent)
        case 413:
            return TooLarge(refusal)
        case 429:
            return _judge_rate(reply, body, refusal, now)
        case 403:
            return _judge_forbidden(body, refusal)
        case 408 | 409 | 425:
            # each says that the request was not carried out
            kind = "timeout" if reply.status == HTTPStatus.REQUEST_TIMEOUT else "server"
            return Busy(refusal, kind, answer_lost=False, retry_after=retry_after(reply.headers, now))
        case status if 300 <= status < 500:
            return LaneRefused(refusal, "queue", _BY_STATUS.get(status, "unexpected"))
        case status:
            # any gateway on the way may answer for a service that is still at work: 502 and 504, Envoy's 503 too
            kind = "timeout" if status == HTTPStatus.GATEWAY_TIMEOUT else "server"
            return Busy(refusal, kind, answer_lost=True, retry_after=retry_after(reply.headers, now))


def _judge_success(reply: Answer, body: Body, refusal: Refusal, sent: Sent) -> Outcome:
    count, rid = upserted_count(reply, body), request_id(reply.headers)
    if count is not None and count == len(sent.ids):
        return Accepted(request_lsn(reply.headers), rid)
    if body.markup:
        return LaneRefused(refusal, "queue", "not_an_index")
    if count is not None:
        return ShortAck(count, f"the service counts {count} of {len(sent.ids)} records", rid)
    return ShortAck(None, f"no count of records in the answer: {refusal.message}", rid)


def _judge_request(body: Body, refusal: Refusal, sent: Sent) -> Outcome:
    """A 400 or 422: about the request's size, the whole index, or (known or not) records."""
    own_words = _QUOTED.sub("''", body.text)
    if _TOO_LARGE.search(own_words):
        return TooLarge(refusal)
    for sign, reason in _WHOLE_INDEX:
        if sign.search(own_words):
            return LaneRefused(refusal, "queue", reason)
    found = _DIMENSION.search(own_words)
    fields = _FIELD.findall(body.text)
    return RecordRefused(
        refusal,
        () if body.markup else _suspects(body.text, sent.ids),
        # the last, as an echoed value that mentions a field comes before it
        field=fields[-1][1] if fields else None,
        dimension=(int(found[1]), int(found[2])) if found else None,
    )


def _judge_forbidden(body: Body, refusal: Refusal) -> LaneRefused:
    text = body.text.lower()
    if "max namespaces" in text:
        # writes to the namespaces that exist already still succeed
        return LaneRefused(refusal, "namespace", "namespaces_full")
    if "max storage" in text or "storage limit" in text:
        return LaneRefused(refusal, "queue", "storage_full")
    return LaneRefused(refusal, "queue", "quota" if refusal.code == "QUOTA_EXCEEDED" else "forbidden")


def _judge_rate(reply: Answer, body: Body, refusal: Refusal, now: float) -> Busy | LaneRefused:
    """A 429: busy, unless it is about the month. A rate's text wins, as a namespace may be named `monthly`."""
    text = body.text
    if _MONTH_LIMIT.search(text) or (_MONTH.search(text) and not _RATE.search(text)):
        return LaneRefused(refusal, "queue", "quota")
    limit, unit = _named_limit(text)
    wait = retry_after(reply.headers, now)
    return Busy(refusal, "rate", answer_lost=False, retry_after=wait, limit=limit, limit_unit=unit)


def describe(outcome: Outcome) -> str:
    """`outcome` as one plain line, with what to do where an operator must act."""
    match outcome:
        case Accepted(lsn=lsn):
            return "accepted" if lsn is None else f"accepted at LSN {lsn}"
        case ShortAck(why=why):
            return f"short acknowledgement: {why}"
        case RecordRefused(refusal=refusal):
            return f"refused for a record: {_said(refusal)}"
        case TooLarge(refusal=refusal):
            return f"request too large: {_said(refusal)}"
        case Busy(cause=TransportFailure(kind=kind, message=message)):
            return f"no answer ({kind.value}): {printable(message)}"
        case Busy(cause=Refusal() as refusal, retry_after=wait):
            return f"busy: {_said(refusal)}" + ("" if wait is None else f" (asks to wait {wait:.1f} s)")
        case LaneRefused(refusal=refusal, scope=scope, reason=reason):
            return f"{scope} refused: {_said(refusal)}: {ADVICE[reason]}"


def _said(refusal: Refusal) -> str:
    try:
        phrase = HTTPStatus(refusal.status).phrase
    except ValueError:
        phrase = ""
    head = f"HTTP {refusal.status} {phrase}".rstrip()
    # many bodies only repeat the status
    return head if refusal.message in (phrase, "empty body") else f"{head}: {refusal.message}"
