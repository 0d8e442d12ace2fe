"""How fast one worker drains, beside a loop that posts the same batches from memory: the price of the queue.

Both post to a sink that reads a request, counts its records and answers, in turns: pair after pair, each side in a
process of its own. Prints each pair's ratio, and the medians of ratio, records a second and CPU a record.

    python benchmarks/drain.py --dimension 1536 --dimension 384 --dimension 64
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import click
import numpy as np
import orjson
import uvloop

from upsertq import Producer
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Patience
from upsertq.contract.queue import find_queue
from upsertq.contract.server import AsyncServer
from upsertq_worker.edge.http_index import HttpIndex, IndexAddress
from upsertq_worker.queue.redis_queue import RedisQueue
from upsertq_worker.settings import Settings
from upsertq_worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH: Final = 100
QUEUE: Final = "bench"
RECORDS: Final = {1536: 20_000, 384: 60_000, 64: 150_000}
"""Records of one run by dimension, unless told otherwise."""


Taken = dict[str, float]
"""What one run took: `seconds`, seconds of `cpu` of its process, and of a worker the `requests`."""


class Stopwatch:
    """Time and CPU since it was made."""

    def __init__(self) -> None:
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Taken:
        """What was taken so far."""
        return {"seconds": time.perf_counter() - self._began, "cpu": time.process_time() - self._cpu}


class Sink(asyncio.Protocol):
    """An index that keeps nothing: the least that HTTP allows."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._missing = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Gather a request, and answer it when it is whole."""
        if self._missing < 0:
            head, separator, body = (b"".join(self._parts) + data).partition(b"\r\n\r\n")
            if not separator:
                self._parts = [head]
                return
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self._missing, self._parts = int(length.partition(b":")[2]) - len(body), [body]
        else:
            self._parts.append(data)
            self._missing -= len(data)
        if self._missing == 0:
            count = sum(part.count(b'"id":') for part in (b"".join(self._parts),))
            answer = b'{"upsertedCount":%d}' % count
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)
            self._transport.write(head + answer)  # type: ignore[attr-defined]
            self._parts, self._missing = [], -1


def serve(port: int) -> None:
    """Run the sink."""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(main())


