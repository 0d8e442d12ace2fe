"""Owns reading a NumPy matrix of vectors and the ids beside it, piece by piece and without a memory map."""

import math
import operator
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from upsertq.contract.errors import SourceError, shown
from upsertq.contract.wire import MAX_DIMENSION
from upsertq.sources.chunk import CHUNK_BYTES, CHUNK_ROWS, Chunk
from upsertq.sources.text import MAX_LINE, counted_lines, decoded, opened

GUESSES: Final = (".ids.npy", ".ids.txt", "_ids.npy", "_ids.txt")
_SUFFIX: Final = ".npy"
_MATRIX: Final = 2
_VERSIONS: Final = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True, slots=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    by_columns: bool


def ids_beside(path: str) -> str | None:
    """The file of ids that belongs to the matrix `path` by its name, `None` when there is none."""
    stem = path.removesuffix(_SUFFIX)
    return next((stem + ending for ending in GUESSES if Path(stem + ending).is_file()), None)


def check(path: str, shown_name: str, ids: str) -> int:
    """The number of vectors; `SourceError` unless the file is a matrix of numbers with as many ids."""
    header = _matrix_header(path, shown_name)
    found = _ids_header(ids).shape[0] if ids.endswith(_SUFFIX) else counted_lines(ids, ids)
    if found != header.shape[0]:
        raise SourceError(f"{shown_name} holds {header.shape[0]:,} vectors, but {ids} holds {found:,} ids")
    return header.shape[0]


