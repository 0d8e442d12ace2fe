"""The short way of judging a success says what the long one says, whatever the body is."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from upsertq_worker.delivery.outcome import Accepted, ShortAck, judge
from upsertq_worker.delivery.response import Answer, Sent, read_body, request_lsn, upserted_count

COUNTS = st.integers(-1, 101).map(str) | st.sampled_from(
    ["1e0", "1E2", "01", "+1", "1.0", "1.5", '"1"', "true", "null"]
)
PLAIN = COUNTS.map(lambda count: '{"upsertedCount":' + count + "}")
TWISTED = st.tuples(
    st.sampled_from(["", "\ufeff", " ", "\0", "[", '{"upsertedCount":7}', "<html>"]),
    PLAIN
    | PLAIN.map(lambda text: text[:-1] + ',"upsertedCount":7}')
    | PLAIN.map(lambda text: text.replace("C", "\\u0043")),
    st.sampled_from(["", "\n", " ", "\0", "]", "}", "x", "{}"]),
).map("".join)
BODIES = (PLAIN | TWISTED).map(str.encode) | st.binary(max_size=30)
HEADERS = st.sampled_from(
    [
        {},
        {"x-pinecone-request-lsn": "12"},
        {"content-type": "text/html", "x-request-id": "r"},
        {"content-encoding": "br", "x-pinecone-request-lsn": "-1"},
    ]
)


@given(
    status=st.sampled_from([200, 201, 204, 206, 299]),
    headers=HEADERS,
    body=BODIES,
    count=st.sampled_from([1, 2, 100]),
    truncated=st.booleans(),
)
@example(
    status=200, headers={"x-pinecone-request-lsn": "12"}, body=b'{"upsertedCount":100}', count=100, truncated=False
)
@example(status=200, headers={}, body=b'{"upsertedCount":100}', count=100, truncated=True)
@example(status=200, headers={}, body=b'{"upsertedCount":10}', count=1, truncated=False)
@example(status=200, headers={}, body=b'{"upsertedCount":2}{}', count=2, truncated=False)
def test_a_plain_success_is_judged_like_any_other(
    *, status: int, headers: dict[str, str], body: bytes, count: int, truncated: bool
) -> None:
    """It is accepted where the count that can be read in the body is that of what was sent, and else never."""
    answer, sent = Answer(status, headers, body, truncated), Sent(tuple(map(str, range(count))), "")
    outcome = judge(answer, sent, 0.0)
    counted = upserted_count(answer, read_body(answer)) == count
    assert outcome == Accepted(request_lsn(headers)) if counted else isinstance(outcome, ShortAck)
