"""What keeps a queue from being closed, in words; which incarnations are of one creation; whose key a key is."""

from __future__ import annotations

import pytest

from upsertq.cli.columns import table
from upsertq.contract.books import descends
from upsertq.contract.closing import Use, new_incarnation, next_incarnation
from upsertq.contract.keys import OF_THE_QUEUE, QueueKeys


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (Use(), ()),
        (Use(pending=1), ("1 record is pending",)),
        (Use(pending=2_000, lanes=3), ("2,000 records are pending",)),
        (Use(lanes=2), ("2 streams are there that the books do not count (see `upsertq audit`)",)),
        (Use(dead=2), ("2 dead letters are there",)),
        (Use(leases={3: "5:w1"}), ("1 lease is held (w1)",)),
        (Use(leases={3: "5:w2", 4: "1:w1", 5: "9:w1", 6: "odd"}), ("4 leases are held (odd, w1, w2)",)),
        (Use(pending=1, dead=1), ("1 record is pending", "1 dead letter is there")),
    ],
)
def test_use_in_words(use: Use, told: tuple[str, ...]) -> None:
    """Each reason once, with its number."""
    assert use.reasons == told


def test_incarnations_of_one_creation() -> None:
    """What follows an incarnation descends from it, however often; another creation does not."""
    first = new_incarnation()
    second = next_incarnation(first)
    third = next_incarnation(second)
    assert len({first, second, third}) == 3
    assert third.isalnum()
    assert len(third) == len(second)
    for one in (first, second, third):
        for other in (first, second, third):
            assert descends(one.encode(), other)
        assert not descends(new_incarnation().encode(), one)
        assert not descends(b"", one)
        assert not descends(b"\xff", one)


@pytest.mark.parametrize(
    ("key", "shard"),
    [
        ("upsertq:{a}:meta", OF_THE_QUEUE),
        ("upsertq:{a}:what-a-later-version-keeps", OF_THE_QUEUE),
        ("upsertq:{a:0}:books", 0),
        ("upsertq:{a:1023}:stream:x}:y{", 1023),
        ("upsertq:{a:7}:run:\n", 7),
        ("upsertq:{a:1024}:books", None),
        ("upsertq:{a:01}:books", None),
        ("upsertq:{a:b}:books", None),
        ("upsertq:{a:}:books", None),
        ("upsertq:{a:0:1}:books", None),
        ("upsertq:{ab}:meta", None),
        ("upsertq:{a*}:meta", None),
        ("upsertq:{A}:meta", None),
        ("upsertq:{a}:", None),
        ("upsertq:{a}", None),
        ("{a}:meta", None),
        ("", None),
    ],
)
def test_whose_key_it_is(key: str, shard: int | None) -> None:
    """The tag decides, to the letter."""
    assert QueueKeys("a").shard_in(key) == shard


def test_a_table() -> None:
    """Numbers stand to the right; what a terminal would act on is shown."""
    rows = [("queue", "dead"), ("a\x1b[31m", "5"), ("b", "1,000")]
    assert table(rows, left={0}).splitlines() == [
        "queue        " + " dead",
        r"a\u001b[31m  " + "    5",
        "b            " + "1,000",
    ]
