"""The emulator's plane judges upserts as the service does, and refuses a batch as a whole."""

from typing import Any

import orjson
import pytest

from upsertq_emulator.journal import Journal
from upsertq_emulator.limits import Limits
from upsertq_emulator.plane import Plane

NOW = 1_700_000_000.0
GOOD = {"id": "good", "values": [0.5, 1.0, 0.0]}


def body_of(*records: dict[str, Any], **extra: Any) -> bytes:
    """An upsert body."""
    return orjson.dumps({"vectors": list(records), **extra})


def message_of(plane: Plane, body: bytes) -> str:
    """The message of a refusal, checked to be a well-formed 400."""
    answer = plane.upsert(body, NOW)
    document = orjson.loads(answer.body)
    assert answer.status == 400
    assert document.keys() == {"code", "message", "details"}
    assert document["code"] == 3
    message: str = document["message"]
    return message


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"id": "x", "values": [1.0, 2.0]}, "Vector dimension 2 does not match the dimension of the index 3"),
        ({"id": "x", "values": []}, "Vector dimension 0 does not match the dimension of the index 3"),
        ({"id": "x"}, "Vector dimension 0 does not match the dimension of the index 3"),
        (
            {"id": "f81d", "values": [0, 0.0, -0.0]},
            "Dense vectors must contain at least one non-zero value. Vector ID 'f81d' contains only zeros",
        ),
        (
            {"id": "f81d", "values": [1e-60, 0, 0]},
            "Dense vectors must contain at least one non-zero value. Vector ID 'f81d' contains only zeros",
        ),
        ({"id": "x", "values": [1, None, 2]}, "vectors[1].values[1]: invalid value null for type TYPE_FLOAT"),
        ({"id": "x", "values": [1, "2", 2]}, 'vectors[1].values[1]: invalid value "2" for type TYPE_FLOAT'),
        ({"id": "x", "values": [3, 2, True]}, "vectors[1].values[2]: invalid value true for type TYPE_FLOAT"),
        ({"id": "x", "values": [3, False, 2]}, "vectors[1].values[1]: invalid value false for type TYPE_FLOAT"),
        ({"id": "x", "values": [1, 1e39, 2]}, "vectors[1].values[1]: invalid value 1e+39 for type TYPE_FLOAT"),
        ({"id": "x", "values": "abc"}, 'vectors[1].values: expected an array, got "abc"'),
        ({"id": "ü", "values": [1, 2, 3]}, "ID must be ASCII, but got ü"),
        ({"id": "a\0b", "values": [1, 2, 3]}, "Vector ID must not contain null character"),
        ({"id": "", "values": [1, 2, 3]}, "Vector ID must be 1 to 512 characters long, got 0 characters"),
        ({"id": "i" * 513, "values": [1, 2, 3]}, "Vector ID must be 1 to 512 characters long, got 513"),
        ({"id": 7, "values": [1, 2, 3]}, "Vector ID must be a string, got 7"),
        ({"values": [1, 2, 3]}, "Vector ID must be a string, got null"),
        ({"id": "x", "values": [1, 2, 3], "sparse_values": {}}, "Unknown field 'sparse_values' in vectors[1]"),
    ],
)
def test_a_bad_record_refuses_its_batch(bad: dict[str, Any], message: str) -> None:
    """Each broken record rule answers 400 with its sentence, and nothing of the batch is applied."""
    plane = Plane(dimension=3)
    assert message_of(plane, body_of(GOOD, bad)).startswith(message)
    assert plane.count() == 0


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"x": None}, "string, number, boolean or list of strings, got 'null' for field 'x'"),
        ({"x": {"y": 1}}, "string, number, boolean or list of strings, got '{\"y\":1}' for field 'x'"),
        ({"x": ["a", 1]}, "string, number, boolean or list of strings, got '[\"a\",1]' for field 'x'"),
        ({"$x": "a"}, "Metadata key must not start with '$', got '$x'"),
        ({"x": "m" * 40_953}, "Metadata size is 40961 bytes, which exceeds the limit of 40960 bytes per vector"),
        ({"x": "é" * 20_477}, "Metadata size is 40962 bytes, which exceeds the limit of 40960 bytes per vector"),
        (["x"], 'metadata: expected an object, got ["x"]'),
    ],
)
def test_bad_metadata_is_refused(metadata: Any, message: str) -> None:
    """Each broken metadata rule answers 400 with its sentence."""
    assert message in message_of(Plane(dimension=3), body_of(GOOD, {**GOOD, "metadata": metadata}))


