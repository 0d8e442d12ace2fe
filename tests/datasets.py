"""Files of vectors in the shapes that users have, made from a seed, with what an index must hold after them."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

NAMESPACES = ("", "news", "archive")


@dataclass(frozen=True)
class Dataset:
    """n records; `matrix` is n x d float32, `namespaces` and `metadata` have n items."""

    ids: list[str]
    matrix: npt.NDArray[np.float32]
    namespaces: list[str]
    metadata: list[dict[str, Any]]

    @classmethod
    def make(cls, count: int, dimension: int, seed: int = 7) -> Dataset:
        """Records over three namespaces with metadata of every kind."""
        matrix = np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)
        metadata = [
            {"title": f"Record {i} äöü ∑", "row": i, "score": i / 7, "draft": i % 5 == 0, "tags": ["a", f"t{i % 9}"]}
            for i in range(count)
        ]
        return cls([f"id-{i:07d}" for i in range(count)], matrix, [NAMESPACES[i % 3] for i in range(count)], metadata)

    def parquet(self, path: Path) -> Path:
        """Write Pinecone's import layout, and the namespace as a fifth column."""
        width = self.matrix.shape[1]
        values = pa.FixedSizeListArray.from_arrays(pa.array(self.matrix.ravel()), width)
        columns = {
            "id": pa.array(self.ids),
            "values": values.cast(pa.list_(pa.float32())),
            "metadata": pa.array([orjson.dumps(one).decode() for one in self.metadata]),
            "namespace": pa.array(self.namespaces),
        }
        pq.write_table(pa.table(columns), path, row_group_size=20_000)
        return path

    def jsonl_gz(self, path: Path) -> Path:
        """Write one JSON object a line, compressed."""
        with gzip.open(path, "wb", compresslevel=1) as file:
            for row, record_id in enumerate(self.ids):
                record = {
                    "id": record_id,
                    "values": self.matrix[row],
                    "metadata": self.metadata[row],
                    "namespace": self.namespaces[row],
                }
                file.write(orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
        return path

    def of_namespace(self, namespace: str) -> list[int]:
        """The rows of one namespace."""
        return [row for row, name in enumerate(self.namespaces) if name == namespace]
