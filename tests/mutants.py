"""Entries, letters and values as strategies: sound ones of which some fields are something else."""

from __future__ import annotations

import orjson
from hypothesis import strategies as st

import junk

NAMES = st.sampled_from([*junk.LETTER, "seq", "depth", "junk"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["indices", "values", "k"]), inner),
    max_leaves=8,
)


def _written(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        return b"[1"


VALUES = (
    st.sampled_from([*junk.VALUES, *junk.BAD_JSON, junk.SPARSE, b"1", b"2", b"0", b'["a","b"]'])
    | st.binary(max_size=40)
    | JSON.map(_written)
    | st.lists(JSON, max_size=3).map(_written)
    | st.integers(-(2**64), 2**64).map(lambda number: b"%d" % number)
)


@st.composite
def mutated(draw: st.DrawFn, sound: dict[str, bytes]) -> dict[bytes, bytes]:
    """A sound entry or letter of which up to three fields are something else, or are cut, doubled or left out."""
    fields = {name.encode(): value for name, value in sound.items()}
    for name in draw(st.lists(NAMES.map(str.encode), max_size=3)):
        match draw(st.sampled_from(["value", "none", "cut", "twice", "bit"])):
            case "value":
                fields[name] = draw(VALUES)
            case "none":
                fields.pop(name, None)
            case "cut":
                fields[name] = fields.get(name, b"")[: draw(st.integers(0, 20))]
            case "twice":
                fields[name] = 2 * fields.get(name, b"")
            case _:
                value = bytearray(fields.get(name, b"") or b"0")
                value[draw(st.integers(0, len(value) - 1))] ^= 1 << draw(st.integers(0, 7))
                fields[name] = bytes(value)
    return fields
