"""Whatever an NPY file of vectors or ids holds, it loads or is refused in one line, in bounded time and memory."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import fuzzed
from upsertq.client.loading import outcomes
from upsertq.contract.errors import SourceError
from upsertq.sources import Columns, open_sources

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(600)

TYPES = ["<f4", ">f8", "<f2", "<i8", "|u1", "|b1", "<c8", "|O", "<U5", "|S5", "|V4", "<M8[ns]", "<U0", "|S0"]
ODD_TYPES = [*TYPES, "f4,f4", "(3,)f4", "(1000000000,)f4", "<U999999999", "|V99999999999", "<f16", "", "é", "a5", "\\0"]
NUMBERS = st.one_of(st.integers(-2, 6), st.sampled_from([2**31, 2**63, 2**64, 10**30]))
PIECES = [
    "(", ")", "[", "]", "{", "}", ",", ":", "'", '"', "#", "\n", "L", "1", "-1", "1e9", "True", "None", "\0",
    "((((" * 90,
    "9" * 4_500, "lambda:0", "__import__('os')", "'descr'", "'shape'", "b''", "é", "\\", "1j", "{}", "x" * 11_000,
]  # fmt: skip


def header(descr: str, fortran: str, shape: str) -> str:
    """A header as NumPy writes it."""
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


HEADERS = st.builds(
    header,
    st.one_of(
        st.sampled_from(ODD_TYPES).map(repr),
        st.just("[('a', '<f4'), ('b', '|O')]"),
        st.sampled_from(PIECES),
    ),
    st.sampled_from(["False", "True", "1", "None", "'x'"]),
    st.one_of(
        st.lists(NUMBERS, max_size=4).map(lambda shape: repr(tuple(shape))),
        st.sampled_from(["(3, True)", "3", "(3, 4.0)", "[3, 4]", "('3', '4')", *PIECES]),
    ),
)
BROKEN = st.tuples(HEADERS, st.integers(0, 70), st.integers(0, 4), st.sampled_from(PIECES)).map(
    lambda told: told[0][: told[1]] + told[3] + told[0][told[1] + told[2] :]
)


def saved(text: str, version: tuple[int, int], size: int | None, body: bytes) -> bytes:
    """A file with this header, whose length it tells rightly unless `size` is given."""
    content = text.encode("utf-8", "replace")
    width = 2 if version == (1, 0) else 4
    length: int = min(len(content) if size is None else size, 2 ** (8 * width) - 1)
    return b"\x93NUMPY" + bytes([*version]) + length.to_bytes(width, "little") + content + body


FILES = st.builds(
    saved,
    st.one_of(HEADERS, BROKEN, st.text(max_size=80)),
    st.sampled_from([(1, 0), (1, 0), (2, 0), (3, 0), (0, 0), (9, 9)]),
    st.one_of(st.none(), st.none(), st.none(), st.integers(0, 300), st.just(2**32 - 1)),
    st.one_of(st.binary(max_size=120), st.sampled_from([bytes(48), b"\x00\x00\x80\x3f" * 12, b"\xff" * 60])),
)


def whole(array: np.ndarray[Any, Any]) -> bytes:
    """A good file's bytes."""
    descr = np.lib.format.dtype_to_descr(array.dtype)
    order = bool(array.flags.f_contiguous and not array.flags.c_contiguous)
    text = header(repr(descr), repr(order), repr(array.shape)) + "\n"
    return saved(text, (1, 0), None, array.tobytes("F" if order else "C"))


GOOD_VECTORS = whole(np.arange(1, 13, dtype="<f4").reshape(3, 4))
GOOD_IDS = whole(np.array(["a", "b", "c"]))


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """A good file with some bytes changed, cut out or put in."""
    content = bytearray(good)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(content)


def load(path: Path, vectors: bytes, ids: bytes, ending: str) -> int | None:
    """Read the files; the number of outcomes, or `None` when they are refused, which takes one line."""
    matrix, names = path / "v.npy", path / f"v.ids.{ending}"
    matrix.write_bytes(vectors)
    names.write_bytes(ids)
    seen = 0
    try:
        (source,) = open_sources([str(matrix)], Columns(), ids=[str(names)])
        for chunk in source.chunks():
            for _ in outcomes(chunk, None):
                seen += 1
    except SourceError as error:
        refusal = str(error)
    else:
        return seen
    assert "\n" not in refusal
    assert len(refusal) < 1_000
    return None


@fuzzed(examples=6_000)
@given(
    st.one_of(FILES, damaged(GOOD_VECTORS), st.just(GOOD_VECTORS), st.binary(max_size=60)),
    st.one_of(FILES, damaged(GOOD_IDS), st.just(GOOD_IDS)),
)
def test_any_npy_files_load_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, vectors: bytes, ids: bytes
) -> None:
    """No error but `SourceError` leaves the reader, whatever the headers say."""
    path = tmp_path_factory.getbasetemp()
    with contextlib.suppress(FileNotFoundError):
        load(path, vectors, ids, "npy")


@fuzzed(examples=4_000)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(st.one_of(st.text(max_size=6), st.sampled_from(["a", "", "\ufeff", "\r", "\0"])), max_size=5).map(
            lambda lines: "\n".join(lines).encode("utf-8", "replace")
        ),
        st.sampled_from([b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd\x00", b"\xff\xfea\0\n\0", b"a\nb\nc", b"a\r\nb\r\nc\r\n"]),
    )
)
def test_any_file_of_ids_loads_or_is_refused(tmp_path_factory: pytest.TempPathFactory, ids: bytes) -> None:
    """Text of ids too: as many as vectors, or refused."""
    assert load(tmp_path_factory.getbasetemp(), GOOD_VECTORS, ids, "txt") in {None, 3}
