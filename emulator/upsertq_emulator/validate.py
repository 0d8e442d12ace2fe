"""Judges an upsert body against the service's rules; it must never change the index or look at a clock."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from upsertq_emulator import texts
from upsertq_emulator.answer import RefusedError
from upsertq_emulator.json_text import read_json, write_json
from upsertq_emulator.limits import Limits, Shape
from upsertq_emulator.values import (
    Floats,
    first_not_finite,
    first_zero_row,
    float32_rows,
    is_uint32,
    rows_with_zero_or_one,
)

_RECORD_FIELDS: Final = frozenset({"id", "values", "sparseValues", "metadata"})
_REQUEST_FIELDS: Final = frozenset({"vectors", "namespace"})
_SPARSE_FIELDS: Final = frozenset({"indices", "values"})
_DEFAULT_NAMESPACE: Final = "__default__"
_NUMBERS: Final = (int, float)
_SHOWN_CHARACTERS: Final = 60

Stored = tuple[bytes, bytes | None, bytes | None]
"""Dense values as float32 bytes (empty when absent), sparse values and metadata as JSON text or None."""


@dataclass(frozen=True, slots=True)
class Request:
    """An upsert body that was read but not judged: its records as sent, and its `size` in bytes."""

    namespace: str
    records: list[dict[str, Any]]
    size: int

    @property
    def ids(self) -> list[str]:
        """The ids as sent, in order."""
        return [record["id"] for record in self.records]


@dataclass(frozen=True, slots=True)
class Upsert:
    """A judged upsert: `ids` and what to store for each, and the `shape` that the index has from now on."""

    namespace: str
    ids: list[str]
    stored: list[Stored]
    shape: Shape


def namespace_of(value: object, limits: Limits) -> str:
    """The namespace in its one spelling: `""` for the default one.

    Raises:
        RefusedError: it is no string, too long, not ASCII or holds NUL.
    """
    if value is None or value in ("", _DEFAULT_NAMESPACE):
        return ""
    if not isinstance(value, str):
        raise RefusedError(f"namespace: invalid value {_shown(value)} for type TYPE_STRING")
    if len(value) > limits.namespace_characters:
        raise RefusedError(
            f"Namespace must not be longer than {limits.namespace_characters} characters, got {len(value)}"
        )
    if not value.isascii():
        raise RefusedError(f"Namespace must be ASCII, but got {value}")
    if "\0" in value:
        raise RefusedError("Namespace must not contain null character")
    return value


def read_object(body: bytes, fields: frozenset[str]) -> dict[str, Any]:
    """The JSON object of a request body, which may hold the given `fields` only.

    Raises:
        RefusedError: the body is no JSON object or holds another field.
    """
    try:
        document = read_json(body)
    except ValueError as error:
        raise RefusedError(f"Invalid JSON in the request body: {error}") from None
    if not isinstance(document, dict):
        raise RefusedError(f"Invalid JSON in the request body: expected an object, got {_shown(document)}")
    _check_fields(document, fields, "the request")
    return document


def read_upsert(body: bytes, limits: Limits) -> Request:
    """Read the body of `POST /vectors/upsert` as far as namespace and ids.

    Raises:
        RefusedError: too large, no JSON, too many records, or a record without a proper id.
    """
    if len(body) > limits.request_bytes:
        size, limit = texts.megabytes(len(body)), texts.megabytes(limits.request_bytes)
        raise RefusedError(texts.REQUEST_SIZE.format(size=size, limit=limit))
    document = read_object(body, _REQUEST_FIELDS)
    namespace = namespace_of(document.get("namespace"), limits)
    records = document.get("vectors")
    if not isinstance(records, list) or not records:
        raise RefusedError("Request must contain at least one vector")
    if len(records) > limits.records:
        raise RefusedError(
            f"Request contains {len(records)} vectors, which exceeds the limit of {limits.records} vectors"
        )
    for position, record in enumerate(records):
        if not isinstance(record, dict):
            raise RefusedError(f"vectors[{position}]: expected an object, got {_shown(record)}")
        check_id(record.get("id"), limits)
    return Request(namespace, records, len(body))


def check_id(value: object, limits: Limits) -> None:
    """Check one record id.

    Raises:
        RefusedError: it is no string, empty, too long, not ASCII or holds NUL.
    """
    if not isinstance(value, str):
        raise RefusedError(f"Vector ID must be a string, got {_shown(value)}")
    if not 1 <= len(value) <= limits.id_characters:
        raise RefusedError(
            f"Vector ID must be 1 to {limits.id_characters} characters long, got {len(value)} characters"
        )
    if not value.isascii():
        raise RefusedError(f"ID must be ASCII, but got {value}")
    if "\0" in value:
        raise RefusedError("Vector ID must not contain null character")


def judge_upsert(request: Request, shape: Shape, limits: Limits) -> Upsert:
    """Judge every record of `request` for an index of the given `shape`; one bad record refuses them all.

    Raises:
        RefusedError: with the service's sentence for the first rule broken.
    """
    dense: list[list[Any]] = []
    extras: list[tuple[bytes | None, bytes | None]] = []
    for position, record in enumerate(request.records):
        if not record.keys() <= _RECORD_FIELDS:
            _check_fields(record, _RECORD_FIELDS, f"vectors[{position}]")
        values = record.get("values")
        if values is None:
            values = []
        elif not isinstance(values, list):
            raise RefusedError(f"vectors[{position}].values: expected an array, got {_shown(values)}")
        dense.append(values)
        sparse = record.get("sparseValues")
        metadata = record.get("metadata")
        extras.append(
            (
                None if sparse is None else _sparse_text(sparse, limits),
                None if metadata is None else _metadata_text(metadata, limits),
            )
        )
    settled = _settle_shape(shape, dense, extras, limits)
    ids = request.ids
    rows = [b""] * len(ids) if settled.dimension is None else _dense_rows(ids, dense, settled.dimension)
    stored = [(row, *extra) for row, extra in zip(rows, extras, strict=True)]
    return Upsert(request.namespace, ids, stored, settled)


def _settle_shape(
    shape: Shape, dense: list[list[Any]], extras: list[tuple[bytes | None, bytes | None]], limits: Limits
) -> Shape:
    """The index's shape once these records are in: the first upsert fixes what was left open."""
    vector_type, dimension = shape.vector_type, shape.dimension
    if vector_type is None:
        vector_type = "dense" if dimension is not None or dense[0] else "sparse"
    if vector_type == "sparse":
        if any(dense):
            raise RefusedError("Index configuration does not support dense values - the index is sparse")
        if any(sparse is None for sparse, _ in extras):
            raise RefusedError(texts.SPARSE_EMPTY)
        return Shape(None, "dotproduct", "sparse")
    if dimension is None:
        dimension = len(dense[0])
    for values in dense:
        if len(values) > limits.dimension:
            raise RefusedError(f"Vector dimension {len(values)} exceeds the maximum dimension {limits.dimension}")
        if len(values) != dimension or not values:
            raise RefusedError(texts.DIMENSION.format(got=len(values), dimension=dimension))
    if shape.metric != "dotproduct" and any(sparse is not None for sparse, _ in extras):
        raise RefusedError(texts.SPARSE_UNSUPPORTED)
    return Shape(dimension, shape.metric, "dense")


