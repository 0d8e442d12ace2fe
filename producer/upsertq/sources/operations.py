"""Owns how a record is recognised that names an operation other than an upsert; such a record is never loaded."""

from collections.abc import Mapping
from typing import Any, Final

from upsertq.contract.errors import shown
from upsertq.sources.cells import Misread

_UPSERTS: Final = frozenset({
    "c", "r", "u", "i", "a", "+i", "+u", "create", "created", "read", "index", "insert", "inserted", "add", "added",
    "update", "updated", "upsert", "upserted", "put", "set", "snapshot", "replace", "merge", "save", "write", "modify",
    "modified", "update_postimage", "update_after",
})  # fmt: skip
_DELETES: Final = frozenset({
    "delete", "deleted", "deletes", "del", "remove", "removed", "tombstone", "truncate", "-d", "-u", "update_preimage",
    "update_before",
})  # fmt: skip
_LETTERS: Final = frozenset({"d", "t"})
"""What Debezium, wal2json and others shorten delete and truncate to."""
_STRICT: Final = frozenset({
    "op", "_op", "__op", "op_type", "_op_type", "opType", "operation", "_operation", "__operation", "operationType",
    "_change_type", "dml_type",
})  # fmt: skip
"""Names of nothing but an operation: whatever is no upsert is refused."""
_SHORT: Final = frozenset({
    "action", "_action", "__action", "change_type", "changeType", "rowkind", "row_kind", "RowKind", "dml",
})  # fmt: skip
_LOOSE: Final = _SHORT | {
    "METADATA$ACTION", "eventName", "event", "event_type", "eventType", "type", "kind", "mutation",
}  # fmt: skip
"""Names that may mean other things as well: only a deletion is refused, and of `_SHORT` also its letter."""
_FLAGS: Final = frozenset({
    "__deleted", "_deleted", "deleted", "is_deleted", "isDeleted", "_is_deleted", "_fivetran_deleted", "tombstone",
    "_peerdb_is_deleted", "_sdc_deleted", "__tombstone", "_tombstone",
})  # fmt: skip
_MOMENTS: Final = frozenset({"_ab_cdc_deleted_at", "_sdc_deleted_at"})
"""Filled in where the record is deleted."""
_NUMBERED: Final = {"__$operation": frozenset({"1", "3"})}
"""SQL Server's numbers for a deletion and for a row as it was before an update."""
NAMES: Final = _STRICT | _LOOSE | _FLAGS | _MOMENTS | frozenset(_NUMBERED)
_ENVELOPES: Final = ("payload", "value", "event", "after")
"""Objects around a change, as Debezium and its kin send it."""
WATCHED: Final = NAMES.union(_ENVELOPES)
"""A record with none of these names cannot name an operation."""
_TRUE: Final = frozenset({"true", "t", "1", "yes", "y"})


def refuse_others(row: Mapping[str, Any], data: frozenset[str]) -> None:
    """Raise `Misread` where the record names an operation other than an upsert; the fields of `data` are plain data."""
    for name in NAMES.intersection(row):
        value = row[name]
        if name not in data and _is_other(name, value):
            raise Misread(
                name,
                f"is {shown(value)}, an operation other than an upsert: such a record is not loaded; leave it out of "
                f"the file, or name {shown(name)} in --metadata-columns if it is data",
            )
    for name in _ENVELOPES:
        inner = row.get(name)
        if isinstance(inner, Mapping) and name not in data and not NAMES.isdisjoint(inner):
            refuse_others(inner, data)


def _is_other(name: str, value: Any) -> bool:
    word = "" if value is None or isinstance(value, Mapping | list) else str(value).strip().lower()
    if not word:
        return False
    if name in _FLAGS:
        return word in _TRUE
    if name in _NUMBERED:
        return word in _NUMBERED[name]
    if name in _STRICT:
        return isinstance(value, str) and not word.isdigit() and word not in _UPSERTS
    return name in _MOMENTS or word in _DELETES or (name in _SHORT and word in _LETTERS)
