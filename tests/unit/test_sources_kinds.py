"""Text files load as people have them, and what does not load is named, with what to do."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import time
import tracemalloc
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from upsertq.client.loading import outcomes
from upsertq.client.rejects import line_of
from upsertq.contract.errors import SourceError
from upsertq.contract.wire import Record
from upsertq.sources import Columns, Fault, Format, open_sources
from upsertq.sources import text as text_module
from upsertq.sources.text import MAX_LINE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROWS: list[dict[str, Any]] = [
    {"id": f"r{k}", "values": [0.5, float(k + 1)], "metadata": {"t": f'[{{"{k}\\é'}} for k in range(3)
]


def read(path: Path, content: str | bytes, columns: Columns | None = None, **options: Any) -> list[Record | Fault]:
    """What the loader would make of the file."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    (source,) = open_sources([str(path)], columns or Columns(), **options)
    return [outcome for chunk in source.chunks() for outcome in outcomes(chunk, None)]


def said(found: list[Record | Fault]) -> Iterator[tuple[str, list[float], Any, str]]:
    """The records, of which none may be a fault."""
    for record in found:
        assert isinstance(record, Record), record
        yield (
            record.id,
            np.frombuffer(record.values, "<f4").tolist(),
            json.loads(record.metadata or b"null"),
            record.namespace,
        )


def wanted(namespace: str = "") -> list[tuple[str, list[float], Any, str]]:
    """What `ROWS` are as records."""
    return [(row["id"], row["values"], row["metadata"], namespace) for row in ROWS]


def refusal(path: Path, content: str | bytes, **options: Any) -> str:
    """The one line that refuses the file."""
    with pytest.raises(SourceError) as caught:
        read(path, content, **options)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- JSON that is no lines


@pytest.mark.parametrize("indent", [None, 0, 2, "\t"])
@pytest.mark.parametrize("block", [7, 2**18])
@pytest.mark.parametrize("squeeze", [bytes, gzip.compress])
def test_arrays_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: Any, block: int, squeeze: Any) -> None:
    """Pretty or on one line, however it is cut into blocks, compressed or not, with a mark and blanks around it."""
    monkeypatch.setattr(text_module, "BLOCK", block)
    text = json.dumps(ROWS, indent=indent).encode()
    for content in (text, b"\xef\xbb\xbf\n " + text + b"\n\n"):
        assert list(said(read(tmp_path / "a.json", squeeze(content)))) == wanted()


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("most", [40, MAX_LINE])
def test_an_object_around_an_array_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: Any, after: Any, most: int
) -> None:
    """As the service's own requests are, with the namespace before or after, held whole or streamed."""
    rows = [{"id": row["id"], "values": row["values"]} for row in ROWS]
    body = {"vectors": rows, "namespace": "n"} if after else {"namespace": "n", "usage": {"x": [1]}, "vectors": rows}
    text = json.dumps(body, indent=indent)
    if most != MAX_LINE:
        text = text.replace("{", "{\n", 1)
    for module in ("document", "text", "jsonl"):
        monkeypatch.setattr(
            f"upsertq.sources.{module}.MAX_LINE", max(most, len(json.dumps(rows[0], indent=indent)) + 40)
        )
    found = list(said(read(tmp_path / "a.json", text)))
    assert found == [(row["id"], row["values"], None, "n") for row in rows]
    assert {namespace for *_, namespace in said(read(tmp_path / "a.json", text, Columns(namespace="m")))} == {"m"}


