"""Owns reading Parquet and Arrow files piece by piece: the only module that names pyarrow, of the extra `files`."""

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from upsertq.contract.errors import SourceError
from upsertq.sources import ipc
from upsertq.sources.arrays import batch_chunk
from upsertq.sources.arrow_sizes import is_plain, row_sizes
from upsertq.sources.arrow_types import check_types
from upsertq.sources.chunk import CHUNK_BYTES, CHUNK_ROWS, Chunk, Fault
from upsertq.sources.columns import EVERY, Columns, Layout, resolve
from upsertq.sources.parquet_sizes import rows_at_once

PAGE_BUFFER: Final = 2**20
"""Bytes read ahead of each Parquet column; without it a whole column of a row group would be read at once."""
DROP_BYTES: Final = 64 * 2**20
"""After so much of a mapped file its pages are given back, so that they do not count as this process's memory."""
DECODED_BYTES: Final = 2 * CHUNK_BYTES
"""Bytes that the rows of a chunk take at most once they are decoded; a row that takes more is no record."""
_FILE_MAGIC, _OLD_MAGIC = b"ARROW1", b"FEA1"


def parquet_names(path: str, shown_name: str) -> list[str]:
    """The names of the columns."""
    with _reading(shown_name) as pa, pa.parquet.ParquetFile(path) as file:
        return list(file.schema_arrow.names)


def arrow_names(path: str, shown_name: str) -> list[str]:
    """The names of the columns."""
    with _reading(shown_name) as pa:
        return list(_content(pa, path, shown_name).schema.names)


def check_parquet(path: str, shown_name: str, columns: Columns) -> int:
    """The number of rows; `SourceError` unless the footer is whole and has the columns, of types that they can have."""
    with _reading(shown_name) as pa, pa.parquet.ParquetFile(path) as file:
        _layout(pa, file.schema_arrow, columns, shown_name)
        return int(file.metadata.num_rows)


def parquet_chunks(path: str, shown_name: str, columns: Columns) -> Iterator[Chunk]:
    """The rows of a Parquet file, in order."""
    with (
        _reading(shown_name) as pa,
        pa.parquet.ParquetFile(path, pre_buffer=False, buffer_size=PAGE_BUFFER) as file,
    ):
        layout = _layout(pa, file.schema_arrow, columns, shown_name)
        spread = layout.values if layout.spread else ()
        with Path(path).open("rb", buffering=0) as raw:
            step = rows_at_once(pa, file, raw, set(layout.needed) - set(spread), shown_name)
        begin = 0
        # threads would decode all columns at once and hold more of each
        for batch in file.iter_batches(batch_size=step, columns=layout.needed, use_threads=False):
            for chunk in _chunks(pa, batch, layout, begin):
                yield replace(chunk, done=begin + len(chunk))
                begin += len(chunk)


def check_arrow(path: str, shown_name: str, columns: Columns) -> None:
    """Raise `SourceError` unless the file begins as Arrow's file or stream format and has the columns, as Parquet."""
    with _reading(shown_name) as pa:
        _layout(pa, _content(pa, path, shown_name).schema, columns, shown_name)


def arrow_chunks(path: str, shown_name: str, columns: Columns) -> Iterator[Chunk]:
    """The rows of an Arrow (Feather) file or stream, in order; a compressed batch is held whole while it is read."""
    with _reading(shown_name) as pa:
        content = _content(pa, path, shown_name)
        layout = _layout(pa, content.schema, columns, shown_name)
        begin, batches = 0, content.batches()
        # no name may keep a batch while the next one is read
        while (found := next(batches, None)) is not None:
            for chunk in _pieces(pa, found, layout, begin, content.mapped):
                begin += len(chunk)
                yield chunk
            found = None


def _layout(pa: Any, schema: Any, columns: Columns, source: str) -> Layout:
    """The layout of a schema, of columns whose types are good; the index of pandas is no metadata unless named."""
    layout = resolve(columns, schema.names, source)
    if columns.metadata == (EVERY,):
        index = _index_of_pandas(schema.metadata or {})
        layout = replace(layout, metadata=tuple(name for name in layout.metadata if name not in index))
    check_types(pa, schema, layout, source)
    return layout


def _index_of_pandas(metadata: Mapping[bytes, bytes]) -> set[str]:
    """The columns that hold the index of a frame, as pandas notes them in a schema."""
    try:
        told = orjson.loads(metadata.get(b"pandas", b"null"))
    except orjson.JSONDecodeError:
        return set()
    names = told.get("index_columns") if isinstance(told, dict) else None
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


