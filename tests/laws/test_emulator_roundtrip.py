"""What the emulator accepts comes back unchanged; what it refuses changes nothing."""

from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st

from upsertq_emulator.plane import Plane

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIMENSION = 4
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = st.lists(FLOATS, min_size=DIMENSION, max_size=DIMENSION).filter(any)
IDS = st.text(st.characters(min_codepoint=1, max_codepoint=127), min_size=1, max_size=8)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner, max_size=5),
    max_leaves=12,
)
RECORD_LIKE = st.fixed_dictionaries(
    {"id": IDS | ANY_JSON, "values": ROWS | ANY_JSON},
    optional={"metadata": ANY_JSON, "sparseValues": ANY_JSON, "other": ANY_JSON},
)


@given(st.dictionaries(IDS, ROWS, min_size=1, max_size=8))
def test_values_come_back_bit_for_bit(rows: dict[str, list[float]]) -> None:
    """Float32 values sent as their shortest text are fetched with the same bits."""
    sent: dict[str, NDArray[np.float32]] = {key: np.array(row, np.float32) for key, row in rows.items()}
    records = [{"id": key, "values": row} for key, row in sent.items()]
    plane = Plane()
    assert plane.upsert(orjson.dumps({"vectors": records}, option=orjson.OPT_SERIALIZE_NUMPY), 0.0).status == 200
    fetched = orjson.loads(plane.fetch(list(rows)).body)["vectors"]
    for key, row in sent.items():
        assert np.array(fetched[key]["values"], np.float32).tobytes() == row.tobytes()


@given(st.lists(RECORD_LIKE | ANY_JSON, max_size=4), ANY_JSON)
def test_any_body_is_answered_whole_or_not_at_all(records: list[Any], namespace: Any) -> None:
    """Whatever JSON arrives, the answer is 200 with all records applied, or a 400 with none."""
    plane = Plane(dimension=DIMENSION)
    answer = plane.upsert(orjson.dumps({"vectors": records, "namespace": namespace}), 0.0)
    document = orjson.loads(answer.body)
    if answer.status == 200:
        assert document == {"upsertedCount": len(records)}
        assert plane.count() == len({record["id"] for record in records})
    else:
        assert (answer.status, document["code"]) == (400, 3)
        assert document["message"]
        assert (plane.count(), plane.namespaces) == (0, [])


@given(st.binary(max_size=64))
def test_any_bytes_are_answered(body: bytes) -> None:
    """Bytes that are no JSON are a 400, on every operation that takes a body."""
    plane = Plane()
    assert plane.upsert(body, 0.0).status == 400
    assert plane.delete(body, 0.0).status in (400, 404)
    assert plane.stats(body).status in (200, 400)
