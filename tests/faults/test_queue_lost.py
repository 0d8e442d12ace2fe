"""A server that loses data, all of it or a single key, in mid-load and in mid-drain: it is told, or does no harm.

Real processes: two workers and two waits, beside a producer that lives on. None of them ever takes a loss for success.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest

from processes import books, call, complaint, document, emulated, kill, start
from upsertq import Producer, QueueLost
from upsertq.contract.keys import QueueKeys
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from forked import Process
    from processes import Index
    from servers import RealServer

Q: Final = ("--queue", "q")
KEYS: Final = QueueKeys("q")
SHARD: Final = KEYS.shard(0)
LOST: Final = "the server lost queue 'q'"
SOON: Final = 90.0
"""Seconds: on an idle machine a loss is told within five of them."""
WORK: Final = ("work", *Q, "--lease", "1", "--quarantine", "0.5", "--linger", "0.05")
SLOW: Final = ("--batch-size", "10", "--concurrency", "2")
LATENCY: Final = "latency=constant:0.1"
PUT: Final = 20
"""Records that the producer puts at a time."""
EVERYTHING: Final = ("flushall", "restart")
THE_QUEUE: Final = ("meta", "books")
"""Keys without which there is no queue any more."""
HARMLESS: Final = ("lanes", "bell", "workers", "lease")
"""Keys that hold nothing which is not found again."""
READING: Final = {"hgetall", "hget", "hmget"}
"""The last command of a look of a wait: where records are pending, and where none is."""
ALL_OF: Final = {
    "meta": KEYS.meta,
    "books": SHARD.books,
    "run": SHARD.run("r"),
    "lanes": SHARD.lanes,
    "bell": SHARD.bell,
    "stream": SHARD.stream(""),
    "runs": KEYS.runs,
    "workers": KEYS.workers,
    "lease": SHARD.lease,
}


@dataclass
class LongLived:
    """A producer that puts records of run `r`, a few at a time, until it is told to stop, or fails."""

    url: str
    put: int = 0
    error: Exception | None = None
    _going: threading.Event = field(default_factory=threading.Event)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def begin(self) -> LongLived:
        """Start."""
        self._going.set()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def hold(self) -> None:
        """Put nothing more until it shall `go_on`."""
        self._going.clear()

    def go_on(self) -> None:
        """Put again."""
        self._going.set()

    def end(self) -> Exception | None:
        """Stop, close the producer, and return what it raised."""
        self._stopped.set()
        self._going.set()
        return self.ended()

    def ended(self) -> Exception | None:
        """Wait for its end, and return what it raised."""
        assert self._thread is not None
        self._thread.join(SOON)
        assert not self._thread.is_alive(), "the producer goes on"
        return self.error

    def _run(self) -> None:
        try:
            with Producer("q", url=self.url, shards=2) as producer:
                while not self._stopped.is_set():
                    names = [f"id-{number}" for number in range(self.put, self.put + PUT)]
                    producer.put_many(names, [[1.0, 2.0]] * PUT, run="r")
                    producer.flush()
                    self.put += PUT
                    self._stopped.wait(0.05)
                    self._going.wait(SOON)
        except Exception as error:  # noqa: BLE001 - it is what the test asks for
            self.error = error


@dataclass
class Stage:
    """A server with a queue that is drained slowly."""

    server: RealServer
    directory: Path
    index: Index
    workers: list[Process] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Of the server."""
        return self.server.url

    def work(self, *options: str) -> None:
        """Start two workers."""
        for number in range(2):
            log = self.directory / f"worker-{number}.log"
            self.workers.append(start(*WORK, *options, "--index-host", self.index.url, url=self.url, log=log))
        wait_until(lambda: self.told("holds 1 of 2 shards; workers: 2") == [1, 1], SOON, "they share the queue")
        wait_until(lambda: self.index.counters["records"] > 0, SOON, "they work")

    def wait(self, *options: str) -> Ending:
        """Start a `wait` that lasts."""
        ending = Ending(self.directory / f"wait{len(options)}.log")
        with self.server.client() as client:
            known = _connected(client).keys()
            ending.process = start("wait", *Q, *options, url=self.url, log=ending.log)
            wait_until(lambda: ending.over() or READING & {*_since(client, known)}, SOON, "it waits")
            assert not ending.over(), ending.log.read_text()
        return ending

    def lose(self, what: str) -> None:
        """Lose everything, or a key."""
        if what == "restart":
            self.server.kill()
            self.server.start()
            return
        with self.server.client() as client:
            if what == "flushall":
                client.flushall()
            else:
                wait_until(lambda: client.delete(ALL_OF[what]), SOON, f"there is a key {ALL_OF[what]} to lose")

    def told(self, words: str) -> list[int]:
        """How often each worker's log has these words."""
        return [(self.directory / f"worker-{number}.log").read_text().count(words) for number in range(2)]

    def alarms(self) -> set[str]:
        """What needs an operator, as `status` has it."""
        return {alarm for worker in document("status", *Q, url=self.url)["workers"] for alarm in worker["alarms"]}

    def begin_anew(self) -> None:
        """Remove what is left of the queue, as the error says, and load another one by its name."""
        with self.server.client() as client:
            left = client.dbsize()
        call("delete-queue", "q", "--yes", "--force", url=self.url, expect=0 if left else 1)
        with Producer("q", url=self.url, shards=2) as producer:
            producer.put_many([f"new-{number}" for number in range(50)], [[3.0, 4.0]] * 50, run="again")


