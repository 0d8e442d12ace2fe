"""What a worker believes about its leases, from what it asked and what it was told."""

from dataclasses import replace

from upsertq_worker.queue.lease import Change, Leases, Takeover
from upsertq_worker.queue.protocols import Grant

QUARANTINE = 5.0
KEPT = (Grant(0, 4, "me"), Grant(1, 7, "me"), Grant(2, 0, "other"))


def held(seconds: float = 10.0) -> Leases:
    """Leases of shards 0 and 1 of three, asked for at 100."""
    leases = Leases(seconds, QUARANTINE)
    leases.granted(KEPT, 100.0, 100.5)
    return leases


def test_at_first_nothing_is_held_and_nothing_is_safe() -> None:
    """It has no epoch of any shard."""
    leases = Leases(10.0, QUARANTINE)
    assert leases.epochs == {}
    assert not leases.safe(0.0)


def test_what_is_granted_is_prolonged_by_its_epoch() -> None:
    """The epochs held are known, for the next round, and the holder of the rest is."""
    leases = held()
    assert leases.epochs == {0: 4, 1: 7}
    assert leases.holders == {2: "other"}


def test_a_round_tells_what_it_brought() -> None:
    """Gained, lost, both at once (another epoch), or nothing."""
    leases = Leases(10.0, QUARANTINE)
    first = (Grant(0, 4, "me"), Grant(1, 0, "x"), Grant(2, 0, ""))
    assert leases.granted(first, 0.0, 0.0) == Change(first[:1], ())
    assert leases.granted(first, 1.0, 1.0) == Change((), ())
    later = (Grant(0, 6, "me"), Grant(1, 2, "me"), Grant(2, 0, ""))
    assert leases.granted(later, 2.0, 2.0) == Change(later[:2], (0,))
    assert leases.granted([Grant(0, 0, "x"), Grant(1, 2, "me"), Grant(2, 0, "")], 3.0, 3.0) == Change((), (0,))
    assert leases.epochs == {1: 2}
    assert leases.holders == {0: "x"}
    assert list(leases.takeovers) == [1]


def test_how_a_shard_was_taken_over_is_kept_as_long_as_it_is_held() -> None:
    """A clean takeover needs no quarantine, an unclean one has it from the answer on; prolonging changes neither."""
    leases = Leases(10.0, QUARANTINE)
    clean = Grant(0, 1, "me", mark="m", clock="7-2")
    unclean = Grant(1, 4, "me", clean=False, deaths=3, clock="9-0")
    leases.granted([clean, unclean], 100.0, 101.0)
    expected = {0: Takeover((7, 2), None, 0, "m"), 1: Takeover((9, 0), 106.0, 3, "")}
    assert leases.takeovers == expected
    leases.granted([Grant(0, 1, "me"), Grant(1, 4, "me")], 102.0, 102.5)
    assert leases.takeovers == expected
    leases.granted([Grant(0, 1, "me"), Grant(1, 5, "me", clock="11-0")], 104.0, 104.5)
    assert leases.takeovers == {0: expected[0], 1: Takeover((11, 0), None, 0, "")}


def test_a_lease_that_was_lost_is_not_held_again_under_its_epoch() -> None:
    """It was asked for before the server said that it is not ours; what was settled under it may still arrive."""
    leases = held()
    leases.fenced(0)
    assert leases.granted(KEPT, 101.0, 101.0) == Change((), ())
    assert leases.epochs == {1: 7}
    later = Grant(0, 5, "me", clean=False, deaths=1)
    assert leases.granted([later, KEPT[1]], 112.0, 112.0) == Change((later,), ())
    assert leases.takeovers[0].own


def test_a_lease_that_was_lost_and_taken_again_is_no_death_of_its_holder() -> None:
    """It is one where another holder came between, or where it never was ours."""
    unclean = Grant(0, 5, "me", clean=False, deaths=1)
    for epoch, own in ((5, True), (6, False)):
        leases = held()
        leases.fenced(0)
        leases.granted([replace(unclean, epoch=epoch), KEPT[1]], 120.0, 120.0)
        assert leases.takeovers[0].own is own
    leases = Leases(10.0, QUARANTINE)
    leases.granted([unclean], 100.0, 100.0)
    assert not leases.takeovers[0].own


def test_a_damaged_shard_is_lost_and_named_until_it_is_mended() -> None:
    """No worker can have it meanwhile; the others stay held."""
    leases = held()
    damaged = (Grant(0, 0, fault="the books are no hash"), *KEPT[1:])
    assert leases.granted(damaged, 101.0, 101.0) == Change((), (0,))
    assert (leases.epochs, leases.faults) == ({1: 7}, {0: "the books are no hash"})
    assert leases.safe(101.0)
    assert leases.granted(damaged, 102.0, 102.0) == Change((), ())
    mended = Grant(0, 5, "me")
    assert leases.granted([mended, KEPT[1]], 103.0, 103.0) == Change((mended,), ())
    assert leases.faults == {}


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


def test_a_denial_under_an_older_epoch_says_nothing_of_the_lease_held() -> None:
    """It answers what was sent before the lease was lost and taken again; nor need one that is not held be fenced."""
    leases = held()
    sent = dict(leases.epochs)
    leases.fenced(0)
    assert leases.denied({0, 1}, sent) == {1}
    leases.granted([Grant(0, 5, "me"), KEPT[1]], 112.0, 112.0)
    assert leases.denied({0, 1}, sent) == {1}
    assert leases.denied({0, 1}, leases.epochs) == {0, 1}


def test_without_a_shard_nothing_is_safe() -> None:
    """A standby sends nothing."""
    leases = Leases(10.0, QUARANTINE)
    leases.granted([Grant(0, 0, "other")], 100.0, 100.0)
    assert not leases.safe(100.0)


def test_a_shard_of_which_nothing_is_heard_holds_the_others_up_for_half_a_life() -> None:
    """Its lease is ours as before, and no certain time is prolonged; then it is let go of, and the others go on."""
    leases = held()
    some = (Grant(0, 4, "me"), Grant(1, 7, silent=True))
    assert leases.granted(some, 101.0, 101.5) == Change((), ())
    assert leases.granted(some, 105.0, 105.5) == Change((), ())
    assert (leases.epochs, leases.valid_until) == ({0: 4, 1: 7}, 110.0)
    assert leases.granted(some, 106.0, 106.5) == Change((), (1,))
    assert leases.epochs == {0: 4}
    assert leases.valid_until == 116.0
    assert leases.granted([Grant(1, 0, silent=True)], 106.0, 106.6) == Change((), ()), "one that is not ours"
    assert leases.granted([Grant(0, 4, "me")], 107.0, 107.5) == Change((), ())
    assert leases.valid_until == 117.0


def test_a_shard_that_is_heard_of_again_stays() -> None:
    """Nothing came between: what it waits for begins anew; taking others prolongs nothing while it is silent."""
    leases = held()
    leases.granted((Grant(0, 4, "me"), Grant(1, 7, silent=True)), 101.0, 101.5)
    leases.granted((Grant(2, 9, "me"),), 101.0, 101.6)
    assert leases.valid_until == 110.0
    leases.granted((Grant(0, 4, "me"), Grant(1, 7, "me"), Grant(2, 9, "me")), 104.0, 104.5)
    assert leases.valid_until == 114.0
    assert leases.granted((Grant(0, 4, "me"), Grant(1, 7, silent=True)), 107.0, 107.5) == Change((), ())
    leases.fenced(1)
    leases.granted((Grant(0, 4, "me"), Grant(2, 9, "me")), 108.0, 108.5)
    assert leases.valid_until == 118.0
