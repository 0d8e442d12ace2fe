"""Owns reading JSON: lines, arrays, objects around an array; an item that cannot be parsed is a fault, never the end.

A line is a record, a list of records, or an object around them, as the service's own requests have it.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal, Self

import orjson

from upsertq.contract.errors import shown
from upsertq.sources import document
from upsertq.sources.cells import Misread
from upsertq.sources.chunk import CHUNK_BYTES, CHUNK_ROWS, Chunk, Fault
from upsertq.sources.columns import EVERY, Columns
from upsertq.sources.kinds import check_text
from upsertq.sources.nested import MAX_DEPTH, MISSING, found, has_many_brackets, too_deep
from upsertq.sources.operations import refuse_others
from upsertq.sources.rows import RowReader
from upsertq.sources.text import MAX_LINE, Bytes, is_stream, opened

KEPT_TEXT: Final = 2**16
"""Characters of a broken line that a fault carries."""
MOST_BRACKETS: Final = 2**20
"""Lists and objects in one line: more than 16 MiB of records have, and few enough to hold."""
_ENOUGH: Final = 2
"""Rows that tell whether a line holds several."""
Unit = Literal["line", "row"]
Row = Mapping[str, Any] | Fault
_BOM: Final = b"\xef\xbb\xbf"
_DIGITS: Final = re.compile(r"-?[0-9]+\.[0-9]+")


def check(path: str, shown_name: str, columns: Columns) -> Unit:
    """How the file's records are counted: by lines or as items.

    Raises `SourceError` unless it is text and its first records have the fields that options name.
    """
    reader = RowReader(columns, shown_name)
    with opened(path, shown_name) as content:
        check_text(content, shown_name)
        many = document.begins(content)
        most = CHUNK_ROWS if reader.asks else _ENOUGH
        rows, positions, _ = next(_batches(content, path, shown_name, reader, most=most), ([], [], False))
        reader.check(rows)
    return "row" if many or len(set(positions)) < len(positions) else "line"


def fields(path: str, shown_name: str) -> set[str]:
    """The fields that the first records of the file have."""
    with opened(path, shown_name) as content:
        check_text(content, shown_name)
        batches = _batches(content, path, shown_name, RowReader(Columns(), shown_name))
        rows, _, _ = next(batches, ([], [], False))
        return {name for row in rows if not isinstance(row, Fault) for name in row}


def chunks(path: str, shown_name: str, columns: Columns, unit: Unit = "line") -> Iterator[Chunk]:
    """The records of the file, `-` for stdin; blank lines are passed over."""
    reader = RowReader(columns, shown_name)
    with opened(path, shown_name) as content:
        check_text(content, shown_name)
        for rows, positions, booleans in _batches(content, path, shown_name, reader, unit=unit):
            yield reader.chunk(rows, positions, content.consumed, booleans=booleans)


def _batches(
    content: Bytes, path: str, shown_name: str, reader: RowReader, *, unit: Unit = "line", most: int = CHUNK_ROWS
) -> Iterator[tuple[list[Row], list[int], bool]]:
    """The rows of one chunk after another, with their positions and whether their values may have booleans."""
    items = _Items(reader.id, reader.namespace, reader.metadata)
    texts: Iterator[tuple[int, bytes | None]] = enumerate(content.lines(), start=1)
    if document.begins(content):
        again = None if is_stream(path) else partial(opened, path, shown_name)
        items.document = document.Document(content, shown_name, again)
        texts = items.document.items()
    rows: list[Row] = []
    positions: list[int] = []
    size, booleans, count = 0, False, 0
    for number, text in texts:
        for row in items.rows(text, first=number == 1):
            count += 1
            rows.append(row)
            positions.append(number if unit == "line" else count)
            if len(rows) >= most:
                yield rows, positions, booleans or text is None or b"true" in text or b"false" in text
                rows, positions, size, booleans = [], [], 0, False
        size += MAX_LINE if text is None else len(text)
        if not booleans and text is not None:
            booleans = b"true" in text or b"false" in text
        if size >= CHUNK_BYTES and rows:
            yield rows, positions, booleans
            rows, positions, size, booleans = [], [], 0, False
    if rows:
        yield rows, positions, booleans


class _Items:
    """Makes rows of the text of lines and of a document's items."""

    def __init__(self, id_name: str, namespace: str | None, metadata: Sequence[str]) -> None:
        self.document: document.Document | None = None
        self._id = id_name
        self._plain_id = "." not in id_name
        self._inherited = {namespace, *metadata} - {None, EVERY}
        self._data = frozenset(metadata)

    def rows(self, text: bytes | None, *, first: bool = False) -> Sequence[Row]:
        """The rows of the text: most often one, none of a blank."""
        if text is None:
            return [Fault("line", f"is longer than {MAX_LINE:,} bytes; no record is")]
        if first:
            text = text.removeprefix(_BOM)
        if has_many_brackets(text):
            if (brackets := text.count(b"[") + text.count(b"{")) > MOST_BRACKETS:
                return [Fault("line", f"has {brackets:,} lists and objects; no record has", _kept(text))]
            if too_deep(text):
                return [Fault("line", f"is nested deeper than {MAX_DEPTH} levels; no record is", _kept(text))]
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            return self._second_look(text, error) if text.strip() else []
        if type(value) is dict and type(value.get(self._id)) is str and self.document is None:
            return [value]  # most are so
        rows = self._rows_of(value, text)
        if any(isinstance(row, dict) and isinstance(self._id_of(row), float) for row in rows):
            rows = self._with_digits(rows, text)
        return rows

    def _id_of(self, row: Mapping[str, Any]) -> Any:
        return row.get(self._id) if self._plain_id else found(row, self._id)

    def _rows_of(self, value: Any, text: bytes) -> Sequence[Row]:
        if isinstance(value, dict):
            if self.document is not None and self.document.around:
                return self._spread(self.document.around, [value])
            if self._id in value:
                return [value]
            items = self._items_within(value)
            return [value] if items is None else self._spread(value, items)
        if isinstance(value, list) and (not value or any(isinstance(item, dict) for item in value)):
            return [_object(item, shown(item)) for item in value]
        return [_object(value, _kept(text))]

    def _items_within(self, value: Mapping[str, Any]) -> Sequence[Any] | None:
        """The records in the one member that holds some; `None` where none does, or several do."""
        if not self._plain_id and found(value, self._id) is not MISSING:
            return None
        told = [list(item.values()) if isinstance(item, dict) else item for item in value.values()]
        lists = [
            items
            for items in told
            if isinstance(items, list)
            and items
            and all(isinstance(item, dict) for item in items)
            and self._id_of(items[0]) not in (None, MISSING)
        ]
        return lists[0] if len(lists) == 1 else None

    def _spread(self, around: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> Sequence[Row]:
        """The items with what is named by an option and stands around them, such as their namespace."""
        try:
            refuse_others(around, self._data)
        except Misread as error:
            return [Fault(error.field, error.reason)] * len(items)
        inherited = {name: around[name] for name in around if name in self._inherited}
        return [{**inherited, **item} for item in items] if inherited else items

    def _with_digits(self, rows: Sequence[Row], text: bytes) -> Sequence[Row]:
        """The rows with their ids as the text writes them, where it does so in plain decimal notation."""
        try:
            exact = self._rows_of(json.loads(text, parse_float=_Exact), text)
        except ValueError:
            return rows
        return [self._digits(row, seen) for row, seen in zip(rows, exact, strict=True)]

    def _digits(self, row: Row, exact: Row) -> Row:
        given = MISSING if isinstance(exact, Fault) else self._id_of(exact)
        if isinstance(given, _Exact) and _DIGITS.fullmatch(given.text) is not None:
            given = given.text
        if not isinstance(row, dict) or isinstance(given, bool) or not isinstance(given, str | int):
            return row
        return {**row, self._id: given}

    def _second_look(self, text: bytes, error: orjson.JSONDecodeError) -> Sequence[Row]:
        """Read what Python's own json writes, NaN and Infinity, so that the record's fault can be told by its field."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict | list):
            return self._rows_of(value, text)
        return [Fault("line", f"is no JSON: {error.msg} at character {error.pos + 1}", _kept(text))]


class _Exact(float):
    """A number that remembers how it was written."""

    text: str

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number


def _object(item: Any, text: str) -> Row:
    if isinstance(item, dict):
        return item
    return Fault("line", f"is {shown(item)}; every line must be one JSON object", text)


def _kept(text: bytes) -> str:
    return text[:KEPT_TEXT].decode("utf-8", "replace")
