"""How the worker's log looks: dated with its zone, one line an event, and what repeats folded into one line."""

from __future__ import annotations

import io
import json
import logging
import re
import string
import sys
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from upsertq_worker import logs
from upsertq_worker.events import Event, Events
from upsertq_worker.logs import Dated, Folding, JsonLines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Log:
    """A logger of its own on a clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0
        self.out = io.StringIO()
        self.handler = Folding(self.out, clock=lambda: self.now)
        self.handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        self.logger = logging.Logger("own")  # noqa: LOG001 - of this test alone
        self.logger.addHandler(self.handler)

    @property
    def lines(self) -> list[str]:
        """What is written."""
        return self.out.getvalue().splitlines()


@pytest.fixture
def log() -> Log:
    """Provide a log."""
    return Log()


def test_equal_lines_are_folded(log: Log) -> None:
    """Of a line that comes again and again one is written a minute, with how often it came."""
    for second in range(181):
        log.now = 100.0 + second
        log.logger.warning("cannot %s: %s", "settle", "away")
    first = "WARNING cannot settle: away"
    assert log.lines == [first, *[f"{first} (repeated 60 times in 60 s)"] * 3]


def test_what_stops_repeating_is_told_with_the_next_line(log: Log) -> None:
    """The count comes with whatever is written after the minute, or at the end."""
    for second in (0, 1, 5):
        log.now = 100.0 + second
        log.logger.info("a")
    log.logger.info("b")
    assert log.lines == ["INFO a", "INFO b"]
    log.now = 161.0
    log.logger.info("c")
    assert log.lines[2:] == ["INFO a (repeated 2 times in 5 s)", "INFO c"]
    log.logger.info("c")
    log.handler.close()
    assert log.lines[4:] == ["INFO c (repeated once in 0 s)"]


def test_what_differs_is_written(log: Log) -> None:
    """Other texts, other levels, tracebacks, and what comes again after the minute are lines of their own."""
    log.logger.info("a")
    log.logger.error("a")
    log.logger.info("b %d", 1)
    log.logger.info("b %d", 2)
    for _ in range(2):
        try:
            raise ValueError("why")  # noqa: TRY301 - it is what is logged
        except ValueError:
            log.logger.exception("a")
    log.now += 60
    log.logger.info("a")
    written = [line for line in log.lines if line.startswith(("INFO", "ERROR"))]
    assert written == ["INFO a", "ERROR a", "INFO b 1", "INFO b 2", "ERROR a", "ERROR a", "INFO a"]


def test_the_memory_is_bounded(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many different lines there are, few are remembered, and of no repeated one the count is lost."""
    monkeypatch.setattr(logs, "MOST_LINES", 10)
    for line in range(100):
        for _ in range(3):
            log.logger.info("%d", line)
    assert len(log.handler._seen) <= 10
    log.handler.close()
    assert sum("repeated 2 times" in line for line in log.lines) == 100


def test_a_wrong_format_is_no_end(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    """A line that cannot be formatted is complained of by logging itself, and the next one is written."""
    log.logger.info("%d", "x")
    log.logger.info("y")
    assert "Logging error" in capsys.readouterr().err
    assert log.lines == ["INFO y"]


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Provide a zone of five and a half hours."""
    monkeypatch.setenv("TZ", "XYZ-05:30")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("zone")
def test_lines_are_dated() -> None:
    """A line begins with the date, the time and the offset of the machine's zone, which any parser takes."""
    record = logging.LogRecord("own", logging.INFO, "", 1, "text", (), None)
    record.created = 1_764_328_509.123
    line = Dated().format(record)
    assert re.fullmatch(r"2025-11-28T16:45:09\.123\+05:30 INFO text", line)
    moment = datetime.fromisoformat(line.split(" ")[0])
    assert moment.utcoffset() == timedelta(hours=5, minutes=30)
    assert moment.timestamp() == pytest.approx(record.created)


class Lines:
    """The log as JSON lines."""

    def __init__(self) -> None:
        self.out = io.StringIO()
        self.handler = Folding(self.out)
        self.handler.setFormatter(JsonLines())

    def tell(self, event: Event, **fields: Any) -> dict[str, Any]:
        """Tell an event; returns the object in the log."""
        logger = logging.getLogger("upsertq.worker")
        level, logger.level = logger.level, logging.DEBUG
        logger.addHandler(self.handler)
        try:
            Events().tell(event, **fields)
        finally:
            logger.removeHandler(self.handler)
            logger.setLevel(level)
        (line,) = self.out.getvalue().splitlines()
        assert line.isascii()
        told: dict[str, Any] = json.loads(line)
        return told


def test_an_event_is_a_json_object() -> None:
    """Its name, its level and its fields stand in it, and the sentence that people read."""
    told = Lines().tell(Event.PAUSED, lane="namespace a", message="HTTP 401")
    moment = datetime.fromisoformat(told.pop("time"))
    assert moment.tzinfo is not None
    assert told == {
        "level": "ERROR",
        "event": "paused",
        "fields": {"lane": "namespace a", "message": "HTTP 401"},
        "message": "paused namespace a: HTTP 401; the backlog waits, a probe goes out now and then",
    }


def test_a_field_that_json_has_no_type_for_is_text() -> None:
    """An error, a set: the line is written all the same, and whatever acts on a terminal is escaped."""
    told = Lines().tell(Event.SERVER_AWAY, error=ValueError("no\n\u202eanswer"))
    assert told["fields"] == {"error": "no\n\u202eanswer"}
    assert Lines().tell(Event.SHARDS_GAINED, shards=frozenset({2, 1}))["fields"] == {"shards": [1, 2]}


def test_what_is_no_event_is_an_object_as_well() -> None:
    """A line of another library, with its traceback."""
    try:
        raise ValueError("why")  # noqa: TRY301 - it is what is logged
    except ValueError:
        record = logging.LogRecord("aiohttp", logging.ERROR, "", 1, "lost %s", ("it",), sys.exc_info())
    told = json.loads(JsonLines().format(record))
    assert (told["event"], told["fields"], told["message"]) == (None, {}, "lost it")
    assert "ValueError: why" in told["traceback"]


@pytest.mark.parametrize("event", list(Event))
def test_every_event_has_a_sentence_for_its_fields(event: Event) -> None:
    """The sentence names fields alone, so that the log, JSON and listeners tell the same."""
    fields = [name for _, name, _, _ in string.Formatter().parse(event.value.text) if name]
    assert all(name.isidentifier() for name in fields)
    heard: list[tuple[Event, Mapping[str, Any]]] = []
    events = Events()
    events.listen(lambda event, fields: heard.append((event, fields)))
    events.tell(event, **dict.fromkeys(fields, 1))
    assert heard == [(event, dict.fromkeys(fields, 1))]
