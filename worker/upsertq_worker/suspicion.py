"""Owns what is held against an entry that was in work when a worker died, and what that means for its next delivery.

Pure. A mark is written before an entry is worked on and goes when it is settled, so that one which is found by the next
holder of the shard is evidence of a death; a count of deliveries is none, for it grows with every restart, whoever is
to blame. Each death narrows the circle: in work with others, alone as one record, the same record alone again.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

COMPANY: Final = 100
"""Records that are in work at a time of what an earlier holder left: they are the suspects, should a worker die."""
HEAD: Final = 1_600
"""Records that are let go so. Who is behind them was hardly in work when the earlier holder died."""
COMPANY_BEHIND: Final = 400
"""Records that are in work at a time behind these."""
MANY: Final = 150
"""Records beyond which suspects that were in company go entry by entry first, which costs a death more: a worker
that is killed every few seconds would not get through them one by one."""
DEATHS: Final = 4
"""Workers that died over a record before it is given up: unseen, in company, alone, alone again. It is delivered then
for the fifth time; for the sixth where suspects were many."""
GUILTY: Final = 5.0
"""Seconds for which a death is held against what is in work: what kills does so at once."""

_FORM: Final = re.compile(r"(company|entry|alone|again)(?: at (\d{1,4}))?(?: dead ([\d,]{1,200}))?(?: by .*)?")


class Stage(Enum):
    """How narrow the circle was in which an entry was worked on."""

    COMPANY = "company"
    """Among others."""
    ENTRY = "entry"
    """All of it at once, and nothing else."""
    ALONE = "alone"
    """One record of it, and nothing else."""
    AGAIN = "again"
    """The record that was in work alone when a worker died, and nothing else."""


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

    def after_death(self, *, many: bool = False) -> "Mark":
        """What to do next: send record by record, begin with `row` where there is one, and not send those `dead`.

        Where suspects are many, one that was in company is sent whole.
        """
        if self.stage is Stage.COMPANY and many:
            return Mark(Stage.ENTRY, None, self.dead)
        if self.row is None or self.stage in {Stage.COMPANY, Stage.ENTRY}:
            return Mark(Stage.ALONE, None, self.dead)
        if self.stage is Stage.ALONE:
            return Mark(Stage.AGAIN, self.row, self.dead)
        return Mark(Stage.ALONE, None, (*self.dead, self.row))

    def at(self, row: int) -> "Mark":
        """The mark for working on one row alone."""
        return self if self.stage is Stage.AGAIN and row == self.row else Mark(Stage.ALONE, row, self.dead)


def window(let_go: int) -> int:
    """Records that may be in work in company, once so many were let go."""
    return COMPANY if let_go < HEAD else COMPANY_BEHIND
