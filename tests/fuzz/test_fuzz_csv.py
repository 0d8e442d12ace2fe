"""Whatever a CSV file holds, each of its rows is a record or a fault, or the file is refused by name."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import fuzzed
from upsertq.client.loading import outcomes
from upsertq.client.rejects import line_of
from upsertq.contract.errors import SourceError
from upsertq.sources import Columns, Fault, open_sources

NAMES = st.sampled_from(["id", "values", "metadata", "sparse_values", "namespace", "", "op", "v0", "v1", "v01", "a.b"])
CELLS = st.one_of(
    st.sampled_from(
        ["", "a", "1", "[1, 2]", "[0. 1.]", "[1 ... 2]", "1_0", "nan", "{}", '{"a": 1}', "d", "AACAPwAAAEAAAIA/"]
    ),
    st.text(max_size=6),
    st.floats().map(str),
    st.integers(1, 1_200).map(lambda depth: "[" * depth),
)
COLUMNS = st.sampled_from(
    [
        Columns(),
        Columns(metadata=("*",)),
        Columns(values=("v*",), metadata=("a.b",)),
        Columns(values=("v0", "v1"), namespace_column="namespace", namespace="n"),
    ]
)


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """A table by any delimiter, then cut, repeated, overwritten, or in another encoding."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    header = ["id", "values", *draw(st.lists(NAMES, max_size=4))]
    rows = draw(st.lists(st.lists(CELLS, min_size=len(header), max_size=len(header)), max_size=5))
    held = io.StringIO()
    writer = csv.writer(
        held, delimiter=draw(st.sampled_from(",;\t|")), lineterminator=draw(st.sampled_from(["\n", "\r\n"]))
    )
    writer.writerows([header, *rows])
    encoding = draw(st.sampled_from(["utf-8"] * 8 + ["utf-16", "utf-8-sig", "latin-1"]))
    content = bytearray(held.getvalue().encode(encoding, "replace"))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        piece = draw(st.sampled_from([b"", b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"[", b";"]))
        content[at : at + draw(st.integers(0, 4))] = piece
    return bytes(content)


@pytest.mark.timeout(600)
@fuzzed(examples=2_500)
@given(content=contents(), columns=COLUMNS, delimiter=st.sampled_from([None, None, ",", ";"]))
def test_no_csv_ends_in_anything_but_records_faults_and_refusals(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, columns: Columns, delimiter: str | None
) -> None:
    """No other exception leaves the reader, and every fault can be written down."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.csv"
    path.write_bytes(content)
    try:
        (source,) = open_sources([str(path)], columns, delimiter=delimiter)
        for chunk in source.chunks():
            for row, outcome in enumerate(outcomes(chunk, None)):
                if isinstance(outcome, Fault):
                    json.loads(line_of(source, chunk, row, outcome))
    except SourceError as caught:
        refused = str(caught)
    else:
        refused = ""
    assert "\n" not in refused
