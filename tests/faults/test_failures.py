"""What the service refuses, and how: one bad record harms only itself, and an operator's mistake loses nothing."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

from processes import books, call, document, emulated, start
from upsertq.contract.keys import QueueKeys
from upsertq.contract.queue import DEFAULT_SHARDS
from waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from processes import Index
    from servers import RealServer

WORK = ("work", "--queue", "q", "--linger", "1", "--quarantine", "0.5")
KEYS = QueueKeys("q")


def load(path: Path, ids: list[str], url: str, **columns: Any) -> None:
    """Enqueue records of 4 dimensions with these ids, in one namespace."""
    values = np.random.default_rng(1).standard_normal((len(ids), 4), dtype=np.float32)
    source = path / f"{ids[0]}.jsonl"
    with source.open("wb") as file:
        for row, name in enumerate(ids):
            record = {"id": name, "values": values[row], **{key: of(row) for key, of in columns.items()}}
            file.write(orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
    call("load", source, "--queue", "q", "--run", "r", url=url)


def dead_letters(server: RealServer) -> dict[str, dict[str, str]]:
    """Every dead letter's fields by id, as they stand in Redis."""
    found = {}
    with server.client() as client:
        for shard in range(DEFAULT_SHARDS):
            entries: Any = client.xrange(KEYS.shard(shard).dead)
            for _, fields in entries:
                (name,) = orjson.loads(fields[b"ids"])
                found[name] = {key.decode(): value.decode("latin-1") for key, value in fields.items()}
    return found


def drain(index: Index, url: str, *options: str, expect: int = 0) -> None:
    """Drain until empty."""
    call(*WORK, "--index-host", index.url, "--until-empty", *options, url=url, expect=expect)


IDS = [f"id-{i:03d}" for i in range(100)]


@pytest.mark.parametrize(
    ("culprits", "names", "most"),
    [
        (["id-042"], "nothing", 15),
        (["id-042"], "id", 3),
        (["id-000", "id-051", "id-099"], "nothing", 43),
        ([f"id-{i:03d}" for i in range(0, 100, 11)], "nothing", 141),
    ],
)
def test_the_culprits_alone_are_dead(
    culprits: list[str], names: str, most: int, redis_server: RealServer, tmp_path: Path
) -> None:
    """K culprits among 100: the others land, each culprit is dead with the service's words, in few requests."""
    url = redis_server.url
    load(tmp_path, IDS, url)
    rules = [{"kind": "poison", "pattern": name, "names": names, "message": "no good today"} for name in culprits]
    if names == "id":
        rules[0]["message"] = "Vector ID '{id}' is no good today"
    with emulated() as index:
        index.set_faults({"seed": 1, "faults": rules})
        drain(index, url, expect=3)
        assert set(index.fetch(IDS)) == set(IDS) - set(culprits)
        assert index.counters["upserts"] <= most
    found = dead_letters(redis_server)
    assert set(found) == set(culprits)
    for letter in found.values():
        assert (letter["reason"], letter["status"]) == ("refused", "400")
        assert "no good today" in letter["message"]
        assert letter["path"].startswith("100 ")
        assert letter["run"] == "r"
    k = len(culprits)
    assert books(url, "q", "r") == books(url, "q")
    assert books(url, "q") == {
        "enqueued": 100, "acked": 100 - k, "superseded": 0, "discarded": 0, "dead": k, "pending": 0
    }  # fmt: skip
    call("audit", "--queue", "q", url=url)


@pytest.mark.parametrize(("pages", "alarms", "requests"), [(1, 0, 2), (2, 0, 4), (6, 1, 8)])
def test_a_page_in_place_of_an_answer(
    pages: int, alarms: int, requests: int, redis_server: RealServer, tmp_path: Path
) -> None:
    """A proxy's pages with status 200: the batch goes again, then in halves, and only then somebody is woken."""
    load(tmp_path, IDS, redis_server.url)
    with emulated("--faults", f"unreadable;first={pages}") as index:
        log = tmp_path / "worker.log"
        worker = start(*WORK, "--index-host", index.url, "--until-empty", url=redis_server.url, log=log)
        assert worker.wait(60) == 0
        assert log.read_text().count("paused the queue") == alarms
        assert index.counters["upserts"] == requests
        assert set(index.fetch(IDS)) == set(IDS)
    assert dead_letters(redis_server) == {}


def test_when_everything_is_bad_nothing_is_buried(redis_server: RealServer, tmp_path: Path) -> None:
    """100 % bad: paused as systemic within the budget, the backlog intact; it goes on once the cause is gone."""
    url = redis_server.url
    load(tmp_path, IDS, url)
    with emulated("--faults", "poison=*;names=nothing") as index:
        log = tmp_path / "worker.log"
        worker = start(*WORK, "--index-host", index.url, url=url, log=log)
        wait_until(lambda: "paused the default namespace" in log.read_text(), 30, "the lane to be paused")
        assert index.counters["upserts"] <= 141
        assert books(url, "q")["pending"] == 100
        assert dead_letters(redis_server) == {}
        index.set_faults(None)
        call("wait", "--queue", "q", "--timeout", "60", url=url)
        assert books(url, "q")["acked"] == 100
        worker.terminate()
        assert worker.wait(30) == 0
        assert log.read_text().count("paused the default namespace") == 1
        assert "resumed the default namespace" in log.read_text()


