"""The JSON of a request says what was enqueued: the same float32 bits, metadata, sparse values and ids."""

import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from upsertq.contract.record import make_record
from upsertq.contract.wire import pack
from upsertq_worker.delivery.encoder import Body, Encoder, overhead

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
VALUES = TEXTS | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e300, 1e300) | st.lists(TEXTS, max_size=3)
METADATA = st.none() | st.dictionaries(TEXTS.filter(lambda name: not name.startswith("$")), VALUES, max_size=4)
ASCII = st.characters(min_codepoint=1, max_codepoint=127)
NAMESPACES = st.just("") | st.text(ASCII, max_size=20).filter(lambda name: name != "__default__")
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False).filter(bool)
SPARSE = st.none() | st.dictionaries(st.integers(0, 2**32 - 1), FLOATS, min_size=1, max_size=4).map(
    lambda found: {"indices": list(found), "values": list(found.values())}
)


@st.composite
def batches(draw: st.DrawFn) -> tuple[str, list[dict[str, Any]]]:
    """A namespace, and valid records as a user gives them, all of one dimension (0: sparse alone)."""
    dim = draw(st.integers(0, 5))
    records = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "id": st.text(ASCII, min_size=1, max_size=9),
                    "values": st.lists(FLOATS, min_size=dim, max_size=dim) if dim else st.none(),
                    "sparse_values": SPARSE if dim else SPARSE.filter(bool),
                    "metadata": METADATA,
                }
            ),
            min_size=1,
            max_size=6,
        )
    )
    return draw(NAMESPACES), records


def float32(values: list[float]) -> bytes:
    """The bits of values as float32."""
    return np.asarray(values, dtype="<f4").tobytes()


@given(batch=batches())
def test_what_was_enqueued_is_what_is_posted(batch: tuple[str, list[dict[str, Any]]]) -> None:
    """Through packing and encoding, any JSON reader finds the user's records, in order."""
    namespace, given = batch
    entry = pack([make_record(**record, namespace=namespace) for record in given], run="", at=0)
    encoder = Encoder(entry)
    texts = [encoder.record(row) for row in range(len(entry.ids))]
    body = bytes(Body(texts, namespace))
    document = json.loads(body)

    assert document.get("namespace", "") == namespace
    assert ("namespace" in document) == bool(namespace)
    for posted, record in zip(document["vectors"], given, strict=True):
        assert posted["id"] == record["id"]
        assert float32(posted.get("values", [])) == float32(record["values"] or [])
        assert ("values" in posted) == (record["values"] is not None)
        assert posted.get("metadata", {}) == (record["metadata"] or {})
        assert ("metadata" in posted) == bool(record["metadata"])
        sparse = record["sparse_values"] or {"indices": [], "values": []}
        found = posted.get("sparseValues", {"indices": [], "values": []})
        assert found["indices"] == sparse["indices"]
        assert float32(found["values"]) == float32(sparse["values"])
        assert ("sparseValues" in posted) == (record["sparse_values"] is not None)
    assert len(body) == overhead(namespace) + sum(map(len, texts)) + len(texts) - 1
    assert not any(byte < 32 for byte in body), "control characters are escaped"


def test_unicode_metadata_travels_as_utf8() -> None:
    """Characters of any plane are not escaped, so that the size is the one that the limit is about."""
    metadata = {"größe": "日本語 🦆", "list": ["é", ""]}
    record = make_record("a", [1.0], metadata=metadata)
    body = bytes(Body([Encoder(pack([record], run="", at=0)).record(0)], ""))
    assert "日本語 🦆".encode() in body
    assert json.loads(body)["vectors"][0]["metadata"] == metadata
