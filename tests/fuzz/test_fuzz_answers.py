"""Whatever a service, a proxy or a tenant makes of an answer: one outcome, no secret out, no tenant's text judged."""

from __future__ import annotations

import asyncio
import base64
import html
import json
import random
import re
import zlib
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, quote_plus, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import fuzzed
from sockets import BODY
from upsertq_worker.delivery.outcome import LaneRefused, describe, judge
from upsertq_worker.delivery.response import BODY_MAX, Answer, Sent
from upsertq_worker.edge.http_index import HttpIndex, IndexAddress
from upsertq_worker.edge.redact import Redactor

if TYPE_CHECKING:
    from collections.abc import Callable

    from upsertq_worker.delivery.outcome import Outcome
    from upsertq_worker.delivery.response import TransportFailure

pytestmark = pytest.mark.timeout(600)

SENTENCES: Final = [
    "This index has a document schema, so writes must go through the documents API",
    "document schema",
    "documents API",
    "Index configuration does not support sparse values",
    "is not allowed in API versions prior to 2025-04",
    "X-Pinecone-Api-Version",
    "plain HTTP request was sent to HTTPS port",
    "Request size 3MB exceeds the maximum supported size of 2MB",
    "message length too large: found 13762620 bytes",
    "Vector dimension 3 does not match the dimension of the index 8",
    "limit for the current month",
    "You've reached your write unit limit for the current month (2000000).",
    "monthly quota",
    "You've reached the max storage allowed for project p",
    "You've reached the max namespaces allowed in serverless index i (100)",
    "(1 QPS)",
    "5 MB per second",
]
FILLINGS: Final = st.sampled_from(["'", '"', "`", "' ", " '", "\n", "\\", "<b>", "&", "%20", "…", "é", ".", "a", "x y"])
TENANT: Final = st.builds(
    lambda before, sentence, after: "".join([*before, sentence, *after]),
    st.lists(FILLINGS, max_size=4), st.sampled_from(SENTENCES), st.lists(FILLINGS, max_size=4),
)  # fmt: skip
"""A text that a tenant may choose."""
TEMPLATES: Final = [
    "Dense vectors must contain at least one non-zero value. Vector ID '{}' contains only zeros",
    "Vector ID {} contains only zeros",
    "ID must be ASCII, but got {}",
    "Metadata value must be a string, number, boolean or list of strings, got '{}' for field 'x'",
    "Metadata value must be a string, number, boolean or list of strings, got '1' for field {}",
    "Metadata size is 42177 bytes, which exceeds the limit of 40960 bytes per vector: {}",
    "{}: bad",
    "{}",
    "no ({}), no",
    "namespace={} is not yours",
    "You've reached the upsert QPS limit for namespace {} (100 QPS). Pace your upsert requests",
    "Too many writes to {}",
    "Forbidden: {}",
]
"""What the service says of it; none has a sentence about a lane in it."""
OWN: Final = [
    "This index has a document schema, so writes must go through the documents API. {}",
    "Index configuration does not support sparse values - only sparse indexes are supported: {}",
    "Request size 3MB exceeds the maximum supported size of 2MB ({})",
    "You've reached your write unit limit for the current month (2000000). {}",
]
"""What it says of a lane; the tenant's text has none of it."""
NEUTRAL: Final = "neutral"
SHAPES: Final = st.sampled_from(["rpc", "string", "text", "html", "control", "cut"])


def repr_of(text: str) -> str:
    """As Python shows it, without its quotes."""
    return repr(text)[1:-1]


ECHOES: Final[list[Callable[[str], str]]] = [
    str, json.dumps, lambda text: json.dumps(text)[1:-1], lambda text: json.dumps(json.dumps(text)), repr, repr_of,
    html.escape, quote, quote_plus, lambda text: quote(text, safe=""), str.upper, str.lower, str.title,
    lambda text: f"`{text}`", lambda text: f"{text[: len(text) * 3 // 4]}...", lambda text: f"'{text[:30]}…'",
    lambda text: f"...{text[len(text) // 4 :]}",
]  # fmt: skip


def scope_of(outcome: Outcome) -> str:
    """What an outcome concerns."""
    return f"{type(outcome).__name__} {outcome.scope}" if isinstance(outcome, LaneRefused) else type(outcome).__name__


