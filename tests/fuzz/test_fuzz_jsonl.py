"""Whatever a JSON file holds, each of its records is a record or a fault, or the file is refused by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import fuzzed
from upsertq.client.loading import outcomes
from upsertq.client.rejects import line_of
from upsertq.contract.errors import SourceError
from upsertq.sources import Columns, Fault, open_sources

if TYPE_CHECKING:
    from pathlib import Path

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("d"), st.just("[0. 1.]")
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)
NAMES = st.sampled_from(
    [
        "id",
        "values",
        "metadata",
        "sparse_values",
        "namespace",
        "op",
        "__deleted",
        "payload",
        "vectors",
        "a.b",
        "a",
        "v1",
    ]
)
VECTORS = st.lists(st.floats(width=32) | st.integers(-3, 3), max_size=4)
GOOD = st.fixed_dictionaries(
    {"id": st.text("abc", min_size=1, max_size=3) | st.integers(), "values": VECTORS},
    optional={
        "metadata": st.dictionaries(st.text(max_size=3), SCALARS, max_size=3),
        "namespace": st.sampled_from("ab"),
    },
)
RECORDS = st.one_of(GOOD, st.dictionaries(NAMES, TREES, max_size=6), TREES)
DEEP = st.builds(lambda depth, open_, close: open_ * depth + close * depth, st.integers(1, 1_200), *[
    st.sampled_from(["[", '{"a":', '{"id":']), st.sampled_from(["]", "}", "1}", ""])
])  # fmt: skip
COLUMNS = st.sampled_from(
    [
        Columns(),
        Columns(metadata=("*",)),
        Columns(metadata=("a.b", "op"), namespace_column="a"),
        Columns(values=("v*",)),
        Columns(id="a.b", values=("a.0",), sparse="payload"),
        Columns(namespace="n", id="a"),
    ]
)


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Records as lines, arrays or bodies, then cut, repeated, overwritten, or in another encoding."""
    records = draw(st.lists(RECORDS, max_size=5))
    shape = draw(st.sampled_from(["lines", "array", "body", "mixed", "deep", "raw"]))
    indent = draw(st.sampled_from([None, 0, 2]))
    if shape == "raw":
        return draw(st.binary(max_size=200))
    whole: Any = {"namespace": "n", "vectors": records, "other": draw(SCALARS)} if shape == "body" else records
    text = json.dumps(whole, indent=indent)
    if shape in ("lines", "mixed", "deep"):
        lines = [json.dumps(record, indent=indent if shape == "mixed" else None) for record in records]
        text = "\n".join(lines + ([draw(DEEP)] if shape == "deep" else []))
    encoding = draw(st.sampled_from(["utf-8"] * 8 + ["utf-16", "utf-8-sig", "utf-32-le"]))
    content = bytearray(text.encode(encoding, "replace"))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        piece = draw(st.sampled_from([b"", b"{", b"]", b'"', b"\\", b"\n", b"\0", b",", b"\xff", b"1e999", b"..."]))
        content[at : at + draw(st.integers(0, 4))] = piece
    return bytes(content)


def read(path: Path, columns: Columns) -> int:
    """How many items the file has, each either a record or a fault that can be written down; -1 for a refusal."""
    count, refused = 0, ""
    try:
        (source,) = open_sources([str(path)], columns)
        for chunk in source.chunks():
            for row, outcome in enumerate(outcomes(chunk, None)):
                count += 1
                if isinstance(outcome, Fault):
                    json.loads(line_of(source, chunk, row, outcome))
    except SourceError as caught:
        refused = str(caught)
    assert "\n" not in refused
    return -1 if refused else count


@pytest.mark.timeout(600)
@fuzzed(examples=2_500)
@given(content=contents(), columns=COLUMNS)
def test_no_json_ends_in_anything_but_records_faults_and_refusals(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, columns: Columns
) -> None:
    """No other exception leaves the reader, and no line is passed over."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.jsonl"
    path.write_bytes(content)
    count = read(path, columns)
    text = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    if count >= 0 and text[:1] not in (b"[", b"{"):
        lines = [line for line in content.split(b"\n") if line.removeprefix(b"\xef\xbb\xbf").strip()]
        assert count >= sum(1 for line in lines if line.strip() != b"[]")
