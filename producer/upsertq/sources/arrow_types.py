"""Owns which Arrow types a column may have for what it means: others are refused by column and type, before any row.

It is given pyarrow by `upsertq.sources.arrow` and never imports it.
"""

from collections.abc import Callable
from typing import Any

from upsertq.contract.errors import SourceError, shown
from upsertq.sources.arrow_values import (
    Unsupported,
    bare,
    check_extension,
    extension_of,
    is_binary,
    is_list,
    is_number,
    is_text,
    reader,
)
from upsertq.sources.columns import Layout


def check_types(pa: Any, schema: Any, layout: Layout, source: str) -> None:
    """Raise `SourceError` unless every column of the layout has a type that its meaning can have."""
    sole = len(layout.metadata) == 1
    for name in layout.metadata:
        whole = layout.metadata == ("metadata",)
        _check(pa, schema, name, source, _check_object if whole else _check_field, sole=sole)
    for name in layout.values:
        _check(pa, schema, name, source, _check_dimension if layout.spread else _check_values)
    if layout.sparse is not None:
        _check(pa, schema, layout.sparse, source, _check_sparse)
    if layout.namespace is not None:
        _check(pa, schema, layout.namespace, source, _check_name, nulls=True)
    _check(pa, schema, layout.id, source, _check_name, nulls=False)


def _check(pa: Any, schema: Any, name: str, source: str, check: Callable[..., None], **options: bool) -> None:
    places = schema.get_all_field_indices(name)
    if len(places) != 1:
        raise SourceError(f"{source} names the column {shown(name)} twice; each that is used needs a name of its own")
    field = schema.field(places[0])
    try:
        check_extension(extension_of(field))
        check(pa, field.type, **options)
    except Unsupported as error:
        raise SourceError(
            f"{source}: column {shown(name)} is {shown(str(field.type)).strip(chr(39))}: it {error}"
        ) from None


def _check_name(pa: Any, kind: Any, *, nulls: bool) -> None:
    reader(pa, kind)
    inner = bare(pa, kind)
    if not (_is_textual(pa, kind) or (nulls and pa.types.is_null(inner))):
        raise Unsupported("is no column of names; give strings, integers, decimals, UUIDs or dates")


def _is_textual(pa: Any, kind: Any) -> bool:
    """Whether its cells are, or become, text or digits."""
    inner = bare(pa, kind)
    is_a = pa.types
    return bool(
        is_text(pa, inner)
        or is_binary(pa, inner)
        or is_a.is_integer(inner)
        or is_a.is_decimal(inner)
        or is_a.is_temporal(inner)
    ) and not (isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.bool8")


def _is_list_of_texts(pa: Any, kind: Any) -> bool:
    inner = bare(pa, kind)
    if not is_list(pa, inner):
        return False
    item = inner.value_type
    number = pa.types.is_integer(bare(pa, item)) or pa.types.is_decimal(bare(pa, item))
    plain = not pa.types.is_run_end_encoded(item)
    return bool(plain and (pa.types.is_null(item) or (_is_textual(pa, item) and not number)))


def _is_flat(pa: Any, kind: Any) -> bool:
    inner = bare(pa, kind)
    return bool(
        _is_textual(pa, kind)
        or _is_list_of_texts(pa, kind)
        or is_number(pa, inner)
        or pa.types.is_boolean(inner)
        or pa.types.is_null(inner)
    )


def _fields(pa: Any, kind: Any) -> list[tuple[str, Any]] | None:
    """The fields of a struct or map by name and type, `None` for any other type."""
    inner = bare(pa, kind)
    if pa.types.is_struct(inner):
        return [(inner.field(k).name, inner.field(k).type) for k in range(inner.num_fields)]
    return [("its values", inner.item_type)] if pa.types.is_map(inner) else None


def _check_field(pa: Any, kind: Any, *, sole: bool = False) -> None:  # noqa: ARG001 - as `_check_object`
    reader(pa, kind)
    fields = _fields(pa, kind)
    if fields is None:
        if not _is_flat(pa, kind):
            raise Unsupported("is no metadata, which are text, numbers, booleans and lists of text; leave it out")
        return
    inner = bare(pa, kind)
    if pa.types.is_map(inner) and not _is_textual(pa, inner.key_type):
        raise Unsupported(f"has names of the type {inner.key_type}; give strings")
    for name, item in fields:
        if not _is_flat(pa, item):
            what = shown(str(item)).strip("'")
            raise Unsupported(f"has {shown(name)} of the type {what}, but metadata is flat; leave it out, or as text")


def _check_object(pa: Any, kind: Any, *, sole: bool = False) -> None:
    _check_field(pa, kind, sole=sole)
    inner = bare(pa, kind)
    text = is_text(pa, inner) or is_binary(pa, inner)
    if _fields(pa, kind) is None and not text and not pa.types.is_null(inner):
        raise Unsupported("is no object; give a struct, a map or JSON text, or name it with --metadata-columns")


def _check_values(pa: Any, kind: Any) -> None:
    inner = bare(pa, kind)
    if isinstance(kind, pa.FixedShapeTensorType) and len(kind.shape) != 1:
        raise Unsupported(f"is a tensor of {' x '.join(map(str, kind.shape))}; give one flat list of numbers")
    listed = is_list(pa, inner) and _is_numeric(pa, inner.value_type)
    if not (listed or is_text(pa, inner) or is_binary(pa, inner) or pa.types.is_null(inner)):
        raise Unsupported("is no column of vectors; give lists of numbers, float32 bytes or JSON text")


def _check_dimension(pa: Any, kind: Any) -> None:
    if not (_is_numeric(pa, bare(pa, kind)) or pa.types.is_null(kind)):
        raise Unsupported("is no number of one dimension")


def _is_numeric(pa: Any, kind: Any) -> bool:
    return is_number(pa, kind) or bool(pa.types.is_decimal(kind))


def _check_sparse(pa: Any, kind: Any) -> None:
    reader(pa, kind)
    inner, fields = bare(pa, kind), _fields(pa, kind)
    if fields is None:
        good = is_text(pa, inner) or is_binary(pa, inner) or pa.types.is_null(inner)
    else:
        good = all(is_list(pa, item) and _is_numeric(pa, item.value_type) for _, item in fields)
    if not good:
        raise Unsupported("is no column of sparse values; give a struct of the lists indices and values, or JSON text")
