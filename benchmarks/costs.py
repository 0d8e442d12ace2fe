"""What a record costs: CPU of producer, server and worker, calls, bytes on the wire and in memory (docs/scale.md).

Each row is one queue that is filled and then drained by one worker into a sink that keeps nothing. Namespaces share the
records equally. Figures of the server come from its own INFO, before and after.

    python benchmarks/costs.py --dimension 1536 --dimension 64 --namespaces 1 --namespaces 1000
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import subprocess
import sys
import time
from typing import Any, Final

import click
import redis
from drain import QUEUE, Stopwatch, matrix_of, redis_server, serve

from upsertq import Producer

PUT: Final = 1_000
"""Records that the producer is given at a time."""
ROWS: Final = (
    ("producer CPU, µs", "put_cpu"),
    ("server CPU to enqueue, µs", "put_server"),
    ("bytes to the server", "put_in"),
    ("scripts to enqueue", "put_scripts"),
    ("server memory, bytes", "memory"),
    ("worker CPU, µs", "work_cpu"),
    ("server CPU to drain, µs", "work_server"),
    ("bytes from the server", "work_out"),
    ("calls to drain", "work_calls"),
    ("requests to the index", "requests"),
)


def look(client: Any) -> dict[str, float]:
    """What the server counts: its CPU, traffic, memory, and the calls that clients made."""
    info = client.info("everything")
    calls = {name: found["calls"] for name, found in info.items() if name.startswith("cmdstat_")}
    scripts = calls.get("cmdstat_evalsha", 0) + calls.get("cmdstat_eval", 0)
    return {
        "cpu": info["used_cpu_user"] + info["used_cpu_sys"],
        "in": info["total_net_input_bytes"],
        "out": info["total_net_output_bytes"],
        "memory": info["used_memory"],
        "scripts": scripts,
        "calls": scripts + calls.get("cmdstat_xread", 0),
    }


def fill(url: str, records: int, dimension: int, namespaces: int) -> float:
    """Enqueue; returns seconds of CPU."""
    matrix, each = matrix_of(records, dimension), records // namespaces
    with Producer(QUEUE, url=url) as producer:
        watch = Stopwatch()
        for start in range(0, records, min(PUT, each)):
            stop = min(start + min(PUT, each), records)
            names = [f"id-{number}" for number in range(start, stop)]
            namespace = f"tenant-{start // each}" if namespaces > 1 else ""
            producer.put_many(names, matrix[start:stop], namespace=namespace)
        producer.flush()
        return watch.read()["cpu"]


def measure(port: int, records: int, dimension: int, namespaces: int) -> dict[str, float]:
    """One row, by record."""
    with redis_server() as url, redis.Redis.from_url(url, protocol=2) as client:
        empty = look(client)
        put_cpu = fill(url, records, dimension, namespaces)
        full = look(client)
        arguments = [str(value) for value in (port, records, dimension, 8)]
        drain = [sys.executable, __file__.replace("costs.py", "drain.py"), "side", "worker", url, *arguments]
        done = json.loads(subprocess.run(drain, check=True, capture_output=True, text=True).stdout)
        drained = look(client)
    found = {
        "put_cpu": put_cpu * 1e6,
        "put_server": (full["cpu"] - empty["cpu"]) * 1e6,
        "put_in": full["in"] - empty["in"],
        "put_scripts": full["scripts"] - empty["scripts"],
        "memory": full["memory"] - empty["memory"],
        "work_cpu": done["cpu"] * 1e6,
        "work_server": (drained["cpu"] - full["cpu"]) * 1e6,
        "work_out": drained["out"] - full["out"],
        "work_calls": drained["calls"] - full["calls"],
        "requests": done["requests"],
    }
    return {name: value / records for name, value in found.items()}


@click.command()
@click.option("--dimension", "dimensions", type=int, multiple=True, default=(1536, 384, 64), show_default=True)
@click.option("--namespaces", "spaces", type=int, multiple=True, default=(1, 1_000), show_default=True)
@click.option("--records", default=50_000, show_default=True)
def main(dimensions: tuple[int, ...], spaces: tuple[int, ...], records: int) -> None:
    """Print a table in Markdown: a column for each dimension and number of namespaces, a row for each cost."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sink = multiprocessing.Process(target=serve, args=(port,), daemon=True)
    sink.start()
    while socket.socket().connect_ex(("127.0.0.1", port)):
        time.sleep(0.05)
    columns = [(dimension, namespaces) for namespaces in spaces for dimension in dimensions]
    found = [measure(port, records, *column) for column in columns]
    print(f"| a record costs | {' | '.join(f'{dim}-d, {number:,} namespaces' for dim, number in columns)} |")
    print("| --- |" + " ---: |" * len(columns))
    for title, name in ROWS:
        print(f"| {title} | {' | '.join(f'{costs[name]:,.3g}' for costs in found)} |")
    sink.terminate()


if __name__ == "__main__":
    main()
