"""Owns reading Parquet and Arrow files piece by piece: the only module that names pyarrow, of the extra `files`."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from upsertq.errors import SourceError
from upsertq.sources.arrays import batch_chunk
from upsertq.sources.chunk import CHUNK_BYTES, CHUNK_ROWS, Chunk
from upsertq.sources.columns import Columns, Layout, resolve

PAGE_BUFFER: Final = 2**20
"""Bytes read ahead of each Parquet column; without it a whole column of a row group would be read at once."""
DROP_BYTES: Final = 64 * 2**20
"""After so much of a mapped file its pages are given back, so that they do not count as this process's memory."""
_FILE_MAGIC, _OLD_MAGIC = b"ARROW1", b"FEA1"


def check_parquet(path: str, shown_name: str, columns: Columns) -> int:
    """The number of rows; `SourceError` unless the footer is whole and has the columns."""
    with _reading(shown_name) as pa, pa.parquet.ParquetFile(path) as file:
        resolve(columns, file.schema_arrow.names, shown_name)
        return int(file.metadata.num_rows)


def parquet_names(path: str, shown_name: str) -> list[str]:
    """The names of the columns."""
    with _reading(shown_name) as pa, pa.parquet.ParquetFile(path) as file:
        return list(file.schema_arrow.names)


def arrow_names(path: str, shown_name: str) -> list[str]:
    """The names of the columns."""
    with _reading(shown_name) as pa:
        return list(_batches(pa, _mapped(path, shown_name), shown_name)[0])


def parquet_chunks(path: str, shown_name: str, columns: Columns) -> Iterator[Chunk]:
    """The rows of a Parquet file, in order."""
    with (
        _reading(shown_name) as pa,
        pa.parquet.ParquetFile(path, pre_buffer=False, buffer_size=PAGE_BUFFER) as file,
    ):
        layout = resolve(columns, file.schema_arrow.names, shown_name)
        groups = file.metadata.num_row_groups
        size = sum(file.metadata.row_group(k).total_byte_size for k in range(groups))
        step = _step(size, file.metadata.num_rows)
        begin = 0
        # threads would decode all columns at once and hold more of each
        for batch in file.iter_batches(batch_size=step, columns=layout.needed, use_threads=False):
            yield batch_chunk(pa, batch, layout, begin, done=begin + len(batch))
            begin += len(batch)


def check_arrow(path: str, shown_name: str, columns: Columns) -> None:
    """Raise `SourceError` unless the file begins as Arrow's file or stream format and has the columns."""
    with _reading(shown_name) as pa:
        names, _ = _batches(pa, _mapped(path, shown_name), shown_name)
        resolve(columns, names, shown_name)


def arrow_chunks(path: str, shown_name: str, columns: Columns) -> Iterator[Chunk]:
    """The rows of an Arrow (Feather) file or stream, in order; a compressed batch is held whole while it is read."""
    with _reading(shown_name) as pa:
        mapped = _mapped(path, shown_name)
        names, batches = _batches(pa, mapped, shown_name)
        layout = resolve(columns, names, shown_name)
        begin = 0
        # no name may keep a batch while the next one is read
        while (found := next(batches, None)) is not None:
            for chunk in _pieces(pa, found, layout, begin, mapped):
                begin += len(chunk)
                yield chunk
            found = None


def _pieces(pa: Any, found: tuple[Any, int], layout: Layout, begin: int, mapped: mmap.mmap) -> Iterator[Chunk]:
    """The chunks of one record batch; what has been read of the mapped file is given back now and then."""
    batch, read = found
    step = _step(batch.nbytes, len(batch))
    since_drop = DROP_BYTES
    for at in range(0, len(batch), step):
        piece = batch.slice(at, step)
        chunk = batch_chunk(pa, piece, layout, begin + at, done=read)
        # a chunk that outlives its batch must not keep it
        yield replace(chunk, values=chunk.values.copy()) if isinstance(chunk.values, np.ndarray) else chunk
        since_drop += piece.nbytes
        if since_drop >= DROP_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)
            since_drop = 0


def _step(size: int, rows: int) -> int:
    """Rows of a chunk, out of the size of all rows."""
    return max(1, min(CHUNK_ROWS, CHUNK_BYTES * max(1, rows) // max(1, size)))


def _mapped(path: str, shown_name: str) -> mmap.mmap:
    with Path(path).open("rb") as file:
        if not Path(path).stat().st_size:
            raise SourceError(f"{shown_name} is empty")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _batches(pa: Any, mapped: mmap.mmap, shown_name: str) -> tuple[list[str], Iterator[tuple[Any, int]]]:
    """The column names, and every record batch with the bytes read up to its end (an estimate in the file format)."""
    content = pa.BufferReader(pa.py_buffer(mapped))
    if mapped[: len(_OLD_MAGIC)] == _OLD_MAGIC:
        raise SourceError(f"{shown_name} is Feather version 1; write it again as version 2")
    if mapped[: len(_FILE_MAGIC)] == _FILE_MAGIC:
        file = pa.ipc.open_file(content)
        count = file.num_record_batches
        return file.schema.names, ((file.get_batch(k), len(mapped) * (k + 1) // count) for k in range(count))
    stream = pa.ipc.open_stream(content)
    return stream.schema.names, ((batch, content.tell()) for batch in stream)


@contextmanager
def _reading(shown_name: str) -> Iterator[Any]:
    """The library; whatever it finds wrong with the file becomes a `SourceError`."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - an optional library
        import pyarrow.ipc  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415
    except ModuleNotFoundError:
        raise SourceError(f"reading {shown_name} needs pyarrow: pip install 'upsertq[files]'") from None
    try:
        yield pa
    except (pa.ArrowException, OSError) as error:
        what = " ".join(str(error).split())[:200]
        raise SourceError(f"{shown_name} is damaged or no such file as its name says: {what}") from None
