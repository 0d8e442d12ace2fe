"""How soon a pool of workers is balanced, and what one costs the server: real workers in this process, a real server.

A join, a leave in good order and a death, each of four workers on 16 shards, until all shards are shared out evenly
again; then 64 workers on 16 shards, of which 16 work: commands a second in the calm, by kind (INFO commandstats).

    python benchmarks/pool.py --rounds 5
"""

from __future__ import annotations

import asyncio
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import redis

from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Patience
from upsertq.contract.queue import open_queue
from upsertq.contract.server import AsyncServer
from upsertq_worker.edge.http_index import HttpIndex, IndexAddress
from upsertq_worker.queue.redis_queue import RedisQueue
from upsertq_worker.settings import Settings
from upsertq_worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from upsertq.contract.queue import QueueShape

KEYS: Final = QueueKeys("pool")
SHARDS: Final = 16
MANY: Final = 64
CALM_SECONDS: Final = 20.0


class Member:
    """One worker with a connection of its own."""

    def __init__(self, url: str, shape: QueueShape, name: str) -> None:
        settings = Settings()
        self.server = AsyncServer.at(url)
        self.index = HttpIndex(IndexAddress("http://127.0.0.1:9", "2025-10"), timeout=1.0, connections=1)
        self.queue = RedisQueue(self.server, shape, name, settings.lease)
        self.worker = Worker(name, shape.shards, self.queue, self.index, settings)
        self.task: asyncio.Task[Any] = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self.index:
            await self.worker.run()

    async def leave(self) -> None:
        """End in good order."""
        self.worker.stop()
        await self.task
        await self.server.close()

    async def die(self) -> None:
        """End without a word to the server."""
        self.queue.release = self.queue.leave = _silent  # type: ignore[method-assign]
        await self.server.close()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def _silent(*_: object) -> None:
    pass


class Pool:
    """The workers of one queue, and its server."""

    def __init__(self, url: str, shape: QueueShape) -> None:
        self._url, self._shape = url, shape
        self._client: Any = redis.Redis(unix_socket_path=url.removeprefix("unix://"))
        self.members: list[Member] = []
        self._hired = 0

    def join(self) -> None:
        """Start a worker."""
        self._hired += 1
        self.members.append(Member(self._url, self._shape, f"w{self._hired:03}"))

    def spread(self) -> list[int]:
        """How many shards each member that has some holds, by the leases on the server."""
        leases = self._client.mget([KEYS.shard(shard).lease for shard in range(SHARDS)])
        known = {member.worker.context.name for member in self.members}
        held = Counter(lease.partition(b":")[2].decode() for lease in leases if lease)
        return sorted(count for name, count in held.items() if name in known)

    def balanced(self) -> bool:
        """Whether all shards are shared out evenly among the members."""
        each, more = divmod(SHARDS, len(self.members))
        counts = [each] * (len(self.members) - more) + [each + 1] * more
        return self.spread() == [count for count in counts if count]

    async def until_balanced(self) -> float:
        """Wait for it; returns the seconds that it took."""
        begin = time.perf_counter()
        while not self.balanced():  # noqa: ASYNC110 - the server tells of no change
            await asyncio.sleep(0.02)
        return time.perf_counter() - begin

    def calls(self) -> dict[str, int]:
        """Commands that the server has carried out, by name."""
        stats = self._client.info("commandstats")
        return {name.removeprefix("cmdstat_"): figures["calls"] for name, figures in stats.items()}

    def sent(self) -> int:
        """Bytes that the server has sent."""
        return int(self._client.info("stats")["total_net_output_bytes"])


async def _measure(url: str, rounds: int) -> None:
    server = AsyncServer.at(url)
    patience = Patience(30.0, time.monotonic, random.Random(1))
    pool = Pool(url, await server.hold(open_queue(KEYS, SHARDS, 1, patience)))
    for _ in range(3):
        pool.join()
    await pool.until_balanced()
    took: dict[str, list[float]] = {"join": [], "leave": [], "death": []}
    for _ in range(rounds):
        for what in ("join", "leave", "", "death"):
            await asyncio.sleep(random.uniform(1.5, 3.0))
            if what in took and what != "join":
                member = pool.members.pop(0)
                await (member.leave() if what == "leave" else member.die())
            else:
                pool.join()
            seconds = await pool.until_balanced()
            if what:
                took[what].append(seconds)
    for what, all_seconds in took.items():
        print(f"{what}: median {statistics.median(all_seconds):.2f} s, at most {max(all_seconds):.2f} s", flush=True)
    await asyncio.sleep(3 * Settings().lease + 3)  # until the deaths are forgotten
    while len(pool.members) < MANY:
        pool.join()
    print(f"{MANY} workers on {SHARDS} shards: balanced after {await pool.until_balanced():.1f} s")
    await _calm(pool)
    await asyncio.gather(*(member.leave() for member in pool.members))
    await server.close()


async def _calm(pool: Pool) -> None:
    await asyncio.sleep(15)
    before, spread, sent = pool.calls(), pool.spread(), pool.sent()
    await asyncio.sleep(CALM_SECONDS)
    rates = {name: (count - before.get(name, 0)) / CALM_SECONDS for name, count in pool.calls().items()}
    told = ", ".join(
        f"{name} {rate:.1f}" for name, rate in sorted(rates.items(), key=lambda one: -one[1]) if rate > 0.5
    )
    traffic = (pool.sent() - sent) / CALM_SECONDS / 1e6
    print(f"in the calm: {len(spread)} work; the server sends {traffic:.2f} MB a second")
    print(f"{sum(rates.values()):.0f} commands a second, those in scripts too: {told}")


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True, help="How often each is measured.")
@click.option("--server", "command", default="redis-server", show_default=True, help="The server's program.")
def main(rounds: int, command: str) -> None:
    """Measure on a server of its own."""
    program = shutil.which(command)
    if program is None:
        sys.exit(f"there is no program {command}: name one with --server")
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory) / "redis.sock"
        options = ("--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", directory)
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            _until(socket.exists)
            asyncio.run(_measure(f"unix://{socket}", rounds))
        finally:
            process.terminate()
            process.wait()


def _until(there: Callable[[], bool]) -> None:
    while not there():
        time.sleep(0.01)


if __name__ == "__main__":
    main()
