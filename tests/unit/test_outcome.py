"""Each answer known from the service, or from what stands before it, has exactly one meaning."""

from __future__ import annotations

import json
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest

from upsertq_worker.delivery.messages import ADVICE
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
from upsertq_worker.delivery.response import BODY_MAX, Answer, Refusal, Sent, TransportFailure, TransportKind

if TYPE_CHECKING:
    from upsertq_worker.delivery.outcome import Outcome

NOW = 1_800_000_000.0
SENT = Sent(("a", "f81d", "f81d-2", "it's", "x y", "field"), "ns")
COUNT = len(SENT.ids)
JSON = {"content-type": "application/json"}
HTML = {"content-type": "text/html; charset=utf-8"}


def answer(status: int, body: Any = b"", headers: dict[str, str] | None = None, *, truncated: bool = False) -> Answer:
    """An answer whose body is given as bytes, or as a value to be made JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, JSON if headers is None else headers, raw, truncated)


def rpc(message: str, code: int = 3) -> dict[str, Any]:
    """A data-plane error."""
    return {"code": code, "message": message, "details": []}


def judged(status: int, body: Any = b"", headers: dict[str, str] | None = None) -> Outcome:
    """The outcome of an answer to SENT."""
    return judge(answer(status, body, headers), SENT, NOW)


def refusal(status: int, message: str, code: str | None = None) -> Refusal:
    """A refusal without details or request id."""
    return Refusal(status, code, message, "", None)


def bad(message: str) -> Refusal:
    """What a data-plane 400 with this message becomes."""
    return refusal(400, message, "INVALID_ARGUMENT")


# --- 2xx


@pytest.mark.parametrize("count", [COUNT, float(COUNT), str(COUNT)])
@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize("headers", [JSON, HTML, {}, {"content-type": "text/plain"}])
def test_a_full_count_is_accepted_in_each_json_form_of_an_integer(
    count: object, status: int, headers: dict[str, str]
) -> None:
    """The count decides, not the content type."""
    assert judged(status, {"upsertedCount": count}, headers) == Accepted(None)


def test_an_acceptance_carries_the_lsn() -> None:
    """It comes from the headers."""
    assert judged(200, {"upsertedCount": COUNT}, {"x-pinecone-request-lsn": "412"}) == Accepted(412)


@pytest.mark.parametrize("lsn", ["", "-1", "1.5", "x", "9" * 40, "٣"])
def test_an_unreadable_lsn_is_unknown(lsn: str) -> None:
    """A write counts even where its LSN cannot be read."""
    assert judged(200, {"upsertedCount": COUNT}, {"x-pinecone-request-lsn": lsn}) == Accepted(None)


@pytest.mark.parametrize("count", [0, 5, 7, -1, 10**30])
def test_another_count_is_a_short_ack(count: int) -> None:
    """Fewer and more are alike: the books cannot agree."""
    said = refusal(200, json.dumps({"upsertedCount": count}))
    assert judged(200, {"upsertedCount": count}) == ShortAck(count, f"the service counts {count} of 6 records", said)


def test_an_empty_object_counts_zero() -> None:
    """A proto3 server leaves out a zero."""
    assert judged(200, {}) == ShortAck(0, "the service counts 0 of 6 records", refusal(200, "{}"))
    assert judge(answer(200, {}), Sent((), ""), NOW) == Accepted(None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"OK",
        b'{"upsertedCount": 6',
        b"[6]",
        b"6",
        b"null",
        b"\xff\xfe\x00",
        b"[" * 60_000,
        b"1" * 5_000,
        b'{"upsertedCount": 1e999}',
        b'{"upsertedCount": NaN}',
        {"count": COUNT},
        {"upsertedCount": True},
        {"upsertedCount": None},
        {"upsertedCount": [6]},
        {"upsertedCount": 6.5},
        {"upsertedCount": "6.0"},
        {"upsertedCount": " 6"},
        {"upsertedCount": "٦"},
        "Unauthorized",
    ],
)
def test_a_success_without_a_readable_count_is_a_short_ack(body: object) -> None:
    """Nothing is acknowledged on a status alone."""
    outcome = judged(200, body)
    assert isinstance(outcome, ShortAck)
    assert outcome.reported is None


def test_true_is_not_a_count_of_one() -> None:
    """A boolean is no integer, although Python has it so."""
    assert isinstance(judge(answer(200, {"upsertedCount": True}), Sent(("a",), ""), NOW), ShortAck)


def test_a_body_that_was_cut_has_no_count() -> None:
    """What was cut off could have said otherwise."""
    outcome = judge(answer(200, {"upsertedCount": COUNT}, truncated=True), SENT, NOW)
    assert isinstance(outcome, ShortAck)


@pytest.mark.parametrize("headers", [HTML, {}])
def test_a_success_in_html_counts_nothing(headers: dict[str, str]) -> None:
    """A captive portal or a web site says 200 to anything; whether it is one, a single page does not tell."""
    outcome = judged(200, b"<!DOCTYPE html><html><title>Welcome &amp; hello</title>", headers)
    why = "no count of records in the answer: Welcome & hello"
    assert outcome == ShortAck(None, why, refusal(200, "Welcome & hello"))


# --- 400, 422


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(
    ("message", "suspects", "dimension"),
    [
        ("Vector dimension 3072 does not match the dimension of the index 1024", (), (3072, 1024)),
        (
            "Dense vectors must contain at least one non-zero value. Vector ID 'f81d' contains only zeros",
            (1,),
            None,
        ),
        ('Vector ID "f81d-2" contains only zeros', (2,), None),
        ("Vector ID 'f81d-3' contains only zeros", (), None),
        ("Vector ID f81d contains only zeros", (), None),
        ("Vector ID 'it's' contains only zeros", (3,), None),
        ("Vector ID 'x y' and 'f81d' contain only zeros", (1, 4), None),
        (
            (
                "Metadata value must be a string, number, boolean or list of strings, got '[1758694138.0,0....' "
                "for field 'modifiedAt'"
            ),
            (),
            None,
        ),
        ("Metadata value must be a string, got 'a' for field 'x y'", (), None),
        ("Metadata value must be a string, got 'for field 'a'' for field 'it's'", (), None),
        ("Metadata size is 42177 bytes, which exceeds the limit of 40960 bytes per vector", (), None),
        ("ID must be ASCII, but got 'x y'", (4,), None),
        ("Vector ID must not contain null character", (), None),
        ("Sparse vector must contain at least one value", (), None),
        ("something never seen before", (), None),
    ],
)
def test_a_bad_request_is_about_records(
    status: int, message: str, suspects: tuple[int, ...], dimension: tuple[int, int] | None
) -> None:
    """The message names ids or dimensions, or nothing."""
    expected = refusal(status, message, "INVALID_ARGUMENT")
    assert judged(status, rpc(message)) == RecordRefused(expected, suspects, dimension)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("Request size 3MB exceeds the maximum supported size of 2MB", 3),
        ("message length too large: found 13762620 bytes, the limit is: 4194304 bytes", 11),
        ("Request Entity Too Large", 3),
        ("grpc: received message larger than max (5000000 vs. 4194304)", 8),
    ],
)
def test_a_bad_request_about_size_is_to_be_split(message: str, code: int) -> None:
    """Size is said in a 400 more often than by a 413."""
    outcome = judged(400, rpc(message, code))
    assert isinstance(outcome, TooLarge)
    assert outcome.refusal.message == message


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("This index has a document schema, so writes must go through the documents API. See …", "document_schema"),
        (
            (
                "Index configuration does not support sparse values - only indexes that are sparse or using "
                "dotproduct are supported"
            ),
            "sparse_unsupported",
        ),
        ("Use of namespace='__default__' is not allowed in API versions prior to 2025-04", "unsupported"),
    ],
)
def test_a_bad_request_about_the_index_pauses_the_queue(message: str, reason: Any) -> None:
    """No record is at fault where the index takes none of the kind."""
    assert judged(400, rpc(message)) == LaneRefused(bad(message), "queue", reason)


def test_plain_http_on_a_tls_port_pauses_the_queue() -> None:
    """A wrong scheme is an operator's mistake."""
    page = b"<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>"
    outcome = judged(400, page, HTML)
    assert outcome == LaneRefused(
        refusal(400, "400 The plain HTTP request was sent to HTTPS port"), "queue", "not_an_index"
    )


