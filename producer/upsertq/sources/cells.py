"""Owns how one cell of any format becomes a value: JSON text is parsed here, and what cannot be is a `Misread`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from upsertq.contract.errors import shown
from upsertq.sources.nested import MAX_DEPTH, too_deep
from upsertq.sources.printed import GAP, MISSING_NUMBERS, from_base64, looks_like_base64, printed_numbers

_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


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
    """A cell of dense values, or what its text holds: a JSON list, a printed array, base64; `None` for an empty one."""
    if not isinstance(cell, str):
        return cell
    if not cell.strip():
        return None
    try:
        parsed = _parsed("values", cell, "list of numbers")
    except Misread:
        numbers = _written(cell)
        if numbers is None:
            raise
        return numbers
    if isinstance(parsed, str):
        return as_values(parsed) if parsed != cell and looks_like_base64(parsed) else _no_list(cell)
    return parsed


def _written(text: str) -> Any:
    """The numbers of text that is no JSON; `None` where it is no known way of writing them."""
    if GAP.search(text):
        raise Misread("values", MISSING_NUMBERS)
    numbers: Any = printed_numbers(text)
    if numbers is None and looks_like_base64(text):
        numbers = from_base64(text)
        if numbers is None:
            raise Misread(
                "values", f"is {shown(text, 40)}, base64 that is not plainly float32; decode it to a list of numbers"
            )
    return numbers


def _no_list(text: str) -> Any:
    raise Misread("values", f"is {shown(text)}; give a JSON list of numbers")


def as_number(column: str, cell: Any) -> Any:
    """A number, or the number that text holds in decimal notation, for a column that holds one dimension."""
    if isinstance(cell, str):
        if _NUMBER.fullmatch(cell.strip(" \t\r\n")) is None:
            raise Misread("values", f"column {shown(column)} holds {shown(cell)}, which is no number")
        return float(cell)
    if cell is None:
        raise Misread("values", f"column {shown(column)} is empty")
    return cell


def as_numbers(columns: Sequence[str], cells: Sequence[Any]) -> list[Any]:
    """`as_number` of each, in a tenth of the time where all are plain text."""
    try:
        whole = "".join(cells)
        # beyond decimal notation `float` takes underscores, digits of other scripts, nan and infinity: none passes here
        if whole.isascii() and not ("_" in whole or "n" in whole or "N" in whole):
            return list(map(float, cells))
    except (TypeError, ValueError):
        pass
    return [as_number(name, cell) for name, cell in zip(columns, cells, strict=True)]


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
    if too_deep(text):
        raise Misread(field, f"is nested deeper than {MAX_DEPTH} levels; no record is")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Misread(field, f"is no JSON {what}: {error.msg} at character {error.pos + 1}") from None