@dataclass
class Ending:
    """A command that is to end."""

    log: Path
    process: Process | None = None

    def over(self) -> bool:
        """Whether it ended already."""
        assert self.process is not None
        return self.process.poll() is not None

    def code(self) -> int:
        """How it ended."""
        assert self.process is not None
        return self.process.wait(SOON)

    def fails(self, *words: str) -> None:
        """It ended with exit code 1, saying this."""
        code, said = self.code(), self.log.read_text()
        assert (code, [word for word in words if word not in said]) == (1, []), said
        assert "Traceback" not in said


def _connected(client: Any) -> dict[str, dict[str, str]]:
    """The connections of the server, by number."""
    return {one["id"]: one for one in client.client_list()}


def _since(client: Any, known: Iterable[str]) -> list[str]:
    """The latest command on each connection that is not known, and stands for longer than it takes to find a queue."""
    fresh = _connected(client).items()
    return [one["cmd"] for number, one in fresh if number not in {*known} and int(one["age"]) >= 2]


@pytest.fixture
def stage(make_server: Callable[..., RealServer], tmp_path: Path) -> Iterator[Stage]:
    """Provide a server without persistence, and a slow index."""
    with emulated("--faults", LATENCY) as index:
        yield Stage(make_server(port=0), tmp_path, index)


@contextmanager
def loading(stage: Stage) -> Iterator[LongLived]:
    """A producer that lives on, and workers behind it."""
    producer = LongLived(stage.url).begin()
    try:
        wait_until(lambda: producer.put > 10 * PUT or producer.error, SOON, "the producer puts")
        assert producer.error is None
        yield producer
    finally:
        producer.end()


def loaded(stage: Stage, count: int = 40 * PUT) -> None:
    """A run that is complete, and long enough to lose something in mid-drain."""
    with Producer("q", url=stage.url, shards=2) as producer:
        for first in range(0, count, PUT):
            names = [f"id-{number}" for number in range(first, first + PUT)]
            producer.put_many(names, [[1.0, 2.0]] * PUT, run="r")
            producer.flush()


def assert_all_landed(stage: Stage) -> None:
    """Nothing was lost, whatever was."""
    found = books(stage.url, "q")
    assert found == {
        "enqueued": found["enqueued"], "acked": found["enqueued"], "superseded": 0, "discarded": 0, "dead": 0,
        "pending": 0,
    }  # fmt: skip
    call("audit", *Q, url=stage.url)


