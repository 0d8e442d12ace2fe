"""Owns the options that commands share, and how a command gets its server: option, environment, or embedded."""

import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from upsertq.contract.address import completed
from upsertq.contract.errors import UsageError, shown
from upsertq.contract.keys import checked_name

F = TypeVar("F", bound=Callable[..., Any])

URL_VARIABLES = ("UPSERTQ_REDIS_URL", "REDIS_URL")
PAUSE_TIMEOUT = 300.0
"""Seconds that a wait bears with a pause."""


_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([smhd]?)")

if TYPE_CHECKING:
    _TextType = click.ParamType[str]
else:
    _TextType = click.ParamType  # older versions of click know no type argument


class Name(_TextType):
    """A queue's or run's name."""

    name = "name"

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The value, or click's usage error."""
        try:
            return checked_name(self.kind, value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Number(click.FloatRange):
    """A number within a range; `nan`, which every range lets pass, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, or click's usage error."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{shown(value)} is no number", param, ctx)
        return number


class Duration(_TextType):
    """A span of time, as `90` (seconds), `45s`, `30m`, `2h` or `3d`; its value is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The seconds, or click's usage error."""
        if isinstance(value, float):
            return value
        found = _DURATION.fullmatch(str(value))
        if found is None:
            self.fail(f"{shown(value)} is no span of time: give seconds, or 45s, 30m, 2h, 3d", param, ctx)
        return float(found[1]) * _UNITS[found[2] or "s"]


_redis_url = click.option(
    "--redis-url",
    metavar="URL",
    envvar=URL_VARIABLES,
    help="Redis or Valkey server or any node of a cluster, as redis://, rediss:// (TLS) or unix://, or "
    "redis+sentinel://HOST:PORT,HOST:PORT/NAME. Without it (and without UPSERTQ_REDIS_URL or REDIS_URL) an embedded "
    "server is started and shared by the commands beside this one. Give a password by the environment: options are "
    "seen in process lists.",
)
_FILES: Final = {
    "ssl_ca_certs": ("ca", "Certificates of the authorities that may vouch for the server (PEM)."),
    "ssl_certfile": ("cert", "Certificate that this client shows to the server (PEM)."),
    "ssl_keyfile": ("key", "Private key of that certificate (PEM)."),
}
LOGIN_VARIABLES: Final = ("UPSERTQ_REDIS_USERNAME", "UPSERTQ_REDIS_PASSWORD")
"""User and password, where the URL has none."""


def redis_url(function: F) -> F:
    """The options of the server; the command gets one URL that says it all, or `None`."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        files = {name: kwargs.pop(f"redis_{kind}_file") for name, (kind, _) in _FILES.items()}
        given = {name: str(path) for name, path in files.items() if path is not None}
        if kwargs["redis_url"]:
            username, password = (os.environ.get(name, "") for name in LOGIN_VARIABLES)
            kwargs["redis_url"] = completed(kwargs["redis_url"], username, password, given)
        elif given:
            raise UsageError("there is a file for TLS, and no server: name one as rediss://HOST:PORT/0 (--redis-url)")
        return function(*args, **kwargs)

    for kind, text in reversed(_FILES.values()):
        name = f"--redis-{kind}-file"
        there = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
        variable = f"UPSERTQ_REDIS_{kind.upper()}_FILE"
        wrapped = click.option(name, type=there, metavar="FILE", envvar=variable, help=text)(wrapped)
    return _redis_url(wrapped)  # type: ignore[return-value]


queue = click.option(
    "--queue", "queue_name", type=Name("queue"), default="default", show_default=True, help="Name of the queue."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout; logs go to stderr.")
run = click.option("--run", "run_name", type=Name("run"), default=None, help="Name of the run (one ingestion).")

pause_timeout = click.option(
    "--pause-timeout",
    type=Number(min=0),
    default=PAUSE_TIMEOUT,
    show_default=True,
    metavar="S",
    help="Exit with 5 when a pause has blocked the wait for so many seconds.",
)


allow_eviction = click.option(
    "--allow-eviction",
    is_flag=True,
    help="Use also a server whose maxmemory-policy is allkeys-…: it removes records when its memory is full.",
)


def several(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """A decorator that gives a command these options, shown in this order."""

    def decorated(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorated


common = several(redis_url, queue, as_json)
"""The three options that every command of a queue has: server, queue and `--json`."""


@contextmanager
def server_url(given: str | None) -> Iterator[str]:
    """The URL to use: the given one, else that of the embedded server, which runs until the last command leaves it."""
    if given:
        yield given
        return
    from upsertq.embedded.sharing import embedded_server  # noqa: PLC0415 - only where there is no server

    state = os.environ.get("UPSERTQ_STATE_DIR")
    with embedded_server(Path(state) if state else None) as url:
        yield url