@pytest.mark.parametrize(
    "echo", ["message length too large", "This index has a document schema", "index does not support sparse"]
)
def test_a_record_cannot_forge_a_sentence_of_the_service(echo: str) -> None:
    """What the message quotes is the record's text, and only that record's trouble."""
    outcome = judged(400, rpc(f"Metadata value must be a string, got '{echo}' for field 'a'"))
    assert isinstance(outcome, RecordRefused)


def test_a_broken_body_names_no_id_by_the_quotes_of_its_wrapping() -> None:
    """In JSON cut short every key is quoted; only the message within counts."""
    sent = Sent(("message", "code", 'f"1'), "")
    body = b'{"code":3,"message":"Vector ID \'f\\"1\' contains only zeros","details":[{"typeUrl'
    outcome = judge(answer(400, body), sent, NOW)
    assert outcome == RecordRefused(refusal(400, "Vector ID 'f\"1' contains only zeros"), (2,))


@pytest.mark.parametrize(
    ("ids", "named", "suspects"),
    [
        (("a", "a' or 'b", "b"), "'a' or 'b'", (1,)),
        (("a", "b"), "'a' or 'b'", (0, 1)),
        (("it", "it's"), "'it's'", (1,)),
        (("it",), "'it's'", ()),
        (("s",), "it's's'", ()),
        (("doc-1", "doc-10"), "'doc-10'", (1,)),
        (("a", "A"), "`A`", (1,)),
    ],
)
def test_an_id_is_named_only_as_a_whole(ids: tuple[str, ...], named: str, suspects: tuple[int, ...]) -> None:
    """The longest quoted id is meant, and an apostrophe is no quote."""
    outcome = judge(answer(400, rpc(f"Vector ID {named} contains only zeros")), Sent(ids, ""), NOW)
    assert isinstance(outcome, RecordRefused)
    assert outcome.suspects == suspects