def test_requests_a_line_and_objects_in_a_row_load(tmp_path: Path) -> None:
    """Recorded requests, lists a line, pretty objects one after the other, and a fetch's answer."""
    first, second = ({"vectors": [ROWS[k]], "namespace": f"n{k}"} for k in (0, 1))
    found = said(read(tmp_path / "a.jsonl", f"{json.dumps(first)}\n{json.dumps(second)}\n"))
    assert [(record_id, namespace) for record_id, _, _, namespace in found] == [("r0", "n0"), ("r1", "n1")]
    assert list(said(read(tmp_path / "a.jsonl", f"{json.dumps(ROWS[:2])}\n{json.dumps(ROWS[2:])}\n"))) == wanted()
    assert list(said(read(tmp_path / "a.json", "\n".join(json.dumps(row, indent=2) for row in ROWS)))) == wanted()
    fetched = {"vectors": {row["id"]: row for row in ROWS}, "namespace": "n"}
    assert list(said(read(tmp_path / "a.json", json.dumps(fetched, indent=1)))) == wanted("n")
    assert read(tmp_path / "a.json", "[]") == read(tmp_path / "a.json", "[\n]") == []


def test_a_broken_document_is_refused_where_it_breaks(tmp_path: Path) -> None:
    """An item that is none is one fault; a document that ends early, or is none, is an error with its line."""
    good, fault, last = read(
        tmp_path / "a.json", '[{"id": "a", "values": [1]},\n {"id": }, {"id": "b", "values": [1]}\n]'
    )
    assert isinstance(good, Record)
    assert isinstance(last, Record)
    assert isinstance(fault, Fault)
    assert "line 3 is no JSON" in refusal(tmp_path / "a.json", '[\n{"id": "a", "values": [1]},\n{"id": "b"')
    assert "',' is missing" in refusal(tmp_path / "a.json", '[\n{"id": "a", "values": [1]}\n{"id": "b"}\n]')


@pytest.mark.parametrize("first", ['{"id": "x", "values": [1, 2', '{"id": "x", values}', '{"id": "x", "values": [1,'])
def test_a_broken_first_line_does_not_make_lines_a_document(tmp_path: Path, first: str) -> None:
    """The good lines after it are read."""
    fault, *rest = read(tmp_path / "a.jsonl", "\n".join([first, *map(json.dumps, ROWS)]))
    assert isinstance(fault, Fault)
    assert list(said(rest)) == wanted()


@pytest.mark.slow
def test_a_large_array_is_read_in_little_memory(tmp_path: Path) -> None:
    """18 MB on one line, which would take 100 MB as a whole."""
    row = json.dumps({"id": "a", "values": [0.125] * 1_500})
    path = tmp_path / "a.json"
    path.write_text("[" + ",".join([row] * 1_800) + "]")
    assert path.stat().st_size > MAX_LINE
    tracemalloc.start()
    try:
        (source,) = open_sources([str(path)], Columns())
        assert sum(len(chunk) for chunk in source.chunks()) == 1_800
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


# -- values within values


def test_paths_lead_into_nested_values(tmp_path: Path) -> None:
    """Names and positions between dots; a field whose own name has dots wins."""
    line = {
        "custom_id": "a",
        "response": {"body": {"data": [{"embedding": [1.0, 2.0], "x.y": {"z": "deep"}}]}},
        "_source": {"title": "t", "vec": [3.0], "n": 1},
        "a.b": "literal",
        "a": {"b": "nested"},
    }
    columns = Columns(
        id="custom_id",
        values=("response.body.data.0.embedding",),
        metadata=("_source.title", "a.b", "response.body.data.0.x.y.z"),
    )
    found = said(read(tmp_path / "a.jsonl", json.dumps(line), columns))
    assert next(found) == ("a", [1.0, 2.0], {"title": "t", "a.b": "literal", "z": "deep"}, "")
    columns = Columns(id="custom_id", values=("_source.vec",), metadata=("_source",), namespace_column="a.b")
    assert next(said(read(tmp_path / "a.jsonl", json.dumps(line), columns))) == (
        "a",
        [3.0],
        {"title": "t", "n": 1},
        "literal",
    )
    with pytest.raises(SourceError, match=r"it has 'response\.body\.data'"):
        read(tmp_path / "a.jsonl", json.dumps(line), Columns(values=("response.body.embedding",)))
    with pytest.raises(SourceError, match="would become the field 'b'"):
        read(tmp_path / "a.jsonl", '{"id": "a", "x": {"b": 1}, "y": {"b": 2}}', Columns(metadata=("x.b", "y.b")))