@pytest.mark.parametrize(
    "metadata",
    [{}, {"x": "m" * 40_952}, {"s": "ü", "i": 2**53, "f": 0.1, "b": False, "l": ["a", ""], "": "empty key"}],
)
def test_good_metadata_comes_back_as_sent(metadata: dict[str, Any]) -> None:
    """Metadata at the limit and of every allowed type is kept exactly, integers as integers."""
    plane = Plane()
    assert plane.upsert(body_of({**GOOD, "metadata": metadata}), NOW).status == 200
    fetched = orjson.loads(plane.fetch(["good"]).body)["vectors"]["good"]["metadata"]
    assert orjson.dumps(fetched) == orjson.dumps(metadata)


@pytest.mark.parametrize(
    ("sparse", "message"),
    [
        ({"indices": [], "values": []}, "Sparse vector must contain at least one value"),
        ({"indices": [1], "values": [1, 2]}, "same number of indices and values, got 1 indices and 2 values"),
        ({"indices": [1, 1], "values": [1, 2]}, "Sparse vector must not contain duplicate indices"),
        ({"indices": [-1], "values": [1]}, "sparseValues.indices: invalid value -1 for type TYPE_UINT32"),
        ({"indices": [2**32], "values": [1]}, "sparseValues.indices: invalid value 4294967296 for type"),
        ({"indices": [1.5], "values": [1]}, "sparseValues.indices: invalid value 1.5 for type TYPE_UINT32"),
        ({"indices": [1], "values": [0]}, "Sparse vector must not contain zero values"),
        ({"indices": [1], "values": [None]}, "sparseValues.values: invalid value null for type TYPE_FLOAT"),
        ({"indices": list(range(2049)), "values": [1] * 2049}, "2049 values, which exceeds the limit of 2048"),
    ],
)
def test_bad_sparse_values_are_refused(sparse: Any, message: str) -> None:
    """Each broken sparse rule answers 400 with its sentence."""
    plane = Plane(dimension=3)
    assert message in message_of(plane, body_of(GOOD, {**GOOD, "id": "x", "sparseValues": sparse}))


def test_the_index_type_is_kept() -> None:
    """A cosine index refuses sparse values, a sparse index refuses dense ones, and the first upsert fixes both."""
    sparse = {"id": "s", "sparseValues": {"indices": [5], "values": [0.5]}}
    assert "does not support sparse values" in message_of(
        Plane(metric="cosine"), body_of({**GOOD, "sparseValues": {"indices": [5], "values": [0.5]}})
    )
    plane = Plane()
    assert plane.upsert(body_of(sparse), NOW).status == 200
    assert "does not support dense values" in message_of(plane, body_of(GOOD))
    plane = Plane()
    assert plane.upsert(body_of(GOOD), NOW).status == 200
    assert "Vector dimension 0 does not match" in message_of(plane, body_of(sparse))
    assert orjson.loads(plane.stats().body)["dimension"] == 3


def test_requests_over_the_limits_are_refused() -> None:
    """Too many records and too many bytes are 400s; at the limit they pass."""
    plane = Plane(limits=Limits(records=2, request_bytes=200))
    assert "Request contains 3 vectors" in message_of(plane, body_of(GOOD, GOOD, GOOD))
    assert plane.upsert(body_of(GOOD, GOOD), NOW).status == 200
    padded = body_of(GOOD).ljust(200)
    assert plane.upsert(padded, NOW).status == 200
    assert "exceeds the maximum supported size of" in message_of(plane, padded + b" ")
    assert message_of(Plane(), b" " * 2_000_001) == "Request size 3MB exceeds the maximum supported size of 2MB"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"vectors":[]}',
        b'{"vectors":{}}',
        b'{"vectors":[1]}',
        b'{"vectors":[{"id":"a","values":[NaN]}]}',
    ],
)
def test_unreadable_bodies_are_refused(body: bytes) -> None:
    """What is no upsert request is a 400, never an exception."""
    assert message_of(Plane(), body)


@pytest.mark.parametrize("namespace", ["n" * 513, "ü", "a\0", 5])
def test_bad_namespaces_are_refused(namespace: Any) -> None:
    """Namespaces follow the id's rules, except that they may be empty."""
    assert "amespace" in message_of(Plane(), body_of(GOOD, namespace=namespace))


def test_the_default_namespace_has_two_spellings() -> None:
    """`""` and `__default__` name the same namespace, whose LSN counts both."""
    plane = Plane()
    answers = [plane.upsert(body_of(GOOD, namespace=name), NOW) for name in ("", "__default__")]
    answers.append(plane.upsert(body_of(GOOD), NOW))
    assert [answer.headers["x-pinecone-request-lsn"] for answer in answers] == ["1", "2", "3"]
    assert orjson.loads(plane.stats().body)["namespaces"] == {"__default__": {"vectorCount": 1}}