def sent_with(text: str, where: str) -> Sent:
    """A request in which a tenant's text stands somewhere."""
    other = {"kind": "note", "tags": ["a", "b"]}
    metadata = {
        "name": {text: "v", **other},
        "value": {"field": text, **other},
        "tag": {"tags": ["x", text]},
    }.get(where, other)
    return Sent(
        ("a", text[:512] if where == "id" else "b", "c"),
        text[:512] if where == "namespace" else "ns",
        (other, metadata),
    )


@given(
    text=TENANT,
    template=st.sampled_from(TEMPLATES),
    echo=st.sampled_from(ECHOES),
    where=st.sampled_from(["id", "namespace", "name", "value", "tag"]),
    status=st.sampled_from([400, 403, 422, 429]),
    shape=SHAPES,
)
@fuzzed(examples=3_000)
def test_no_tenant_speaks_for_the_service(
    text: str, template: str, echo: Callable[[str], str], where: str, *, status: int, shape: str
) -> None:
    """The scope of an outcome is the same as if the text that comes back were any other."""
    assert scope_of(judged(template, echo(text), status, shape, sent_with(text, where))) == scope_of(
        judged(template, NEUTRAL, status, shape, sent_with(NEUTRAL, where))
    )


@given(
    text=st.lists(st.text(st.characters(codec="ascii"), max_size=12), max_size=6).map(" ".join),
    template=st.sampled_from(OWN),
    echo=st.sampled_from(ECHOES),
    where=st.sampled_from(["id", "namespace", "name", "value", "tag"]),
    status=st.sampled_from([400, 422, 429]),
)
@fuzzed(examples=2_000)
def test_no_tenant_silences_the_service(
    text: str, template: str, echo: Callable[[str], str], where: str, status: int
) -> None:
    """What the service says of a lane is heard whatever else is in its message."""
    assert scope_of(judged(template, echo(text), status, "rpc", sent_with(text, where))) == scope_of(
        judged(template, NEUTRAL, status, "rpc", sent_with(NEUTRAL, where))
    )


def judged(template: str, echo: str, status: int, shape: str, sent: Sent) -> Outcome:
    """The outcome of an answer of that shape."""
    message = template.replace("{}", echo)
    body = {
        "rpc": lambda: json.dumps({"code": 3, "message": message, "details": []}),
        "string": lambda: json.dumps(message),
        "text": lambda: message,
        "html": lambda: f"<html><title>{status}</title><body>{html.escape(message)}</body></html>",
        "control": lambda: json.dumps({"error": {"code": "X", "message": message}, "status": status}),
        "cut": lambda: json.dumps({"code": 3, "message": message})[:-2],
    }[shape]()
    return judge(Answer(status, {}, body.encode("utf-8", "replace")), sent, 0.0)


KEY: Final = "pcsk_7Ah2kD_9f+x/Tq=3zLw0vB8mN5cR1yE6uJ4pS"
LOGIN: Final = ("proxy-user", "s3cret&word")
SECRETS: Final = (KEY, *LOGIN, ":".join(LOGIN))
ESCAPES: Final = ["%{:02X}", "\\u{:04x}", "&#{};", "&#x{:X};"]
SPELLINGS: Final[list[Callable[[str], str]]] = [
    *ECHOES[:6], html.escape, quote, quote_plus, str.upper, str.lower, lambda text: quote(quote(text, safe="")),
    *(lambda text, how=how: "".join(how.format(ord(one)) for one in text) for how in ESCAPES),
    lambda text: base64.b64encode(text.encode()).decode(),
    lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    lambda text: "Basic " + base64.b64encode(f"u:{text}".encode()).decode(),
    lambda text: "Basic " + base64.b64encode(f"ab{text}:pw".encode()).decode(), lambda text: text.encode().hex(),
]  # fmt: skip


def shown(text: str) -> list[str]:
    """A text as a reader may see it: as it is, and with what is escaped in it read."""
    return [
        text,
        html.unescape(text),
        unquote(text),
        re.sub(r"\\+u00([0-9a-f]{2})", lambda one: chr(int(one[1], 16)), text),
    ]


