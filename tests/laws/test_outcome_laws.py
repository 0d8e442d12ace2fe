"""Whatever comes back, the judge names an outcome, accepts only a full count and blames only ids that are named."""

from __future__ import annotations

import json
import math

from hypothesis import example, given
from hypothesis import strategies as st

from upsertq_worker.delivery.outcome import (
    Accepted,
    Busy,
    LaneRefused,
    RecordRefused,
    ShortAck,
    TooLarge,
    describe,
    judge,
)
from upsertq_worker.delivery.response import (
    DETAILS_MAX,
    MESSAGE_MAX,
    Answer,
    Refusal,
    Sent,
    TransportFailure,
    TransportKind,
)
from upsertq_worker.flow.backoff import RETRY_AFTER_MAX

OUTCOMES = (Accepted, ShortAck, RecordRefused, TooLarge, Busy, LaneRefused)
ASCII = st.characters(min_codepoint=1, max_codepoint=127)
# few letters and many quotes, so that ids are parts of one another and of what is quoted
IDS = st.text(st.sampled_from("ab'\"` -"), min_size=1, max_size=5) | st.text(ASCII, min_size=1, max_size=20)
SENT = st.builds(Sent, st.lists(IDS, max_size=8, unique=True).map(tuple), st.text(ASCII, max_size=5))
WORDS = st.sampled_from(
    [
        "field", "got", "Vector ID", "dimension", "does not match", "too large", "month", "(100 QPS)", "namespace",
        "50 MB per second", "'", '"', "9" * 5000, "request size", "index", "<", "<script", "<title>", "{",
        '"message":"',
    ]
)  # fmt: skip
PROSE = st.lists(WORDS | st.text(max_size=8), max_size=12).map(" ".join)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | PROSE,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["code", "message", "error", "details", "detail", "title", "upsertedCount", "x"]), inner
        )
    ),
    max_leaves=8,
)
BODIES = (
    st.binary(max_size=200)
    | PROSE.map(lambda text: text.encode("utf-8", "replace"))
    | JSONS.map(lambda value: json.dumps(value).encode())
    | st.tuples(JSONS, st.integers(0, 60)).map(lambda cut: json.dumps(cut[0]).encode()[: cut[1]])
)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["content-type", "retry-after", "location", "x-pinecone-request-id", "x-pinecone-request-lsn", "x-request-id"]
    ),
    st.text(max_size=30)
    | st.sampled_from(
        ["text/html", "application/json", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 99999 07:28 -9999"]
    ),
)
STATUSES = (
    st.sampled_from([200, 201, 204, 301, 400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 503, 504])
    | st.integers(100, 599)
    | st.integers()
)
ANSWERS = st.builds(Answer, STATUSES, HEADERS, BODIES, st.booleans())
NOWS = st.floats(0, 4e9)


@given(reply=ANSWERS, sent=SENT, now=NOWS)
@example(reply=Answer(200, {}, b"[" * 65_536), sent=Sent(("a",), ""), now=0.0)
@example(reply=Answer(400, {}, b'{"code":' + b"9" * 4_000 + b"}"), sent=Sent(("a",), ""), now=0.0)
@example(reply=Answer(400, {}, b'{"a":' * 900 + b"1" + b"}" * 900), sent=Sent(("a",), ""), now=0.0)
@example(reply=Answer(400, {}, b'{"details":' + b"[" * 900 + b"]" * 900 + b"}"), sent=Sent(("a",), ""), now=0.0)
def test_every_answer_has_one_outcome_that_can_be_stored_and_shown(reply: Answer, sent: Sent, now: float) -> None:
    """No status, header or body raises; what is kept is bounded, printable and encodes."""
    outcome = judge(reply, sent, now)
    assert isinstance(outcome, OUTCOMES)
    line = describe(outcome)
    assert line.isprintable()
    line.encode()
    refusal = getattr(outcome, "refusal", None) or getattr(outcome, "cause", None)
    if isinstance(refusal, Refusal):
        assert 0 < len(refusal.message) <= MESSAGE_MAX
        assert len(refusal.details) <= DETAILS_MAX
        for text in (refusal.message, refusal.details, refusal.code or "", refusal.request_id or ""):
            assert text.isprintable()
            text.encode()


@given(reply=ANSWERS, sent=SENT, now=NOWS)
def test_the_judge_is_a_function(reply: Answer, sent: Sent, now: float) -> None:
    """The same answer has the same outcome."""
    assert judge(reply, sent, now) == judge(reply, sent, now)


