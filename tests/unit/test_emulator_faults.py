"""Which fault befalls which request: rules, luck, buckets, without a socket or a clock."""

from random import Random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsertq_emulator.faults import Facts, Faults, Late, Latency, Plan, Reset, Respond, Short, Stall, draw_latency
from upsertq_emulator.spec import parse_faults

UPSERT = Facts("upsert", "ns", ("a", "b", "c"), 1_000)


def faults_of(text: str) -> Faults:
    """The rules of a compact spec, at work."""
    spec = parse_faults(text)
    return Faults(spec.rules, seed=spec.seed)


def fault_of(text: str, facts: Facts = UPSERT, now: float = 1.0) -> object:
    """What a spec does to its first request."""
    return faults_of(text).plan(facts, now).fault


def responded(text: str, facts: Facts = UPSERT) -> tuple[int, str]:
    """Status and message of the answer that a spec gives to its first request."""
    fault = fault_of(text, facts)
    assert isinstance(fault, Respond)
    message: str = orjson.loads(fault.body)["message"]
    return fault.status, message


@given(st.integers(), st.lists(st.floats(0, 100), max_size=30).map(sorted))
def test_the_same_seed_gives_the_same_faults(seed: int, times: list[float]) -> None:
    """Two runs over the same requests with the same seed plan alike."""
    text = f"seed={seed},latency=lognormal:0.05:0.5,error=503:0.3,reset=after:0.3,throttle=2"
    first, second = faults_of(text), faults_of(text)
    assert [first.plan(UPSERT, now) for now in times] == [second.plan(UPSERT, now) for now in times]


@given(st.sampled_from(["constant:0.2", "uniform:0.1:0.4", "lognormal:0.05:2"]), st.integers())
def test_latencies_stay_in_bounds(text: str, seed: int) -> None:
    """No latency is negative or above `most`, and uniform and constant ones keep their own bounds."""
    action = parse_faults(f"latency={text};most=1").rules[0].action
    assert isinstance(action, Latency)
    drawn = draw_latency(action, Random(seed))
    low, high = {"constant": (0.2, 0.2), "uniform": (0.1, 0.4), "lognormal": (0.0, 1.0)}[action.distribution]
    assert low <= drawn <= high


@given(st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 2_000)), min_size=1, max_size=200))
def test_a_throttle_lets_no_more_through_than_its_rate(steps: list[tuple[float, int]]) -> None:
    """Over any stretch from the start, requests and bytes let through stay within rate times time plus burst."""
    faults, now, passed, size = faults_of("throttle=10:5000"), 0.0, 0, 0
    for step, length in steps:
        now += step
        if faults.plan(Facts("upsert", "ns", ("a",), length), now).fault is None:
            passed, size = passed + 1, size + length
        assert passed <= 10 * now + 10 + 1e-6
        assert size <= 5_000 * now + 5_000 + 1e-3


def test_a_throttle_refuses_by_namespace_with_the_services_words() -> None:
    """Each namespace has its own bucket; the 429 names limit, scope and value, and may say when to come back."""
    faults = faults_of("throttle=2;retry_after=auto")
    other = Facts("upsert", "other", (), 10)
    assert [faults.plan(UPSERT, 0.0).fault for _ in range(2)] == [None, None]
    refused = faults.plan(UPSERT, 0.0).fault
    assert isinstance(refused, Respond)
    assert refused.status == 429
    assert b"reached the upsert QPS limit for namespace ns (2 QPS)" in refused.body
    assert refused.retry_after == pytest.approx(0.5)
    assert faults.plan(other, 0.0).fault is None
    assert faults.plan(UPSERT, 0.6).fault is None
    faults = faults_of("throttle=1;named=false")
    unnamed = [faults.plan(UPSERT, 0.0).fault for _ in range(2)][1]
    assert isinstance(unnamed, Respond)
    assert b'"message":"Too many requests"' in unnamed.body
    faults = faults_of("throttle=0:50000000")
    large = Facts("upsert", "", (), 50_000_000)
    assert faults.plan(large, 0.0).fault is None
    refused = faults.plan(large, 0.5).fault
    assert isinstance(refused, Respond)
    assert b"upsert size limit per second for namespace __default__ (50 MB per second)" in refused.body
    assert refused.retry_after is None


