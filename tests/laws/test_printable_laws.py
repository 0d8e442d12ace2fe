"""What is shown to people holds no letter that acts on a terminal, whatever it was; JSON keeps its value."""

from __future__ import annotations

import io
import json
import logging
import sys
import unicodedata
from typing import TYPE_CHECKING, Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsertq.cli.plain import Plain
from upsertq.contract.errors import InvalidRecord, LoadStopped, SourceError, shown
from upsertq.contract.printable import printable, printable_lines
from upsertq_worker.logs import Dated

if TYPE_CHECKING:
    from typing import TextIO

HOSTILE = (
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA1)),
    *"\u00ad\u034f\u061c\u115f\u180e\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202e\u2060\u2066\u2069",
    *"\u2800\u3164\ufe0f\ufeff\uffa0\ufff9\ud800\udcff\udfff\U000e0001\U000e0100\U000e01ef",
)
ACTING = frozenset(HOSTILE)
texts = st.text(st.characters() | st.sampled_from(HOSTILE), max_size=40)


def acts(letter: str) -> bool:
    """Whether a letter is a control, a format, a separator but the space, a surrogate, or one that is not assigned."""
    return letter in ACTING or unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Zl", "Zp", "Cn", "Co"}


@pytest.mark.parametrize("letter", HOSTILE, ids=lambda letter: f"{ord(letter):x}")
def test_each_letter_that_acts_is_escaped(letter: str) -> None:
    """Every kind of letter that acts is shown by its number, and by nothing else."""
    told = printable(f"a{letter}b")
    assert told.startswith("a\\")
    assert told.endswith("b")
    assert told.isascii()


@pytest.mark.slow
def test_of_all_letters_only_those_that_do_not_act_come_out() -> None:
    """Each of the 1,114,112 code points, and its escape reads back."""
    for start in range(0, sys.maxunicode + 1, 0x1000):
        downwards = map(chr, reversed(range(start, start + 0x1000)))  # so that no two surrogates are a pair
        block = "".join(letter for letter in downwards if letter not in '"\\')
        told = printable(block)
        assert json.loads(f'"{told}"') == block
        assert not [hex(ord(letter)) for letter in set(told) if acts(letter)]


@given(text=texts)
def test_nothing_that_acts_comes_out(text: str) -> None:
    """What is printable stays; nothing else comes out; doing it twice changes nothing."""
    told = printable(text)
    assert not [letter for letter in told if acts(letter)]
    assert printable(told) == told
    if not any(map(acts, text)) and text.isprintable():
        assert told == text
    assert not [letter for letter in shown(text) if acts(letter)]


@given(text=texts)
def test_an_error_is_one_printable_line(text: str) -> None:
    """For whoever catches it in a program and logs it, too."""
    for error in (SourceError(f"{text}: no such file"), LoadStopped(text, 3), InvalidRecord(text, "id", text)):
        assert not [letter for letter in str(error) if acts(letter)]


@given(lines=st.lists(texts, min_size=1, max_size=4))
def test_a_page_keeps_its_lines(lines: list[str]) -> None:
    """Line feeds stay, every line is printable, and a stream that is guarded writes just that."""
    page = "\n".join(lines)
    told = printable_lines(page)
    assert told.count("\n") == page.count("\n")
    assert told == "\n".join(map(printable, page.split("\n")))
    out = io.StringIO()
    assert cast("TextIO", Plain(out)).write(page) == len(page)
    assert out.getvalue() == told


anything = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda items: st.lists(items, max_size=3) | st.dictionaries(texts, items, max_size=3),
    max_leaves=8,
)


def sayable(document: Any) -> bool:
    """Whether JSON has a word for it: it has none for lone surrogates."""
    return "\\ud" not in ascii(document)


@given(document=anything.filter(sayable))
def test_json_keeps_its_value(document: Any) -> None:
    """The escapes are JSON's own: a document that is shown reads back as it was."""
    assert orjson.loads(printable(orjson.dumps(document).decode())) == document


@given(name=texts, argument=texts)
def test_an_event_is_one_line_of_the_log(name: str, argument: str) -> None:
    """Whatever the fields of an event hold."""
    record = logging.LogRecord(name, logging.INFO, "", 0, "worker %s lost %s", (name, argument), None)
    line = Dated().format(record)
    assert not [letter for letter in line if acts(letter)]


def test_a_traceback_is_one_line_of_the_log() -> None:
    """A failure that nothing foresaw is an event like any other."""
    error = ValueError("a\n\x1b[31mb")
    record = logging.LogRecord("x", logging.ERROR, "", 0, "failed", (), (ValueError, error, None))
    line = Dated().format(record)
    assert "ValueError: a\\n\\u001b[31mb" in line
    assert line.isprintable()


def nested(depth: int) -> Any:
    """Lists in lists."""
    inner: Any = []
    for _ in range(depth):
        inner = [inner]
    return inner


class Faulty:
    """Something of a stranger's."""

    def __repr__(self) -> str:
        """Fail."""
        raise RuntimeError("no")


@pytest.mark.parametrize("value", [nested(100_000), 10**6000, Faulty(), {"a": nested(5_000)}], ids=range(4))
def test_a_value_without_a_text_is_shown_by_its_type(value: object) -> None:
    """A message about it comes all the same: it must not fail for the value that it is about."""
    assert shown(value).startswith("<")
    assert type(value).__name__ in shown(value)