def _dense_rows(ids: list[str], dense: list[list[Any]], dimension: int) -> list[bytes]:
    rows = _float32(dense, dimension)
    for row in rows_with_zero_or_one(rows):
        for column, value in enumerate(dense[row]):
            if type(value) is bool:
                raise _not_a_float(f"vectors[{row}].values[{column}]", value)
    zero = first_zero_row(rows)
    if zero is not None:
        raise RefusedError(texts.ZERO_VECTOR.format(id=ids[zero]))
    packed, width = rows.tobytes(), dimension * rows.itemsize
    return [packed[start : start + width] for start in range(0, len(packed), width)]


def _float32(dense: list[list[Any]], dimension: int) -> Floats:
    try:
        rows = float32_rows(dense, dimension)
    except struct.error:
        for row, values in enumerate(dense):
            for column, value in enumerate(values):
                if type(value) not in _NUMBERS:
                    raise _not_a_float(f"vectors[{row}].values[{column}]", value) from None
        raise
    bad = first_not_finite(rows)
    if bad is not None:
        row, column = bad
        raise _not_a_float(f"vectors[{row}].values[{column}]", dense[row][column])
    return rows


def _sparse_text(sparse: object, limits: Limits) -> bytes:
    if not isinstance(sparse, dict):
        raise RefusedError(f"sparseValues: expected an object, got {_shown(sparse)}")
    _check_fields(sparse, _SPARSE_FIELDS, "sparseValues")
    indices, values = sparse.get("indices") or [], sparse.get("values") or []
    if not isinstance(indices, list) or not isinstance(values, list):
        raise RefusedError("sparseValues: indices and values must be arrays")
    if len(indices) != len(values):
        raise RefusedError(
            f"Sparse vector must have the same number of indices and values, got {len(indices)} indices and "
            f"{len(values)} values"
        )
    if not values:
        raise RefusedError(texts.SPARSE_EMPTY)
    if len(values) > limits.sparse_values:
        raise RefusedError(f"Sparse vector has {len(values)} values, which exceeds the limit of {limits.sparse_values}")
    return write_json({"indices": _checked_indices(indices), "values": _sparse_floats(values)})


def _checked_indices(indices: list[Any]) -> list[int]:
    for index in indices:
        if not is_uint32(index):
            raise RefusedError(f"sparseValues.indices: invalid value {_shown(index)} for type TYPE_UINT32")
    if len(set(indices)) != len(indices):
        raise RefusedError("Sparse vector must not contain duplicate indices")
    return indices


def _sparse_floats(values: list[Any]) -> Floats:
    for value in values:
        if type(value) not in _NUMBERS:
            raise _not_a_float("sparseValues.values", value)
    row: Floats = _float32([values], len(values))[0]
    if not row.all():
        raise RefusedError("Sparse vector must not contain zero values")
    return row


def _metadata_text(metadata: object, limits: Limits) -> bytes:
    if not isinstance(metadata, dict):
        raise RefusedError(f"metadata: expected an object, got {_shown(metadata)}")
    for field, value in metadata.items():
        if field.startswith("$"):
            raise RefusedError(f"Metadata key must not start with '$', got '{field}'")
        if isinstance(value, str | int | float):
            continue
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            continue
        raise RefusedError(texts.METADATA_TYPE.format(got=_shown(value), field=field))
    text = write_json(metadata)
    if len(text) > limits.metadata_bytes:
        raise RefusedError(texts.METADATA_SIZE.format(size=len(text), limit=limits.metadata_bytes))
    return text


def _check_fields(document: Mapping[str, Any], fields: frozenset[str], where: str) -> None:
    for name in document:
        if name not in fields:
            raise RefusedError(f"Unknown field '{name}' in {where}: this operation takes {', '.join(sorted(fields))}")


def _not_a_float(where: str, value: object) -> RefusedError:
    return RefusedError(f"{where}: invalid value {_shown(value)} for type TYPE_FLOAT")


def _shown(value: object) -> str:
    text = write_json(value).decode()
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
