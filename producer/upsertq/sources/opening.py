"""Owns which reader a file gets, and checks every file of a load before the first record of any is taken."""

import os
import stat
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import partial
from typing import Final

from upsertq.errors import SourceError, UsageError
from upsertq.sources import arrow, delimited, jsonl, npy
from upsertq.sources.chunk import Source
from upsertq.sources.columns import Columns
from upsertq.sources.text import STDIN, opened


class Format(StrEnum):
    """What a file holds; any text format may be compressed."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"
    NPY = "npy"


_ENDINGS: Final = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSONL,
    ".csv": Format.CSV,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".arrow": Format.ARROW,
    ".arrows": Format.ARROW,
    ".feather": Format.ARROW,
    ".ipc": Format.ARROW,
    ".npy": Format.NPY,
}
_COMPRESSED: Final = (".gz", ".zst")
TEXT: Final = frozenset({Format.JSONL, Format.CSV})


def format_of(path: str) -> Format:
    """The format by the file's ending; `SourceError` when it tells none."""
    if path == STDIN:
        return Format.JSONL
    name = path.lower()
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    found = _ENDINGS.get(os.path.splitext(name)[1])  # noqa: PTH122 - a name, not a path
    if found is None or (name != path.lower() and found not in TEXT):
        raise SourceError(f"{path}: the ending tells no format; say --format {' or '.join(Format)}")
    return found


def open_sources(
    paths: Sequence[str],
    columns: Columns,
    *,
    format: Format | None = None,  # noqa: A002
    ids: Sequence[str] = (),
) -> list[Source]:
    """Every source, in order, each found readable and with the columns it needs.

    Args:
        paths: files; `-` is JSON lines on stdin, at most once.
        columns: which column means what.
        format: what all of them hold; by the ending unless given.
        ids: the files of ids of the NPY files, in order; found beside each unless given.

    Raises:
        SourceError: a file is missing, unreadable, of no known format, or lacks a column.
        UsageError: stdin is named twice, or the ids do not fit.
    """
    if list(paths).count(STDIN) > 1:
        raise UsageError("'-' (stdin) can be read only once")
    formats = [format or format_of(path) for path in paths]
    matrices = formats.count(Format.NPY)
    if ids and len(ids) != matrices:
        raise UsageError(f"--ids is given {len(ids)} times for {matrices} NPY files; give it once for each, in order")
    for path in [*paths, *ids]:
        _check_file(path)
    remaining = iter(ids)
    return [
        _npy_source(path, columns, next(remaining, None)) if kind is Format.NPY else _source(path, kind, columns)
        for path, kind in zip(paths, formats, strict=True)
    ]


def is_stream(path: str) -> bool:
    """Whether the source can be read only once: stdin or a pipe."""
    try:
        return path == STDIN or not stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 - a path or '-'
    except OSError:
        return False


def id_files(paths: Iterable[str], format: Format | None, ids: Sequence[str]) -> list[str]:  # noqa: A002
    """The files of ids that the NPY files among `paths` are read with."""
    found = [npy.ids_beside(path) for path in paths if (format or format_of(path)) is Format.NPY]
    return list(ids) or [path for path in found if path is not None]


def _check_file(path: str) -> None:
    if path == STDIN:
        return
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - a path or '-'
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from None
    if stat.S_ISDIR(mode):
        raise SourceError(f"{path} is a directory; name its files, such as {os.path.join(path, '*.parquet')}")  # noqa: PTH118
    if not os.access(path, os.R_OK):
        raise SourceError(f"{path}: Permission denied")


def _source(path: str, kind: Format, columns: Columns) -> Source:
    name = "stdin" if path == STDIN else path
    stream = is_stream(path)
    if stream and kind not in TEXT:
        raise SourceError(f"{name} is a stream; {kind} needs a file")
    size = None if stream else os.stat(path).st_size  # noqa: PTH116 - a path or '-'
    match kind:
        case Format.JSONL:
            if not stream:
                with opened(path, name) as content:
                    content.read(1)
            return Source(name, "line", "bytes", size, partial(jsonl.chunks, path, name, columns))
        case Format.CSV:
            if not stream:
                delimited.check(path, name, columns)
            return Source(name, "line", "bytes", size, partial(delimited.chunks, path, name, columns))
        case Format.PARQUET:
            rows = arrow.check_parquet(path, name, columns)
            return Source(name, "row", "rows", rows, partial(arrow.parquet_chunks, path, name, columns))
        case Format.ARROW:
            arrow.check_arrow(path, name, columns)
            return Source(name, "row", "bytes", size, partial(arrow.arrow_chunks, path, name, columns))
        case Format.NPY:
            return _npy_source(path, columns, None)


def _npy_source(path: str, columns: Columns, ids: str | None) -> Source:
    beside = ids or npy.ids_beside(path)
    if beside is None:
        stem = path.removesuffix(".npy")
        raise SourceError(f"{path} has no ids: name their file with --ids, or call it {stem}.ids.txt or {stem}.ids.npy")
    rows = npy.check(path, path, beside)
    chunks = partial(npy.chunks, path, path, beside, columns.namespace or "")
    return Source(path, "row", "rows", rows, chunks)
