"""A namespace that has to wait does not fill the memory: what is behind it in the stream is reached, none is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest

from processes import books, call, document, emulated, start
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from processes import Index

WORK = ("work", "--queue", "q", "--linger", "0.05", "--lease", "2", "--quarantine", "0.5", "--read-ahead", "500000")
"""Memory for some 500 records, a few entries of each shard."""
BUSY, HOT, QUICK = 10_000, 20, 300


def records(namespace: str, count: int, ids: int) -> Iterator[bytes]:
    """Lines of records whose values tell the turn; `ids` different ones, over and over."""
    for turn in range(count):
        values = np.full(4, turn + 1, np.float32)
        record = {"id": f"{namespace}-{turn % ids}", "namespace": namespace, "values": values}
        yield orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n"


def load(path: Path, url: str, namespace: str, count: int, ids: int) -> None:
    """Enqueue `count` records of `ids` different ids."""
    source = path / f"{namespace}.jsonl"
    source.write_bytes(b"".join(records(namespace, count, ids)))
    call("load", source, "--queue", "q", "--run", namespace, url=url)


def assert_latest(index: Index, namespace: str, count: int, ids: int) -> None:
    """The last version of each id is in the index, and none of them was ever followed by an older one."""
    last = {f"{namespace}-{turn % ids}": turn + 1 for turn in range(count)}
    found = index.values(list(last), namespace)
    assert {name: np.frombuffer(values, "<f4")[0] for name, values in found.items()} == last


def drained(url: str, run: str) -> bool:
    """Whether nothing of a run is pending."""
    return books(url, "q", run)["pending"] == 0


def test_a_paused_namespace_stops_no_other(redis_url: str, tmp_path: Path) -> None:
    """Its backlog is 20 times what fits into memory: the one behind it is drained meanwhile, and itself afterwards."""
    load(tmp_path, redis_url, "busy", BUSY, BUSY // HOT)
    load(tmp_path, redis_url, "quick", QUICK, QUICK)
    call("pause", "--queue", "q", "--namespace", "busy", url=redis_url)
    with emulated() as index:
        log = tmp_path / "worker.log"
        worker = start(*WORK, "--index-host", index.url, url=redis_url, log=log)
        wait_until(lambda: drained(redis_url, "quick"), 60, "what is behind the paused namespace is drained")
        assert books(redis_url, "q", "busy")["pending"] == BUSY
        assert_latest(index, "quick", QUICK, QUICK)
        load(tmp_path, redis_url, "later", QUICK, QUICK)
        wait_until(lambda: drained(redis_url, "later"), 60, "what comes later is drained too")
        assert books(redis_url, "q", "busy")["pending"] == BUSY
        call("resume", "--queue", "q", "--namespace", "busy", url=redis_url)
        call("wait", "--queue", "q", "--timeout", "60", url=redis_url)
        assert_latest(index, "busy", BUSY, BUSY // HOT)
        worker.terminate()
        assert worker.wait(30) == 0, log.read_text()
    found = books(redis_url, "q")
    assert found["acked"] + found["superseded"] == BUSY + 2 * QUICK
    call("audit", "--queue", "q", url=redis_url)


def test_a_namespace_that_is_paused_in_mid_drain_stops_no_other(redis_url: str, tmp_path: Path) -> None:
    """When memory is full of it already, part of it is put aside; it is not forgotten, nor overtaken by itself."""
    load(tmp_path, redis_url, "busy", BUSY, BUSY // 2)
    with emulated("--faults", "seed=1,latency=constant:0.05") as index:
        log = tmp_path / "worker.log"
        options = ("--batch-size", "10", "--concurrency", "2")
        worker = start(*WORK, *options, "--index-host", index.url, url=redis_url, log=log)
        wait_until(lambda: index.counters["records"] > 50, 30, "the worker to work")
        call("pause", "--queue", "q", "--namespace", "busy", url=redis_url)
        load(tmp_path, redis_url, "quick", QUICK, QUICK)
        wait_until(lambda: drained(redis_url, "quick"), 60, "what is behind the paused namespace is drained")
        assert books(redis_url, "q", "busy")["pending"] > 0, "the pause came too late to mean anything"
        index.set_faults(None)
        call("resume", "--queue", "q", "--namespace", "busy", url=redis_url)
        call("wait", "--queue", "q", "--timeout", "60", url=redis_url)
        assert_latest(index, "busy", BUSY, BUSY // 2)
        assert_latest(index, "quick", QUICK, QUICK)
        worker.terminate()
        assert worker.wait(30) == 0, log.read_text()
    call("audit", "--queue", "q", url=redis_url)


@pytest.mark.slow
def test_a_namespace_held_to_its_rate_stops_no_other(redis_url: str, tmp_path: Path) -> None:
    """The service is too busy for one namespace: while it crawls, the one behind it in the stream is drained."""
    # a worker searches past a slow namespace once it knows of another one
    load(tmp_path, redis_url, "known", 10, 10)
    load(tmp_path, redis_url, "busy", BUSY, BUSY)
    load(tmp_path, redis_url, "quick", QUICK, QUICK)
    with emulated("--faults", "throttle=2:0;namespace=busy") as index:
        log = tmp_path / "worker.log"
        worker = start(*WORK, "--batch-size", "20", "--index-host", index.url, url=redis_url, log=log)
        wait_until(lambda: drained(redis_url, "quick"), 90, "what is behind the slow namespace is drained")
        left = books(redis_url, "q", "busy")["pending"]
        assert left > BUSY // 4, "the slow one was not slow enough to mean anything"
        index.set_faults(None)
        call("wait", "--queue", "q", "--timeout", "90", url=redis_url)
        assert_latest(index, "busy", BUSY, BUSY)
        worker.terminate()
        assert worker.wait(30) == 0, log.read_text()
    assert document("status", "--queue", "q", url=redis_url)["acked"] == BUSY + QUICK + 10
    call("audit", "--queue", "q", url=redis_url)
