"""Owns how much each row of Arrow columns takes once it is decoded, told without decoding it.

A dictionary, a run or a view can stand for the same megabytes in every row. It is given pyarrow by
`upsertq.sources.arrow` and never imports it.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from upsertq.sources.arrow_values import is_binary, is_list, is_number, is_text, placed

Sizes = npt.NDArray[Any]
_OBJECT: Final = 48
"""Bytes of a Python object beside its content."""
_VIEW: Final = 16


def is_plain(pa: Any, kind: Any) -> bool:
    """Whether an array of the type takes about as much decoded as it does now: nothing of it stands for more."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
        return is_number(pa, kind)
    is_a = pa.types
    return is_number(pa, kind) or bool(
        is_a.is_string(kind) or is_a.is_large_string(kind) or is_a.is_binary(kind) or is_a.is_large_binary(kind)
    )


def row_sizes(pa: Any, array: Any) -> Sizes:  # noqa: PLR0911 - one for each layout
    """For each cell about how many bytes it takes once decoded."""
    kind = array.type
    is_a = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return row_sizes(pa, array.storage)
    if is_a.is_dictionary(kind) or is_a.is_run_end_encoded(kind):
        values, places = placed(pa, array)
        return np.asarray(np.append(row_sizes(pa, values), 0.0)[places])
    if is_list(pa, kind):
        return _of_lists(pa, array)
    if is_a.is_map(kind):
        offsets = array.offsets.to_numpy(zero_copy_only=False)
        return _between(pa, array.keys, offsets) + _between(pa, array.items, offsets) + _OBJECT
    if is_a.is_struct(kind):
        children = [row_sizes(pa, child) for child in array.flatten()]
        return np.asarray(np.sum([np.full(len(array), float(_OBJECT)), *children], axis=0))
    if is_a.is_string_view(kind) or is_a.is_binary_view(kind):
        views = np.frombuffer(array.buffers()[1] or b"", dtype="<i4")[:: _VIEW // 4]
        return np.asarray(views[array.offset : array.offset + len(array)] + float(_OBJECT))
    if (is_text(pa, kind) or is_binary(pa, kind)) and not is_a.is_fixed_size_binary(kind):
        sizes = pa.compute.binary_length(array).fill_null(0).to_numpy(zero_copy_only=False)
        return np.asarray(sizes + float(_OBJECT))
    return np.full(len(array), _fixed(pa, kind))


def _fixed(pa: Any, kind: Any) -> float:
    if pa.types.is_null(kind):
        return 8.0
    if pa.types.is_fixed_size_binary(kind):
        return float(kind.byte_width + _OBJECT)
    return max(8.0, float(kind.bit_width) / 8)


def _has_fixed(pa: Any, kind: Any) -> bool:
    return not (
        pa.types.is_nested(kind)
        or isinstance(kind, pa.BaseExtensionType)
        or pa.types.is_dictionary(kind)
        or pa.types.is_run_end_encoded(kind)
        or is_text(pa, kind)
        or (is_binary(pa, kind) and not pa.types.is_fixed_size_binary(kind))
    )


def _of_lists(pa: Any, array: Any) -> Sizes:
    kind, count = array.type, len(array)
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        if _has_fixed(pa, kind.value_type):
            return np.full(count, size * _fixed(pa, kind.value_type) + _OBJECT)
        offsets = (np.arange(count + 1, dtype=np.int64) + array.offset) * size
        return _between(pa, array.values, offsets) + _OBJECT
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        offsets = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
        return _between(pa, array.values, offsets) + _OBJECT
    starts = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    lengths = array.sizes.to_numpy(zero_copy_only=False).astype(np.int64)
    return _parts(pa, array.values, starts, lengths) + _OBJECT


def _between(pa: Any, values: Any, offsets: npt.NDArray[np.int64]) -> Sizes:
    return _parts(pa, values, offsets[:-1], np.diff(offsets))


def _parts(pa: Any, values: Any, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Sizes:
    """The sizes of the parts of `values` that begin at `starts`."""
    if _has_fixed(pa, values.type):
        return np.asarray(lengths * _fixed(pa, values.type))
    some = lengths > 0
    if not some.any():
        return np.zeros(len(lengths))
    low, high = int(starts[some].min()), int((starts + lengths)[some].max())
    ends = np.concatenate([[0.0], np.cumsum(row_sizes(pa, values.slice(low, high - low)))])
    first = np.where(some, starts - low, 0)
    return np.asarray(ends[first + np.where(some, lengths, 0)] - ends[first])