@given(
    status=STATUSES,
    sent=SENT,
    count=st.integers(-1, 9) | st.floats(-1, 9) | st.booleans() | st.text("0123456789", max_size=2) | st.none(),
    truncated=st.booleans(),
)
def test_only_a_full_count_in_a_2xx_is_accepted(
    status: int,
    sent: Sent,
    count: object,
    truncated: bool,  # noqa: FBT001
) -> None:
    """And a full count in a 2xx always is."""
    reply = Answer(status, {}, json.dumps({"upsertedCount": count}).encode(), truncated)
    numeric = isinstance(count, int | float) and not isinstance(count, bool)
    spelled = isinstance(count, str) and bool(count)
    full = (numeric and count == len(sent.ids)) or (spelled and int(str(count)) == len(sent.ids))
    accepted = isinstance(judge(reply, sent, 0.0), Accepted)
    assert accepted == (200 <= status < 300 and full and not truncated)


@given(reply=ANSWERS, sent=SENT, now=NOWS)
def test_an_accepted_body_really_counts_all(reply: Answer, sent: Sent, now: float) -> None:
    """Whatever the body is, an acknowledgement rests on its count."""
    if isinstance(judge(reply, sent, now), Accepted):
        assert 200 <= reply.status < 300
        value = json.loads(reply.body)
        assert int(value.get("upsertedCount", 0)) == len(sent.ids)


@given(text=PROSE | st.text(st.sampled_from("ab'\"` -"), max_size=30), sent=SENT, status=st.sampled_from([400, 422]))
def test_suspects_are_quoted_in_the_message(text: str, sent: Sent, status: int) -> None:
    """No record is named because its id is part of another word or id."""
    outcome = judge(Answer(status, {}, json.dumps({"code": 3, "message": text}).encode()), sent, 0.0)
    if isinstance(outcome, RecordRefused):
        assert list(outcome.suspects) == sorted(set(outcome.suspects))
        for position in outcome.suspects:
            assert any(f"{quote}{sent.ids[position]}{quote}" in text for quote in "'\"`")


@given(sent=SENT.filter(lambda sent: sent.ids), data=st.data(), quote=st.sampled_from("'\"`"))
def test_an_id_that_is_named_is_the_only_suspect(sent: Sent, data: st.DataObject, quote: str) -> None:
    """A name in the service's sentence points at its record and no other."""
    position = data.draw(st.integers(0, len(sent.ids) - 1))
    message = f"Dense vectors must not be zero. Vector ID {quote}{sent.ids[position]}{quote} contains only zeros"
    outcome = judge(Answer(400, {}, json.dumps({"code": 3, "message": message}).encode()), sent, 0.0)
    assert isinstance(outcome, RecordRefused)
    assert outcome.suspects == (position,)


@given(kind=st.sampled_from(TransportKind), message=st.text(), sent=SENT)
def test_a_lost_answer_blames_nobody(kind: TransportKind, message: str, sent: Sent) -> None:
    """Without an answer the only outcome is to try again."""
    outcome = judge(TransportFailure(kind, message), sent, 0.0)
    assert isinstance(outcome, Busy)
    assert outcome.answer_lost == (kind is not TransportKind.CONNECT)
    assert describe(outcome).isprintable()


@given(reply=ANSWERS, sent=SENT, now=NOWS)
def test_a_wait_asked_for_is_bounded_and_a_limit_is_positive(reply: Answer, sent: Sent, now: float) -> None:
    """Nothing that a server says stops a worker for good or makes it divide by zero."""
    outcome = judge(reply, sent, now)
    if isinstance(outcome, Busy):
        assert outcome.retry_after is None or 0 <= outcome.retry_after <= RETRY_AFTER_MAX
        assert outcome.limit is None or 0 < outcome.limit < math.inf
        assert outcome.limit is None or outcome.limit_unit is not None


@given(seconds=st.integers(0, 10**9), status=st.sampled_from([408, 429, 500, 503]))
def test_a_wait_in_seconds_is_never_undercut(seconds: int, status: int) -> None:
    """Up to the bound the judge reports what was asked."""
    outcome = judge(Answer(status, {"retry-after": str(seconds)}, b""), Sent((), ""), 0.0)
    assert isinstance(outcome, Busy)
    assert outcome.retry_after == min(seconds, RETRY_AFTER_MAX)
