"""Each judged answer has one consequence for its batch, and no operator's mistake is ever a record's fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from upsertq.contract.dead_letter import Reason
from upsertq_worker.delivery.messages import ADVICE
from upsertq_worker.delivery.outcome import Accepted, Busy, LaneRefused, RecordRefused, ShortAck, TooLarge
from upsertq_worker.delivery.policy import Acknowledge, Facts, GiveUp, Pause, Retry, Split, follow
from upsertq_worker.delivery.response import Refusal, TransportFailure, TransportKind

if TYPE_CHECKING:
    from upsertq_worker.delivery.outcome import Outcome
    from upsertq_worker.delivery.policy import Consequence

MAX_ATTEMPTS = 5
REFUSED = Refusal(400, "INVALID_ARGUMENT", "no", "", None)
BUSY = Busy(TransportFailure(TransportKind.TIMEOUT, "slow"), answer_lost=True)
SHORT = ShortAck(1, "the service counts 1", Refusal(200, None, "1", "", None))
PAGE = ShortAck(None, "no count of records in the answer: Welcome", Refusal(200, None, "Welcome", "", None))
SPARSE = LaneRefused(REFUSED, "queue", "sparse_unsupported")
HALVES = ((0, 1), (2, 3))


def facts(
    size: int = 4,
    *,
    dims: tuple[int, ...] | None = None,
    sparse: tuple[int, ...] = (),
    short_acks: int = 0,
    failures: int = 0,
    searching: bool = False,
    lane_refusals: int = 0,
    **others: bool,
) -> Facts:
    """A batch of `size` records of dimension 8, of which those at `sparse` have sparse values."""
    holders = [position in sparse for position in range(size)]
    return Facts(
        dims or (8,) * size, holders, short_acks, failures, searching=searching, lane_refusals=lane_refusals, **others
    )


def apart(*named: int, size: int = 4) -> Split:
    """The split that puts suspects apart from the rest."""
    rest = tuple(position for position in range(size) if position not in named)
    return Split((rest, *((position,) for position in named)), searching=True)


@pytest.mark.parametrize(
    ("outcome", "given", "expected"),
    [
        (Accepted(None), facts(), Acknowledge()),
        (Accepted(7), facts(1), Acknowledge()),
        (SHORT, facts(), Retry(at_once=True)),
        (SHORT, facts(1), Retry(at_once=True)),
        (SHORT, facts(short_acks=1), Split(HALVES, searching=True)),
        (SHORT, facts(1, short_acks=1), GiveUp(Reason.SHORT_ACK)),
        (PAGE, facts(), Retry()),
        (PAGE, facts(1), Retry()),
        (PAGE, facts(part=True, unread=True), Retry()),
        (PAGE, facts(short_acks=1), Split(HALVES, searching=True)),
        (PAGE, facts(short_acks=1, unread=True), Split(HALVES, searching=True)),
        (PAGE, facts(short_acks=1, part=True), Split(HALVES, searching=True)),
        (PAGE, facts(1, short_acks=1), GiveUp(Reason.SHORT_ACK)),
        (TooLarge(REFUSED), facts(), Split(HALVES, searching=False)),
        (TooLarge(REFUSED), facts(1), GiveUp(Reason.TOO_LARGE)),
        (BUSY, facts(), Retry()),
        (BUSY, facts(1, failures=MAX_ATTEMPTS - 1), Retry()),
        (BUSY, facts(failures=MAX_ATTEMPTS), Split(HALVES, searching=True)),
        (BUSY, facts(1, failures=MAX_ATTEMPTS), GiveUp(Reason.MAX_ATTEMPTS)),
        (RecordRefused(REFUSED), facts(), Split(HALVES, searching=True)),
        (RecordRefused(REFUSED, suspects=(2,)), facts(), apart(2)),
        (RecordRefused(REFUSED, suspects=(0, 1, 2, 3)), facts(), Split(HALVES, searching=True)),
        (RecordRefused(REFUSED), facts(1), GiveUp(Reason.REFUSED)),
        (RecordRefused(REFUSED, suspects=(0,)), facts(1, searching=True), GiveUp(Reason.REFUSED)),
    ],
)
def test_the_consequence(outcome: Outcome, given: Facts, expected: Consequence) -> None:
    """The table of outcomes that concern records."""
    assert follow(outcome, given, MAX_ATTEMPTS) == expected


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("searching", [False, True])
@pytest.mark.parametrize("scope", ["queue", "namespace"])
@pytest.mark.parametrize("reason", sorted(set(ADVICE) - {"sparse_unsupported"}))
def test_a_refused_lane_pauses(size: int, searching: bool, scope: str, reason: str) -> None:  # noqa: FBT001
    """Whatever the batch is, a repeated refusal of the lane pauses it for its own reason and harms no record."""
    outcome = LaneRefused(REFUSED, scope, reason)  # type: ignore[arg-type]
    given = facts(size, failures=99, searching=searching, lane_refusals=1, refused=True)
    assert follow(outcome, given, MAX_ATTEMPTS) == Pause(outcome.scope, outcome.reason, REFUSED)


@pytest.mark.parametrize(
    "given",
    [
        facts(unreadable=True),
        facts(1, unreadable=True),
        facts(1, short_acks=1, unread=True),
        facts(short_acks=1, unread=True, part=True, searching=True),
        facts(1, short_acks=1, unread=True, part=True, searching=True),
        facts(1, short_acks=1, part=True, unreadable=True),
    ],
)
def test_no_record_is_to_blame_where_no_index_answers(given: Facts) -> None:
    """Two batches in a row, or one in whole and in halves, with a page in place of a count and nothing that landed."""
    assert follow(PAGE, given, MAX_ATTEMPTS) == Pause("queue", "not_an_index", PAGE.refusal)
    assert not isinstance(follow(SHORT, given, MAX_ATTEMPTS), Pause), "a count that differs comes from an index"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (facts(sparse=(0, 1, 2, 3), lane_refusals=1), Pause("queue", "sparse_unsupported", REFUSED)),
        (facts(1, sparse=(0,), lane_refusals=1), Pause("queue", "sparse_unsupported", REFUSED)),
        (facts(sparse=(1,)), apart(1)),
        (facts(1, sparse=(0,), searching=True), GiveUp(Reason.REFUSED)),
        # the service's word against what we sent: not the records' fault
        (facts(sparse=(), lane_refusals=1), Pause("queue", "sparse_unsupported", REFUSED)),
        (facts(1, sparse=(), lane_refusals=1), Pause("queue", "sparse_unsupported", REFUSED)),
    ],
)
def test_an_index_without_sparse_values(given: Facts, expected: Consequence) -> None:
    """All sparse: the queue is in the wrong place. Some: these stand apart, and then answer for themselves."""
    assert follow(SPARSE, given, MAX_ATTEMPTS) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (facts(), Pause("queue", "dimension", REFUSED)),
        (facts(1), Pause("queue", "dimension", REFUSED)),
        (facts(dims=(0, 8, 0, 0)), apart(1)),
        (facts(1, searching=True), GiveUp(Reason.REFUSED)),
        (facts(searching=True), Split(HALVES, searching=True)),
        (facts(dims=(5, 5, 5, 5)), Split(HALVES, searching=True)),
    ],
)
def test_a_wrong_dimension(given: Facts, expected: Consequence) -> None:
    """All of that dimension: queue and index do not belong together. Some: these stand apart."""
    outcome = RecordRefused(REFUSED, dimension=(8, 16))
    assert follow(outcome, given, MAX_ATTEMPTS) == expected


FORBIDDEN = Refusal(403, None, "no", "", None)
UNAUTHORIZED = Refusal(401, None, "no", "", None)


@pytest.mark.parametrize(
    ("refusal", "given", "expected"),
    [
        # the first time: the parts tell, or one more try, or nothing is to be told
        (REFUSED, facts(), Split(HALVES, searching=True)),
        (FORBIDDEN, facts(), Split(HALVES, searching=True)),
        (REFUSED, facts(1), Retry()),
        (UNAUTHORIZED, facts(), Pause("queue", "forbidden", UNAUTHORIZED)),
        (UNAUTHORIZED, facts(landed_meanwhile=True), Retry()),
        # a part waits for the others
        (REFUSED, facts(searching=True, refused=True), Retry()),
        # again, and nothing landed
        (REFUSED, facts(searching=True, refused=True, lane_refusals=1), Pause("queue", "forbidden", REFUSED)),
        (UNAUTHORIZED, facts(refused=True), Pause("queue", "forbidden", UNAUTHORIZED)),
        # others of the lane landed since
        (REFUSED, facts(refused=True, lane_lands=True, others_land=True), Split(HALVES, searching=True)),
        (FORBIDDEN, facts(refused=True, lane_lands=True, others_land=True), Split(HALVES, searching=True)),
        (REFUSED, facts(1, refused=True, lane_lands=True, others_land=True), GiveUp(Reason.REFUSED)),
        (FORBIDDEN, facts(1, refused=True, lane_lands=True, others_land=True), Retry()),
        (UNAUTHORIZED, facts(refused=True, lane_lands=True, others_land=True), Retry()),
        *(
            (refusal, facts(1, refused=True, lane_lands=True, others_land=True, lane_refusals=4), expected)
            for refusal, expected in [
                (FORBIDDEN, GiveUp(Reason.REFUSED)),
                (UNAUTHORIZED, GiveUp(Reason.REFUSED)),
            ]
        ),
        # others of the queue did
        (REFUSED, facts(1, refused=True, others_land=True), GiveUp(Reason.REFUSED)),
        (FORBIDDEN, facts(refused=True, others_land=True), Pause("namespace", "forbidden", FORBIDDEN)),
    ],
)
def test_a_refusal_that_only_some_batches_draw_pauses_no_lane(
    refusal: Refusal, given: Facts, expected: Consequence
) -> None:
    """What landed since tells whether it is the lane; a lane that others work beside is not the queue."""
    assert follow(LaneRefused(refusal, "queue", "forbidden"), given, MAX_ATTEMPTS) == expected