def test_a_name_of_another_thing_is_not_a_record() -> None:
    """A field, a namespace or an echoed value may be spelled like an id."""
    for text in ("field 'f81d'", "namespace 'f81d'", "index: 'f81d'", "Metadata value, got 'f81d'"):
        outcome = judged(400, rpc(text))
        assert isinstance(outcome, RecordRefused)
        assert outcome.suspects == (), text


# --- the lane


@pytest.mark.parametrize("body", ["Unauthorized", b"Unauthorized", b"Invalid API Key", rpc("Invalid API Key", 16), b""])
def test_an_unauthorized_key_pauses_the_queue(body: object) -> None:
    """In every shape that the refusal takes."""
    outcome = judged(401, body)
    assert isinstance(outcome, LaneRefused)
    assert (outcome.scope, outcome.reason) == ("queue", "unauthorized")
    assert describe(outcome).endswith("check PINECONE_API_KEY")


@pytest.mark.parametrize(
    ("status", "body", "scope", "reason"),
    [
        (402, {"error": {"code": "PAYMENT_REQUIRED", "message": "Pay"}, "status": 402}, "queue", "payment"),
        (403, rpc("Forbidden", 7), "queue", "forbidden"),
        (403, b"<html><title>403 Forbidden</title></html>", "queue", "forbidden"),
        (
            403,
            rpc("Request failed. You've reached the max storage allowed for project p (2 GB).", 8),
            "queue",
            "storage_full",
        ),
        (
            403,
            rpc("Request failed. You've reached the max namespaces allowed in serverless index i (100).", 8),
            "namespace",
            "namespaces_full",
        ),
        (403, {"error": {"code": "QUOTA_EXCEEDED", "message": "No."}, "status": 403}, "queue", "quota"),
        (404, b"", "queue", "not_found"),
        (404, rpc("Index not found", 5), "queue", "not_found"),
        (404, b"<html><body>nginx</body></html>", "queue", "not_found"),
        (410, b"", "queue", "not_found"),
        (429, rpc("You've reached your write unit limit for the current month (2000000).", 8), "queue", "quota"),
        (429, b"monthly quota exceeded", "queue", "quota"),
        (301, b"", "queue", "not_an_index"),
        (302, b"<html>moved</html>", "queue", "not_an_index"),
        (405, b"", "queue", "unexpected"),
        (406, b"", "queue", "unexpected"),
        (415, b"", "queue", "unexpected"),
        (418, b"", "queue", "unexpected"),
        (426, b"", "queue", "unexpected"),
        (451, b"", "queue", "unexpected"),
        (499, b"", "queue", "unexpected"),
    ],
)
def test_a_refusal_that_no_record_causes_pauses_a_lane(status: int, body: object, scope: str, reason: str) -> None:
    """An operator's mistake or a plan's limit is never blamed on records."""
    outcome = judged(status, body)
    assert isinstance(outcome, LaneRefused)
    assert (outcome.scope, outcome.reason) == (scope, reason)


