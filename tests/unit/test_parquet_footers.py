"""A Parquet footer whose statistics of sizes do not fit their column is refused: pyarrow itself ends the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from upsertq.contract.errors import SourceError
from upsertq.sources import Columns, open_sources
from upsertq.sources.ipc import Broken
from upsertq.sources.parquet_pages import size_statistics

if TYPE_CHECKING:
    from pathlib import Path

NAMES = Columns(metadata=("note",))
BYTE_ARRAY, BOOLEAN = b"\x15\x0c\x25", b"\x15\x00\x25"
"""A schema's element as Thrift has it: its physical type, then whether it may be absent."""


def written(path: Path, groups: int = 2) -> Path:
    """Write a file of `groups` row groups."""
    rows = 3 * groups
    table = pa.table({"id": [f"a{k}" for k in range(rows)], "values": [[1.0, 2.0]] * rows, "note": [b"x"] * rows})
    pq.write_table(table, path, row_group_size=3, store_schema=False)
    return path


def read(path: Path) -> int:
    """Return the number of records."""
    (source,) = open_sources([str(path)], NAMES)
    return sum(len(chunk.ids) for chunk in source.chunks())


def test_an_honest_file_loads(tmp_path: Path) -> None:
    """Its statistics are read, for each row group and each column."""
    path = written(tmp_path / "a.parquet")
    with path.open("rb") as file:
        told = size_statistics(file)
    assert [[sorted(chunk) for chunk in group] for group in told] == [[[1, 2, 3], [2, 3], [1, 2, 3]]] * 2
    assert told[0][0][1] == len("a0a1a2")


def test_bytes_of_texts_in_a_column_of_booleans(tmp_path: Path) -> None:
    """One line, and the process lives."""
    path = written(tmp_path / "a.parquet")
    content = path.read_bytes()
    at = content.rindex(BYTE_ARRAY)
    path.write_bytes(content[:at] + BOOLEAN + content[at + len(BOOLEAN) :])
    with pytest.raises(SourceError, match=r"is damaged: .*sizes of column 'note' are not of its type"):
        read(path)


@pytest.mark.parametrize("size", [2**32 - 1, 2**20, 5])
def test_a_footer_of_another_size(size: int, tmp_path: Path) -> None:
    """It is cut off, or longer than the file."""
    path = written(tmp_path / "a.parquet")
    content = path.read_bytes()
    path.write_bytes(content[:-8] + size.to_bytes(4, "little") + content[-4:])
    with path.open("rb") as file, pytest.raises(Broken, match=r"footer|page header"):
        size_statistics(file)
