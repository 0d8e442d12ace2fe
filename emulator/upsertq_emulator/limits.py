"""What the index is and how much it takes: numbers only, no judgement."""

from dataclasses import dataclass
from typing import Literal

Metric = Literal["cosine", "dotproduct", "euclidean"]
VectorType = Literal["dense", "sparse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The service's limits, sizes in bytes (docs.pinecone.io/reference/api/database-limits, 2026-04).

    `request_bytes` counts the encoded body. The service says "2 MB" without saying which; the stricter
    reading is the default, so that what passes here passes there.
    """

    records: int = 1_000
    request_bytes: int = 2_000_000
    metadata_bytes: int = 40_960
    id_characters: int = 512
    namespace_characters: int = 512
    dimension: int = 20_000
    sparse_values: int = 2_048
    namespaces: int = 100_000
    fetch_ids: int = 1_000
    list_ids: int = 100


@dataclass(frozen=True, slots=True)
class Shape:
    """The index's configuration; `dimension` and `vector_type` are None until the first upsert fixes them."""

    dimension: int | None = None
    metric: Metric = "dotproduct"
    vector_type: VectorType | None = None