def test_a_redirect_says_where_to_without_its_query() -> None:
    """A login page's query may carry a token."""
    outcome = judged(302, b"", {"location": "https://login.example/x?token=s3cret#frag"})
    assert isinstance(outcome, LaneRefused)
    assert outcome.refusal.message == "redirects to https://login.example/x"


# --- busy, too large


@pytest.mark.parametrize(
    ("message", "limit", "unit"),
    [
        ("You've reached the upsert QPS limit for namespace ns (100 QPS). Pace your upsert requests", 100, "requests"),
        ("You've reached the upsert QPS limit for namespace 7 QPS (100 QPS).", 100, "requests"),
        ("You've reached the upsert QPS limit for namespace monthly (100 QPS).", 100, "requests"),
        ("limit is 1,000 requests per second", 1000, "requests"),
        ("limit is 12.5 requests/s", 12.5, "requests"),
        ("You've reached the max upsert size limit per second for index i. Pace your upserts", None, "bytes"),
        ("You've reached the upsert size limit for namespace ns (50 MB per second).", 50_000_000, "bytes"),
        ("at most 8 MiB/s", 8 * 2**20, "bytes"),
        ("You've reached the upsert QPS limit for namespace ns (0 QPS).", None, "requests"),
        ("Too Many Requests", None, None),
        ("never seen before", None, None),
        ("", None, None),
    ],
)
def test_a_rate_is_busy_and_names_its_limit(message: str, limit: float | None, unit: str | None) -> None:
    """A 429 sets the pace, unknown texts included."""
    outcome = judged(429, rpc(message, 8))
    assert isinstance(outcome, Busy)
    assert (outcome.rate, outcome.answer_lost) == (True, False)
    assert (outcome.limit, outcome.limit_unit) == (limit, unit)


@pytest.mark.parametrize(
    "body", [b"", b"upstream connect error", b"<html><title>Bad Gateway</title></html>", rpc("x", 14)]
)
@pytest.mark.parametrize(
    ("status", "lost"),
    [
        *((status, False) for status in (408, 409, 425)),
        *((status, True) for status in (500, 501, 502, 503, 504, 520, 599, 100, 0, 999)),
    ],
)
def test_trouble_is_busy_whatever_the_body(status: int, lost: bool, body: object) -> None:  # noqa: FBT001
    """Only a status that says so proves that nothing was carried out."""
    outcome = judged(status, body)
    assert isinstance(outcome, Busy)
    assert (outcome.rate, outcome.answer_lost) == (False, lost)


@pytest.mark.parametrize("kind", TransportKind)
def test_no_answer_is_busy(kind: TransportKind) -> None:
    """Only a request that was never sent is known not to be applied."""
    failure = TransportFailure(kind, "name\nresolution")
    outcome = judge(failure, SENT, NOW)
    assert outcome == Busy(failure, answer_lost=kind is not TransportKind.CONNECT)
    assert describe(outcome) == f"no answer ({kind.value}): name resolution"


@pytest.mark.parametrize(
    "body", [b"", b"Payload Too Large", b"<html><title>413 Request Entity Too Large</title></html>"]
)
def test_a_413_is_to_be_split(body: bytes) -> None:
    """It comes from a proxy, often with no body."""
    assert isinstance(judged(413, body, {}), TooLarge)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 1.5 ", 1.5),
        ("86400", 300.0),
        ("9" * 400, 300.0),
        (formatdate(NOW + 20, usegmt=True), 20.0),
        (formatdate(NOW - 20, usegmt=True), 0.0),
        (formatdate(NOW + 1e6, usegmt=True), 300.0),
        (formatdate(NOW + 20, usegmt=True).removesuffix(" GMT"), 20.0),
        ("-5", None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e3", None),
        ("٣", None),
        ("Mon, 99 Foo 99999 99:99:99 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 300.0),
    ],
)
@pytest.mark.parametrize("status", [429, 503, 408])
def test_retry_after_is_read_in_both_forms_and_bounded(header: str, seconds: float | None, status: int) -> None:
    """Seconds or an HTTP date; what is meaningless is ignored."""
    outcome = judged(status, b"", {"retry-after": header})
    assert isinstance(outcome, Busy)
    assert outcome.retry_after == seconds


