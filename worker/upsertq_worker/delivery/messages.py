"""Knows the service's sentences: what a message says about the request, the index, the rate and the records.

The only place for such texts, each taken from the published limits or from bodies seen. Never decides an outcome.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, Literal

from upsertq_worker.delivery.echo import without_echo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from upsertq_worker.delivery.response import Sent

LimitUnit = Literal["requests", "bytes"]
Reason = Literal[
    "unauthorized",
    "payment",
    "forbidden",
    "not_found",
    "not_an_index",
    "quota",
    "storage_full",
    "namespaces_full",
    "dimension",
    "document_schema",
    "sparse_unsupported",
    "unsupported",
    "unexpected",
]
"""Why a lane is refused. `dimension` is never judged from one answer: the caller finds it, knowing the records."""

ADVICE: Final[dict[Reason, str]] = {
    "unauthorized": "check PINECONE_API_KEY",
    "payment": "settle the account's billing",
    "forbidden": "check that the key may write to this index's project",
    "not_found": "check --index-host and that the index exists",
    "not_an_index": "check --index-host: what answers there is not an index",
    "quota": "raise the plan's limit or wait for the next month",
    "storage_full": "delete records or raise the plan's storage limit",
    "namespaces_full": "delete an unused namespace or raise the plan's limit",
    "dimension": "check that the queue and --index-host belong together: their dimensions differ",
    "document_schema": "use an index that takes vectors: this one was created for documents",
    "sparse_unsupported": "use an index that takes sparse values, or load the records without them",
    "unsupported": "check the API version and the kind of index",
    "unexpected": "check --index-host and what stands between here and it",
}
"""What an operator should do, for each reason that pauses a lane."""

_SPEAKS: Final = re.compile(
    r"schema|documents|sparse|version|plain http|month|second|qps|rps|rate limit|request|pace|large|exceed|support"
    r"|dimension|storage|namespaces|per s|/\s?s",
    re.IGNORECASE,
)
"""What occurs in every text that is known here."""
_TOO_LARGE: Final = re.compile(
    r"request (?:size|body|entity|payload)\b.{0,40}(?:exceed|too large)|(?:message|request|payload|entity) (?:length )?"
    r"(?:is )?too large|message larger than max|maximum supported size",
    re.IGNORECASE | re.DOTALL,
)
_WHOLE_INDEX: Final[tuple[tuple[re.Pattern[str], Reason], ...]] = (
    (re.compile(r"document schema|documents API", re.IGNORECASE), "document_schema"),
    (re.compile(r"index\b.{0,40}does not support sparse", re.IGNORECASE | re.DOTALL), "sparse_unsupported"),
    (re.compile(r"\bAPI versions?\b|X-Pinecone-Api-Version", re.IGNORECASE), "unsupported"),
    (re.compile(r"plain HTTP request was sent to HTTPS", re.IGNORECASE), "not_an_index"),
)
_MONTH_LIMIT: Final = re.compile(r"limit for the current month", re.IGNORECASE)
_MONTH: Final = re.compile(
    r"\bmonth(?:ly)?\b.{0,60}\b(?:quota|limit|usage|allowance)"
    r"|\b(?:quota|limit|usage|allowance)\b.{0,60}\bmonth(?:ly)?\b",
    re.IGNORECASE | re.DOTALL,
)
_RATE: Final = re.compile(r"per second|\bQPS\b|rate limit|too many requests|\bpace your\b", re.IGNORECASE)
_NUMBER: Final = r"(?<![\w.,])([0-9][0-9,]{0,14}+(?:\.[0-9]{1,6}+)?+)\s{0,3}+"
_REQUEST_RATE: Final = re.compile(
    _NUMBER + r"(?:QPS\b|RPS\b|req(?:uest)?s?\s{0,3}+(?:per second|/\s?s))", re.IGNORECASE
)
_BYTE_RATE: Final = re.compile(_NUMBER + r"([KMG]i?B|bytes|B)\s{0,3}+(?:per second|/\s?s)", re.IGNORECASE)
_BYTE_TEXT: Final = re.compile(r"size limit per second", re.IGNORECASE)
_FACTORS: Final = {"k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}

_DIMENSION: Final = re.compile(r"dimension\D{1,10}+([0-9]{1,9}+) does not match\D{1,60}+([0-9]{1,9})", re.IGNORECASE)
# bounded, as many opening quotes without a closing one would cost their square; an id has at most 512 characters
_QUOTED_MAX: Final = 600
_QUOTES: Final = "'\"`"
_OPENING: Final = re.compile(r"(?<!\w)['\"`]")
_CLOSING: Final = re.compile(r"['\"`](?!\w)")
_NOT_AN_ID: Final = re.compile(r"\b(?:field|key|namespace|index|project|host|type|metric)s?\s?[:=]?\s?$", re.IGNORECASE)
NAMING_MAX: Final = 50_000
"""Looks at a message for quoted ids at most; one that needs more names none."""


def spoken_by_service(text: str, sent: Sent) -> str:
    """What of `text` is the service's own: without what was sent, and without whatever else is quoted in it."""
    return own_words(without_echo(text, sent.texts()) if _SPEAKS.search(text) else text)


