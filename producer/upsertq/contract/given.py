"""Owns how what a caller gives as a column, of whatever library, becomes items by position; it imports none of them.

Nothing is ever paired by a label (an index of pandas, a key of a dict): what has only names, or no order, is refused.
"""

from collections.abc import Iterable, KeysView, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from upsertq.contract.errors import shown

_FOREIGN = (TypeError, ValueError, RuntimeError, LookupError, ArithmeticError)
"""What libraries raise when a column cannot be converted: on a GPU, of mixed types, beyond a range."""
_MATRIX = 2


class Unusable(Exception):  # noqa: N818 - internal: becomes an InvalidRecord that names the field
    """What was given is no column; the message says what it is and what to give."""


def as_column(given: object, count: int | None = None) -> Sequence[Any]:
    """The items of `given` in their order; of an iterator at most one more than `count`.

    Missing cells of pandas are `None`, as they are in every other library.

    Raises:
        Unusable: it is one item, has no order, or more than one dimension.
    """
    if isinstance(given, list | tuple):
        return given
    if isinstance(given, str | bytes | bytearray | memoryview | Mapping) or not isinstance(given, Iterable):
        raise Unusable(f"is {shown(given)}, one {type(given).__name__}; give a list with one item for each record")
    if isinstance(given, AbstractSet) and not isinstance(given, KeysView):
        raise Unusable(f"is a {type(given).__name__}, which has no order; give a list with one item for each record")
    shape = _shape(given)
    if shape is not None and len(shape) != 1:
        size = " x ".join(map(str, shape)) or "no size"
        raise Unusable(f"is a {type(given).__name__} of {size}; give one column with one item for each record")
    return _converted(given) or list(islice(given, None if count is None else count + 1))


def as_rows(given: object, count: int) -> npt.NDArray[Any] | Sequence[Any]:
    """A matrix, or rows in their order: a data frame or tensor as its array, everything else as a column.

    Raises:
        Unusable: as `as_column`, or it cannot become an array.
    """
    if isinstance(given, np.ndarray) and given.ndim:
        return unmasked(given)
    shape = _shape(given)
    if shape is not None and len(shape) >= _MATRIX:
        return as_array(given)
    return as_column(given, count)


def as_array(given: object) -> npt.NDArray[Any]:
    """What another library holds, as an array; `Unusable` when it cannot be."""
    try:
        return unmasked(np.asanyarray(given))
    except _FOREIGN as error:
        reason = " ".join(str(error).split())[:200]
        raise Unusable(f"is a {type(given).__name__} that is no array ({reason}); give a NumPy array") from None


def is_foreign_array(given: object) -> bool:
    """Whether `given` is no array of NumPy, but knows how to become one: a Series, a frame, a tensor."""
    return hasattr(given, "__array__") and not isinstance(given, np.ndarray | np.generic) and _shape(given) is not None


def unmasked(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array; where NumPy masks numbers, they are NaN and not what lies below the mask."""
    if not isinstance(array, np.ma.MaskedArray):
        return array
    if array.dtype.kind not in "fiu":
        return np.asarray(np.ma.filled(array.astype(object), None))
    return np.asarray(np.ma.filled(array.astype(np.float64), np.nan))


def _shape(given: object) -> tuple[Any, ...] | None:
    shape = getattr(given, "shape", None)
    if shape is None and hasattr(given, "to_pylist"):
        return (1,)  # a column of Arrow, which has no shape
    return tuple(shape) if isinstance(shape, Iterable) else None


def _converted(given: Any) -> list[Any] | None:
    """The items as plain Python values, where the library converts them; `None` where it does not, or has none."""
    try:
        if isinstance(given, np.ndarray):
            return _of_array(given)
        for method in ("to_pylist", "tolist", "to_list"):
            convert = getattr(given, method, None)
            if callable(convert):
                items = convert()
                return _without_missing(given, items) if isinstance(items, list) else None
    except _FOREIGN as error:
        reason = " ".join(str(error).split())[:200]
        raise Unusable(f"is a {type(given).__name__} that cannot be read ({reason}); give a list") from None
    return None


def _of_array(array: npt.NDArray[Any]) -> list[Any]:
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    # `tolist` makes integers of dates
    return list(array) if array.dtype.kind in "mM" else list(array.tolist())


def _without_missing(given: Any, items: list[Any]) -> list[Any]:
    missing = getattr(given, "isna", None)
    if not callable(missing):
        return items
    return [None if absent else item for item, absent in zip(items, np.asarray(missing()).tolist(), strict=True)]