@pytest.mark.parametrize("what", [*EVERYTHING, *THE_QUEUE])
def test_in_mid_load_the_loss_of_the_queue_is_told_by_all(stage: Stage, what: str) -> None:
    """The producer and the waits end, the workers raise one alarm; another queue by the name is drained by them.

    It is created while the old producer, which knows nothing of it yet, still runs.
    """
    with loading(stage) as producer:
        of_run, of_all = stage.wait("--run", "r"), stage.wait()
        stage.work(*SLOW)
        producer.hold()
        stage.lose(what)
        of_run.fails(LOST)
        of_all.fails(LOST)
        wait_until(lambda: stage.told(LOST) == [1, 1], SOON, "both workers raise an alarm")
        stage.begin_anew()
        producer.go_on()
        assert isinstance(producer.ended(), QueueLost), producer.error
        call("wait", *Q, "--run", "again", "--timeout", "60", url=stage.url)
    wait_until(lambda: stage.told("was created anew") == [1, 1], SOON, "both workers found the new queue")
    assert stage.told(LOST) == [1, 1]
    assert books(stage.url, "q")["enqueued"] == 50, "the old producer added to the new queue"
    assert_all_landed(stage)
    for worker in stage.workers:
        worker.terminate()
        assert worker.wait(SOON) == 0


@pytest.mark.parametrize("what", [*EVERYTHING, *THE_QUEUE])
def test_in_mid_drain_the_loss_of_the_queue_is_told_by_all(stage: Stage, what: str) -> None:
    """Nothing is pending after it where everything is lost: that is no success, nor for who drains to the end."""
    loaded(stage)
    of_run, of_all = stage.wait("--run", "r"), stage.wait()
    stage.work(*SLOW, "--until-empty")
    stage.lose(what)
    of_run.fails(LOST)
    of_all.fails(LOST)
    assert [worker.wait(SOON) for worker in stage.workers] == [1, 1]
    assert stage.told(LOST) == [1, 1]


@pytest.mark.parametrize("what", EVERYTHING)
def test_a_producer_that_goes_on_tells_the_loss(stage: Stage, what: str) -> None:
    """Nothing was created anew: nothing is re-created by the way either, and it says how much was pending."""
    with loading(stage) as producer:
        stage.lose(what)
        error = producer.ended()
    assert isinstance(error, QueueLost), error
    assert error.pending
    assert LOST in str(error)
    with stage.server.client() as client:
        assert client.keys("*") == []


@pytest.mark.parametrize("what", HARMLESS)
@pytest.mark.parametrize("when", ["load", "drain"])
def test_what_holds_nothing_may_be_lost(stage: Stage, what: str, when: str) -> None:
    """The work goes on: all is found again."""
    if when == "load":
        with loading(stage) as producer:
            of_run = stage.wait("--run", "r")
            stage.work(*SLOW)
            stage.lose(what)
            put = producer.put
            wait_until(lambda: producer.put > put + 2 * PUT or producer.error, SOON, "the producer goes on")
            assert producer.end() is None
    else:
        loaded(stage)
        of_run = stage.wait("--run", "r")
        stage.work(*SLOW)
        stage.lose(what)
    assert of_run.code() == 0, of_run.log.read_text()
    call("wait", *Q, "--timeout", "60", url=stage.url)
    assert_all_landed(stage)


def test_lanes_that_were_lost_before_a_worker_came(stage: Stage) -> None:
    """The audit shows it; a worker, which knows none of the streams, finds them."""
    loaded(stage)
    stage.lose("lanes")
    drifts = document("audit", *Q, url=stage.url, expect=1)["drifts"]
    assert {(drift["shard"], drift["counter"]) for drift in drifts} >= {(0, "pending")}
    of_run = stage.wait("--run", "r")
    call(*WORK, "--until-empty", "--index-host", stage.index.url, url=stage.url)
    assert of_run.code() == 0, of_run.log.read_text()
    assert_all_landed(stage)


