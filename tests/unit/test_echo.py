"""What we sent is cut out of what comes back, in each spelling, and what the service says itself stays."""

from __future__ import annotations

import html
import json
from urllib.parse import quote, quote_plus

import pytest

from upsertq_worker.delivery.echo import GAP, WORK_MAX, without_echo

TEXT = 'x\' it has a document schema, "so" <b>\n'


@pytest.mark.parametrize(
    "echo",
    [
        TEXT, TEXT.upper(), json.dumps(TEXT), json.dumps(json.dumps(TEXT)), repr(TEXT), html.escape(TEXT), quote(TEXT),
        quote_plus(TEXT), quote(quote(TEXT, safe=""), safe=""), f"{TEXT[:29]}...", f"'{TEXT[:20]}'", f"…{TEXT[9:]}",
        f"...{TEXT[13:]}",
    ],
)  # fmt: skip
def test_an_echo_is_cut_out(echo: str) -> None:
    """Whole, or cut short where the message shows it."""
    left = without_echo(f"Vector ID {echo} is bad", [TEXT])
    assert "schema" not in left.lower()
    assert "document" not in left.lower()
    assert left.startswith("Vector ID ")
    assert left.endswith(" is bad")


@pytest.mark.parametrize(
    ("message", "text", "left"),
    [
        # found by fuzzing: a word that is cut short, and one behind an escape
        ("no monthly quo... here", "monthly quota", f"no {GAP}... here"),
        ("no ...onthly quota here", "monthly quota", f"no ...{GAP} here"),
        ("id '\\ndocument schema' bad", "\ndocument schema", f"id '\\n{GAP}' bad"),
        ("no ...ent schema, x&<b>%20 bad", "it has a document schema, x&<b>%20", f"no ...{GAP}>%20 bad"),
        ('&"it has a docu... bad', '<b>&"it has a document schema', f'&"{GAP}... bad'),
        # single words only where a name follows; numbers never
        ("limit for namespace monthly", "monthly", f"limit for namespace {GAP}"),
        ("a monthly limit", "monthly", "a monthly limit"),
        ("limit for namespace 100 (100 QPS)", "100", "limit for namespace 100 (100 QPS)"),
        # a few words that a longer text begins with are the service's own
        ("it does not support it", "does not compute", "it does not support it"),
        ("it does not...", "does not compute", f"it {GAP}..."),
        ("untouched", "", "untouched"),
        ("untouched", "... ---", "untouched"),
        ("", "a b", ""),
    ],
)
def test_what_is_cut(message: str, text: str, left: str) -> None:
    """And what is not."""
    assert without_echo(message, [text]) == left


def test_too_much_to_compare_leaves_nothing() -> None:
    """Then no sentence in it is surely the service's own."""
    assert without_echo("document schema", (f"text {number}" for number in range(WORK_MAX))) == ""
