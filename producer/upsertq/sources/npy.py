"""Owns reading a NumPy matrix of vectors and the ids beside it, piece by piece and without a memory map."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from upsertq.errors import SourceError
from upsertq.sources.chunk import CHUNK_BYTES, CHUNK_ROWS, Chunk
from upsertq.sources.text import counted_lines, decoded, opened

GUESSES: Final = (".ids.npy", ".ids.txt", "_ids.npy", "_ids.txt")
_SUFFIX: Final = ".npy"
_MATRIX: Final = 2


@dataclass(frozen=True, slots=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int


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
                values=_read(file, header, count, shown_name).reshape(count, width),
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
        for begin in range(0, header.shape[0], CHUNK_ROWS):
            found = _read(file, header, min(CHUNK_ROWS, header.shape[0] - begin), path)
            if header.dtype.kind == "S":
                yield from (item.decode("utf-8", "replace") for item in found.tolist())
            else:
                yield from map(str, found.tolist())


def _ids_header(path: str) -> _Header:
    header = _header(path, path)
    if len(header.shape) != 1 or header.dtype.kind not in "USiu":
        raise SourceError(
            f"{path} holds {header.dtype} of shape {header.shape}; ids are one row of strings or integers"
        )
    return header


def _matrix_header(path: str, shown_name: str) -> _Header:
    header = _header(path, shown_name)
    if len(header.shape) != _MATRIX or header.dtype.kind not in "fiu":
        raise SourceError(
            f"{shown_name} holds {header.dtype} of shape {header.shape}; vectors are a matrix of numbers, one row each"
        )
    return header


def _header(path: str, shown_name: str) -> _Header:
    with _reading(path, shown_name) as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
        except ValueError as error:
            raise SourceError(f"{shown_name} is no NPY file: {' '.join(str(error).split())}") from None
        header = _Header(shape, dtype, file.tell())
    if dtype.hasobject:
        raise SourceError(f"{shown_name} holds Python objects, which are never unpickled; save it with a plain dtype")
    if fortran and len(shape) == _MATRIX and min(shape) > 1:
        raise SourceError(f"{shown_name} is stored by columns; save it with numpy.ascontiguousarray")
    needed = header.offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    size = Path(path).stat().st_size
    if size < needed:
        raise SourceError(f"{shown_name} is cut off: {size:,} bytes of {needed:,}; get it whole again")
    return header


def _read(file: BinaryIO, header: _Header, rows: int, shown_name: str) -> npt.NDArray[Any]:
    wanted = rows * header.dtype.itemsize * int(np.prod(header.shape[1:], dtype=np.int64))
    block = file.read(wanted)
    if len(block) != wanted:
        raise SourceError(f"{shown_name} ended early; did it change while it was read?")
    return np.frombuffer(block, dtype=header.dtype)


@contextmanager
def _reading(path: str, shown_name: str) -> Iterator[BinaryIO]:
    try:
        with Path(path).open("rb") as file:
            yield file
    except OSError as error:
        raise SourceError(f"{shown_name} cannot be read: {error.strerror or error}") from None
