"""Owns how a refused batch is taken apart until the records at fault stand alone, and when to stop looking.

Pure. Named suspects are sent apart first, the rest is halved. By halving, k culprits among n cost at most
2k⌈log2 n⌉ + 1 requests (each culprit has ⌈log2 n⌉ refused groups above it, each split in two). That is the budget of a
search, for the most culprits allowed: names that are wrong take more, and what is beyond it is not sent. No record is
given up before the whole search is over: a refusal that hits more than the culprits allowed is not the records' fault.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, log2
from typing import Generic, TypeAlias, TypeVar

from upsertq_worker.settings import MOST_CULPRITS

T = TypeVar("T")
Part: TypeAlias = tuple[int, ...]
"""A part of a refused group: positions in it."""


def request_budget(records: int, culprits: int) -> int:
    """Requests that finding so many culprits among so many records may take, the first refused one included."""
    return 1 if records <= 1 else 2 * culprits * ceil(log2(records)) + 1


@dataclass(eq=False, slots=True)
class Search(Generic[T]):
    """The search in one refused batch of `size` records.

    Attributes:
        most: culprits that it may find.
        found: culprits that stand alone, each with why it was refused.
        open: groups that are out or wait to be sent.
        requests: that it takes, as far as is known: those that wait included, repeated ones not.
        systemic: more is wrong than records can be at fault for: no more of it is sent.
    """

    size: int
    most: int = MOST_CULPRITS
    found: list[T] = field(default_factory=list)
    open: int = 1
    requests: int = 1
    systemic: bool = False
    _groups: int = 0
    """Disjoint groups known to hold at least one culprit each."""

    def refused(self, parts: int, *, first_of_parent: bool) -> None:
        """A group was refused, and would be sent again in so many parts: none where it is a single record.

        Where it is its parent's first refused part, the parent's culprit is only narrowed.
        """
        self._groups += not first_of_parent
        self.requests += parts
        self.systemic |= self._groups > self.most or self.requests > request_budget(self.size, self.most)

    @property
    def why(self) -> str:
        """Why it is called off."""
        if self._groups > self.most:
            return f"more than {self.most} records of one batch of {self.size} are refused"
        budget = request_budget(self.size, self.most)
        return f"to find what is refused in one batch of {self.size} records would take more than {budget} requests"

    @property
    def over(self) -> bool:
        """Whether nothing of it is out any more."""
        return self.open == 0


def take_apart(count: int, suspects: Sequence[int]) -> tuple[Part, ...]:
    """The parts in which a refused group of `count` records is sent again.

    Suspects stand apart from the rest, one by one while they are few; without any the group is halved.
    """
    if count <= 1:
        raise ValueError("a single record cannot be taken apart")
    named = sorted(set(suspects))
    if named and len(named) < count:
        rest = tuple(position for position in range(count) if position not in set(named))
        apart, together = named[: MOST_CULPRITS + 1], tuple(named[MOST_CULPRITS + 1 :])
        return rest, *((position,) for position in apart), *([together] if together else [])
    middle = count // 2
    return tuple(range(middle)), tuple(range(middle, count))
