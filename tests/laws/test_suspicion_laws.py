"""Marks of suspects: what is written is read again, whoever wrote it, and each death narrows the circle."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from upsertq_worker.suspicion import COMPANY, COMPANY_BEHIND, DEATHS, Mark, Stage

rows = st.integers(0, 24)
marks = st.builds(
    Mark,
    stage=st.sampled_from(Stage),
    row=st.none() | rows,
    dead=st.lists(rows, unique=True, max_size=5).map(tuple),
)
names = st.text(max_size=40).map(lambda text: "".join(letter for letter in text if letter.isprintable()))


@given(marks, names)
@example(Mark(Stage.COMPANY), "company at 3 dead 4 by alone")
def test_a_mark_is_read_as_it_was_written(mark: Mark, worker: str) -> None:
    """With and without the name of the worker who made it, whatever that name looks like."""
    assert Mark.parse(str(mark)) == mark
    assert Mark.parse(f"{mark} by {worker}") == mark


@given(st.text(max_size=30))
@example("alone")
@example("alone at x")
@example("again at 3 dead")
@example("AGAIN at 3")
@example("again at 3 dead 1 2")
@example("\nagain at 3")
@example("alone dead ,")
@example("again at " + "9" * 5_000)
def test_what_cannot_be_read_gives_nobody_up(text: str) -> None:
    """Whatever stands there is a mark; one that is no mark of ours counts as the weakest, and convicts no row."""
    mark = Mark.parse(text)
    if text.split(" ", maxsplit=1)[0] not in {"company", "entry", "alone", "again"} or len(text) > 1_000:
        assert mark == Mark(Stage.COMPANY)
    if not any(letter.isdecimal() for letter in text):
        assert mark.after_death().dead == ()


@given(marks, st.booleans())
def test_only_who_was_alone_twice_is_given_up(mark: Mark, many: bool) -> None:  # noqa: FBT001
    """A death gives up the row that was in work alone for the second time, and no other; what was given up stays so."""
    after = mark.after_death(many=many)
    convicted = mark.row is not None and mark.stage is Stage.AGAIN
    assert after.dead == (*mark.dead, mark.row) if convicted else after.dead == mark.dead
    assert after.stage is not Stage.COMPANY


@given(marks, rows)
def test_who_survives_alone_is_no_suspect_any_more(mark: Mark, row: int) -> None:
    """Another row that is in work alone begins its own count; what was given up before is kept."""
    plan = mark.after_death()
    at = plan.at(row)
    assert at.dead == plan.dead
    assert at.row == row
    assert (at.stage is Stage.AGAIN) == (plan.stage is Stage.AGAIN and plan.row == row)


@pytest.mark.parametrize("many", [False, True])
def test_each_death_narrows_the_circle(many: bool) -> None:  # noqa: FBT001
    """Unseen, in company, alone, alone again: who is there at the fourth death is given up; of many, at the fifth."""
    mark, deaths = Mark(Stage.COMPANY), 1
    while not mark.dead:
        deaths += 1
        mark = mark.after_death(many=many)
        mark = mark if mark.dead or mark.stage is Stage.ENTRY else mark.at(3)
    assert (deaths, mark.dead) == (DEATHS + many, (3,))
    assert COMPANY < COMPANY_BEHIND
