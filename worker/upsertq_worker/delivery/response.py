"""Reads what came back for a request: the body in any shape, and the few headers that matter.

Never decides what to do about it, never does I/O, and never raises whatever the bytes are.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from upsertq_worker.flow.backoff import RETRY_AFTER_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

BODY_MAX: Final = 65_536
"""The bytes of a body that the edge reads; a longer one is cut and marked `truncated`."""

INDEX_HOST: Final = "--index-host"
MESSAGE_MAX: Final = 500
DETAILS_MAX: Final = 1_000
_TEXT_MAX: Final = 4_096  # what is searched for known texts: bounds the work on a hostile body

_RPC_CODES: Final = (  # google/rpc/code.proto, in numeric order
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
_TITLE: Final = re.compile(r"<title[^<>]*>([^<]*)", re.IGNORECASE)
_UNSEEN: Final = re.compile(r"<(?:(/)?(?:script|style))\b[^<>]*>?", re.IGNORECASE)
_TAG: Final = re.compile(r"<[^<>]*>")
_BROKEN_MESSAGE: Final = re.compile(r'"message"\s*:\s*"((?:[^"\\]|\\.)*)')
_SECONDS: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?")
_INTEGER: Final = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP response; `headers` have lower-case names, `body` is cut to `BODY_MAX` bytes."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    truncated: bool = False


class TransportKind(Enum):
    """Why a request has no answer."""

    CONNECT = "connect"
    """Nothing was sent: name resolution, refused, TLS."""
    TIMEOUT = "timeout"
    """No answer in time; the request may still be travelling."""
    RESET = "reset"
    """The connection broke after something was sent."""
    PROTOCOL = "protocol"
    """What came back is not HTTP."""


@dataclass(frozen=True, slots=True)
class TransportFailure:
    """A request without an answer."""

    kind: TransportKind
    message: str
    check: str = INDEX_HOST
    """The option or variable to check where this is how it goes from the start."""

    @property
    def answer_lost(self) -> bool:
        """Whether the request may have been applied, now or later."""
        return self.kind is not TransportKind.CONNECT


@dataclass(frozen=True, slots=True)
class Sent:
    """What a request carried: the records' ids in their order (each once), their namespace and metadata.

    The metadata is parsed JSON, of the records that have any; it may be parsed when it is looked at.
    """

    ids: tuple[str, ...]
    namespace: str
    metadata: Iterable[Any] = field(default=(), repr=False)

    def texts(self) -> Iterator[str]:
        """Every string in it: ids, namespace, names and values."""
        yield self.namespace
        yield from self.ids
        waiting = list(self.metadata)
        while waiting:
            match waiting.pop():
                case str() as text:
                    yield text
                case list() as items:
                    waiting += items
                case dict() as fields:
                    waiting += fields
                    waiting += fields.values()
                case _:
                    pass


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the service said, fit to be stored and shown.

    Args:
        status: the HTTP status.
        code: a google.rpc code's name (`INVALID_ARGUMENT`) or a control-plane code (`QUOTA_EXCEEDED`).
        message: one printable line of at most `MESSAGE_MAX` characters, never empty.
        details: the body's `details` as JSON text, cut to `DETAILS_MAX` characters; "" without any.
        request_id: the service's id of the request, for its support.
    """

    status: int
    code: str | None
    message: str
    details: str
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Body:
    """A body as read: `text` is the service's own words (unescaped, "" if none could be told from the wrapping)."""

    json: Any
    text: str
    shown: str
    code: str | None = None
    details: str = ""
    markup: bool = False