def matrix_of(records: int, dimension: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The vectors of every run."""
    return np.random.default_rng(7).standard_normal((records, dimension), dtype=np.float32)


async def loop_side(port: int, records: int, dimension: int, in_flight: int) -> Taken:
    """Post batches from memory, `in_flight` at once."""
    matrix, ids = matrix_of(records, dimension), [f"id-{number}" for number in range(records)]
    gate = asyncio.Semaphore(in_flight)

    async def post(session: aiohttp.ClientSession, start: int) -> None:
        stop = min(start + BATCH, records)
        vectors = [{"id": ids[row], "values": matrix[row]} for row in range(start, stop)]
        body = orjson.dumps({"vectors": vectors}, option=orjson.OPT_SERIALIZE_NUMPY)
        async with session.post(f"http://127.0.0.1:{port}/vectors/upsert", data=body) as response:
            assert orjson.loads(await response.read()) == {"upsertedCount": stop - start}  # noqa: S101 - both sides check
        gate.release()

    headers = {"Content-Type": "application/json", "Api-Key": "k"}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=in_flight)) as session:
        watch, tasks = Stopwatch(), []
        for start in range(0, records, BATCH):
            await gate.acquire()
            tasks.append(asyncio.create_task(post(session, start)))
        await asyncio.gather(*tasks)
        return watch.read()


def fill(url: str, records: int, dimension: int) -> None:
    """Put the same records into the queue."""
    matrix = matrix_of(records, dimension)
    with Producer(QUEUE, url=url) as producer:
        for start in range(0, records, 1_000):
            stop = min(start + 1_000, records)
            producer.put_many([f"id-{number}" for number in range(start, stop)], matrix[start:stop])


async def worker_side(url: str, port: int, records: int, in_flight: int) -> Taken:
    """Drain the queue."""
    server = AsyncServer.at(url)
    shape = await server.hold(find_queue(QueueKeys(QUEUE), Patience(5.0, time.monotonic, random.Random())))
    address = IndexAddress(f"http://127.0.0.1:{port}", api_version="2025-10", api_key="k")
    async with HttpIndex(address, timeout=30.0, connections=in_flight) as index:
        queue = RedisQueue(server, shape, "bench", 10.0)
        settings = Settings(until_empty=True, concurrency=in_flight)
        worker = Worker("bench", shape.shards, queue, index, settings)
        watch = Stopwatch()
        tally = await worker.run()
        taken = watch.read() | {"requests": tally.requests}
    await server.close()
    assert tally.acked == records, tally  # noqa: S101 - a figure of less would be wrong
    return taken


def server_binary() -> str:
    """A server on the PATH."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        raise click.ClickException("no redis-server or valkey-server on the PATH: install one")
    return found


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """A server of its own, without persistence; yields its URL."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "socket")
        command = [server_binary(), "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while not path.exists():
                time.sleep(0.01)
            yield f"unix://{path}"
        finally:
            process.kill()
            process.wait()


def run_side(side: str, port: int, records: int, dimension: int, in_flight: int) -> Taken:
    """One run of one side in a process of its own."""
    arguments = [str(value) for value in (port, records, dimension, in_flight)]
    with redis_server() if side == "worker" else contextlib.nullcontext("-") as url:
        if side == "worker":
            fill(url, records, dimension)
        done = subprocess.run(
            [sys.executable, __file__, "side", side, url, *arguments], check=True, capture_output=True, text=True
        )
    return dict(json.loads(done.stdout))


@click.group(invoke_without_command=True)
@click.option("--dimension", "dimensions", type=int, multiple=True, default=(1536, 384, 64), show_default=True)
@click.option("--records", type=int, help="Records of one run; by dimension unless given.")
@click.option("--pairs", default=5, show_default=True)
@click.option("--in-flight", default=8, show_default=True, help="Requests in flight, on both sides.")
@click.pass_context
def main(context: click.Context, dimensions: tuple[int, ...], records: int | None, pairs: int, in_flight: int) -> None:
    """Measure one worker against a loop without a queue."""
    if context.invoked_subcommand:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sink = multiprocessing.Process(target=serve, args=(port,), daemon=True)
    sink.start()
    while socket.socket().connect_ex(("127.0.0.1", port)):
        time.sleep(0.05)
    for dimension in dimensions:
        count = records or RECORDS.get(dimension, 50_000)
        ratios, found = [], {"loop": list[Taken](), "worker": list[Taken]()}
        for _ in range(pairs):
            for side, runs in found.items():
                runs.append(run_side(side, port, count, dimension, in_flight))
            ratios.append(found["loop"][-1]["seconds"] / found["worker"][-1]["seconds"])
        print(f"dimension {dimension}, {count:,} records: ratios {' '.join(f'{ratio:.2f}' for ratio in ratios)}")
        for side, runs in found.items():
            rate = count / statistics.median(run["seconds"] for run in runs)
            cpu = statistics.median(run["cpu"] for run in runs) / count * 1e6
            print(f"  {side:6} {rate:10,.0f} records/s {cpu:8.2f} µs CPU a record")
        print(f"  median ratio {statistics.median(ratios):.2f}")
    sink.terminate()


@main.command(hidden=True)
@click.argument("which")
@click.argument("url")
@click.argument("numbers", nargs=4, type=int)
def side(which: str, url: str, numbers: tuple[int, int, int, int]) -> None:
    """One run of one side."""
    port, records, dimension, in_flight = numbers
    if which == "loop":
        taken = uvloop.run(loop_side(port, records, dimension, in_flight))
    else:
        taken = uvloop.run(worker_side(url, port, records, in_flight))
    print(json.dumps(taken))


if __name__ == "__main__":
    main()
