"""Owns the table of Arrow's types: which value a cell of each becomes for ids, namespaces, metadata and sparse values.

The table is recursive and complete: a type that it lacks is refused by name before anything is read. It is given
pyarrow by `upsertq.sources.arrow` and never imports it.
"""

import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from upsertq.contract.record import id_text
from upsertq.sources.cells import Misread

Reader = Callable[[Any], list[Any]]
"""Out of an array the value of each cell; one that cannot be read is a `Misread`, unraised."""
MAX_DEPTH: Final = 16
"""Levels of nesting that are looked into; no record has more than two."""
_DIGITS: Final = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_OUT_OF_RANGE: Final = "<value out of range"
_OPAQUE: Final = frozenset({"pandas.period", "pandas.interval", "arrow.opaque"})
"""Extensions whose storage means nothing without them."""


class Unsupported(Exception):  # noqa: N818 - internal: becomes a SourceError that names the column
    """A type that has no value; the message says why."""


def reader(pa: Any, kind: Any, depth: int = 0) -> Reader:  # noqa: C901, PLR0911, PLR0912 - the table, a line for each kind
    """How cells of the type `kind` are read; `Unsupported` when they cannot be."""
    is_a = pa.types
    if depth > MAX_DEPTH:
        raise Unsupported(f"is nested more than {MAX_DEPTH} levels deep")
    if isinstance(kind, pa.BaseExtensionType):
        return _of_extension(pa, kind, depth)
    if is_a.is_dictionary(kind) or is_a.is_run_end_encoded(kind):
        return _of_places(pa, reader(pa, kind.value_type, depth + 1))
    if is_list(pa, kind):
        return _of_lists(pa, reader(pa, kind.value_type, depth + 1))
    if is_a.is_map(kind):
        return _of_maps(reader(pa, kind.key_type, depth + 1), reader(pa, kind.item_type, depth + 1))
    if is_a.is_struct(kind):
        return _of_structs(pa, kind, depth)
    if is_text(pa, kind):
        return _texts
    if is_binary(pa, kind):
        return _binaries
    if is_a.is_decimal(kind):
        return _decimals
    if is_a.is_duration(kind):
        return _durations(pa, _DIGITS[kind.unit])
    if kind == pa.month_day_nano_interval():
        return _intervals
    if is_a.is_date(kind) or is_a.is_time(kind) or is_a.is_timestamp(kind):
        return _moments(pa, kind)
    if is_number(pa, kind) or is_a.is_boolean(kind) or is_a.is_null(kind):
        return lambda array: list(array.to_pylist())
    raise Unsupported("has no value in JSON")


def is_list(pa: Any, kind: Any) -> bool:
    """Whether it is any kind of list."""
    is_a = pa.types
    return bool(
        is_a.is_list(kind)
        or is_a.is_large_list(kind)
        or is_a.is_fixed_size_list(kind)
        or is_a.is_list_view(kind)
        or is_a.is_large_list_view(kind)
    )


def is_text(pa: Any, kind: Any) -> bool:
    """Whether it is any kind of string."""
    is_a = pa.types
    return bool(is_a.is_string(kind) or is_a.is_large_string(kind) or is_a.is_string_view(kind))


def is_binary(pa: Any, kind: Any) -> bool:
    """Whether it is any kind of bytes."""
    is_a = pa.types
    return bool(
        is_a.is_binary(kind)
        or is_a.is_large_binary(kind)
        or is_a.is_fixed_size_binary(kind)
        or is_a.is_binary_view(kind)
    )