def test_the_last_of_equal_ids_wins() -> None:
    """Equal ids in one request keep the last version and count every one."""
    plane = Plane()
    answer = plane.upsert(body_of(GOOD, {**GOOD, "values": [7, 8, 9]}), NOW)
    assert orjson.loads(answer.body) == {"upsertedCount": 2}
    stored = plane.vector("good")
    assert stored is not None
    assert stored.values.tolist() == [7, 8, 9]
    assert plane.count() == 1


def test_lsn_grows_by_namespace() -> None:
    """Writes, deletes too, count per namespace, and a refusal counts nothing."""
    plane = Plane()
    lsn = [plane.upsert(body_of(GOOD, namespace=name), NOW).headers for name in ("a", "a", "b")]
    assert [headers["x-pinecone-request-lsn"] for headers in lsn] == ["1", "2", "1"]
    assert "x-pinecone-request-lsn" not in plane.upsert(b"{}", NOW).headers
    deleted = plane.delete(b'{"ids":["good"],"namespace":"a"}', NOW)
    assert deleted.headers["x-pinecone-request-lsn"] == "3"


def test_list_pages_through_a_prefix() -> None:
    """Pages come in order, end without a token, and hold the prefix only."""
    plane = Plane()
    ids = ["b1", "a2", "a1", "c", "a3"]
    plane.upsert(body_of(*[{**GOOD, "id": record_id} for record_id in ids]), NOW)
    first = orjson.loads(plane.list_ids(prefix="a", limit=2).body)
    assert [item["id"] for item in first["vectors"]] == ["a1", "a2"]
    token = bytes.fromhex(first["pagination"]["next"]).decode()
    second = orjson.loads(plane.list_ids(prefix="a", limit=2, after=token).body)
    assert [item["id"] for item in second["vectors"]] == ["a3"]
    assert "pagination" not in second
    assert plane.list_ids(limit=101).status == 400


def test_delete_by_ids_and_all() -> None:
    """Deleting removes what is named, twice without an error; an unknown namespace is a 404."""
    plane = Plane()
    plane.upsert(body_of(GOOD, {**GOOD, "id": "x"}, {**GOOD, "id": "y"}), NOW)
    for _ in range(2):
        assert plane.delete(b'{"ids":["x"]}', NOW).status == 200
    assert plane.ids() == ["good", "y"]
    assert plane.delete(b'{"deleteAll":true}', NOW).status == 200
    assert plane.count() == 0
    assert plane.delete(b'{"deleteAll":true,"namespace":"nowhere"}', NOW).status == 404
    assert plane.delete(b"{}", NOW).status == 400


def test_discarding_judges_and_counts_without_storing() -> None:
    """Without `keep_vectors` refusals stay the same, counts are of accepted records, and nothing is held."""
    plane = Plane(keep_vectors=False)
    assert plane.upsert(body_of(GOOD, {**GOOD, "id": "x"}), NOW).records == 2
    assert "Vector dimension 1" in message_of(plane, body_of({"id": "z", "values": [1]}))
    assert plane.count() == 2
    assert plane.ids() == []


def test_the_journal_keeps_every_version_in_order() -> None:
    """Each applied version of an id is noted with its number, LSN, time and version; refusals are not."""
    journal = Journal()
    plane = Plane(journal=journal)
    for version, now in ((1, 10.0), (2, 11.0)):
        plane.upsert(body_of({**GOOD, "metadata": {"version": version}}, {**GOOD, "id": "x"}), now)
    plane.upsert(body_of({"id": "good", "values": [1]}), 12.0)
    plane.delete(b'{"ids":["good"]}', 13.0)
    noted = journal.versions("", "good")
    assert [(e.sequence, e.operation, e.lsn, e.at, e.version) for e in noted] == [
        (1, "upsert", 1, 10.0, 1),
        (3, "upsert", 2, 11.0, 2),
        (5, "delete", 3, 13.0, None),
    ]
    assert noted[0].digest != noted[1].digest
    first, second = journal.versions("", "x")
    assert first.digest == second.digest
    assert [entry.sequence for entry in journal.entries()] == [1, 2, 3, 4, 5]


def test_namespaces_have_a_limit() -> None:
    """One namespace too many is a 403, and the others still take writes."""
    plane = Plane(limits=Limits(namespaces=1))
    assert plane.upsert(body_of(GOOD, namespace="a"), NOW).status == 200
    refused = plane.upsert(body_of(GOOD, namespace="b"), NOW)
    assert refused.status == 403
    assert b"max namespaces allowed" in refused.body
    assert plane.upsert(body_of(GOOD, namespace="a"), NOW).status == 200
