"""Owns how one cell of any format becomes a value: JSON text is parsed here, and what cannot be is a `Misread`."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from upsertq.errors import shown


class Misread(Exception):  # noqa: N818 - internal: becomes the fault of its row
    """A cell that cannot be read."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field
        self.reason = reason


def as_object(field: str, cell: Any) -> Mapping[str, Any] | None:
    """An object cell, or the object that its JSON text holds; `None` for an empty one."""
    if cell is None or isinstance(cell, Mapping):
        return cell
    if isinstance(cell, str | bytes):
        if not cell.strip():
            return None
        cell = _parsed(field, cell, "object")
        if cell is None or isinstance(cell, dict):
            return cell
    raise Misread(field, f"is {shown(cell)}; give a flat JSON object of names and values")


def as_values(cell: Any) -> Any:
    """A cell of dense values, or the list that its JSON text holds; `None` for an empty one."""
    if isinstance(cell, str):
        if not cell.strip():
            return None
        parsed = _parsed("values", cell, "list of numbers")
        if isinstance(parsed, str):
            raise Misread("values", f"is {shown(cell)}; give a JSON list of numbers")
        return parsed
    return cell


def as_number(column: str, cell: Any) -> Any:
    """A number, or the number that text holds, for a column that holds one dimension."""
    if isinstance(cell, str):
        try:
            return float(cell)
        except ValueError:
            raise Misread("values", f"column {shown(column)} holds {shown(cell)}, which is no number") from None
    if cell is None:
        raise Misread("values", f"column {shown(column)} is empty")
    return cell


def as_metadata(cells: Iterable[tuple[str, Any]], *, sole: bool) -> Mapping[str, Any] | None:
    """The metadata out of its named cells.

    A cell that holds an object gives its fields, any other is one field by its column's name. Text is an object in the
    column `metadata`, and where `sole` column was named, in braces.
    """
    merged: dict[str, Any] = {}
    for name, cell in cells:
        if isinstance(cell, Mapping) or name == "metadata" or (sole and _in_braces(cell)):
            merged.update(as_object("metadata", cell) or {})
        elif cell is not None:
            merged[name] = cell
    return merged or None


def _in_braces(cell: Any) -> bool:
    return isinstance(cell, str) and cell.strip().startswith("{") and cell.strip().endswith("}")


def _parsed(field: str, text: str | bytes, what: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Misread(field, f"is no JSON {what}: {error.msg} at character {error.pos + 1}") from None
