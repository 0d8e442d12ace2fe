"""`upsertq work --http` and `upsertq metrics` as real processes: what they say is what happened."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from datasets import Dataset
from pages import Pages
from processes import books, call, complaint, document, emulated, start
from servers import free_port
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from servers import RealServer

COUNT = 4_000
HTTP = ("--http", "127.0.0.1:0")
TOKEN = "a-token-of-this-test-4711"  # noqa: S105 - no secret
SLOW = "seed=3,latency=constant:0.05"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Provide a file of records."""
    return Dataset.make(COUNT, 8).parquet(tmp_path / "v.parquet")


def test_figures_of_a_drain_are_its_books(redis_url: str, source: Path, tmp_path: Path) -> None:
    """Scraped during throttling, errors and a bad record: counters never fall, and end as the books."""
    call("load", source, "--queue", "q", "--namespace", "tenant", url=redis_url)
    log = tmp_path / "worker.log"
    with emulated("--faults", f"{SLOW},error=429:0.15,error=503:0.1,poison=id-0000017") as index:
        worker = start("work", "--queue", "q", "--index-host", index.url, "--json", *HTTP, url=redis_url, log=log)
        pages = Pages.named_in(log)
        seen = [pages.figures()]

        def drained() -> bool:
            seen.append(pages.figures())
            return seen[-1].get("upsertq_pending_records") == 0

        wait_until(drained, 120, "nothing is pending")
        assert pages.get("/readyz") == (200, "ready\n")
        last = wait_until(lambda: settled(pages), 30, "nothing is in flight")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
        (said,) = [line for line in log.read_text().splitlines() if line.startswith("{")]
        tally = json.loads(said)["worker"]
        assert index.counters["upserts"] <= tally["requests"]
    assert any(0 < one.get("upsertq_pending_records", 0) < COUNT for one in seen)
    assert any(one.get("upsertq_in_flight_requests tenant", 0) > 0 for one in seen)
    for name in last:
        if name.startswith("upsertq_") and "_total" in name:
            values = [one[name] for one in [*seen, last] if name in one]
            assert values == sorted(values), name
    end = books(redis_url, "q")
    assert end["dead"] == 1
    for state in ("enqueued", "acked", "superseded", "discarded", "dead"):
        assert last[f"upsertq_records_total {state}"] == end[state]
    outcomes = {name.split()[1]: count for name, count in last.items() if name.startswith("upsertq_requests_total")}
    assert sum(outcomes.values()) == tally["requests"] == last["upsertq_request_duration_seconds_count"]
    assert min(outcomes[word] for word in ("ok", "throttled", "server_error", "refused")) > 0
    assert last["upsertq_batch_bytes_sum"] == tally["bytes"]
    assert last["upsertq_batch_records_count"] == tally["requests"]
    retries = {name.split()[1]: count for name, count in last.items() if name.startswith("upsertq_retries_total")}
    assert (retries["throttled"], retries["server_error"]) == (outcomes["throttled"], outcomes["server_error"])
    assert last["upsertq_leases_held"] == document("status", "--queue", "q", url=redis_url)["shards"]
    assert last["upsertq_pace_requests_per_second tenant"] > 0


def is_ready(pages: Pages) -> bool:
    """Whether /readyz says so."""
    return pages.get("/readyz")[0] == 200


def tells_books(pages: Pages) -> bool:
    """Whether /metrics has figures of the queue."""
    return "upsertq_pending_records" in pages.figures()


def settled(pages: Pages) -> dict[str, float]:
    """The figures, once no request is in flight."""
    found = pages.figures()
    in_flight = sum(count for name, count in found.items() if name.startswith("upsertq_in_flight_requests"))
    return {} if in_flight else found


def test_readiness_follows_the_server(make_server: Callable[..., RealServer], source: Path, tmp_path: Path) -> None:
    """Alive all along; ready while the server answers, and only then; its own figures are there all the time."""
    server = make_server(port=0, appendonly="always")
    call("load", source, "--queue", "q", url=server.url)
    log, second = tmp_path / "worker.log", tmp_path / "other.log"
    with emulated() as index:
        command = ("work", "--queue", "q", "--index-host", index.url, "--lease", "2", "--quarantine", "1", *HTTP)
        start(*command, url=server.url, log=log)
        pages = Pages.named_in(log)
        wait_until(lambda: is_ready(pages), 30, "the worker is ready")
        start(*command, url=server.url, log=second)
        other = Pages.named_in(second)
        wait_until(lambda: is_ready(other), 30, "the other one is ready")
        both = pages, other
        wait_until(
            lambda: [one.figures()["upsertq_leases_held"] for one in both] == [8, 8], 60, "they share the shards"
        )
        server.kill()
        wait_until(lambda: not is_ready(pages) and not is_ready(other), 30, "they are not ready")
        wait_until(lambda: not any(map(tells_books, (pages, other))), 30, "the books are told no more")
        for one in (pages, other):
            assert one.get("/readyz")[1] == "not ready: the queue's server does not answer\n"
            assert one.get("/healthz") == (200, "alive\n")
            assert one.get("/scale")[0] == 503
            assert "upsertq_requests_total ok" in one.figures()
        server.start()
        wait_until(lambda: is_ready(pages) and is_ready(other), 90, "they are ready again")
        wait_until(lambda: pages.figures().get("upsertq_pending_records") == 0, 60, "it drains")