def chunks(path: str, shown_name: str, ids: str, namespace: str) -> Iterator[Chunk]:
    """The vectors of the file with their ids, in order."""
    header = _matrix_header(path, shown_name)
    names = _ids(ids)
    rows, width = header.shape
    step = max(1, min(CHUNK_ROWS, CHUNK_BYTES // max(1, width * header.dtype.itemsize)))
    with _reading(path, shown_name) as file:
        file.seek(header.offset)
        for begin in range(0, rows, step):
            count = min(step, rows - begin)
            yield Chunk(
                ids=_exactly(names, count, ids),
                values=_read_columns(file, header, begin, count, shown_name)
                if header.by_columns
                else _read(file, header, count, shown_name).reshape(count, width),
                sparse=None,
                metadata=None,
                namespaces=namespace,
                positions=range(begin + 1, begin + count + 1),
                done=begin + count,
            )


def _exactly(names: Iterator[str], count: int, ids: str) -> Sequence[str]:
    found = list(islice(names, count))
    if len(found) != count:
        raise SourceError(f"{ids} has fewer ids than before; did it change while it was read?")
    return found


def _ids(path: str) -> Iterator[str]:
    if not path.endswith(_SUFFIX):
        with opened(path, path) as content:
            for number, line in enumerate(content.lines(), start=1):
                if line is None:
                    raise SourceError(f"{path} line {number} is no id: it is longer than any line may be")
                if line.strip():
                    yield decoded(line, number, path).strip().removeprefix("\ufeff")
        return
    header = _ids_header(path)
    with _reading(path, path) as file:
        file.seek(header.offset)
        step = max(1, min(CHUNK_ROWS, CHUNK_BYTES // header.dtype.itemsize))
        for begin in range(0, header.shape[0], step):
            yield from _names(_read(file, header, min(step, header.shape[0] - begin), path), path)


def _names(found: npt.NDArray[Any], path: str) -> list[str]:
    if found.dtype.kind == "S":
        return [item.decode("utf-8", "replace") for item in found.tolist()]
    try:
        return list(map(str, found.tolist()))
    except (ValueError, SystemError):  # code points that there are none of
        raise SourceError(f"{path} holds ids that are no text; it is damaged") from None


def _ids_header(path: str) -> _Header:
    header = _header(path, path)
    if len(header.shape) != 1 or header.dtype.kind not in "USiu":
        raise SourceError(f"{path} holds {_told(header)}; ids are one row of strings or integers")
    if not 1 <= header.dtype.itemsize <= MAX_LINE:
        raise SourceError(f"{path} holds ids of {header.dtype.itemsize:,} bytes each; no id takes that")
    return header


def _matrix_header(path: str, shown_name: str) -> _Header:
    header = _header(path, shown_name)
    if len(header.shape) != _MATRIX or header.dtype.kind not in "fiu":
        raise SourceError(f"{shown_name} holds {_told(header)}; vectors are a matrix of numbers, one row each")
    if not 1 <= header.shape[1] <= MAX_DIMENSION:
        raise SourceError(f"{shown_name} has {header.shape[1]:,} dimensions; 1 to {MAX_DIMENSION:,} are allowed")
    return header


def _told(header: _Header) -> str:
    return f"{shown(str(header.dtype))[1:-1]} of shape {shown(header.shape)}"


def _header(path: str, shown_name: str) -> _Header:
    with _reading(path, shown_name) as file:
        header = _parsed(file, shown_name)
    if header.dtype.hasobject:
        raise SourceError(f"{shown_name} holds Python objects, which are never unpickled; save it with a plain dtype")
    if header.dtype.fields is not None or header.dtype.subdtype is not None:
        raise SourceError(f"{shown_name} holds records of {_told(header)}; save one field as a plain array")
    needed = header.offset + math.prod(header.shape) * header.dtype.itemsize
    size = Path(path).stat().st_size
    if size < needed:
        raise SourceError(f"{shown_name} is cut off: {size:,} bytes of {needed:,}; get it whole again")
    if size > needed:
        raise SourceError(f"{shown_name} has {size - needed:,} bytes more than its header says; save it again")
    return header


def _parsed(file: BinaryIO, shown_name: str) -> _Header:
    try:
        # NumPy looks at 10,000 characters at most, and takes them for literals only
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            version = np.lib.format.read_magic(file)
            read = _VERSIONS.get(version)
            if read is None:
                raise ValueError(f"version {version[0]}.{version[1]} is unknown")  # noqa: TRY301 - one place words it
            shape, fortran, dtype = read(file)
        dimensions = tuple(map(operator.index, shape))
        if min(dimensions, default=0) < 0:
            raise ValueError(f"its shape is {shown(dimensions)}")  # noqa: TRY301
    except Exception as error:  # noqa: BLE001 - a stranger's literals can make NumPy raise anything
        reason = shown(" ".join(str(error).split()) or type(error).__name__, 160)[1:-1]
        raise SourceError(f"{shown_name} is no NPY file: {reason}") from None
    return _Header(dimensions, dtype, file.tell(), by_columns=bool(fortran) and len(dimensions) > 1)


def _read(file: BinaryIO, header: _Header, rows: int, shown_name: str) -> npt.NDArray[Any]:
    wanted = rows * header.dtype.itemsize * math.prod(header.shape[1:])
    return np.frombuffer(_exact(file, wanted, shown_name), dtype=header.dtype)


def _read_columns(file: BinaryIO, header: _Header, begin: int, count: int, shown_name: str) -> npt.NDArray[Any]:
    """`count` rows from row `begin` on of a matrix whose columns are stored one after the other."""
    (rows, width), size = header.shape, header.dtype.itemsize
    parts = []
    for column in range(width):
        file.seek(header.offset + (column * rows + begin) * size)
        parts.append(_exact(file, count * size, shown_name))
    return np.frombuffer(b"".join(parts), dtype=header.dtype).reshape(width, count).T


def _exact(file: BinaryIO, wanted: int, shown_name: str) -> bytes:
    block = file.read(wanted)
    if len(block) != wanted:
        raise SourceError(f"{shown_name} ended early; did it change while it was read?")
    return block


@contextmanager
def _reading(path: str, shown_name: str) -> Iterator[BinaryIO]:
    try:
        with Path(path).open("rb") as file:
            yield file
    except OSError as error:
        raise SourceError(f"{shown_name} cannot be read: {error.strerror or error}") from None
