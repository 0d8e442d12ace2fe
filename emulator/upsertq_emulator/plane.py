"""The index in memory: takes request bodies, returns answers. Knows no sockets, clocks or faults."""

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from upsertq_emulator import texts
from upsertq_emulator.answer import Answer, RefusedError, answering
from upsertq_emulator.journal import Journal
from upsertq_emulator.json_text import read_json, ready_json, write_json
from upsertq_emulator.limits import Limits, Metric, Shape, VectorType
from upsertq_emulator.validate import (
    Request,
    Stored,
    Upsert,
    check_id,
    judge_upsert,
    namespace_of,
    read_object,
    read_upsert,
)
from upsertq_emulator.values import Floats, stored_floats

_DELETE_FIELDS = frozenset({"ids", "deleteAll", "filter", "namespace"})
_STATS_FIELDS = frozenset({"filter"})
_READ = {"readUnits": 1}


@dataclass(frozen=True, slots=True)
class Vector:
    """A stored record: `values` float32 (empty when sparse only), `sparse_values`, `metadata` as sent."""

    id: str
    values: Floats
    sparse_values: dict[str, Any] | None
    metadata: dict[str, Any] | None


class _Namespace:
    """One namespace's records, their ids in order, and the number of its last write."""

    def __init__(self) -> None:
        self.records: dict[str, Stored] = {}
        self.accepted = 0
        self.lsn = 0
        self._sorted: list[str] | None = None

    def put(self, record_id: str, stored: Stored) -> None:
        if record_id not in self.records:
            self._sorted = None
        self.records[record_id] = stored

    def drop(self, record_id: str) -> bool:
        if self.records.pop(record_id, None) is None:
            return False
        self._sorted = None
        return True

    def sorted_ids(self) -> list[str]:
        if self._sorted is None:
            self._sorted = sorted(self.records)
        return self._sorted