def test_it_listens_before_the_server_is_there(make_server: Callable[..., RealServer], tmp_path: Path) -> None:
    """A worker that waits for its server at the start is alive, and not ready: it is not to be restarted for that."""
    server = make_server(port=0)
    server.process.send_signal(signal.SIGSTOP)
    log = tmp_path / "worker.log"
    try:
        start("work", "--index-host", "http://127.0.0.1:1", *HTTP, url=server.url, log=log)
        pages = Pages.named_in(log)
        assert pages.get("/healthz") == (200, "alive\n")
        assert pages.get("/readyz") == (503, "not ready: starting\n")
    finally:
        server.process.send_signal(signal.SIGCONT)


def test_a_queues_books_without_a_worker(redis_url: str, source: Path, tmp_path: Path) -> None:
    """503 before there is a queue; then its books, what it needs, its pauses, its dead letters; ends on SIGTERM."""
    log = tmp_path / "metrics.log"
    command = start("metrics", "--queue", "q", *HTTP, "--scale-records", "1000", url=redis_url, log=log)
    pages = Pages.named_in(log)
    assert pages.get("/healthz") == (200, "alive\n")
    assert pages.get("/readyz") == (503, "not ready: the queue cannot be read\n")
    status, said = pages.get("/metrics")
    assert (status, "there is no queue 'q'" in said) == (503, True)
    call("load", source, "--queue", "q", "--run", "r", url=redis_url)
    wait_until(lambda: pages.get("/readyz")[0] == 200, 30, "the queue is found")
    figures = pages.figures()
    assert figures["upsertq_records_total enqueued"] == figures["upsertq_pending_records"] == COUNT
    assert figures["upsertq_oldest_pending_seconds"] > 0
    assert figures["upsertq_workers draining"] == 0
    assert figures["upsertq_runs"] == 1
    scale = json.loads(pages.get("/scale")[1])
    assert (scale["workers"], scale["pending"], scale["shards"]) == (4, COUNT, 16)
    with emulated("--faults", "poison=id-0000017") as index:
        call("work", "--queue", "q", "--index-host", index.url, "--until-empty", url=redis_url, expect=3)
    call("pause", "--queue", "q", "--namespace", "a", url=redis_url)
    wait_until(lambda: "upsertq_lane_paused a" in pages.figures(), 30, "the pause is seen")
    figures = pages.figures()
    assert figures["upsertq_dead_records refused"] == 1
    assert figures["upsertq_records_total acked"] == COUNT - 1
    assert json.loads(pages.get("/scale")[1])["workers"] == 0
    command.send_signal(signal.SIGTERM)
    assert command.wait(30) == 0


def test_the_token_opens_figures_and_is_shown_nowhere(redis_url: str, source: Path, tmp_path: Path) -> None:
    """Given by file or environment; the probes need none."""
    call("load", source, "--queue", "q", url=redis_url)
    secret = tmp_path / "token"
    secret.write_text(f"{TOKEN}\n")
    for name, options, more in (
        ("file", ("--http-token-file", secret), {}),
        ("named file", (), {"UPSERTQ_HTTP_TOKEN_FILE": str(secret)}),
        ("environment", (), {"UPSERTQ_HTTP_TOKEN": TOKEN}),
    ):
        log = tmp_path / f"{name}.log"
        start("metrics", "--queue", "q", *HTTP, *options, url=redis_url, log=log, **more)
        pages = Pages.named_in(log)
        assert [pages.get(path)[0] for path in ("/metrics", "/scale", "/healthz", "/readyz")] == [401, 401, 200, 200]
        assert "upsertq_shards" in Pages(pages.url, TOKEN).figures()
        assert TOKEN not in log.read_text()


@pytest.mark.parametrize("command", ["work", "metrics"])
def test_beyond_this_machine_a_token_is_needed(command: str) -> None:
    """One line, exit code 2, before any server is asked."""
    index = ("--index-host", "http://127.0.0.1:1") if command == "work" else ()
    line = complaint(command, *index, "--http", "0.0.0.0:9400", url="redis://127.0.0.1:1/0", expect=2)
    assert "--http 0.0.0.0:9400 is reachable from other machines: give a token" in line


@pytest.mark.parametrize("command", ["work", "metrics"])
def test_a_port_that_is_taken(command: str, redis_url: str) -> None:
    """One line with the address and the option, exit code 1; nothing of the queue is touched."""
    with emulated(port=free_port()) as index:
        host = index.url.removeprefix("http://")
        more = ("--index-host", index.url) if command == "work" else ()
        line = complaint(command, *more, "--http", host, url=redis_url, expect=1)
        assert f"cannot listen on {host} (--http): Address already in use" in line
    assert "there is no queue" in complaint("status", url=redis_url, expect=1)