@pytest.mark.parametrize("when", ["load", "drain"])
def test_a_run_whose_books_were_lost_is_not_done(stage: Stage, when: str) -> None:
    """Its wait and its producer say so; what else waits for the queue goes on, for its records are all there."""
    if when == "load":
        with loading(stage) as producer:
            of_run = stage.wait("--run", "r")
            stage.work(*SLOW)
            stage.lose("run")
            of_run.fails(LOST, "run 'r'")
            assert isinstance(producer.end(), QueueLost)
    else:
        loaded(stage)
        of_run = stage.wait("--run", "r")
        stage.work(*SLOW)
        stage.lose("run")
        of_run.fails(LOST, "run 'r'")
    call("wait", *Q, "--timeout", "60", url=stage.url)
    assert books(stage.url, "q")["pending"] == 0
    assert LOST in complaint("wait", *Q, "--run", "r", "--timeout", "10", url=stage.url, expect=1)
    call("audit", *Q, url=stage.url, expect=1)


@pytest.mark.parametrize("when", ["load", "drain"])
def test_runs_that_are_not_known_any_more(stage: Stage, when: str) -> None:
    """A wait that knew its run says so; the queue itself lacks nothing."""
    if when == "load":
        with loading(stage) as producer:
            of_run = stage.wait("--run", "r")
            stage.work(*SLOW)
            stage.lose("runs")
            of_run.fails(LOST, KEYS.runs)
            assert producer.end() is None
    else:
        loaded(stage)
        of_run = stage.wait("--run", "r")
        stage.work(*SLOW)
        stage.lose("runs")
        of_run.fails(LOST, KEYS.runs)
    call("wait", *Q, "--timeout", "60", url=stage.url)
    assert_all_landed(stage)


@pytest.mark.parametrize("when", ["load", "drain"])
def test_a_stream_that_was_lost_leaves_records_pending_for_ever(stage: Stage, when: str) -> None:
    """The books know of them: waits end, an alarm stands, and a worker that drains to the end fails."""
    if when == "load":
        with loading(stage) as producer:
            wait_until(lambda: producer.put > 40 * PUT or producer.error, SOON, "there is something to lose")
            of_run, of_all = stage.wait("--run", "r"), stage.wait()
            stage.work(*SLOW)
            stage.lose("stream")
            assert producer.end() is None
    else:
        loaded(stage)
        of_run, of_all = stage.wait("--run", "r"), stage.wait()
        stage.work(*SLOW)
        stage.lose("stream")
    stage.index.set_faults(None)  # waits look for what is lost once the books stand still: the other shard is drained
    of_run.fails(LOST, "no stream holds")
    of_all.fails(LOST, "no stream holds")
    wait_until(lambda: sum(stage.told("no stream holds them")) == 1, SOON, "one alarm is raised")
    wait_until(lambda: "shard 0: books" in stage.alarms(), SOON, "the next heartbeat tells of it")
    for worker in stage.workers:
        worker.terminate()
        assert worker.wait(SOON) == 0
    said = complaint(*WORK, "--until-empty", "--index-host", stage.index.url, url=stage.url, expect=1)
    assert "shard 0" in said
    assert "no stream holds them" in said
    call("audit", *Q, url=stage.url, expect=1)


def test_a_load_killed_half_way_is_not_done(stage: Stage) -> None:
    """All of the run that came is drained, and nothing is pending: that is not all of it. Its rest makes it done."""
    source = stage.directory / "records.jsonl"
    source.write_text("".join(f'{{"id": "id-{number}", "values": [1, 2]}}\n' for number in range(20_000)))
    load = ("load", source, *Q, "--run", "r", "--shards", "2", "--timeout", "60")
    killed = start(*load, "--max-pending-records", "500", url=stage.url, log=stage.directory / "load.log")
    with stage.server.client() as client:
        wait_until(lambda: client.exists(KEYS.meta), SOON, "the load made the queue, of its shards")
    stage.work("--batch-size", "100", "--concurrency", "2")
    kill(killed)
    of_run = stage.wait("--run", "r", "--open-timeout", "5")
    of_run.fails("run 'r' is not complete", "--resume")
    assert books(stage.url, "q", "r")["pending"] == 0
    stage.index.set_faults(None)
    call(*load, "--resume", url=stage.url)
    call("wait", *Q, "--run", "r", "--timeout", "60", url=stage.url)
    assert books(stage.url, "q", "r")["acked"] == 20_000
