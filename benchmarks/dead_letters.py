"""How long `upsertq dead` takes with very many letters: fills an empty server in the real format, times the commands.

redis-server --port 6399 --save '' &
python benchmarks/dead_letters.py --redis-url redis://127.0.0.1:6399/0 --letters 300000
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from typing import Any, Final

import numpy as np
import orjson
import redis

from upsertq.contract.dead_letter import Reason, Verdict, encode_letter, mark_field
from upsertq.contract.keys import QueueKeys, shard_of
from upsertq.contract.wire import FORMAT, Entry

QUEUE: Final = "default"
INCARNATION: Final = "bench"
SHARDS: Final = 8
BATCH: Final = 2_000
REASONS: Final = tuple(Reason)[:3]
RUNS: Final = ("night", "day")
NOW_MS: Final = int(time.time() * 1000)


def fill(client: redis.Redis, letters: int, dim: int) -> None:
    """Write `letters` letters of three reasons and two runs, with their marks and books, as settling does."""
    keys = QueueKeys(QUEUE)
    meta: dict[Any, Any] = {"format": FORMAT, "incarnation": INCARNATION, "state": "ready", "created": NOW_MS}
    client.hset(keys.meta, mapping=meta | {"shards": SHARDS, "dimension": dim})
    note = orjson.dumps({"begun": NOW_MS, "sealed": NOW_MS})
    client.hset(keys.runs, mapping=dict.fromkeys(RUNS, note))
    values = np.random.default_rng(1).standard_normal(dim, dtype=np.float32).tobytes()
    counts: Counter[tuple[int, str, str]] = Counter()
    pipeline = client.pipeline(transaction=False)
    for at in range(letters):
        name, run, reason = f"document-{at:07}", RUNS[at % 2], REASONS[at % 3]
        shard = shard_of("", name, SHARDS)
        entry = Entry("", (name,), dim, values, metadata=b'[{"n":1}]', run=run, at=NOW_MS, seq=f"{NOW_MS}-{at}-0")
        verdict = Verdict(reason, 400, "3", "Metadata value must be a string", '{"field": "n"}', "rq-1", "50 25 1", 7)
        fields = encode_letter(entry, replace(verdict, first_ms=NOW_MS - 1_500, last_ms=NOW_MS, worker="w1"))
        stream_id = f"{NOW_MS}-{at}"
        pipeline.execute_command("XADD", keys.shard(shard).dead, stream_id, *fields)  # type: ignore[no-untyped-call]
        pipeline.hset(keys.shard(shard).dead_ids, mark_field(entry), f"D,{entry.seq},{stream_id},{run}")
        for name_of in ("enqueued", "dead", f"reason:{reason}"):
            counts[shard, run, name_of] += 1
        if at % BATCH == BATCH - 1:
            pipeline.execute()
    for (shard, run, counter), count in counts.items():
        pipeline.hincrby(keys.shard(shard).books, counter, count)
        pipeline.hincrby(keys.shard(shard).run(run), counter, count)
    for shard in range(SHARDS):
        pipeline.hset(keys.shard(shard).books, "incarnation", INCARNATION)
    pipeline.execute()


MEASURED: Final = """
import sys
from upsertq.cli.main import run_command_line
code = run_command_line(sys.argv[1:])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
sys.stderr.write(peak.split()[1])
sys.exit(code)
"""


def timed(url: str, *arguments: str) -> tuple[float, float, int, str]:
    """Run a command with its output in a file: seconds, MB at most (on Linux), lines, and its last line."""
    environment = {**os.environ, "UPSERTQ_REDIS_URL": url}
    with tempfile.TemporaryFile() as out:
        begun = time.perf_counter()
        command = [sys.executable, "-c", MEASURED, *arguments]
        done = subprocess.run(command, env=environment, stdout=out, stderr=subprocess.PIPE, check=True)
        took = time.perf_counter() - begun
        out.seek(0)
        lines, last = 0, b""
        for line in out:
            lines, last = lines + 1, line
    return took, int(done.stderr or 0) / 1024, lines, last[:100].decode().rstrip()


COMMANDS: Final = (
    "status --json",
    "dead replay --dry-run --json",
    "dead replay --dry-run --run night --reason refused --json",
    "dead discard --dry-run --status 400 --json",
    "dead replay --dry-run --limit 10 --json",
    "dead list --id document-0123456 --json",
    "dead list --id document-0123456 --namespace __default__ --json",
    "dead replay --id document-0123456 --dry-run --json",
    "dead list --limit 10 --json",
    "dead list --reason refused --limit 1000 --json",
    "dead list --json",
    "dead list",
)


def main() -> None:
    """Fill the server if it is empty, then time the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis-url", required=True)
    parser.add_argument("--letters", type=int, default=300_000)
    parser.add_argument("--dim", type=int, default=64)
    given = parser.parse_args()
    with redis.Redis.from_url(given.redis_url, protocol=2) as client:
        size: Any = client.dbsize()
        if not size:
            begun = time.perf_counter()
            fill(client, given.letters, given.dim)
            print(f"filled {given.letters:,} letters in {time.perf_counter() - begun:.1f} s")
        memory: Any = client.info("memory")
        print(f"server: {memory['used_memory_human']}")
    for command in COMMANDS:
        seconds, megabytes, lines, last = timed(given.redis_url, *command.split())
        print(f"{seconds:6.2f} s {megabytes:6.0f} MB {lines:8,} lines  {command}\n{'':28}{last}", flush=True)


if __name__ == "__main__":
    main()
