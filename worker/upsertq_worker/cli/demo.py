"""Owns `upsertq demo`: the main job end to end on generated data, with the real parts as a user would start them."""

import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

import click
import numpy as np
import orjson

from upsertq.cli import options
from upsertq.cli.reach import print_json
from upsertq.contract.address import shown_url
from upsertq.contract.errors import WorldError
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Patience
from upsertq.contract.queue import remove_queue
from upsertq.contract.server import Server
from upsertq_worker.edge.process import ignore_hangup

DIMENSION: Final = 128
UPDATES: Final = 100
"""Records whose id occurs twice in the demo's file: the later version must win."""
STEPS: Final = 4
REMOVE_SECONDS: Final = 10.0
PAGE: Final = 100


@click.command(short_help="Show everything at once on generated data.")
@click.option("--records", default=20_000, show_default=True, type=click.IntRange(min=1_000), help="How many.")
@options.redis_url
@options.as_json
def demo(*, records: int, redis_url: str | None, as_json: bool) -> int:
    """Generate records, load them into a queue, drain it into an emulated index, and check what arrived.

    Everything runs on this machine and is removed at the end: the emulator, the embedded server (or, with --redis-url,
    a queue of its own on that server), the file.
    """
    ignore_hangup()
    say = (lambda *_: None) if as_json else _say
    with tempfile.TemporaryDirectory(prefix="upsertq-demo-") as directory, _server(redis_url, directory) as url:
        queue = f"demo-{secrets.token_hex(4)}"
        source = Path(directory) / "records.jsonl"
        say(1, f"generating {records:,} records of {DIMENSION} dimensions, {UPDATES} of them updated later in the file")
        expected = _generate(source, records, random.Random(7))
        say(2, f"starting an emulated index, and a queue '{queue}' on {_shown(url)}")
        with _emulator() as index_url:
            say(3, "upsertq run: loading the file, draining the queue, waiting until the books are closed")
            try:
                books = _run(source, queue, url, index_url, quiet=as_json)
                say(4, "checking: the index must hold the last version of every id, bit for bit")
                wrong = _compare(index_url, expected)
            finally:
                _remove(url, queue)
    if as_json:
        print_json({"queue": queue, "run": "demo", **books, "wrong": wrong})
    else:
        _report(books, expected, wrong)
    return 0 if not wrong and books["pending"] == 0 else 1


def _say(step: int, text: str) -> None:
    click.echo(f"[{step}/{STEPS}] {text}", err=True)


def _shown(url: str) -> str:
    return "an embedded server" if url.startswith("unix://") else shown_url(url)


@contextmanager
def _server(redis_url: str | None, directory: str) -> Iterator[str]:
    """The server given, else an embedded one whose data go away with the demo."""
    if redis_url:
        yield redis_url
        return
    from upsertq.embedded.sharing import embedded_server  # noqa: PLC0415 - only where there is no server

    with embedded_server(Path(directory) / "state") as url:
        yield url


def _generate(path: Path, count: int, rng: random.Random) -> dict[str, bytes]:
    """Write the file; returns what the index must hold at the end: id to float32 values."""
    expected: dict[str, bytes] = {}
    numbers = np.random.default_rng(rng.randrange(2**32))
    with path.open("wb") as file:
        for row in range(count):
            record_id = f"doc-{row if row < count - UPDATES else row - count // 2}"
            values = numbers.standard_normal(DIMENSION, dtype=np.float32)
            expected[record_id] = values.tobytes()
            record = {"id": record_id, "values": values, "metadata": {"row": row, "kind": ["note", "page"][row % 2]}}
            file.write(orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
    return expected


@contextmanager
def _emulator() -> Iterator[str]:
    command = [sys.executable, "-m", "upsertq", "emulate", "--port", "0", "--dimension", str(DIMENSION), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)  # noqa: S603 - our own command
    try:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        line = process.stdout.readline()
        if not line:
            raise WorldError("the emulator did not start; try `upsertq emulate` to see why")
        yield json.loads(line)["url"]
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _run(source: Path, queue: str, url: str, index_url: str, *, quiet: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "upsertq", "run", str(source), "--queue", queue, "--run", "demo", "--json"]
    environment = {**os.environ, "UPSERTQ_REDIS_URL": url, "PINECONE_API_KEY": "", "PINECONE_API_KEY_FILE": ""}
    done = subprocess.run(  # noqa: S603 - our own command
        [*command, "--index-host", index_url],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else None,
        check=False,
    )
    if done.returncode not in {0, 3}:
        raise WorldError(f"`upsertq run` ended with exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _compare(index_url: str, expected: dict[str, bytes]) -> int:
    """How many ids the index does not hold as expected."""
    wrong = 0
    ids = list(expected)
    opener = build_opener(ProxyHandler({}))  # the emulator is on this machine, whatever the environment says
    for start in range(0, len(ids), PAGE):
        page = ids[start : start + PAGE]
        with opener.open(f"{index_url}/vectors/fetch?{urlencode([('ids', name) for name in page])}") as answer:
            found = orjson.loads(answer.read())["vectors"]
        for name in page:
            values = np.asarray(found.get(name, {}).get("values", ()), dtype=np.float32)
            wrong += values.tobytes() != expected[name]
    return wrong


def _remove(url: str, queue: str) -> None:
    with closing(Server.at(url)) as server:
        server.hold(remove_queue(QueueKeys(queue), Patience(REMOVE_SECONDS, time.monotonic, random.Random())))


def _report(books: dict[str, Any], expected: dict[str, bytes], wrong: int) -> None:
    click.echo("")
    click.echo(f"the books of run '{books['run']}':")
    for name in ("enqueued", "acked", "superseded", "discarded", "dead", "pending"):
        click.echo(f"  {name:<11}{books[name]:>9,}")
    verdict = "each one equal to its last version" if not wrong else f"{wrong:,} OF THEM WRONG"
    click.echo(f"the index holds {len(expected):,} records, {verdict}")
    click.echo(
        "\nFor a real index:  PINECONE_API_KEY=… upsertq run YOUR.parquet --index-host https://YOUR-INDEX.svc.pinecone.io"
    )
