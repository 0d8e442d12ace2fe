"""Owns the options that say where health and metrics are served, and what lets in; checked before anything listens."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from upsertq.cli.options import several
from upsertq.contract.errors import UsageError, shown
from upsertq_worker.edge.credential import TOKEN
from upsertq_worker.edge.http_index import is_loopback
from upsertq_worker.metrics.books import RECORDS_PER_WORKER

TOKEN_VARIABLE: Final = "UPSERTQ_HTTP_TOKEN"  # noqa: S105 - a name
FILE_VARIABLE: Final = "UPSERTQ_HTTP_TOKEN_FILE"
TOKEN_LEAST: Final = 16
TOKEN_MOST: Final = 1_000
PORT_MOST: Final = 65_535
_ADDRESS: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """Where to listen, port 0 for any free one, and the token that is asked for, "" for none."""

    host: str
    port: int
    token: str = field(repr=False, default="")


def http_options(*, required: bool) -> Callable[[F], F]:
    """`--http` and what belongs to it."""
    return several(
        click.option(
            "--http",
            metavar="HOST:PORT",
            envvar="UPSERTQ_HTTP",
            required=required,
            help="Serve /healthz, /readyz, /metrics (Prometheus) and /scale (for autoscalers) there, like "
            "127.0.0.1:9400; port 0 takes a free one. Beyond this machine a token is needed.",
        ),
        click.option(
            "--http-token-file",
            metavar="FILE",
            envvar=FILE_VARIABLE,
            help=f"File with the token that /metrics and /scale then ask for (Authorization: Bearer TOKEN). Or give "
            f"the token in {TOKEN_VARIABLE}.",
        ),
        click.option(
            "--scale-records",
            default=RECORDS_PER_WORKER,
            show_default=True,
            metavar="N",
            type=click.IntRange(min=1),
            help="Pending records for which /scale asks for one worker.",
        ),
    )


def http_address(http: str | None, token_file: str | None) -> HttpAddress | None:
    """Where to listen, `None` for nowhere.

    Raises:
        UsageError: it is no address, or reachable from other machines without a token.
    """
    if not http:
        return None
    found = _ADDRESS.fullmatch(http.strip())
    if found is None or int(found[3]) > PORT_MOST:
        raise UsageError(f"--http is {shown(http)}: give HOST:PORT, like 127.0.0.1:9400 or [::1]:9400")
    host, token = (found[1] or found[2]).lower(), _token(token_file)
    if not token and not is_loopback(host):
        raise UsageError(
            f"--http {host}:{found[3]} is reachable from other machines: give a token with --http-token-file or "
            f"{TOKEN_VARIABLE}, or listen on 127.0.0.1"
        )
    return HttpAddress(host, int(found[3]), token)


def _token(name: str | None) -> str:
    """The token, "" where none is given; it is never repeated in an error."""
    if not name:
        token, where = os.environ.get(TOKEN_VARIABLE, "").strip(), TOKEN_VARIABLE
        if not token:
            return ""
    else:
        token, where = _read(name), f"{name} (--http-token-file)"
    if not TOKEN.fullmatch(token) or not TOKEN_LEAST <= len(token) <= TOKEN_MOST:
        raise UsageError(f"{where} holds no token: {TOKEN_LEAST} to {TOKEN_MOST:,} ASCII characters without spaces")
    return token


def _read(name: str) -> str:
    path = Path(name)
    if path.exists() and not path.is_file():  # reading a pipe or a device may take for ever
        raise UsageError(f"{name} (--http-token-file) is no file")
    try:
        with path.open("rb") as file:
            return file.read(TOKEN_MOST + 100).decode("ascii", "replace").strip()
    except OSError as error:
        raise UsageError(f"cannot read the token from {name} (--http-token-file): {error.strerror}") from None
