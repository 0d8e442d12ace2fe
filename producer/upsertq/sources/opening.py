"""Owns which reader a file gets, and checks every file of a load before the first record of any is taken."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from upsertq.contract.errors import SourceError, UsageError, shown
from upsertq.sources import arrow, delimited, jsonl, npy
from upsertq.sources.chunk import Chunk, Source
from upsertq.sources.columns import EVERY, Columns
from upsertq.sources.folders import Place, places
from upsertq.sources.kinds import HEAD, TEXT, Format, check_head, format_of
from upsertq.sources.text import STDIN, is_stream


def open_sources(
    paths: Sequence[str] | Sequence[Place],
    columns: Columns,
    *,
    format: Format | None = None,  # noqa: A002
    ids: Sequence[str] = (),
    delimiter: str | None = None,
    namespace_from_folder: bool = False,
) -> list[Source]:
    """Every source, in order, each found readable and with the columns it needs.

    Args:
        paths: files, folders or patterns, or what `places` made of them; `-` is JSON lines on stdin, at most once.
        columns: which column means what.
        format: what all of them hold; by the ending unless given.
        ids: the files of ids of the NPY files, in order; found beside each unless given.
        delimiter: what separates the cells of CSV files; told by the header unless given.
        namespace_from_folder: the name of the folder that a file lies in is the namespace of its records.

    Raises:
        SourceError: a file is missing, unreadable, of no known format, or lacks a column.
        UsageError: stdin is named twice, the ids do not fit, or files of several folders would share one namespace.
    """
    told = [path for path in paths if isinstance(path, Place)]
    found = told or places([path for path in paths if isinstance(path, str)], format)
    if [place.path for place in found].count(STDIN) > 1:
        raise UsageError("'-' (stdin) can be read only once")
    formats = [format or format_of(place.path) for place in found]
    matrices = formats.count(Format.NPY)
    if ids and len(ids) != matrices:
        raise UsageError(f"--ids is given {len(ids)} times for {matrices} NPY files; give it once for each, in order")
    for path in [*(place.path for place in found), *ids]:
        _check_file(path)
    several = len({place.folder for place in found}) > 1
    opening = _Opening(columns, delimiter, iter(ids), from_folder=namespace_from_folder, several=several)
    sources = [opening.source(place, kind) for place, kind in zip(found, formats, strict=True)]
    opening.check_folders()
    return sources


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
        remote = "; only files of this machine are read: copy it here first" if "://" in path else ""
        raise SourceError(f"{path}: {error.strerror or error}{remote}") from None
    if stat.S_ISDIR(mode):
        raise SourceError(f"{path} is a directory; a file should stand there")
    if not os.access(path, os.R_OK):
        raise SourceError(f"{path}: Permission denied")


class _Opening:
    """The opening of the sources of one load: which columns each is read with, and which folders share a namespace."""

    def __init__(
        self, columns: Columns, delimiter: str | None, ids: Iterator[str], *, from_folder: bool, several: bool
    ) -> None:
        self._columns = columns
        self._delimiter = delimiter
        self._ids = ids
        self._from_folder = from_folder
        self._told = from_folder or columns.namespace is not None or columns.namespace_column is not None
        self._several = several
        self._sharing: dict[str, str] = {}

    def source(self, place: Place, kind: Format) -> Source:
        """The source of the file, checked."""
        path = place.path
        stream = is_stream(path)
        name = "stdin" if path == STDIN else path
        if stream and kind not in TEXT:
            raise SourceError(f"{name} is a stream; {kind} needs a file")
        if not stream:
            with Path(path).open("rb") as file:
                check_head(path, file.read(HEAD), kind)
        names = self._names(place, kind, name) if not stream and self._must_know(place) else ()
        columns, constants = self._columns_of(place, names)
        source = self._opened(place, name, kind, columns, None if stream else os.stat(path).st_size)  # noqa: PTH116
        return replace(source, chunks=partial(_with_metadata, source.chunks, constants)) if constants else source

    def check_folders(self) -> None:
        """Raise `UsageError` where records of several folders would come into one namespace without a word."""
        if len(self._sharing) > 1:
            first, second, *_ = self._sharing.values()
            raise UsageError(
                f"{first} and {second} lie in different folders, and nothing says which namespaces they belong to: say "
                "--namespace NAME for all ('' is the default one), --namespace-from-folder, or --namespace-column"
            )

    def _must_know(self, place: Place) -> bool:
        """Whether it matters which columns the file itself has."""
        return bool(place.parts) or place.namespace is not None or (self._several and not self._told)

    def _names(self, place: Place, kind: Format, name: str) -> Iterable[str]:
        match kind:
            case Format.JSONL:
                return jsonl.fields(place.path, name)
            case Format.CSV:
                return delimited.header(place.path, name, self._columns, self._delimiter)
            case Format.PARQUET:
                return arrow.parquet_names(place.path, name)
            case Format.ARROW:
                return arrow.arrow_names(place.path, name)
            case Format.NPY:
                return ()

    def _columns_of(self, place: Place, names: Iterable[str]) -> tuple[Columns, Mapping[str, str]]:
        """How the file is read, and the metadata that its folders give to each record; the file's own columns rule."""
        columns, own = self._columns, frozenset(names)
        parts = {key: value for key, value in place.parts.items() if key not in own}
        metadata, constants = columns.metadata, {}
        if metadata is not None:
            space = columns.namespace_column or ("namespace" if columns.namespace is None else None)
            given = set(parts) - {space, columns.id or "id"} if metadata == (EVERY,) else set(metadata)
            constants = {key: value for key, value in parts.items() if key in given and value is not None}
            columns = replace(columns, metadata=tuple(key for key in metadata if key not in parts))
        if self._from_folder:
            return replace(columns, namespace=place.named_folder), constants
        if columns.namespace_column in parts:
            space = parts[columns.namespace_column]
            return replace(columns, namespace_column=None, namespace=space or columns.namespace or ""), constants
        if self._told:
            return columns, constants
        if "namespace" in parts:
            return replace(columns, namespace=parts["namespace"] or ""), constants
        if place.namespace is not None:
            space = "namespace" if "namespace" in own else None
            return replace(columns, namespace_column=space, namespace=place.namespace), constants
        if "namespace" not in own and place.path != STDIN:
            self._sharing.setdefault(place.folder, place.path)
        return columns, constants

    def _opened(self, place: Place, name: str, kind: Format, columns: Columns, size: int | None) -> Source:
        path = place.path
        match kind:
            case Format.JSONL:
                unit = jsonl.check(path, name, columns) if size is not None else "line"
                return Source(name, unit, "bytes", size, partial(jsonl.chunks, path, name, columns, unit))
            case Format.CSV:
                if size is not None:
                    delimited.check(path, name, columns, self._delimiter)
                read = partial(delimited.chunks, path, name, columns, self._delimiter)
                return Source(name, "line", "bytes", size, read)
            case Format.PARQUET:
                rows = arrow.check_parquet(path, name, columns)
                return Source(name, "row", "rows", rows, partial(arrow.parquet_chunks, path, name, columns))
            case Format.ARROW:
                arrow.check_arrow(path, name, columns)
                return Source(name, "row", "bytes", size, partial(arrow.arrow_chunks, path, name, columns))
            case Format.NPY:
                return _npy_source(path, columns, next(self._ids, None))


def _npy_source(path: str, columns: Columns, ids: str | None) -> Source:
    beside = ids or npy.ids_beside(path)
    if beside is None:
        stem = path.removesuffix(".npy")
        raise SourceError(f"{path} has no ids: name their file with --ids, or call it {stem}.ids.txt or {stem}.ids.npy")
    if columns.namespace_column is not None or columns.metadata:
        names = [columns.namespace_column, *(columns.metadata or ())]
        missing = next((name for name in names if name not in (None, EVERY)), None)
        if missing is not None:
            raise SourceError(f"{path} is a matrix and has no column {shown(missing)}; write the records as Parquet")
    rows = npy.check(path, path, beside)
    chunks = partial(npy.chunks, path, path, beside, columns.namespace or "")
    return Source(path, "row", "rows", rows, chunks)


def _with_metadata(chunks: Callable[[], Iterator[Chunk]], constants: Mapping[str, str]) -> Iterator[Chunk]:
    """The chunks, whose records have these metadata beside their own."""
    for chunk in chunks():
        own = chunk.metadata if chunk.metadata is not None else [None] * len(chunk)
        yield replace(chunk, metadata=[{**(cell or {}), **constants} for cell in own])