def own_words(text: str) -> str:
    """`text` without its quoted parts: these echo the records, so that one could forge a sentence of the service."""
    closings: dict[str, list[int]] = {quote: [] for quote in _QUOTES}
    for closing in _CLOSING.finditer(text):
        closings[closing[0]].append(closing.start())
    parts, reached = [], 0
    for opening in _OPENING.finditer(text):
        start, places = opening.start(), closings[opening[0]]
        following = bisect_right(places, start)
        if start < reached or following == len(places) or places[following] > start + _QUOTED_MAX + 1:
            continue
        parts += [text[reached:start], "''"]
        reached = places[following] + 1
    return "".join((*parts, text[reached:]))


def is_too_large(words: str) -> bool:
    """Whether a 400 is about the size of the request, not of one record's metadata."""
    return bool(_TOO_LARGE.search(words))


def whole_index(words: str) -> Reason | None:
    """Why an index as a whole does not take such requests, if that is what a 400 says."""
    return next((reason for sign, reason in _WHOLE_INDEX if sign.search(words)), None)


def mismatched_dimensions(words: str) -> tuple[int, int] | None:
    """(a vector's dimension, the index's) where a message says that they differ."""
    found = _DIMENSION.search(words)
    return (int(found[1]), int(found[2])) if found else None


def forbidden_reason(words: str) -> Reason | None:
    """Which of the plan's limits on what is kept a 403 is about, if any."""
    words = words.lower()
    if "max namespaces" in words:
        return "namespaces_full"
    return "storage_full" if "max storage" in words or "storage limit" in words else None


def is_monthly(words: str) -> bool:
    """Whether a 429 is about the month's quota. A rate's text wins, as a namespace may be named `monthly`."""
    return bool(_MONTH_LIMIT.search(words) or (_MONTH.search(words) and not _RATE.search(words)))


def named_limit(words: str) -> tuple[float | None, LimitUnit | None]:
    """The rate that the service names. The last number counts: a namespace's name, which may hold one, comes before."""
    if amounts := _BYTE_RATE.findall(words):
        number, size = amounts[-1]
        return _positive(number, _FACTORS.get(size.lower().removesuffix("b"), 1)), "bytes"
    if numbers := _REQUEST_RATE.findall(words):
        return _positive(numbers[-1], 1), "requests"
    return None, "bytes" if _BYTE_TEXT.search(words) else None


def _positive(number: str, factor: int) -> float | None:
    return float(number.replace(",", "")) * factor or None


def suspects(text: str, ids: tuple[str, ...]) -> tuple[int, ...]:
    """The positions of the ids that `text` quotes whole.

    Where quoted ids overlap (an id may itself hold quotes and spaces) the leftmost, longest one is meant. A quote
    inside a word is an apostrophe. What follows "field" and the like is another thing's name.
    """
    places = {name: position for position, name in enumerate(ids)}
    lengths = sorted({len(name) for name in ids}, reverse=True)
    named: set[int] = set()
    reached = looks = 0
    for opening in re.finditer(r"['\"`]", text):
        start = opening.start()
        if start < reached or text[start - 1 : start].isalnum():
            continue
        looks += len(lengths)
        if looks > NAMING_MAX:
            return ()
        name = _quoted_at(text, start, lengths, places)
        if name is not None:
            reached = start + len(name) + 2
            if not _is_other_name(text[:start]):
                named.add(places[name])
    return tuple(sorted(named))


def _quoted_at(text: str, start: int, lengths: list[int], names: Mapping[str, int]) -> str | None:
    """The longest name that is quoted from `start` on, apart from the words around it."""
    for length in lengths:
        end = start + length + 1
        if text[end : end + 1] == text[start] and not text[end + 1 : end + 2].isalnum():
            name = text[start + 1 : end]
            if name in names:
                return name
    return None


def _is_other_name(before: str) -> bool:
    tail = before[-40:]
    return bool(_NOT_AN_ID.search(tail)) or (tail.rstrip().endswith("got") and "etadata" in before)