@given(
    parts=st.lists(
        st.tuples(st.text(max_size=6), st.sampled_from(SECRETS), st.sampled_from(SPELLINGS)), min_size=1, max_size=4
    ),
    shape=st.sampled_from(["rpc", "string", "text", "html", "details"]),
    status=st.sampled_from([200, 302, 400, 401, 403, 407, 429, 500]),
)
@fuzzed(examples=3_000)
def test_no_secret_comes_out(parts: list[tuple[str, str, Callable[[str], str]]], shape: str, status: int) -> None:
    """However the key or a login is spelled, nothing that is stored or shown has it."""
    redactor = Redactor(SECRETS)
    message = " ".join(part for before, secret, spell in parts for part in (before, spell(secret)))
    body = {
        "rpc": lambda: json.dumps({"code": 3, "message": message, "details": [{"value": message}]}),
        "string": lambda: json.dumps(message),
        "text": lambda: message,
        "html": lambda: f"<html><title>{message}</title><body>{message}</body></html>",
        "details": lambda: json.dumps({"message": "no", "details": [message, {message: 1}]}),
    }[shape]()
    headers = {name: redactor.text(message) for name in ("location", "x-request-id", "content-type")}
    reply = Answer(status, headers, redactor.body(body.encode("utf-8", "replace")))
    outcome = judge(reply, Sent(("a",), ""), 0.0)
    for text in shown(f"{outcome!r} {describe(outcome)}"):
        for secret in SECRETS:
            assert secret.lower() not in text.lower()
            assert base64.b64encode(secret.encode()).decode().rstrip("=")[:-1] not in text


CHUNKS: Final = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 400 Bad Request\r\n", b"HTTP/1.1 302 \r\n", b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.0 200\r\n", b"HTTP/9.9 999 x\r\n", b"Content-Length: 20\r\n", b"Content-Length: -1\r\n",
        b"Content-Length: 99999999999999999999\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n",
        b"Content-Encoding: br\r\n", b"Content-Encoding: zstd\r\n", b"Content-Encoding: deflate\r\n",
        b"Location: https://x/" + KEY.encode() + b"\r\n", b"X-Request-Id: " + KEY.encode() + b"\r\n",
        b"Content-Type: " + KEY.encode() + b"\r\n", b"Retry-After: " + b"9" * 500 + b"\r\n", b"Set-Cookie: a=b\r\n",
        b"X-Flood: " + b"y" * 9_000 + b"\r\n", b"a: b\r\n" * 150, b"\r\n", b"\r\n\r\n", b'{"upsertedCount":1}\r\n',
        b'{"message":"' + KEY.encode() + b'"}', b"13\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"\x1f\x8b\x08\x00",
        zlib.compress(b"\0" * 10_000_000), b"z" * 70_000, b"\x00", b"\xff" * 10, KEY.encode(),
    ]
)  # fmt: skip
RAW: Final = st.lists(CHUNKS | st.binary(max_size=20), max_size=12).map(b"".join) | st.builds(
    lambda head, rest: b"".join((b"HTTP/1.1 200 OK\r\n", *head, b"\r\n", *rest)),
    st.lists(CHUNKS, max_size=4), st.lists(CHUNKS, max_size=5),
)  # fmt: skip


async def answers_to(raws: list[bytes]) -> list[Answer | TransportFailure]:
    """What the edge makes of each of these as the whole of what comes back over a socket."""
    waiting = iter(raws)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(next(waiting, b""))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/prefix"
    replies = []
    async with server, HttpIndex(IndexAddress(url, "x", KEY), timeout=5, connections=1) as edge:
        for _ in raws:
            replies.append(await edge.upsert(BODY))  # noqa: PERF401 - one after another
    return replies


@given(raws=st.lists(RAW, min_size=5, max_size=20))
@fuzzed(examples=150)
def test_whatever_comes_over_the_socket_is_an_answer_or_a_failure(raws: list[bytes]) -> None:
    """No exception, bounded bodies and headers, no key; what is judged of it is one printable line."""
    for reply in asyncio.run(answers_to(raws)):
        outcome = judge(reply, Sent(("a",), ""), 0.0)
        told = [describe(outcome), repr(outcome)]
        if isinstance(reply, Answer):
            assert len(reply.body) <= BODY_MAX
            assert len(reply.headers) < 10
            told += [*reply.headers.values(), reply.body.decode("latin-1")]
        else:
            told.append(reply.message)
        assert all(KEY[:20] not in text for text in told)
        assert told[0].isprintable()


def test_the_generators_reach_what_they_are_for() -> None:
    """Without any knowledge of what was sent, a tenant's text would speak for the service: the fuzzing is not idle."""
    rng = random.Random(1)
    forged = sum(
        scope_of(judged(rng.choice(TEMPLATES), rng.choice(SENTENCES), 400, "rpc", Sent((), ""))).startswith(
            "LaneRefused"
        )
        for _ in range(200)
    )
    assert forged > 20