class Plane:
    """A Pinecone data plane's state.

    Args:
        dimension: of every dense vector; None lets the first upsert fix it.
        metric: `dotproduct` takes dense and hybrid records, the others refuse sparse values.
        vector_type: None lets `dimension` or the first upsert decide.
        keep_vectors: False judges and counts records but stores none: memory stays bounded, counts are of
            accepted records (an id sent twice counts twice), fetch and list find nothing.
        limits: the service's limits.
        journal: notes every applied version; None notes nothing.
    """

    def __init__(
        self,
        *,
        dimension: int | None = None,
        metric: Metric = "dotproduct",
        vector_type: VectorType | None = None,
        keep_vectors: bool = True,
        limits: Limits | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.shape = Shape(dimension, metric, vector_type)
        self.limits = Limits() if limits is None else limits
        self.journal = journal
        self.keep_vectors = keep_vectors
        self._namespaces: dict[str, _Namespace] = {}

    @answering
    def upsert(self, body: bytes, now: float) -> Answer:
        """Answer `POST /vectors/upsert`; the batch is applied as a whole or not at all.

        `now` is in seconds since the epoch and is only noted in the journal.
        """
        return self.apply(read_upsert(body, self.limits), now)

    def read(self, body: bytes) -> Request:
        """Read an upsert body without applying it.

        Raises:
            RefusedError: the body is refused before its records are looked at.
        """
        return read_upsert(body, self.limits)

    @answering
    def apply(self, request: Request, now: float, *, skip: Collection[str] = (), counted: int | None = None) -> Answer:
        """Judge and apply an upsert; ids in `skip` are left out, and `counted` replaces the reported count."""
        upsert = judge_upsert(request, self.shape, self.limits)
        space = self._written(upsert.namespace)
        self.shape = upsert.shape
        space.lsn += 1
        taken = self._store(space, upsert, now, skip)
        count = taken if counted is None else counted
        headers = _write_headers(space.lsn)
        return Answer(200, write_json({"upsertedCount": count}), headers=headers, records=taken)

    @answering
    def stats(self, body: bytes = b"") -> Answer:
        """Answer `describe_index_stats`; an empty body counts as `{}`."""
        if body and read_object(body, _STATS_FIELDS).get("filter"):
            raise RefusedError("The emulator does not support stats with a filter", status=501)
        counts = {name or "__default__": self._count(space) for name, space in self._namespaces.items()}
        document: dict[str, Any] = {
            "namespaces": {name: {"vectorCount": count} for name, count in counts.items()},
            "indexFullness": 0.0,
            "totalVectorCount": sum(counts.values()),
            "metric": self.shape.metric,
            "vectorType": self.shape.vector_type or "dense",
        }
        if self.shape.dimension is not None:
            document["dimension"] = self.shape.dimension
        return Answer(200, write_json(document))

    @answering
    def fetch(self, ids: Sequence[str], namespace: str = "") -> Answer:
        """Answer `GET /vectors/fetch`: the float32 values bit for bit and the metadata as sent."""
        name = namespace_of(namespace, self.limits)
        if not 1 <= len(ids) <= self.limits.fetch_ids:
            raise RefusedError(f"Fetch takes 1 to {self.limits.fetch_ids} ids, got {len(ids)}")
        for record_id in ids:
            check_id(record_id, self.limits)
        space = self._namespaces.get(name, _Namespace())
        vectors = {
            record_id: _vector_document(record_id, space.records[record_id])
            for record_id in ids
            if record_id in space.records
        }
        document = {"vectors": vectors, "namespace": name or "__default__", "usage": _READ}
        return Answer(200, write_json(document))

    @answering
    def list_ids(
        self, namespace: str = "", *, prefix: str = "", limit: int | None = None, after: str | None = None
    ) -> Answer:
        """Answer `GET /vectors/list`: a page of ids in order, beginning behind the id `after`."""
        name = namespace_of(namespace, self.limits)
        page = self.limits.list_ids if limit is None else limit
        if not 1 <= page <= self.limits.list_ids:
            raise RefusedError(f"List takes a limit of 1 to {self.limits.list_ids}, got {page}")
        space = self._namespaces.get(name, _Namespace())
        ids = space.sorted_ids()
        start = bisect_left(ids, prefix if after is None else max(prefix, after + "\0"))
        found = [record_id for record_id in ids[start : start + page + 1] if record_id.startswith(prefix)]
        document: dict[str, Any] = {
            "vectors": [{"id": record_id} for record_id in found[:page]],
            "namespace": name or "__default__",
            "usage": _READ,
        }
        if len(found) > page:
            document["pagination"] = {"next": found[page - 1].encode().hex()}
        return Answer(200, write_json(document))

    @answering
    def delete(self, body: bytes, now: float) -> Answer:
        """Answer `POST /vectors/delete` by `ids` or `deleteAll`; an id that is not there is no error."""
        document = read_object(body, _DELETE_FIELDS)
        name = namespace_of(document.get("namespace"), self.limits)
        space = self._namespaces.get(name)
        ids = self._ids_to_delete(document, space)
        if space is None:
            raise RefusedError("Namespace not found", status=404)
        space.lsn += 1
        for record_id in ids:
            if space.drop(record_id) and self.journal is not None:
                self.journal.deleted(name, record_id, lsn=space.lsn, at=now)
        if document.get("deleteAll"):
            space.accepted = 0
        return Answer(200, b"{}", headers=_write_headers(space.lsn))

    def vector(self, record_id: str, namespace: str = "") -> Vector | None:
        """The stored record of an id, or None."""
        space = self._namespaces.get(namespace_of(namespace, self.limits))
        stored = None if space is None else space.records.get(record_id)
        if stored is None:
            return None
        sparse, metadata = (None if text is None else read_json(text) for text in stored[1:])
        return Vector(record_id, stored_floats(stored[0]), sparse, metadata)

    def ids(self, namespace: str = "") -> list[str]:
        """The ids of a namespace in order."""
        space = self._namespaces.get(namespace_of(namespace, self.limits))
        return [] if space is None else list(space.sorted_ids())

    def count(self, namespace: str | None = None) -> int:
        """How many records a namespace holds, or the whole index; accepted ones where none are kept."""
        if namespace is None:
            return sum(self._count(space) for space in self._namespaces.values())
        space = self._namespaces.get(namespace_of(namespace, self.limits))
        return 0 if space is None else self._count(space)

    @property
    def namespaces(self) -> list[str]:
        """The namespaces written to; the default one is `""`."""
        return list(self._namespaces)

    def _count(self, space: _Namespace) -> int:
        return len(space.records) if self.keep_vectors else space.accepted

    def _written(self, name: str) -> _Namespace:
        space = self._namespaces.get(name)
        if space is None:
            if len(self._namespaces) >= self.limits.namespaces:
                raise RefusedError(texts.NAMESPACES.format(limit=self.limits.namespaces), status=403)
            space = self._namespaces[name] = _Namespace()
        return space

    def _store(self, space: _Namespace, upsert: Upsert, now: float, skip: Collection[str]) -> int:
        taken = 0
        for record_id, stored in zip(upsert.ids, upsert.stored, strict=True):
            if record_id in skip:
                continue
            taken += 1
            if self.keep_vectors:
                space.put(record_id, stored)
            if self.journal is not None:
                self.journal.upserted(upsert.namespace, record_id, stored, lsn=space.lsn, at=now)
        space.accepted += taken
        return taken

    def _ids_to_delete(self, document: dict[str, Any], space: _Namespace | None) -> list[str]:
        ids = document.get("ids")
        if document.get("filter"):
            raise RefusedError("The emulator does not support delete by filter", status=501)
        if bool(ids) == bool(document.get("deleteAll")):
            raise RefusedError("Delete takes either ids or deleteAll")
        if not ids:
            return [] if space is None else list(space.records)
        if not isinstance(ids, list) or len(ids) > self.limits.records:
            raise RefusedError(f"Delete takes an array of at most {self.limits.records} ids")
        for record_id in ids:
            check_id(record_id, self.limits)
        return ids


def _vector_document(record_id: str, stored: Stored) -> dict[str, Any]:
    values, sparse, metadata = stored
    document: dict[str, Any] = {"id": record_id, "values": stored_floats(values)}
    if sparse is not None:
        document["sparseValues"] = ready_json(sparse)
    if metadata is not None:
        document["metadata"] = ready_json(metadata)
    return document


def _write_headers(lsn: int) -> dict[str, str]:
    return {"x-pinecone-request-lsn": str(lsn)}