# -- text that is not as UTF-8, CSV or JSON would have it


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json.gz"])
def test_other_encodings_are_refused_whole(tmp_path: Path, encoding: str, name: str) -> None:
    """With a mark or without one, nothing is read as if it were UTF-8."""
    content = ("id,values\n" if "csv" in name else json.dumps(ROWS[0], ensure_ascii=False) + "\n").encode(encoding)
    message = refusal(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    assert encoding.upper()[:6] in message
    assert "convert it to UTF-8" in message


@pytest.mark.parametrize(
    ("name", "delimiter", "told"),
    [("a.csv", ";", None), ("a.csv", "\t", None), ("a.csv", "|", None), ("a.tsv", "\t", None), ("a.csv", "!", "!")],
)
def test_delimiters_are_told_or_found(tmp_path: Path, name: str, delimiter: str, told: str | None) -> None:
    """By the header, by the ending `.tsv`, or by the option."""
    rows = [["id", "values", "note,one"], ["a", "[1, 2]", "x,y"]]
    content = "".join(delimiter.join(row) + "\r\n" for row in rows)
    (record,) = said(read(tmp_path / name, content, Columns(metadata=("note,one",)), delimiter=told))
    assert record == ("a", [1.0, 2.0], {"note,one": "x,y"}, "")


def test_an_index_without_a_name_is_no_metadata(tmp_path: Path) -> None:
    """What pandas writes first, and the empty columns that spreadsheets write last."""
    (record,) = said(read(tmp_path / "a.csv", ',id,values,t,,\n0,a,"[1]",x,,\n', Columns(metadata=("*",))))
    assert record == ("a", [1.0], {"t": "x"}, "")


@pytest.mark.parametrize(
    "cell", ["1_000", "Infinity", "nan", "0x10", "\u0661", "1,5", "--1", "1e", "1 2", "infinity", "1\u00a0"]
)
def test_what_is_no_decimal_number_is_refused(tmp_path: Path, cell: str) -> None:
    """Python's float takes more than a number is."""
    (fault,) = read(tmp_path / "a.csv", f'id,d0,d1\na,1,"{cell}"\n', Columns(values=("d*",)))
    assert isinstance(fault, Fault)
    assert "which is no number" in fault.reason


@pytest.mark.parametrize(
    ("cell", "number"), [("1e5", 1e5), (" 1.5 ", 1.5), ("+.5", 0.5), ("2.", 2.0), ("-1E-2", -0.01)]
)
def test_decimal_numbers_load(tmp_path: Path, cell: str, number: float) -> None:
    """Every way of decimal notation."""
    (record,) = said(read(tmp_path / "a.csv", f"id,d0,d1\na,1,{cell}\n", Columns(values=("d*",))))
    assert record[1] == [1.0, float(np.float32(number))]


@pytest.mark.parametrize(
    "written",
    [
        "[0. 0. 0.5]",
        "[0 0 5e-1]",
        "[ 0.  0.\n 0.5 ]",
        "[0., 0., 0.5]",
        "array([0., 0., 0.5], dtype=float32)",
        "(0, 0, .5)",
        "{0,0,0.5}",
        " [0.0, 0.0, 0.5] ",
    ],
)
def test_printed_arrays_load(tmp_path: Path, written: str) -> None:
    """As NumPy, Python and Postgres print them, in CSV and in JSON."""
    (record,) = said(read(tmp_path / "a.csv", f'id,values\na,"{written}"\n'))
    assert record[1] == [0.0, 0.0, 0.5]
    (record,) = said(read(tmp_path / "a.jsonl", json.dumps({"id": "a", "values": written})))
    assert record[1] == [0.0, 0.0, 0.5]


@pytest.mark.parametrize("written", [str(np.zeros(2_000)), "[0.1, 0.2, ..., 0.9]", "[1 … 2]"])
def test_arrays_printed_in_part_are_named(tmp_path: Path, written: str) -> None:
    """The numbers between are gone for good."""
    (fault,) = read(tmp_path / "a.csv", f'id,values\na,"{written}"\n')
    assert isinstance(fault, Fault)
    assert "numbers are missing" in fault.reason


@pytest.mark.parametrize("written", ["[1 2, 3]", "[1,,2]", "[[1 2]]", "[nan 1]", "[1_0 2]", "[a b]", "1 2 3"])
def test_what_is_no_printed_array_is_refused(tmp_path: Path, written: str) -> None:
    """Nothing is guessed."""
    (fault,) = read(tmp_path / "a.csv", f'id,values\na,"{written}"\n')
    assert isinstance(fault, Fault)


@pytest.mark.parametrize("dimension", [3, 8, 1_536])
@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", "<f2", "i1"])
def test_base64_is_decoded_where_it_is_float32_and_named_else(tmp_path: Path, dimension: int, kind: str) -> None:
    """Other types are never taken for float32."""
    rng = np.random.default_rng(dimension)
    vector = rng.standard_normal(dimension)
    vector /= np.linalg.norm(vector)
    cells = (vector * 127).round() if kind == "i1" else vector
    written = base64.b64encode(cells.astype(kind).tobytes()).decode()
    (found,) = read(tmp_path / "a.jsonl", json.dumps({"id": "a", "values": written}))
    if kind == "<f4":
        assert isinstance(found, Record)
        assert found.values == vector.astype("<f4").tobytes()
    else:
        assert isinstance(found, Fault)
        assert "base64" in found.reason or "is no JSON list" in found.reason


# -- files of other kinds


def tarred() -> bytes:
    """A tar archive."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.jsonl"), io.BytesIO())
    return held.getvalue()


def zipped() -> bytes:
    """A zip archive."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("a.jsonl", "{}")
    return held.getvalue()


OTHERS: list[tuple[str, bytes, str]] = [
    (".jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    (".jsonl", b"\n<!DOCTYPE html><html>", "HTML"),
    (".jsonl", b'<?xml version="1.0"?><Error>', "XML"),
    (".h5", b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
    (".bz2", bz2.compress(b"{}"), "decompress"),
    (".xz", lzma.compress(b"{}"), "decompress"),
    (".zip", zipped(), "archive"),
    (".npz", zipped(), "numpy.save"),
    (".xlsx", zipped(), "save it as CSV"),
    (".tar", tarred(), "archive"),
    (".tar.gz", gzip.compress(tarred()), "archive"),
    (".pkl", pickle.dumps([1.0]), "pickle"),
    (".pt", pickle.dumps([1.0]), ".npy"),
    (".avro", b"Obj\x01" + bytes(30), "Avro"),
    (".orc", b"ORC" + bytes(30), "ORC"),
    (".safetensors", (80).to_bytes(8, "little") + b'{"a":{}}', "safetensors"),
    (".fvecs", bytes(20), "raw vectors"),
    (".bvecs", bytes(20), "raw vectors"),
    (".lance", b"x", "Lance"),
    (".sqlite", b"SQLite format 3\0", "database"),
]


@pytest.mark.parametrize(("ending", "content", "told"), OTHERS, ids=[ending for ending, *_ in OTHERS])
def test_other_kinds_are_named_by_their_ending(tmp_path: Path, ending: str, content: bytes, told: str) -> None:
    """What it is and what to do, before anything is read."""
    assert told in refusal(tmp_path / f"a{ending}", content)


@pytest.mark.parametrize("kind", list(Format))
@pytest.mark.parametrize(
    ("content", "told"),
    [(content, told) for ending, content, told in OTHERS if ending not in (".fvecs", ".bvecs", ".lance", ".tar.gz")],
    ids=[ending for ending, *_ in OTHERS if ending not in (".fvecs", ".bvecs", ".lance", ".tar.gz")],
)
def test_other_kinds_are_named_by_their_first_bytes(tmp_path: Path, kind: Format, content: bytes, told: str) -> None:
    """Whatever the name says, and for every format."""
    message = refusal(tmp_path / "a.data", content, format=kind)
    assert " is " in message
    assert "damaged" not in message


def test_our_own_formats_under_a_wrong_name_are_told(tmp_path: Path) -> None:
    """The right format is in the message."""
    held = io.BytesIO()
    np.save(held, np.ones((1, 1)))
    assert "say --format npy" in refusal(tmp_path / "a.jsonl", held.getvalue())
    assert "say --format parquet" in refusal(tmp_path / "a.csv", b"PAR1" + bytes(20))
    assert "say --format parquet" in refusal(tmp_path / "a.csv.gz", gzip.compress(b"PAR1" + bytes(20)))
    assert "compressed from outside" in refusal(tmp_path / "a.parquet", gzip.compress(b"PAR1"))


# -- bounds


@pytest.mark.parametrize("depth", [65, 250, 1_000, 100_000])
def test_deep_nesting_is_a_fault_that_can_be_written_down(tmp_path: Path, depth: int) -> None:
    """No depth ends in a traceback, nor does writing it to the rejects."""
    deep = "[" * depth + "]" * depth
    objects = '{"a":' * depth + "1" + "}" * depth
    for line in (
        deep,
        f'{{"id": "a", "values": {deep}}}',
        f'{{"id": "a", "values": [1], "metadata": {objects}}}',
        json.dumps({"id": "a", "values": deep}),
        json.dumps({"id": "a", "values": [1], "metadata": objects}),
    ):
        (tmp_path / "a.jsonl").write_text(line + "\n")
        (source,) = open_sources([str(tmp_path / "a.jsonl")], Columns())
        (chunk,) = source.chunks()
        (fault,) = outcomes(chunk, None)
        assert isinstance(fault, Fault)
        assert "nested deeper than 64 levels" in fault.reason
        assert json.loads(line_of(source, chunk, 0, fault))["_reject"]


def test_a_doubled_name_among_many_columns_is_told_at_once(tmp_path: Path) -> None:
    """60,000 columns take no longer than reading them; a doubled name that is not used is no matter."""
    header = ",".join(["id", "values", *(f"c{k}" for k in range(60_000)), "id"])
    begun = time.process_time()
    assert "'id' twice" in refusal(tmp_path / "a.csv", header + "\n")
    assert "'c7' twice" in refusal(tmp_path / "a.csv", header[:-2] + "c7\n", columns=Columns(metadata=("*",)))
    assert time.process_time() - begun < 5
    assert len(read(tmp_path / "a.csv", "id,values,x,x\na,[1],,\n")) == 1


@pytest.mark.slow
def test_wide_and_endless_rows_are_bounded(tmp_path: Path) -> None:
    """Empty cells count, and a quoted row that never ends is given up."""
    row = "a,[1]" + "," * 60_000 + "\n"
    content = "id,values" + "".join(f",c{k}" for k in range(60_000)) + "\n" + row * 100
    tracemalloc.start()
    try:
        assert len(read(tmp_path / "a.csv", content)) == 100
        assert "more than 200,000 cells" in refusal(tmp_path / "a.csv", "id,values\n" + "," * 900_000)
        endless = 'id,values\na,"' + ("x" * 999 + "\n") * (MAX_LINE // 1_000 + 9)
        assert "the row that begins on line 2 is longer than" in refusal(tmp_path / "a.csv", endless)
        assert tracemalloc.get_traced_memory()[1] < 250_000_000
    finally:
        tracemalloc.stop()
    assert isinstance(read(tmp_path / "a.jsonl", '{"id": [' + "[]," * 2_000_000 + "1]}")[0], Fault)
