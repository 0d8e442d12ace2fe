"""Takes the index away from a worker under load, gives it back, and prints what came of it as JSON: `make outage`.

python tests/faults/outage.py --how down --seconds 300
python tests/faults/outage.py --how 503 --seconds 300
"""
# ruff: noqa: T201 - a command speaks by printing

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent.parent))

from processes import books, call, emulated, end_all, start
from servers import RealServer, available_kinds, free_port
from upsertq import Producer
from upsertq.contract.keys import QueueKeys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from forked import Process
    from processes import Index

QUEUE = "outage"
HEALTHY = "latency=constant:0.1"
WINDOW = 1.0
"""Seconds over which a rate is taken."""
PATIENCE = 300.0


def main() -> int:
    """Return 0 when everything landed and nothing is dead, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--how", choices=("down", "503"), default="down", help="no process listens, or 503 for all")
    parser.add_argument("--seconds", type=float, default=300.0, help="of the outage (default 300)")
    parser.add_argument("--rate", type=int, default=200, help="records a second that are loaded all the while")
    parser.add_argument("--ahead", type=int, default=25_000, help="records that are loaded first")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        figures = Stage(Path(directory), wanted.how).play(wanted.seconds, wanted.rate, wanted.ahead)
    print(json.dumps(figures, indent=2))
    return 0 if figures["dead"] == figures["pending"] == 0 and figures["acked"] == figures["enqueued"] else 1


@dataclass
class Stage:
    """One outage: a server, a worker, a producer, and an index that goes away and comes back."""

    directory: Path
    how: str
    figures: dict[str, Any] = field(default_factory=dict)

    def play(self, seconds: float, rate: int, ahead: int) -> dict[str, Any]:
        """Live through it and return the figures."""
        server = RealServer(available_kinds()[0], self.directory / "redis").start()
        try:
            with ExitStack() as indexes:
                self._play(server, indexes, seconds, rate, ahead)
        finally:
            end_all()
            server.stop()
        return {"how": self.how, "outage_seconds": seconds, "loaded_per_second": rate, **self.figures}

    def _play(self, server: RealServer, indexes: ExitStack, seconds: float, rate: int, ahead: int) -> None:
        index = indexes.enter_context(emulated("--faults", HEALTHY, port=free_port()))
        with Producer(QUEUE, url=server.url) as producer:
            put(producer, 0, ahead)
        worker = start(
            *("work", "--queue", QUEUE, "--index-host", index.url, "--batch-size", "20"),
            url=server.url,
            log=self.directory / "worker.log",
        )
        with loading(server.url, ahead, rate):
            before = self._rate_before(index)
            index = self._outage(server, indexes, index, seconds)
            self._recovery(index, before)
        call("wait", "--queue", QUEUE, "--timeout", str(PATIENCE), url=server.url, timeout=PATIENCE + 30)
        self._end(server, worker)

    def _rate_before(self, index: Index) -> float:
        poll(lambda: index.counters["records"] > 0, "the first record to land")
        self._pass(1.0)
        (since, count) = (time.monotonic(), index.counters["records"])
        self._pass(3.0)
        rate = (index.counters["records"] - count) / (time.monotonic() - since)
        self.figures["rate_before"] = round(rate)
        return float(rate)

    def _outage(self, server: RealServer, indexes: ExitStack, index: Index, seconds: float) -> Index:
        """Take the index away for so many seconds; returns the one that is there afterwards."""
        port = urlsplit(index.url).port or 0
        refused = Refused(server, index, self.how)
        if self.how == "down":
            index.process.kill()
            index.process.wait()
        else:
            index.set_faults("error=503")
        self._pass(min(2.0, seconds / 4))
        marks = [refused.count]
        began = time.monotonic() - min(2.0, seconds / 4)
        while (left := began + seconds - time.monotonic()) > 0:
            self._pass(min(left, 60.0 - (time.monotonic() - began) % 60))
            marks.append(refused.count)
        self._note_requests(marks, seconds)
        shown = call("status", "--queue", QUEUE, url=server.url).stdout.splitlines()
        self.figures["status"] = [line for line in shown if "index" in line and "alarm" in line]
        self.figures["dead_in_outage"] = books(server.url, QUEUE)["dead"]
        if self.how == "down":
            return indexes.enter_context(emulated("--faults", HEALTHY, port=port))
        index.set_faults(HEALTHY)
        return index

    def _note_requests(self, marks: list[int], seconds: float) -> None:
        self.figures["requests_in_outage"] = marks[-1]
        self.figures["requests_in_first_2_s"] = marks[0]
        self.figures["requests_by_minute"] = [b - a for a, b in zip([0, *marks[1:]], marks[1:], strict=False)]
        self.figures["requests_per_minute"] = round(marks[-1] * 60 / seconds, 1)

    def _recovery(self, index: Index, before: float) -> None:
        began, base = time.monotonic(), index.counters["records"] if self.how == "503" else 0
        samples: deque[tuple[float, int]] = deque([(began, base)])

        def landed() -> bool:
            samples.append((time.monotonic(), index.counters["records"]))
            while samples[-1][0] - samples[1][0] > WINDOW:
                samples.popleft()
            if samples[-1][1] > base:
                self.figures.setdefault("seconds_to_first_ack", round(samples[-1][0] - began, 2))
            span = samples[-1][0] - samples[0][0]
            return span >= WINDOW and (samples[-1][1] - samples[0][1]) / span >= 0.9 * before

        poll(landed, "the rate to be back")
        self.figures["seconds_to_90_percent"] = round(time.monotonic() - began, 2)

    def _end(self, server: RealServer, worker: Process) -> None:
        self.figures |= books(server.url, QUEUE)
        # the next beat tells it
        poll(lambda: not beat(server).get("alarms"), "the alarm to go away")
        call("audit", "--queue", QUEUE, url=server.url)
        worker.terminate()
        self.figures["worker_exit"] = worker.wait(60)

    def _pass(self, seconds: float) -> None:
        """Let real time go by: an outage and a rate are so long, there is no event to wait for."""
        time.sleep(max(0.0, seconds))


class Refused:
    """Requests that came to nothing since it was made."""

    def __init__(self, server: RealServer, index: Index, how: str) -> None:
        self._server = server
        self._index = index
        self._exact = how == "503"
        self._landed = 0 if self._exact else int(index.counters["upserts"])

    @property
    def count(self) -> int:
        """So far: as the index counts them; without one, what the worker's last heartbeat has beyond what landed."""
        if self._exact:
            return int(self._index.counters["outcomes"].get("503", 0))
        return max(0, int(beat(self._server)["requests"]) - self._landed)


def beat(server: RealServer) -> dict[str, Any]:
    """The latest heartbeat of the only worker."""
    with server.client() as client:
        (said,) = client.hgetall(QueueKeys(QUEUE).workers).values()
    found: dict[str, Any] = json.loads(said)
    return found


def put(producer: Producer, first: int, count: int) -> None:
    """Put records over four namespaces, every id once."""
    for number in range(first, first + count):
        producer.put(f"id-{number}", [1.0, float(number % 1000), 0.5, 2.0], namespace=f"tenant-{number % 4}")
    producer.flush()


@contextmanager
def loading(url: str, first: int, rate: int) -> Iterator[None]:
    """Load `rate` records a second in the background."""
    stopped = threading.Event()

    def load() -> None:
        number = first
        with Producer(QUEUE, url=url) as producer:
            while not stopped.wait(0.25):
                put(producer, number, rate // 4)
                number += rate // 4

    thread = threading.Thread(target=load)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def poll(condition: Any, what: str) -> None:
    """Wait until `condition()` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {PATIENCE:g} s in vain for {what}")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