def _pieces(pa: Any, found: tuple[Any, int], layout: Layout, begin: int, mapped: mmap.mmap) -> Iterator[Chunk]:
    """The chunks of one record batch; what has been read of the mapped file is given back now and then."""
    batch, read = found
    # a file may promise anything of its buffers, and what is read beyond them is this process's memory
    batch.validate(full=True)
    step = max(1, min(CHUNK_ROWS, CHUNK_BYTES * max(1, len(batch)) // max(1, batch.nbytes)))
    since_drop = DROP_BYTES
    for at in range(0, len(batch), step):
        piece = batch.slice(at, step)
        for chunk in _chunks(pa, piece, layout, begin + at):
            # a chunk that outlives its batch must not keep it
            values = chunk.values.copy() if isinstance(chunk.values, np.ndarray) else chunk.values
            yield replace(chunk, values=values, done=read)
        since_drop += piece.nbytes
        if since_drop >= DROP_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)
            since_drop = 0


def _chunks(pa: Any, batch: Any, layout: Layout, begin: int) -> Iterator[Chunk]:
    """The chunks of rows that are few enough for one, unless they take too much once decoded."""
    if batch.nbytes <= DECODED_BYTES and all(is_plain(pa, batch.column(name).type) for name in layout.needed):
        yield batch_chunk(pa, batch, layout, begin)
        return
    sizes = np.zeros(len(batch))
    for name in layout.needed:
        sizes += row_sizes(pa, batch.column(name))
    ends = np.cumsum(sizes)
    at = 0
    while at < len(batch):
        end = int(np.searchsorted(ends, DECODED_BYTES + (ends[at - 1] if at else 0), side="right"))
        if end > at:
            yield batch_chunk(pa, batch.slice(at, end - at), layout, begin + at)
        else:
            end = at + 1
            yield _too_large(int(sizes[at]), begin + at)
        at = end


def _too_large(size: int, row: int) -> Chunk:
    fault = Fault("row", f"takes {size:,} bytes once decoded, and no record takes more than {DECODED_BYTES:,}")
    return Chunk([None], None, None, None, "", [row + 1], 0, {0: fault})


@dataclass(frozen=True, slots=True)
class _Content:
    """An open Arrow file or stream; its batches come with the bytes read up to their end."""

    schema: Any
    mapped: mmap.mmap
    file: Any
    stream: Any

    def batches(self) -> Iterator[tuple[Any, int]]:
        """Every record batch; `SourceError` before one that would take too much is decompressed."""
        held = [0, 0]
        if self.file is None:
            # both read the same bytes, one message by message and the other batch by batch
            for message in ipc.stream_messages(self.mapped):
                _check_message(message, held)
                if not message.is_dictionary:
                    batch = next(iter(self.stream), None)
                    if batch is None:
                        return
                    yield batch, message.end
            if next(iter(self.stream), None) is not None:
                raise ipc.Broken("it goes on after its end")
            return
        dictionaries, found = ipc.file_messages(self.mapped)
        if len(found) != self.file.num_record_batches:
            raise ipc.Broken(f"its footer names {len(found):,} record batches of {self.file.num_record_batches:,}")
        for message in [*dictionaries, *found]:
            _check_message(message, held)
        for number, message in enumerate(found):
            yield self.file.get_batch(number), message.end


def _check_message(message: ipc.Message, held: list[int]) -> None:
    decoded, encoded = message.decoded, message.encoded
    if message.is_dictionary:
        # all of them are held at once
        held[0] += decoded
        held[1] += encoded
        decoded, encoded = held
    if ipc.too_large(decoded, encoded):
        what = "the dictionaries hold" if message.is_dictionary else "a record batch holds"
        raise ipc.Broken(f"{what} {decoded:,} bytes once decompressed, out of {encoded:,}; write smaller batches")
    if message.rows > ipc.ROWS + 8 * max(message.decoded, message.encoded):
        raise ipc.Broken(f"a record batch of {message.encoded:,} bytes promises {message.rows:,} rows")


def _mapped(path: str, shown_name: str) -> mmap.mmap:
    with Path(path).open("rb") as file:
        if not Path(path).stat().st_size:
            raise SourceError(f"{shown_name} is empty")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _content(pa: Any, path: str, shown_name: str) -> _Content:
    mapped = _mapped(path, shown_name)
    buffer = pa.BufferReader(pa.py_buffer(mapped))
    if mapped[: len(_OLD_MAGIC)] == _OLD_MAGIC:
        raise SourceError(f"{shown_name} is Feather version 1; write it again as version 2")
    if mapped[: len(_FILE_MAGIC)] == _FILE_MAGIC:
        file = pa.ipc.open_file(buffer)
        return _Content(file.schema, mapped, file, None)
    stream = pa.ipc.open_stream(buffer)
    return _Content(stream.schema, mapped, None, stream)


@contextmanager
def _reading(shown_name: str) -> Iterator[Any]:
    """The library; whatever it finds wrong with the file becomes a `SourceError`."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - an optional library
        import pyarrow.compute  # noqa: PLC0415
        import pyarrow.ipc  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415
    except ModuleNotFoundError:
        raise SourceError(f"reading {shown_name} needs pyarrow: pip install 'upsertq[files]'") from None
    try:
        yield pa
    except MemoryError:
        raise SourceError(f"{shown_name} needs more memory than there is; write it again in smaller batches") from None
    except (pa.ArrowException, OSError, ipc.Broken, ValueError, LookupError, OverflowError) as error:
        # the library raises Python's own errors too, for names, numbers and text that are none
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise SourceError(f"{shown_name} is damaged or no such file as its name says: {what}") from None
