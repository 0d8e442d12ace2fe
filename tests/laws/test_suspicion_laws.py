"""Marks of suspects: what is written is read again, whoever wrote it, and each death narrows the circle."""

from hypothesis import example, given
from hypothesis import strategies as st

from upsertq_worker.suspicion import COHORT, DEATHS, Mark, Stage

rows = st.integers(0, 24)
marks = st.builds(
    Mark,
    stage=st.sampled_from(Stage),
    row=st.none() | rows,
    dead=st.lists(rows, unique=True, max_size=5).map(tuple),
)
names = st.text(max_size=40).map(lambda text: "".join(letter for letter in text if letter.isprintable()))


@given(marks, names)
@example(Mark(Stage.COMPANY), "company at 3 dead 4 by cohort")
def test_a_mark_is_read_as_it_was_written(mark: Mark, worker: str) -> None:
    """With and without the name of the worker who made it, whatever that name looks like."""
    assert Mark.parse(str(mark)) == mark
    assert Mark.parse(f"{mark} by {worker}") == mark


@given(marks, names.filter(lambda name: name != ""))
def test_no_two_marks_look_the_same(mark: Mark, other: str) -> None:
    """What stands on the server tells the marks apart, and nothing follows but who made it."""
    assert Mark.parse(f"{mark}{other}") in {mark, Mark(Stage.COMPANY)} or other[0].isdigit() or other[0] in " ,"


@given(st.text(max_size=30))
@example("record")
@example("record at x")
@example("record at 3 dead")
@example("RECORD at 3")
@example("record at 3 dead 1 2")
@example("\nrecord at 3")
@example("cohort dead ,")
def test_what_cannot_be_read_gives_nobody_up(text: str) -> None:
    """Whatever stands there is a mark; one that is no mark of ours counts as the weakest, and convicts no row."""
    mark = Mark.parse(text)
    if text.split(" ", maxsplit=1)[0] not in {"company", "cohort", "record"}:
        assert mark == Mark(Stage.COMPANY)
    if not any(letter.isdecimal() for letter in text):
        assert mark.convicted().dead == ()


@given(marks)
def test_only_who_was_alone_is_given_up(mark: Mark) -> None:
    """A death adds the row that was worked on alone, and none where there was none; what was given up stays so."""
    after = mark.convicted()
    assert after.dead == mark.dead + (() if mark.row is None else (mark.row,))
    assert after.row is None
    assert after.convicted() == after


@given(marks, rows)
def test_a_row_on_its_own_is_marked_beside_the_dead(mark: Mark, row: int) -> None:
    """Sending one row alone keeps what was given up before; if the worker dies then, that row is given up too."""
    alone = mark.at(row)
    assert (alone.stage, alone.row, alone.dead) == (Stage.RECORD, row, mark.dead)
    assert alone.singly
    assert alone.convicted().dead == (*mark.dead, row)


def test_each_death_narrows_the_circle() -> None:
    """Unseen, in company, in a cohort, alone: whoever is still there after the fourth death is given up."""
    stages: list[Mark | None] = [None, Mark(Stage.COMPANY), Mark(Stage.COHORT), Mark(Stage.COHORT).at(3)]
    assert len(stages) == DEATHS
    assert [mark.singly for mark in stages if mark is not None] == [False, True, True]
    assert [mark.convicted().dead for mark in stages if mark is not None] == [(), (), (3,)]
    assert COHORT == 25
