"""Owns what is held against an entry that was in work when a worker died, and what that means for its next delivery.

Pure. A mark is written before an entry is worked on and goes when it is settled, so that one which is found by the next
holder of the shard is evidence of a death; a count of deliveries is none, for it grows with every restart, whoever is
to blame. Each death narrows the circle: in work with others, alone with few others, alone as one record.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

COHORT: Final = 25
"""Records that suspects are sent by while it is not known which of them is at fault: as many as an entry holds."""
COMPANY: Final = 16 * COHORT
"""Records that may be in work at a time of what an earlier holder left: 16 rounds of suspects, should a worker die."""
DEATHS: Final = 4
"""Workers that died over a record before it is given up: unseen, in company, in a cohort, alone. It is delivered then
for the fifth time."""

_FORM: Final = re.compile(r"(company|cohort|record)(?: at (\d+))?(?: dead ([\d,]+))?(?: by .*)?")


class Stage(Enum):
    """How narrow the circle was in which an entry was worked on."""

    COMPANY = "company"
    """With everything else that its worker had in work."""
    COHORT = "cohort"
    """With other suspects, `COHORT` records at most, and nothing else."""
    RECORD = "record"
    """One record of it, and nothing else."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What is known of an entry that is in work, or was when its worker died.

    Args:
        stage: how it was worked on.
        row: the record that was worked on, where it was one.
        dead: rows that are given up, though the entry is not settled yet.
    """

    stage: Stage
    row: int | None = None
    dead: tuple[int, ...] = ()

    def __str__(self) -> str:
        """The mark as it stands on the server."""
        row = "" if self.row is None else f" at {self.row}"
        dead = f" dead {','.join(map(str, self.dead))}" if self.dead else ""
        return f"{self.stage.value}{row}{dead}"

    @classmethod
    def parse(cls, text: str) -> "Mark":
        """Read a mark; one that cannot be read counts as the weakest."""
        found = _FORM.fullmatch(text)
        if found is None:
            return cls(Stage.COMPANY)
        stage, row, dead = found.groups()
        return cls(
            Stage(stage), None if row is None else int(row), tuple(int(one) for one in (dead or "").split(",") if one)
        )

    @property
    def singly(self) -> bool:
        """Whether the entry's records are to be sent one by one from now on."""
        return self.stage is not Stage.COMPANY

    def convicted(self) -> "Mark":
        """The mark after its worker died: the row that was worked on alone is given up."""
        if self.row is None:
            return self
        return Mark(Stage.COHORT, None, (*self.dead, self.row))

    def at(self, row: int) -> "Mark":
        """The mark for working on one row alone."""
        return Mark(Stage.RECORD, row, self.dead)
