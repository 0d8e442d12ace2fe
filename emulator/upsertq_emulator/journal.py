"""The order in which versions of every id were applied; it only ever grows and never decides."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

from upsertq_emulator.json_text import read_json
from upsertq_emulator.validate import Stored

_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of one id, applied.

    `sequence` counts all entries from 1, `lsn` is the namespace's, `at` is in seconds since the epoch,
    `version` is the metadata field that the journal follows (None when absent), `digest` is 16
    hexadecimal digits over values, sparse values and metadata (empty for a delete).
    """

    sequence: int
    operation: Literal["upsert", "delete"]
    namespace: str
    id: str
    lsn: int
    at: float
    version: Any
    digest: str

    def document(self) -> dict[str, Any]:
        """The entry as a JSON object."""
        return {
            "sequence": self.sequence,
            "operation": self.operation,
            "namespace": self.namespace,
            "id": self.id,
            "lsn": self.lsn,
            "at": self.at,
            "version": self.version,
            "digest": self.digest,
        }


class Journal:
    """Every applied version in order, in memory; `field` names the metadata field to keep as `version`."""

    def __init__(self, *, field: str = "version") -> None:
        self._field = field
        self._entries: list[Entry] = []
        self._positions: dict[tuple[str, str], list[int]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def upserted(self, namespace: str, record_id: str, stored: Stored, *, lsn: int, at: float) -> None:
        """Note that a version of an id was applied."""
        metadata = read_json(stored[2]) if stored[2] is not None else {}
        version, digest = metadata.get(self._field), _digest(stored)
        self._add(Entry(len(self) + 1, "upsert", namespace, record_id, lsn, at, version, digest))

    def deleted(self, namespace: str, record_id: str, *, lsn: int, at: float) -> None:
        """Note that an id was deleted."""
        self._add(Entry(len(self) + 1, "delete", namespace, record_id, lsn, at, None, ""))

    def entries(self) -> Iterator[Entry]:
        """All entries in the order applied; those added while iterating included."""
        position = 0
        while position < len(self._entries):
            yield self._entries[position]
            position += 1

    def versions(self, namespace: str, record_id: str) -> list[Entry]:
        """The entries of one id in the order applied; the default namespace is `""`."""
        return [self._entries[position] for position in self._positions.get((namespace, record_id), ())]

    def _add(self, entry: Entry) -> None:
        self._positions.setdefault((entry.namespace, entry.id), []).append(len(self._entries))
        self._entries.append(entry)


def _digest(stored: Stored) -> str:
    digest = blake2b(stored[0], digest_size=_DIGEST_BYTES)
    for part in stored[1:]:
        digest.update(b"\0" if part is None else b"\1" + part)
    return digest.hexdigest()