def test_windows_counts_and_filters() -> None:
    """A rule keeps to its window, its first requests, its namespace, its ids and its operation."""
    assert [fault_of("stall;from=5;until=9", now=now) for now in (4.9, 5.0, 8.9, 9.0)] == [None, Stall(), Stall(), None]
    faults = faults_of("stall;first=2")
    assert [faults.plan(UPSERT, 0.0).fault for _ in range(3)] == [Stall(), Stall(), None]
    assert fault_of("stall;namespace=n*") == Stall()
    assert fault_of("stall;namespace=other") is None
    assert fault_of("stall;namespace=__default__", Facts("upsert")) == Stall()
    assert fault_of("stall;id=b*") == Stall()
    assert fault_of("stall;id=z*") is None
    assert fault_of("stall", Facts("fetch")) is None
    assert fault_of("stall;on=any", Facts("fetch")) == Stall()
    assert fault_of("stall=0") is None


def test_the_first_rule_that_fires_wins_and_latencies_add_up() -> None:
    """One fault befalls a request, after all of its latencies."""
    faults = faults_of("latency=constant:1,reset=after,stall,latency=constant:2")
    assert faults.plan(UPSERT, 0.0) == Plan(3.0, Reset("after"))


def test_poison_names_what_it_is_told_to() -> None:
    """A poisoned id refuses its batch, naming the id, the field, nothing, or in words of one's own."""
    assert responded("poison=b") == (
        400,
        "Dense vectors must contain at least one non-zero value. Vector ID 'b' contains only zeros",
    )
    assert responded("poison=b;names=field;field=color") == (
        400,
        "Metadata value must be a string, number, boolean or list of strings, got 'null' for field 'color'",
    )
    assert responded("poison=b;names=nothing")[1].startswith("Metadata size is 42177 bytes")
    assert responded("poison=[bc];message=no {id} in {namespace}") == (400, "no b in ns")
    assert responded("poison=(b|c)+:422;match=regex")[0] == 422
    assert fault_of("poison=bb;match=regex") is None
    assert fault_of("poison=d*") is None


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("quota", 429, "reached your write unit limit for the current month (2000000)"),
        ("schema", 400, "This index has a document schema"),
        ("deny=403", 403, "max storage allowed"),
        ("deny=402", 402, "Payment required"),
        ("deny=404", 404, "not found"),
        ("error=503", 503, "unavailable"),
        ("error=500;message=oh dear", 500, "oh dear"),
    ],
)
def test_known_troubles_use_the_services_words(text: str, status: int, words: str) -> None:
    """Each preset answers with the status and the sentence that the service uses."""
    given_status, message = responded(text)
    assert given_status == status
    assert words in message


def test_bodies_and_sizes() -> None:
    """Bodies come as given, a 413 is bare and depends on the size, and an unreadable 200 is applied."""
    assert fault_of("error=502;body=<html>bad</html>;content_type=text/html") == Respond(
        status=502, body=b"<html>bad</html>", content_type="text/html"
    )
    assert fault_of("deny=401") == Respond(status=401, body=b'"Unauthorized"')
    assert fault_of("toolarge=1000") is None
    assert fault_of("toolarge=999") == Respond(status=413, body=b"", content_type="text/plain")
    html = fault_of("toolarge=999;body=html")
    assert isinstance(html, Respond)
    assert html.body.startswith(b"<html>")
    unreadable = fault_of("unreadable")
    assert isinstance(unreadable, Respond)
    assert (unreadable.status, unreadable.applied) == (200, True)


def test_short_acks_and_late_writes() -> None:
    """A short ack misses the last records, or those with a matching id; it loses them only when told to."""
    assert fault_of("short=2") == Short(2)
    assert fault_of("short=2;lose=true") == Short(2, frozenset({"b", "c"}))
    assert fault_of("short=9;lose=true") == Short(3, frozenset("abc"))
    assert fault_of("short;id=b;lose=true") == Short(1, frozenset("b"))
    assert fault_of("late=5;answer=stall") == Late(5.0, "stall")
