"""Owns what every source yields, whatever its format: columns of a bounded number of records; it reads nothing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy.typing as npt

CHUNK_ROWS: Final = 1_000
CHUNK_BYTES: Final = 4 * 2**20
"""A chunk is closed at either: large enough for NumPy to pay, small beside any memory."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a record could not even be read; `text` is what stands there, where it is text."""

    field: str
    reason: str
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """n records of one source, in order, as columns.

    `values` is an n x d array where all rows have d numbers, else n rows (each a sequence of numbers, or `None`);
    `positions` are line numbers or row numbers from 1; `faults` names by their index the rows that could not be read;
    `done` is how much of the source is read, in the source's measure. Nothing here is validated.
    """

    ids: Sequence[Any]
    values: npt.NDArray[Any] | Sequence[Any] | None
    sparse: Sequence[Any] | None
    metadata: Sequence[Any] | None
    namespaces: str | Sequence[str]
    positions: Sequence[int]
    done: int
    faults: Mapping[int, Fault] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Source:
    """Something to load: its `name` for people, how its records are counted, and how to read it.

    `size` is its extent in `measure`, `None` where not known. Each call of `chunks` reads it from its beginning and
    raises `SourceError` where it is damaged.
    """

    name: str
    unit: Literal["line", "row"]
    measure: Literal["bytes", "rows"]
    size: int | None
    chunks: Callable[[], Iterator[Chunk]]
