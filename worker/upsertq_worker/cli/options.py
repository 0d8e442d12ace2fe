"""Owns the options that say where the index is and how to post to it, for every command that drains."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from upsertq.cli.options import several
from upsertq.contract.errors import UsageError
from upsertq_worker.cli.config import DEFAULT_API_VERSION, DEFAULT_TIMEOUT
from upsertq_worker.logs import JSON, TEXT
from upsertq_worker.settings import DEFAULTS

KEY_FILE_MAX: Final = 8_000
"""Characters of a key at most: a header has no room for more."""
F = TypeVar("F", bound=Callable[..., Any])


def _sized(name: str, default: float, text: str, metavar: str | None = None) -> Callable[[F], F]:
    """An option with a number."""
    return click.option(name, default=default, show_default=True, metavar=metavar, help=text)


_INDEX_OPTIONS = (
    click.option(
        "--index-host",
        metavar="URL",
        required=True,
        envvar="UPSERTQ_INDEX_HOST",
        help="Host of the index, as its console shows it; https:// is the default scheme; a path is a prefix of all "
        "requests. The key is read from PINECONE_API_KEY, or from the file that "
        "PINECONE_API_KEY_FILE names, which is read again when the key is refused and on SIGHUP.",
    ),
    click.option("--api-version", default=DEFAULT_API_VERSION, show_default=True, help="Version of the service's API."),
    click.option("--allow-http", is_flag=True, help="Allow plain http beyond this machine (a proxy that adds TLS)."),
    _sized("--concurrency", DEFAULTS.concurrency, "Requests in flight at most."),
    _sized("--batch-size", DEFAULTS.batch.records, "Records in a request at most (up to 1,000)."),
    _sized("--batch-bytes", DEFAULTS.batch.bytes, "Bytes of JSON in a request at most."),
    _sized("--linger", DEFAULTS.batch.linger, "Seconds to wait for a full batch; none once a drain has read all.", "S"),
    _sized("--handover", DEFAULTS.handover, "Seconds that requests in flight may take when shards move.", "S"),
    _sized("--grace", DEFAULTS.grace, "Seconds that requests in flight may take after SIGTERM.", "S"),
    _sized("--lease", DEFAULTS.lease, "Seconds until the lease of a dead worker expires.", "S"),
    _sized(
        "--quarantine",
        DEFAULTS.quarantine,
        "Seconds for which a lost answer holds back newer versions of its ids.",
        "S",
    ),
    _sized(
        "--max-attempts",
        DEFAULTS.max_attempts,
        "Failures, while others succeed, before a batch is split and a single record becomes a dead letter.",
        "N",
    ),
    _sized(
        "--max-culprits",
        DEFAULTS.max_culprits,
        "Refused records of one batch, or in a row, beyond which the lane is paused instead.",
        "N",
    ),
    _sized(
        "--pause-timeout",
        DEFAULTS.pause_timeout,
        "With --until-empty: exit with 5 when a pause has blocked progress for so many seconds.",
        "S",
    ),
    _sized("--read-ahead", DEFAULTS.read_ahead, "Memory for records read ahead.", "BYTES"),
)

log_format = click.option(
    "--log-format",
    type=click.Choice([TEXT, JSON]),
    default=TEXT,
    show_default=True,
    help="How the worker logs to stderr: lines for people, or one JSON object a line.",
)


def index_options(timeout: str) -> Callable[[F], F]:
    """The options; `timeout` names the one for a request's time, which some commands have another use for."""
    request_timeout = click.option(
        timeout,
        "request_timeout",
        default=DEFAULT_TIMEOUT,
        show_default=True,
        metavar="S",
        help="Seconds before a request is cancelled.",
    )
    return several(*_INDEX_OPTIONS, request_timeout)


def api_key() -> str:
    """The key from PINECONE_API_KEY, or from the file that PINECONE_API_KEY_FILE names; empty when there is none."""
    name = os.environ.get("PINECONE_API_KEY_FILE")
    if not name:
        return os.environ.get("PINECONE_API_KEY", "").strip()
    try:
        path = Path(name)
        if not path.is_file() and path.exists():  # reading a pipe or a device may take for ever
            raise UsageError(f"{name} (PINECONE_API_KEY_FILE) is no file: it must be one that holds the key alone")
        with path.open("rb") as file:
            key = file.read(KEY_FILE_MAX + 1).decode().strip()
    except OSError as error:
        raise UsageError(f"cannot read the API key from {name} (PINECONE_API_KEY_FILE): {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{name} (PINECONE_API_KEY_FILE) is no text file: it must hold the key alone") from None
    if not key:
        raise UsageError(f"{name} (PINECONE_API_KEY_FILE) is empty: it must hold the key")
    if len(key) > KEY_FILE_MAX or len(key.split()) > 1:
        raise UsageError(f"{name} (PINECONE_API_KEY_FILE) holds more than a key: it must hold the key alone")
    return key
