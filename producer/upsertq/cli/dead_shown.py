"""Owns how dead letters look: as JSON, as rows of a table, as a page each, and as lines to load again."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import orjson

from upsertq.contract.dead_letter import Head, Letter, Verdict
from upsertq.contract.printable import printable
from upsertq.contract.wire import is_shallow
from upsertq.sources.columns import DEAD

FEW_VALUES: Final = 5
_TITLES: Final = ("dead id", "id", "namespace", "run", "reason", "status", "tries", "last failed", "message")
_NUMBERS: Final = ("status", "tries")
_WIDEST: Final = 40
_LEAST_TOLD: Final = ("tries", "last failed", "run", "namespace", "status")
"""Columns that give way to the message where the terminal is narrow, in this order."""
_MESSAGE: Final = 24
"""Characters of a message that tell something."""
_SAMPLE: Final = 200


def iso(milliseconds: int) -> str | None:
    """The time in ISO 8601, UTC, to the millisecond; `None` for none."""
    if milliseconds <= 0:
        return None
    seconds, rest = divmod(milliseconds, 1000)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}.{rest:03d}Z"
    except (ValueError, OverflowError, OSError):
        return None


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "reason": verdict.reason.value,
        "status": verdict.status,
        "code": verdict.code,
        "message": verdict.message,
        "attempts": verdict.attempts,
        "first_failed_at": iso(verdict.first_ms),
        "last_failed_at": iso(verdict.last_ms),
    }


def _whole_verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        **_verdict(verdict),
        "details": _parsed(verdict.details),
        "request_id": verdict.request_id,
        "path": verdict.path,
        "worker": verdict.worker,
    }


def _parsed(details: str) -> Any:
    try:
        parsed = orjson.loads(details) if details else None
    except orjson.JSONDecodeError:
        return details
    return parsed if is_shallow(parsed) else details  # the parser takes more levels than the writer


def item_of(head: Head) -> dict[str, Any]:
    """The item of `dead list --json`; the default namespace is the empty string, and so is no run."""
    own = {"dead_id": head.dead_id, "id": head.id, "namespace": head.namespace, "run": head.run}
    return {**own, **_verdict(head.verdict), "enqueued_at": iso(head.at), "replays": head.depth}


def document_of(letter: Letter) -> dict[str, Any]:
    """The item of `dead show --json`: everything, but of the values only the first few."""
    entry = letter.entry
    values = np.frombuffer(entry.values, "<f4")
    return {
        "dead_id": letter.dead_id,
        "id": letter.id,
        "namespace": entry.namespace,
        "run": entry.run,
        **_whole_verdict(letter.verdict),
        "sequence": entry.seq,
        "enqueued_at": iso(entry.at),
        "replays": entry.depth,
        "dimension": entry.dim,
        "first_values": values[:FEW_VALUES],
        "sparse_values": _sole(entry.sparse),
        "metadata": _sole(entry.metadata),
    }


def _sole(array: bytes) -> orjson.Fragment | None:
    """The one item of a JSON array, as it is written there: no number loses a digit."""
    inner = array[1:-1].strip()
    return orjson.Fragment(inner) if inner not in {b"", b"null"} else None


def dumped(document: Any) -> bytes:
    """JSON on one line; float32 arrays by their shortest text, which reads back bit for bit."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def export_line(letter: Letter) -> bytes:
    """The record as `upsertq load` reads it, and in `_dead`, which it ignores, the verdict."""
    entry = letter.entry
    fields: dict[str, Any] = {
        "id": letter.id,
        "values": np.frombuffer(entry.values, "<f4") if entry.values else None,
        "sparse_values": _sole(entry.sparse),
        "metadata": _sole(entry.metadata),
        "namespace": entry.namespace or None,
    }
    note = {"dead_id": letter.dead_id, "run": entry.run, **_whole_verdict(letter.verdict)}
    return dumped({**{name: value for name, value in fields.items() if value is not None}, DEAD: note}) + b"\n"


def page_of(letter: Letter) -> str:
    """Everything about one letter, for a person."""
    document = document_of(letter)
    few = ", ".join(f"{value:g}" for value in document.pop("first_values"))
    more = ", …" if letter.entry.dim > FEW_VALUES else ""
    lines = [f"dead letter {document.pop('dead_id')}"]
    document["values"] = f"{document.pop('dimension')} dimensions: {few}{more}" if few else None
    for name, value in document.items():
        if value is None or value == "":
            continue
        text = value if isinstance(value, str) else dumped(value).decode()
        lines.append(f"  {name.replace('_', ' '):<16} {_plain(text)}")
    return "\n".join(lines)


def table(heads: Iterable[Head], width: int) -> Iterator[str]:
    """The lines of a table, at most `width` characters each; columns are as wide as the first letters need."""
    sample: list[tuple[str, ...]] = []
    widths: dict[str, int] | None = None
    for head in heads:
        if widths is not None:
            yield _line(_row(head), widths, width)
            continue
        sample.append(_row(head))
        if len(sample) == _SAMPLE:
            widths = _widths(sample, width)
            yield from _begun(sample, widths, width)
    if widths is None and sample:
        yield from _begun(sample, _widths(sample, width), width)


def _begun(sample: list[tuple[str, ...]], widths: dict[str, int], width: int) -> Iterator[str]:
    yield _line(_TITLES, widths, width)
    for row in sample:
        yield _line(row, widths, width)


def _widths(sample: list[tuple[str, ...]], width: int) -> dict[str, int]:
    """The columns that are shown before the message, and how wide they are."""
    widths = {
        title: min(_WIDEST, max(len(title), *(len(row[at]) for row in sample))) for at, title in enumerate(_TITLES[:-1])
    }
    for title in _LEAST_TOLD:
        if sum(widths.values()) + 2 * len(widths) + _MESSAGE > width:
            del widths[title]
    return widths


def _row(head: Head) -> tuple[str, ...]:
    verdict = head.verdict
    failed = (iso(verdict.last_ms) or "")[:19].replace("T", " ")
    numbers = str(verdict.status or "-"), str(verdict.attempts)
    words = (head.dead_id, head.id, head.namespace or "-", head.run or "-", verdict.reason.value, *numbers, failed)
    return tuple(map(_plain, (*words, verdict.message)))


def _line(row: tuple[str, ...], widths: dict[str, int], width: int) -> str:
    cells = [
        f"{cell:>{size}}" if title in _NUMBERS else f"{_cut(cell, size) if title != 'dead id' else cell:<{size}}"
        for cell, title in zip(row, _TITLES, strict=True)
        if (size := widths.get(title)) is not None
    ]
    return _cut("  ".join([*cells, row[-1]]), width).rstrip()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def _plain(text: str) -> str:
    """The text as one line: the service and the data wrote it."""
    return printable(text)


def counted(by_reason: dict[str, int]) -> str:
    """Counts by reason, in words."""
    return ", ".join(f"{count:,} {reason}" for reason, count in by_reason.items())