def printable(text: str, limit: int = MESSAGE_MAX) -> str:
    """`text` as one line without control characters or lone surrogates, cut to `limit` characters."""
    line = "".join(char if char.isprintable() else " " for char in text[: limit * 8])
    line = " ".join(line.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def read_body(answer: Answer) -> Body:
    """The body in whatever shape: rpc status, control-plane error, JSON string, plain text, markup, cut, empty."""
    raw = answer.body.decode("utf-8", "replace").strip().removeprefix("\ufeff").lstrip()
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return _read_text(raw, answer.headers.get("content-type", "").lower())
    text, code, details = _read_json(value)
    return Body(value, text[:_TEXT_MAX], printable(text or raw), code, details)


def refusal_of(answer: Answer, body: Body) -> Refusal:
    """What the service said, as a record of it."""
    shown = body.shown
    if not shown and 300 <= answer.status < 400:  # noqa: PLR2004  # a redirect's body is its Location
        # the query is left out: redirects to a login page carry tokens in it
        shown = printable("redirects to " + re.split(r"[?#]", answer.headers.get("location", "nowhere"))[0])
    encoding = answer.headers.get("content-encoding", "").strip().lower()
    if not shown and encoding not in {"", "identity"}:
        shown = f"a body that cannot be read, encoded as {printable(encoding, 40)}"
    request_id = answer.headers.get("x-pinecone-request-id") or answer.headers.get("x-request-id") or ""
    return Refusal(answer.status, body.code, shown or "empty body", body.details, printable(request_id, 128) or None)


def request_lsn(headers: Mapping[str, str]) -> int | None:
    """The log sequence number of the write, or None where the service names none."""
    found = headers.get("x-pinecone-request-lsn", "").strip()
    return int(found) if _INTEGER.fullmatch(found) else None


def upserted_count(answer: Answer, body: Body) -> int | None:
    """The count in an upsert's response, None if unreadable.

    The JSON forms of a proto integer are accepted: 100, 100.0, "100"; and `{}`, as proto3 leaves out a zero.
    """
    if answer.truncated or not isinstance(body.json, dict):
        return None
    value = body.json.get("upsertedCount", None if body.json else 0)
    if isinstance(value, str):
        return int(value) if _INTEGER.fullmatch(value) else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds that `Retry-After` asks to wait, 0 to `RETRY_AFTER_MAX`; None if absent or meaningless.

    Both forms count: seconds, and an HTTP date relative to `now` (epoch seconds; a date gone by is 0).
    """
    value = headers.get("retry-after", "").strip()[:64]
    if _SECONDS.fullmatch(value):
        return min(float(value), RETRY_AFTER_MAX)
    try:
        date = parsedate_to_datetime(value)
        # an HTTP date is always in GMT, whatever a sloppy server leaves out
        at = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return min(max(at - now, 0.0), RETRY_AFTER_MAX)


def _read_json(value: Any) -> tuple[str, str | None, str]:
    """(text, code, details) of a parsed body."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        return value, None, ""
    if not isinstance(value, dict):
        return "", None, ""
    inner = value.get("error")
    source = inner if isinstance(inner, dict) else value
    texts = (source.get("message"), source.get("detail"), source.get("title"), inner)
    text = next((text for text in texts if isinstance(text, str) and text.strip()), "")
    return text, _code_name(source.get("code")), _details(source.get("details"))


def _code_name(code: Any) -> str | None:
    if isinstance(code, str):
        return printable(code, 64) or None
    if not isinstance(code, int) or isinstance(code, bool):
        return None
    return _RPC_CODES[code] if 0 <= code < len(_RPC_CODES) else printable(str(code), 64)


def _details(details: Any) -> str:
    if not details:
        return ""
    try:
        text = json.dumps(details, separators=(",", ":"))
    except (ValueError, RecursionError):
        return ""
    return printable(text, DETAILS_MAX)


def _read_text(raw: str, content_type: str) -> Body:
    """A body that is not JSON: markup, JSON cut short, or text."""
    cut_json = raw.startswith(("{", "[", '"'))
    if raw.startswith("<") or ("html" in content_type and not cut_json):
        return _read_markup(raw[:_TEXT_MAX])
    if cut_json:
        # the wrapping's own quotes must not be taken for quoted ids, so only the message counts as said
        found = _BROKEN_MESSAGE.search(raw)
        text = _unescape(found[1][:_TEXT_MAX]) if found else ""
        return Body(None, text, printable(text or raw))
    return Body(None, raw[:_TEXT_MAX], printable(raw))


def _unescape(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text


def _read_markup(raw: str) -> Body:
    title = _TITLE.search(raw)
    text = html.unescape(_TAG.sub(" ", _seen(raw)))
    shown = printable(html.unescape(title[1])) if title else ""
    return Body(None, text, shown or printable(text), markup=True)


def _seen(markup: str) -> str:
    """`markup` without scripts and styles, from each one's beginning to its end."""
    parts, reached, hidden = [], 0, False
    for tag in _UNSEEN.finditer(markup):
        if not hidden:
            parts.append(markup[reached : tag.start()])
        hidden, reached = not tag[1], tag.end()
    return " ".join((*parts, "" if hidden else markup[reached:]))
