"""Owns how many rows of a Parquet file may be decoded at once: so many that no dictionary, run or page is a bomb.

Ordinary data never come near the bounds: they are of files whose few bytes stand for gigabytes. It is given pyarrow by
`upsertq.sources.arrow` and never imports it.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from upsertq.contract.errors import SourceError, shown
from upsertq.sources.chunk import CHUNK_BYTES, CHUNK_ROWS
from upsertq.sources.ipc import FREE, Broken, too_large
from upsertq.sources.parquet_pages import (
    DATA,
    DATA_V2,
    DELTA_BYTE_ARRAY,
    DICTIONARY,
    Page,
    Unpack,
    longest_list,
    longest_text,
    pages,
    size_statistics,
)

_WIDTHS: Final = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
_BATCH: Final = 8 * CHUNK_BYTES
"""Bytes that the rows of a batch may take at most, where few bytes of the file stand for them."""
_CODECS: Final = {"LZ4": "lz4_raw", "LZ4_RAW": "lz4_raw"}


@dataclass(frozen=True, slots=True)
class _Load:
    """What a column of a row group comes to, in bytes: usually and at most once decoded, and in the file.

    `row` finds how much the largest row may take.
    """

    name: str
    usual: int
    most: int
    encoded: int
    row: Callable[[], int]


def rows_at_once(pa: Any, parquet: Any, file: BinaryIO, names: Collection[str], source: str) -> int:
    """Rows of a batch; `SourceError` where a row or page of these columns is larger than any honest one.

    Args:
        pa: the library.
        parquet: its open file.
        file: the same file, open for bytes.
        names: the columns to look at page by page: of others only the footer is believed.
        source: the file's name for people.
    """
    meta = parquet.metadata
    leaves = _leaves(parquet.schema, names)
    step = CHUNK_ROWS
    _check_sizes(parquet, file, leaves, source)
    for group in range(meta.num_row_groups):
        row_group = meta.row_group(group)
        try:
            loads = [_load(pa, file, row_group.column(k), parquet.schema.column(k)) for k in leaves]
            step = min(step, _step(loads, row_group))
        except Broken as error:
            raise SourceError(f"{source} is damaged, or made to fill memory: row group {group}: {error}") from None
    return max(1, step)


def _check_sizes(parquet: Any, file: BinaryIO, leaves: list[int], source: str) -> None:
    """Raise `SourceError` for statistics of sizes that do not fit their column: pyarrow ends the process at them."""
    columns = {k: parquet.schema.column(k) for k in leaves}
    try:
        told = size_statistics(file)
    except Broken as error:
        raise SourceError(f"{source} is damaged: {error}") from None
    for group, chunks in enumerate(told):
        for k, column in columns.items():
            if k < len(chunks) and not _fits(chunks[k], column):
                what = f"row group {group}: the sizes of column {shown(column.path)} are not of its type"
                raise SourceError(f"{source} is damaged: {what}")


def _fits(sizes: dict[int, Any], column: Any) -> bool:
    """Whether these `SizeStatistics` may be of this column, by the rules that Arrow C++ has for them."""
    levels = (sizes.get(2), column.max_repetition_level), (sizes.get(3), column.max_definition_level)
    histograms = all(not found or len(found) == most + 1 for found, most in levels)
    return histograms and (1 not in sizes or column.physical_type == "BYTE_ARRAY")


def _step(loads: list[_Load], row_group: Any) -> int:
    """Rows of this row group that may be decoded at once."""
    usual = max(row_group.total_byte_size, sum(load.usual for load in loads))
    step = CHUNK_BYTES * max(1, row_group.num_rows) // max(1, usual)
    most = encoded = rows = 0
    for load in sorted(loads, key=lambda load: load.most):
        most, encoded = most + load.most, encoded + load.encoded
        if too_large(most, encoded):
            row = load.row()
            rows += row
            if rows > FREE:
                raise Broken(
                    f"a row of column {shown(load.name)} may take {row:,} bytes once decoded, of {load.encoded:,} "
                    f"in the file for all rows; no record does"
                )
    return int(min(step, _BATCH // rows) if rows else step)


def _leaves(schema: Any, names: Collection[str]) -> list[int]:
    """The places of the physical columns that the columns of these names have."""
    paths = ((k, schema.column(k).path) for k in range(len(schema)))
    return [k for k, path in paths if path in names or any(path.startswith(f"{name}.") for name in names)]


def _load(pa: Any, file: BinaryIO, chunk: Any, column: Any) -> _Load:
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        start = min(start, chunk.dictionary_page_offset)
    found = list(_checked(pages(file, start, chunk.total_compressed_size, chunk.num_values)))
    data = [page for page in found if page.kind in {DATA, DATA_V2}]
    unpack = _unpacker(pa, chunk.compression)
    texts = chunk.physical_type == "BYTE_ARRAY"
    width = _WIDTHS.get(chunk.physical_type) or (_longest(file, found, unpack) if texts else column.length)
    plain = max((page.decoded for page in data if not page.by_dictionary), default=0) if texts else 0
    most = sum(_decoded(page, width, texts=texts) for page in data)

    def row() -> int:
        if column.max_repetition_level == 0:
            return max(width, plain)
        if column.max_repetition_level == 1 and not plain:
            return width * longest_list(file, data, unpack)
        return most

    usual = sum(page.decoded for page in data) if texts else most
    return _Load(chunk.path_in_schema.split(".")[0], usual, most, sum(page.encoded for page in found), row)


def _checked(found: Iterator[Page]) -> Iterator[Page]:
    for page in found:
        if too_large(page.decoded, page.encoded):
            raise Broken(f"a page of {page.encoded:,} bytes promises {page.decoded:,} once decompressed")
        yield page


def _longest(file: BinaryIO, found: list[Page], unpack: Unpack) -> int:
    """Bytes of the longest text that a dictionary can put into a row."""
    return max((longest_text(file, page, unpack) for page in found if page.kind == DICTIONARY), default=0)


def _decoded(page: Page, width: int, *, texts: bool) -> int:
    if not texts or page.by_dictionary:
        return page.values * max(1, width)
    # each text may repeat the one before it but for its end
    return page.decoded * (page.values if page.encoding == DELTA_BYTE_ARRAY else 1)


def _unpacker(pa: Any, compression: str) -> Unpack:
    def unpack(content: bytes, size: int) -> bytes | None:
        if compression == "UNCOMPRESSED":
            return content
        try:
            codec = pa.Codec(_CODECS.get(compression, compression.lower()))
            return bytes(codec.decompress(content, decompressed_size=size, asbytes=True))
        except (pa.ArrowException, OSError, ValueError):
            return None

    return unpack
