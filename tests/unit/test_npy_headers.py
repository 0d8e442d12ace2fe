"""Headers of NPY files: what they say is held against the file, and nothing of them is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from upsertq.client.loading import outcomes
from upsertq.contract.errors import SourceError
from upsertq.contract.wire import Record
from upsertq.sources import Columns, open_sources

if TYPE_CHECKING:
    from pathlib import Path


def header(path: Path, text: str, body: bytes = bytes(48)) -> Path:
    """A file with this header and three ids beside it."""
    (path / "v.ids.txt").write_text("a\nb\nc\n")
    content = text.encode()
    (path / "v.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content + body)
    return path / "v.npy"


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2"])
@pytest.mark.parametrize("rows", [1, 2_503])
def test_a_matrix_stored_by_columns_is_read_by_rows(tmp_path: Path, dtype: str, rows: int) -> None:
    """Fortran's order gives the same vectors, over the limits of chunks."""
    matrix = np.arange(1, rows * 3 + 1).reshape(rows, 3).astype(dtype)
    np.save(tmp_path / "v.npy", np.asfortranarray(matrix))
    np.save(tmp_path / "v.ids.npy", np.arange(rows))
    (source,) = open_sources([str(tmp_path / "v.npy")], Columns())
    found = [o for chunk in source.chunks() for o in outcomes(chunk, None)]
    assert [o.id for o in found if isinstance(o, Record)] == list(map(str, range(rows)))
    assert b"".join(o[2] for o in found if isinstance(o, Record)) == matrix.astype("<f4").tobytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2)}", "24 bytes more than its header says"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5)}", "is cut off"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 9999999999999999999999)}", "dimensions|cut off"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-3, -4)}", "its shape is"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (3, 4)}", "Python objects"),
        ("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (3, 4)}", "Python objects"),
        ("{'descr': '<f4,<f4', 'fortran_order': False, 'shape': (3, 2)}", "records of|no NPY file"),
        ("{'descr': ('<f4', (2,)), 'fortran_order': False, 'shape': (3, 2)}", "records of|no NPY file"),
        ("{'descr': '<c8', 'fortran_order': False, 'shape': (3, 2)}", "vectors are a matrix"),
        ("{'descr': __import__('os').abort(), 'fortran_order': False, 'shape': (3, 4)}", "is no NPY file"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 300, "is no NPY file"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), 'x': '" + "x" * 20_000 + "'}", "is no NPY file"),
        ("[" * 9_000, "is no NPY file"),
        ("", "is no NPY file"),
        ("\0\n", "is no NPY file"),
    ],
    ids=lambda text: text[:70],
)
def test_a_header_that_lies_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    """Never a traceback, and no literal but a header's is taken."""
    with pytest.raises(SourceError, match=message) as raised:
        open_sources([str(header(tmp_path, text))], Columns())
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500