@pytest.mark.parametrize(
    "fault", ["deny=401:600", "deny=403:600", "deny=404:600", "quota;until=600", "schema;until=600"]
)
def test_an_operators_mistake_pauses(fault: str, redis_server: RealServer, tmp_path: Path) -> None:
    """The service refuses everything for a while in mid-drain: one alarm, no dead letter, and it resumes by itself."""
    url = redis_server.url
    load(tmp_path, IDS, url)
    with emulated() as index:
        log = tmp_path / "worker.log"
        worker = start(*WORK, "--batch-size", "10", "--index-host", index.url, url=url, log=log)
        wait_until(lambda: index.counters["upserts"] > 0, 30, "the worker to work")
        index.set_faults(fault)
        load(tmp_path, [f"more-{i}" for i in range(200)], url)
        wait_until(lambda: "paused the queue" in log.read_text(), 30, "the queue to be paused")
        status = document("status", "--queue", "q", url=url)
        assert status["paused"], status
        index.set_faults(None)
        call("wait", "--queue", "q", "--timeout", "90", url=url)
        assert dead_letters(redis_server) == {}
        assert books(url, "q")["acked"] == 300
        worker.terminate()
        assert worker.wait(30) == 0
        assert log.read_text().count("paused the queue") == 1


def test_a_namespace_in_trouble_stops_no_other(redis_server: RealServer, tmp_path: Path) -> None:
    """A namespace that is refused is paused alone; the others land."""
    url = redis_server.url
    load(tmp_path, IDS, url, namespace=lambda row: "bad" if row % 2 else "good")
    with emulated("--faults", "poison=*;names=nothing;namespace=bad") as index:
        drain(index, url, "--pause-timeout", "1", expect=5)
        assert len(index.fetch(IDS, "good")) == 50
    found = books(url, "q")
    assert found["dead"] == 0
    assert found["acked"] + found["pending"] == 100


def test_a_short_acknowledgement_is_verified(redis_server: RealServer, tmp_path: Path) -> None:
    """A record that the service keeps leaving out is dead as `short_ack`; its neighbours land."""
    url = redis_server.url
    load(tmp_path, IDS, url)
    with emulated("--faults", "short=1;lose=true;id=id-042") as index:
        drain(index, url, expect=3)
        assert set(index.fetch(IDS)) == set(IDS) - {"id-042"}
    found = dead_letters(redis_server)
    assert {name: letter["reason"] for name, letter in found.items()} == {"id-042": "short_ack"}


def test_a_request_too_large_is_split(redis_server: RealServer, tmp_path: Path) -> None:
    """A proxy with a limit of its own answers a bare 413: the batch is halved until it fits, and nothing is dead."""
    url = redis_server.url
    load(tmp_path, IDS, url)
    with emulated("--faults", "toolarge=2000") as index:
        drain(index, url)
        assert len(index.fetch(IDS)) == 100


def test_what_keeps_failing_while_others_succeed_is_dead(redis_server: RealServer, tmp_path: Path) -> None:
    """A record that makes the service fail with 500 is found and given up; what stands beside it lands."""
    url = redis_server.url
    load(tmp_path, IDS, url)
    load(tmp_path, [f"other-{i}" for i in range(3000)], url, namespace=lambda _: "busy")
    with emulated("--faults", "error=500;id=id-042") as index:
        options = ("--max-attempts", "2", "--batch-size", "10", "--concurrency", "4")
        log = tmp_path / "worker.log"
        worker = start(*WORK, *options, "--index-host", index.url, url=url, log=log)
        stop = threading.Event()

        def keep_others_coming() -> None:
            for turn in range(200):
                if stop.is_set():
                    return
                load(tmp_path, [f"turn-{turn}-{i}" for i in range(10)], url, namespace=lambda _: "busy")

        feeder = threading.Thread(target=keep_others_coming)
        feeder.start()
        try:
            wait_until(lambda: books(url, "q")["dead"] == 1, 90, "the culprit to be dead")
        finally:
            stop.set()
            feeder.join()
        call("wait", "--queue", "q", "--timeout", "60", url=url, expect=3)
        worker.terminate()
        assert worker.wait(30) == 0
        assert len(index.fetch(IDS)) == 99
    assert {name: letter["reason"] for name, letter in dead_letters(redis_server).items()} == {"id-042": "max_attempts"}


def test_a_write_that_was_applied_before_the_reset_counts_once(redis_url: str, tmp_path: Path) -> None:
    """The connection is reset after the write: the records are sent again, and acknowledged once in the books."""
    load(tmp_path, IDS, redis_url)
    with emulated("--faults", "reset=after;first=1") as index:
        drain(index, redis_url)
        assert index.counters["records"] == 200
    assert books(redis_url, "q")["acked"] == 100
