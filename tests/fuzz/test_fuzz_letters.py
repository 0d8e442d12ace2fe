"""Whatever stands among the dead letters can be listed, shown and exported, or is refused by name."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import junk
from fuzzing import fuzzed
from mutants import mutated
from upsertq.cli.dead_shown import document_of, dumped, export_line, item_of, page_of, table
from upsertq.contract.dead_letter import decode_head, decode_letter
from upsertq.contract.wire import UnknownEntry
from upsertq.dead.choice import Selector

LETTERS = mutated(junk.LETTER) | st.dictionaries(st.binary(max_size=8), st.binary(max_size=60), max_size=6)


def refused_in_a_line(error: UnknownEntry) -> None:
    """It is short, and nothing in it moves a cursor."""
    assert len(str(error)) < 500
    assert str(error).isprintable()


PAYLOAD = (b"values", b"sparse", b"meta")


@pytest.mark.timeout(600)
@fuzzed(examples=5_000)
@given(LETTERS)
def test_a_letter_is_sound_or_refused(fields: dict[bytes, bytes]) -> None:
    """Its head and itself; where the letter can be read, so can its head."""
    bare = {name: value for name, value in fields.items() if name not in PAYLOAD}
    try:
        head = decode_head(0, "7-1", bare)
    except UnknownEntry as error:
        refused_in_a_line(error)
        with pytest.raises(UnknownEntry):
            decode_letter(0, "7-1", fields)
        return
    assert Selector().takes(head)
    assert orjson.loads(dumped(item_of(head)))["id"] == head.id
    assert all(line.isprintable() for line in table([head], 120))
    try:
        letter = decode_letter(0, "7-1", fields)
    except UnknownEntry as error:
        refused_in_a_line(error)
        return
    assert orjson.loads(dumped(document_of(letter)))["sequence"] == letter.entry.seq
    assert orjson.loads(export_line(letter))["id"] == letter.id
    assert "\x1b" not in page_of(letter)
