"""Dense and sparse numbers as float32; the only module that names numpy."""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_UINT32_MAX = 2**32 - 1
_DENSE = np.dtype("<f4")


@lru_cache(maxsize=64)
def _packer(count: int) -> struct.Struct:
    return struct.Struct(f"={count}d")


def float32_rows(rows: Sequence[Sequence[Any]], dimension: int) -> Floats:
    """The numbers of `rows` as a float32 array of shape (len(rows), dimension); too large becomes infinite.

    Packing through doubles is four times faster than `numpy.array` on lists of floats.

    Raises:
        struct.error: a row holds something else than numbers, or not exactly `dimension` of them.
    """
    pack = _packer(dimension).pack
    packed = b"".join([pack(*row) for row in rows])
    with np.errstate(over="ignore"):
        return np.frombuffer(packed, np.float64).astype(_DENSE).reshape(len(rows), dimension)


def first_not_finite(rows: Floats) -> tuple[int, int] | None:
    """(row, column) of the first infinite value, or None."""
    finite = np.isfinite(rows)
    if finite.all():
        return None
    row, column = np.argwhere(~finite)[0]
    return int(row), int(column)


def first_zero_row(rows: Floats) -> int | None:
    """The first row that holds only zeros, or None."""
    nonzero = rows.any(axis=1)
    return None if nonzero.all() else int(np.argmin(nonzero))


def rows_with_zero_or_one(rows: Floats) -> list[int]:
    """The rows where a JSON `true` or `false` could hide among the numbers."""
    hits = ((rows == 0) | (rows == 1)).any(axis=1)
    return [int(row) for row in np.flatnonzero(hits)]


def is_uint32(value: object) -> bool:
    """Whether `value` is an integer that fits in 32 bits without a sign."""
    return type(value) is int and 0 <= value <= _UINT32_MAX


def stored_floats(stored: bytes) -> Floats:
    """A stored dense vector, little-endian float32 bytes, as an array."""
    return np.frombuffer(stored, _DENSE)
