"""The command `upsertq emulate`: reads options and the environment, runs an emulator until it is told to stop."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import click

from upsertq.contract.printable import printable
from upsertq_emulator.app import Emulator
from upsertq_emulator.journal import Journal
from upsertq_emulator.limits import Metric, VectorType
from upsertq_emulator.plane import Plane
from upsertq_emulator.routes import is_loopback
from upsertq_emulator.spec import FaultSpecError
from upsertq_emulator.spec_file import load_faults

_KEY_VARIABLE = "PINECONE_API_KEY"


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=5081, show_default=True, type=click.IntRange(0, 65535), help="0: any free.")
@click.option(
    "--dimension",
    type=click.IntRange(1, 20_000),
    help="Dimension of every dense vector; otherwise the first upsert fixes it.",
)
@click.option(
    "--metric",
    type=click.Choice(["cosine", "dotproduct", "euclidean"]),
    default="dotproduct",
    show_default=True,
    help="Only dotproduct takes sparse values beside dense ones.",
)
@click.option("--vector-type", type=click.Choice(["dense", "sparse"]), help="Otherwise the first upsert fixes it.")
@click.option("--require-api-key", is_flag=True, help=f"Refuse requests without the key in ${_KEY_VARIABLE}.")
@click.option(
    "--api-key-env",
    metavar="NAME",
    help=f"Environment variable holding the key to require, instead of {_KEY_VARIABLE}.",
)
@click.option(
    "--faults", metavar="SPEC", help="Faults to inject: text such as `seed=7,error=503:0.1`, or a .toml or .json file."
)
@click.option("--journal", is_flag=True, help="Note every applied version, for /_emulator/journal.")
@click.option("--discard", is_flag=True, help="Judge and count records, but store none.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a sentence.")
def emulate(
    *,
    host: str,
    port: int,
    dimension: int | None,
    metric: Metric,
    vector_type: VectorType | None,
    require_api_key: bool,
    api_key_env: str | None,
    faults: str | None,
    journal: bool,
    discard: bool,
    as_json: bool,
) -> None:
    """Run a validating Pinecone data plane on this machine, in the foreground and in memory only."""
    api_key = _api_key(required=require_api_key, variable=api_key_env)
    if api_key is None and not is_loopback(host):
        _fail(2, f"host {host} is reachable from other machines: add --require-api-key, or use 127.0.0.1")
    if dimension is not None and vector_type == "sparse":
        _fail(2, "--dimension is for dense vectors: leave it out, or use --vector-type dense")
    plane = Plane(
        dimension=dimension,
        metric=metric,
        vector_type=vector_type,
        keep_vectors=not discard,
        journal=Journal() if journal else None,
    )
    try:
        spec = None if faults is None else load_faults(faults)
    except FaultSpecError as error:
        _fail(2, str(error))
    emulator = Emulator(host=host, port=port, api_key=api_key, plane=plane, faults=spec)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(emulator, dimension=dimension, as_json=as_json))


async def _run(emulator: Emulator, *, dimension: int | None, as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await emulator.start()
    except OSError as error:
        reason = error.strerror or str(error)
        _fail(1, f"cannot listen on {emulator.host} port {emulator.port}: {reason}; choose another --port")
    if as_json:
        document = {"url": emulator.url, "host": emulator.host, "port": emulator.port, "dimension": dimension}
        click.echo(json.dumps(document))
    else:
        known = f"dimension {dimension}" if dimension is not None else "dimension fixed by the first upsert"
        click.echo(f"upsertq emulator listening on {emulator.url} ({known})")
    await stop.wait()
    await emulator.close()


def _api_key(*, required: bool, variable: str | None) -> str | None:
    if not required and variable is None:
        return None
    name = variable or _KEY_VARIABLE
    key = os.environ.get(name, "")
    if not key:
        _fail(2, f"an API key is required, but the environment variable {name} is empty: set it")
    return key


def _fail(code: int, message: str) -> NoReturn:
    click.echo(printable(f"upsertq emulate: {message}"), err=True)
    sys.exit(code)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # noqa: PLC0415 - optional: not on every platform
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
