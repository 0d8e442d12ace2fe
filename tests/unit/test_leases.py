"""What a worker believes about its leases, from what it asked and what it was told."""

from upsertq_worker.queue.lease import Change, Leases
from upsertq_worker.queue.protocols import Grant


def held(seconds: float = 10.0) -> Leases:
    """Leases of shards 0 and 1 of three, asked for at 100."""
    leases = Leases(3, seconds)
    leases.granted([Grant(0, 4, "me"), Grant(1, 7, "me"), Grant(2, 0, "other")], 100.0)
    return leases


def test_at_first_nothing_is_held_and_nothing_is_safe() -> None:
    """A worker asks for every shard, with no epoch."""
    leases = Leases(2, 10.0)
    assert leases.wanted() == {0: 0, 1: 0}
    assert not leases.safe(0.0)


def test_what_is_granted_is_prolonged_by_its_epoch() -> None:
    """The next round names the epochs held, and who holds the rest is known."""
    leases = held()
    assert leases.wanted() == {0: 4, 1: 7, 2: 0}
    assert leases.holders == {2: "other"}


def test_a_round_tells_what_it_brought() -> None:
    """Gained, lost, both at once (another epoch), or nothing."""
    leases = Leases(3, 10.0)
    assert leases.granted([Grant(0, 4, "me"), Grant(1, 0, "x"), Grant(2, 0, "")], 0.0) == Change((0,), ())
    assert leases.granted([Grant(0, 4, "me"), Grant(1, 0, "x"), Grant(2, 0, "")], 1.0) == Change((), ())
    assert leases.granted([Grant(0, 6, "me"), Grant(1, 2, "me"), Grant(2, 0, "")], 2.0) == Change((0, 1), (0,))
    assert leases.granted([Grant(0, 0, "x"), Grant(1, 2, "me"), Grant(2, 0, "")], 3.0) == Change((), (0,))
    assert leases.epochs == {1: 2}
    assert leases.holders == {0: "x"}


def test_the_life_counts_from_before_the_request() -> None:
    """The server may have begun to count when the request left, so not a moment later is safe."""
    leases = held(10.0)
    assert leases.safe(100.0)
    assert leases.safe(109.9)
    assert not leases.safe(110.0)


def test_a_fenced_shard_is_asked_for_anew() -> None:
    """What the server denied is no longer held; to be told again changes nothing."""
    leases = held()
    leases.fenced(0)
    leases.fenced(0)
    assert leases.epochs == {1: 7}
    assert leases.wanted() == {0: 0, 1: 7, 2: 0}
    grants = [Grant(0, 4, "me"), Grant(1, 7, "me"), Grant(2, 0, "other")]
    assert leases.granted(grants, 101.0) == Change((0,), ()), "the same epoch again is a new beginning"


def test_without_a_shard_nothing_is_safe() -> None:
    """A standby sends nothing."""
    leases = Leases(1, 10.0)
    leases.granted([Grant(0, 0, "other")], 100.0)
    assert not leases.safe(100.0)