def is_number(pa: Any, kind: Any) -> bool:
    """Whether it is an integer or a float of any width."""
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def bare(pa: Any, kind: Any) -> Any:
    """The type without the wrapping of extensions, dictionaries and runs."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        else:
            return kind


def check_extension(name: str) -> None:
    """Refuse an extension that cannot be read as what it is stored as."""
    if name in _OPAQUE:
        raise Unsupported(f"holds the extension {name}, which is no text or number by itself")


def placed(pa: Any, array: Any) -> tuple[Any, npt.NDArray[np.int64]]:
    """The distinct values of an array of dictionary or runs, and for each cell the place of its value, -1 for null."""
    if pa.types.is_dictionary(array.type):
        used = array.indices.dictionary_encode()
        places = used.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return array.dictionary.take(used.dictionary), places.astype(np.int64)
    first, count = array.find_physical_offset(), array.find_physical_length()
    ends = array.run_ends.slice(first, count).to_numpy(zero_copy_only=False).astype(np.int64)
    ends = np.minimum(ends - array.offset, len(array))
    return array.values.slice(first, count), np.repeat(np.arange(count), np.diff(ends, prepend=0))


def _of_places(pa: Any, inner: Reader) -> Reader:
    def read(array: Any) -> list[Any]:
        values, places = placed(pa, array)
        cells = [*inner(values), None]
        return [cells[place] for place in places.tolist()]

    return read


def _of_extension(pa: Any, kind: Any, depth: int) -> Reader:
    check_extension(kind.extension_name)
    inner = reader(pa, kind.storage_type, depth + 1)
    match kind.extension_name:
        case "arrow.uuid":
            return lambda array: [
                None if cell is None else str(uuid.UUID(bytes=cell)) for cell in array.storage.to_pylist()
            ]
        case "arrow.bool8":
            return lambda array: [None if cell is None else bool(cell) for cell in array.storage.to_pylist()]
        case _:
            return lambda array: inner(array.storage)


def _of_lists(pa: Any, inner: Reader) -> Reader:
    def read(array: Any) -> list[Any]:
        present = array.drop_null() if array.null_count else array
        items = inner(present.flatten())
        ends = np.cumsum(lengths_of(pa, present)).tolist()
        whole = [_first_bad(items[a:b]) or items[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        return scattered(whole, array)

    return read


def lengths_of(pa: Any, lists: Any) -> npt.NDArray[np.int64]:
    """The lengths of lists, of which none is null."""
    if pa.types.is_fixed_size_list(lists.type):
        return np.full(len(lists), lists.type.list_size, dtype=np.int64)
    lengths = pa.compute.list_value_length(lists).to_numpy(zero_copy_only=False)
    return np.asarray(lengths, dtype=np.int64)


def scattered(cells: Sequence[Any], array: Any) -> list[Any]:
    """The cells at the places where `array` has a value, `None` at the others."""
    if not array.null_count:
        return list(cells)
    following = iter(cells)
    return [next(following) if present else None for present in array.is_valid().to_pylist()]


def _of_maps(keys: Reader, values: Reader) -> Reader:
    def read(array: Any) -> list[Any]:
        present = array.drop_null() if array.null_count else array
        bounds = present.offsets.to_numpy(zero_copy_only=False).tolist()
        first, size = bounds[0], bounds[-1] - bounds[0]
        names = [id_text(name) for name in keys(present.keys.slice(first, size))]
        cells = values(present.items.slice(first, size))
        pairs = pairwise(bounds)
        return scattered([_object(names[a - first : b - first], cells[a - first : b - first]) for a, b in pairs], array)

    return read


def _of_structs(pa: Any, kind: Any, depth: int) -> Reader:
    names = [kind.field(k).name for k in range(kind.num_fields)]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise Unsupported(f"has the field {twice!a} twice")
    for k in range(kind.num_fields):
        check_extension(extension_of(kind.field(k)))
    inner = [reader(pa, kind.field(k).type, depth + 1) for k in range(kind.num_fields)]

    def read(array: Any) -> list[Any]:
        present = array.drop_null() if array.null_count else array
        columns = [read_field(child) for read_field, child in zip(inner, present.flatten(), strict=True)]
        rows = zip(*columns, strict=True) if columns else [()] * len(present)
        return scattered([_object(names, row) for row in rows], array)

    return read


def extension_of(field: Any) -> str:
    """The name of the extension that a field has and that is not registered here, `""` for none."""
    return str((field.metadata or {}).get(b"ARROW:extension:name", b"").decode("utf-8", "replace"))


def _object(names: Sequence[Any], cells: Sequence[Any]) -> dict[str, Any] | Misread:
    made = dict(zip(names, cells, strict=True))
    if len(made) != len(names):
        twice = next(name for k, name in enumerate(names) if name in names[:k])
        return Misread("metadata", f"has the name {twice!a} twice")
    return _first_bad([*names, *cells]) or made


def _first_bad(cells: Sequence[Any]) -> Misread | None:
    return next((cell for cell in cells if isinstance(cell, Misread)), None)


def _texts(array: Any) -> list[Any]:
    try:
        return list(array.to_pylist())
    except UnicodeDecodeError:  # Parquet promises UTF-8 and does not check it
        return [_text(scalar.as_buffer().to_pybytes() if scalar.is_valid else None) for scalar in array]


def _binaries(array: Any) -> list[Any]:
    return [_text(cell) for cell in array.to_pylist()]


def _text(cell: bytes | None) -> Any:
    if cell is None:
        return None
    try:
        return cell.decode("utf-8")
    except UnicodeDecodeError:
        start = cell[:16].hex(" ") + (" …" if len(cell) > 16 else "")  # noqa: PLR2004 - what fits a line
        return Misread("text", f"holds {len(cell)} bytes that are no UTF-8 text ({start}); write it as a string")


def _decimals(array: Any) -> list[Any]:
    return [None if cell is None else _of_decimal(cell) for cell in array.to_pylist()]


def _of_decimal(cell: Decimal) -> Any:
    """The integer or float that it is exactly (as a person writes it), itself where it is neither."""
    if cell == cell.to_integral_value():
        return int(cell)
    return float(cell) if Decimal(repr(float(cell))) == cell else cell


def _moments(pa: Any, kind: Any) -> Reader:
    zoned = pa.types.is_timestamp(kind) and kind.tz is not None

    def read(array: Any) -> list[Any]:
        # in UTC, so that no database of zones is needed, and texts of one column sort as their times do
        plain = array.cast(pa.timestamp(kind.unit)) if zoned else array
        return [_moment(cell, zoned=zoned) for cell in plain.cast(pa.string()).to_pylist()]

    return read


def _moment(cell: str | None, *, zoned: bool) -> Any:
    if cell is None:
        return None
    if cell.startswith(_OUT_OF_RANGE):
        return Misread("text", f"holds a date or time that is {cell.strip('<>')}")
    return cell.replace(" ", "T", 1) + "Z" * zoned


def _durations(pa: Any, digits: int) -> Reader:
    def read(array: Any) -> list[Any]:
        return [None if cell is None else f"PT{_seconds(cell, digits)}S" for cell in array.cast(pa.int64()).to_pylist()]

    return read


def _intervals(array: Any) -> list[Any]:
    return [
        None if cell is None else f"P{cell[0]}M{cell[1]}DT{_seconds(cell[2], _DIGITS['ns'])}S"
        for cell in array.to_pylist()
    ]


def _seconds(count: int, digits: int) -> str:
    whole, part = divmod(abs(count), 10**digits)
    fraction = f".{part:0{digits}}".rstrip("0").rstrip(".") if digits else ""
    return f"{'-' * (count < 0)}{whole}{fraction}"
