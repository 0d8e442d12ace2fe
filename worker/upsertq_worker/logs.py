"""Owns how the worker's log looks: one line an event, dated with its zone, and lines that repeat folded into one."""

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TextIO

from upsertq.contract.printable import printable
from upsertq_worker.events import EVENT, FIELDS

TEXT: Final = "text"
JSON: Final = "json"
WINDOW: Final = 60.0
"""Seconds in which a line that repeats is shown once; what was left out is told with the first one after them."""
MOST_LINES: Final = 1_000
"""Different lines that are remembered: of more the oldest are told of, and forgotten."""
EXTENT: Final = 4_000
"""Characters of a line that are compared."""


class Dated(logging.Formatter):
    """One line with the date, the time to the millisecond, and the zone's offset, as ISO 8601 has it.

    The number of the `worker` is part of it, where it is one of several (0: it is not).
    """

    def __init__(self, worker: int = 0) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {f'[{worker}] ' if worker else ''}%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """One printable line, whatever the fields hold; a traceback is part of it."""
        return printable(super().format(record))

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802 - as logging has it
        """The time in the zone of this machine."""
        return _time(record)


class JsonLines(logging.Formatter):
    """One JSON object a line: `time`, `level`, `event`, `fields` and `message`, and `worker` as `Dated` has it.

    `event` and `fields` are those of the table in `upsertq_worker.events`; `event` is null for what is not in it.
    """

    def __init__(self, worker: int = 0) -> None:
        super().__init__()
        self._which = {"worker": worker} if worker else {}

    def format(self, record: logging.LogRecord) -> str:
        """The object, in ASCII; a field that JSON has no type for is its text."""
        said: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "event": getattr(record, EVENT, None),
            "fields": getattr(record, FIELDS, {}),
            "message": record.getMessage(),
            **self._which,
        }
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, default=_plain)


@dataclass(slots=True)
class _Seen:
    """A line that was written at `since`, and how often it came again: at last at `until`, as `last`."""

    since: float
    until: float
    last: logging.LogRecord
    more: int = 0


class Folding(logging.StreamHandler[TextIO]):
    """Writes lines to a stream; one equal to a line of the last `window` seconds is counted, not written.

    How often it came is said once the window is over, with the next line whatever it is, or at the end. Lines with a
    traceback are always written. `clock` gives seconds from any origin, never going back.
    """

    def __init__(
        self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic, window: float = WINDOW
    ) -> None:
        super().__init__(stream)
        self._clock = clock
        self._window = window
        self._seen: dict[tuple[int, str], _Seen] = {}
        """By level and text, the oldest first."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it; logging holds this handler's lock."""
        now, key = self._clock(), (record.levelno, _text(record))
        seen = None if record.exc_info else self._seen.get(key)
        if seen is not None and (now - seen.since < self._window or seen.more):
            seen.more, seen.until, seen.last = seen.more + 1, now, record
            if now - seen.since >= self._window:
                self._write_again(seen)
                del self._seen[key]
                self._seen[key] = _Seen(now, now, record)
            self._tell_what_is_over(now)
            return
        self._tell_what_is_over(now)
        if not record.exc_info:
            self._seen[key] = _Seen(now, now, record)
        super().emit(record)

    def close(self) -> None:
        """Say what is still to be said of lines that repeated."""
        self.acquire()
        try:
            self._tell_what_is_over(math.inf)
        finally:
            self.release()
        super().close()

    def _tell_what_is_over(self, now: float) -> None:
        """Forget the lines of which the window is over, or which are too many, and say how often each came again."""
        while self._seen:
            key, seen = next(iter(self._seen.items()))
            if now - seen.since < self._window and len(self._seen) <= MOST_LINES:
                return
            del self._seen[key]
            if seen.more:
                self._write_again(seen)

    def _write_again(self, seen: _Seen) -> None:
        """Write the line once more, dated as its newest record, with how often it came."""
        times = f"{seen.more:,} times" if seen.more > 1 else "once"
        told = logging.makeLogRecord(seen.last.__dict__)
        told.msg, told.args = f"{_text(seen.last)} (repeated {times} in {seen.until - seen.since:.0f} s)", ()
        super().emit(told)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


def _plain(value: object) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def _text(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()[:EXTENT]
    except Exception:  # noqa: BLE001 - a wrong format is logging's to complain of, when it is written
        return f"{record.msg}"[:EXTENT]


def log_to_stderr(level: str, log_format: str = TEXT, worker: int = 0) -> None:
    """Send the log to stderr from `level` on, a name as logging has it; one that is none counts as INFO.

    `worker` is the number of this one among several of a command, 0 where it is none of these.
    """
    handler: Any = Folding()
    handler.setFormatter(JsonLines(worker) if log_format == JSON else Dated(worker))
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    logging.basicConfig(level=number, handlers=[handler])