# --- what is kept of an answer


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (rpc("no", 3), "INVALID_ARGUMENT", "no"),
        ({"code": 99, "message": "no"}, "99", "no"),
        ({"code": "ODD", "message": "no"}, "ODD", "no"),
        ({"code": True, "message": "no"}, None, "no"),
        ({"code": [], "message": 7}, None, '{"code": [], "message": 7}'),
        ({"code": -(10**400), "message": "no"}, "-1" + "0" * 61 + "…", "no"),
        ({"error": {"code": "QUOTA_EXCEEDED", "message": "full"}, "status": 403}, "QUOTA_EXCEEDED", "full"),
        ({"error": "plain"}, None, "plain"),
        ({"title": "T", "detail": "D"}, None, "D"),
        ([{"code": 5, "message": "listed"}], "NOT_FOUND", "listed"),
        ("Unauthorized", None, "Unauthorized"),
        (b"plain\r\n\x00\x1b[31m text", None, "plain [31m text"),
        (b'"\\ud800 lone"', None, "lone"),
        (b'\xef\xbb\xbf{"message":"bom"}', None, "bom"),
        (b'{"message":"cut sho', None, "cut sho"),
        (b'{"mess', None, '{"mess'),
        (b"caf\xe9", None, "caf�"),
        (b"<html><title>502 Bad Gateway</title><script>var x</script><h1>hi</h1>", None, "502 Bad Gateway"),
        (b"<html><style>p{}</style><h1>Oh</h1><p>no &lt;3</p></html>", None, "Oh no <3"),
        (b"<?xml version='1.0'?><Error><Code>Denied</Code></Error>", None, "Denied"),
        (b"", None, "empty body"),
        (b" \n ", None, "empty body"),
        (b"<html></html>", None, "empty body"),
        (b"{}", None, "{}"),
        (b"z" * BODY_MAX, None, "z" * 499 + "…"),
    ],
)
def test_a_refusal_keeps_the_words_of_any_body(body: object, code: str | None, message: str) -> None:
    """One printable, bounded line, whatever the shape."""
    outcome = judged(404, body, {})
    assert isinstance(outcome, LaneRefused)
    assert (outcome.refusal.code, outcome.refusal.message) == (code, message)


def test_a_refusal_keeps_details_and_request_id() -> None:
    """Support asks for them; both are bounded."""
    body = rpc("no") | {"details": [{"typeUrl": "t", "value": "x" * 5000}]}
    outcome = judged(400, body, {"x-pinecone-request-id": "r1"})
    assert isinstance(outcome, RecordRefused)
    assert outcome.refusal.request_id == "r1"
    assert outcome.refusal.details.startswith('[{"typeUrl":"t","value":"xxx')
    assert len(outcome.refusal.details) == 1000


def test_an_id_beyond_the_shown_part_of_a_message_is_still_found() -> None:
    """An id has up to 512 characters, a stored message 500."""
    long = "k" * 512
    outcome = judge(answer(400, rpc(f"Vector ID '{long}' contains only zeros")), Sent(("a", long), ""), NOW)
    assert isinstance(outcome, RecordRefused)
    assert outcome.suspects == (1,)


def test_an_answer_shows_neither_headers_nor_body() -> None:
    """A log line of an answer must not leak what it carries."""
    assert repr(answer(200, b"secret", {"set-cookie": "secret"})) == "Answer(status=200, truncated=False)"


# --- describe


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (Accepted(None), "accepted"),
        (
            ShortAck(5, "the service counts 5 of 6 records", refusal(200, "5")),
            "short acknowledgement: the service counts 5 of 6 records",
        ),
        (RecordRefused(bad("no zeros")), "refused for a record: HTTP 400 Bad Request: no zeros"),
        (TooLarge(refusal(499, "empty body")), "request too large: HTTP 499"),
        (
            Busy(refusal(503, "overloaded"), answer_lost=True, retry_after=2.0),
            "busy: HTTP 503 Service Unavailable: overloaded (asks to wait 2.0 s)",
        ),
        (
            LaneRefused(refusal(401, "Unauthorized"), "queue", "unauthorized"),
            "queue refused: HTTP 401 Unauthorized: check PINECONE_API_KEY",
        ),
    ],
)
def test_an_outcome_reads_as_one_line(outcome: Outcome, line: str) -> None:
    """Plain words, and what to do."""
    assert describe(outcome) == line


def test_every_reason_has_advice() -> None:
    """A pause without advice would be an alarm without a handle."""
    assert all(ADVICE.values())
