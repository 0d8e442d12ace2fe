"""Owns what the worker's command line may ask for: checked as a whole, so that all faults are told at once."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from math import inf
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from upsertq.contract.errors import UsageError, shown
from upsertq_worker.edge.credential import TOKEN
from upsertq_worker.edge.http_index import IndexAddress, is_loopback
from upsertq_worker.settings import DEFAULTS, BatchLimits, Settings

MAX_BATCH_RECORDS: Final = 1_000
"""The service's own ceiling for one request."""
DEFAULT_API_VERSION: Final = "2025-10"
DEFAULT_TIMEOUT: Final = 30.0
_HOST: Final = re.compile(r"[^\s\\%<>\"{}|^`@]+")
_PATHS: Final = ("/vectors/upsert", "/describe_index_stats")


@dataclass(frozen=True, slots=True)
class WorkConfig:
    """Every option of `upsertq work`, as given; times are seconds."""

    index_host: str
    api_key: str = field(repr=False, default="")
    read_key: Callable[[], str] | None = field(repr=False, default=None)
    """Reads the key anew, once it is refused or on SIGHUP."""
    api_version: str = DEFAULT_API_VERSION
    allow_http: bool = False
    batch_size: int = DEFAULTS.batch.records
    batch_bytes: int = DEFAULTS.batch.bytes
    linger: float = DEFAULTS.batch.linger
    concurrency: int = DEFAULTS.concurrency
    request_timeout: float = DEFAULT_TIMEOUT
    handover: float = DEFAULTS.handover
    grace: float = DEFAULTS.grace
    lease: float = DEFAULTS.lease
    quarantine: float = DEFAULTS.quarantine
    read_ahead: int = DEFAULTS.read_ahead
    max_attempts: int = DEFAULTS.max_attempts
    max_culprits: int = DEFAULTS.max_culprits
    pause_timeout: float = DEFAULTS.pause_timeout
    until_empty: bool = False
    seconds: float | None = None

    @property
    def url(self) -> str:
        """The index's address with its scheme; empty where `index_host` is none."""
        return _checked_url(self.index_host)[0]

    def checked(self) -> tuple[IndexAddress, Settings]:
        """The address and the settings; `UsageError` that lists everything that is wrong."""
        faults = [*self._number_faults(), *self._header_faults()]
        url, url_faults = _checked_url(self.index_host)
        address = IndexAddress(url, api_version=self.api_version, api_key=self.api_key, read_key=self.read_key)
        faults += url_faults or _access_faults(address, allow_http=self.allow_http)
        if faults:
            raise UsageError("; ".join(faults))
        batch = BatchLimits(self.batch_size, self.batch_bytes, self.linger)
        same = {one.name: getattr(self, one.name) for one in fields(Settings) if hasattr(self, one.name)}
        return address, Settings(batch, stop_after=self.seconds, **same)

    def _number_faults(self) -> list[str]:
        rules = (
            (1 <= self.batch_size <= MAX_BATCH_RECORDS, f"--batch-size is {self.batch_size}: choose 1 to 1,000"),
            (self.batch_bytes >= 1, f"--batch-bytes is {self.batch_bytes}: choose at least 1"),
            (0 <= self.linger < inf, f"--linger is {self.linger:g}: choose 0 or more seconds"),
            (self.concurrency >= 1, f"--concurrency is {self.concurrency}: choose at least 1"),
            (0 < self.request_timeout < inf, f"--timeout is {self.request_timeout:g}: choose more than 0 seconds"),
            (0 <= self.handover < inf, f"--handover is {self.handover:g}: choose 0 or more seconds"),
            (0 <= self.grace < inf, f"--grace is {self.grace:g}: choose 0 or more seconds"),
            (1 <= self.lease < inf, f"--lease is {self.lease:g}: choose at least 1 second"),
            (
                0 <= self.quarantine <= self.lease * 0.75,
                f"--quarantine is {self.quarantine:g}: choose 0 to three quarters of --lease ({self.lease * 0.75:g})",
            ),
            (self.max_attempts >= 1, f"--max-attempts is {self.max_attempts}: choose at least 1"),
            (self.max_culprits >= 1, f"--max-culprits is {self.max_culprits}: choose at least 1"),
            (0 <= self.pause_timeout < inf, f"--pause-timeout is {self.pause_timeout:g}: choose 0 or more seconds"),
            (self.read_ahead >= 1, f"--read-ahead is {self.read_ahead}: choose at least 1 byte"),
            (self.seconds is None or 0 < self.seconds < inf, f"--seconds is {self.seconds}: choose more than 0"),
        )
        return [fault for good, fault in rules if not good]

    def _header_faults(self) -> list[str]:
        """What cannot travel in a header: told here, as a request would fail for ever."""
        faults = []
        if self.api_key and not TOKEN.fullmatch(self.api_key):
            faults.append("the API key holds a space, a line break or a character beyond ASCII: copy it again")
        if not TOKEN.fullmatch(self.api_version):
            faults.append(f"--api-version is {shown(self.api_version)}: give one like {DEFAULT_API_VERSION}")
        return faults


def _checked_url(host: str) -> tuple[str, list[str]]:
    """Scheme, host, port and prefix of the index (`https://` unless a scheme is given), and what is wrong with it."""
    text = host.strip()
    text = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return "", ["--index-host is no URL: give it as the console shows it, like my-index-abc123.svc.pinecone.io"]
    name = parts.hostname or ""
    faults = [fault for fault in _url_faults(parts, name) if fault]
    where = f"[{name}]" if ":" in name else name
    prefix = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~-._")
    return f"{parts.scheme}://{where}" + (f":{port}" if port else "") + prefix, faults


def _url_faults(parts: SplitResult, name: str) -> Iterator[str]:
    """What is wrong with the parts of an address; a login in it is never repeated."""
    if parts.username is not None or parts.password is not None:
        yield "--index-host must not carry a user or password: the key is read from PINECONE_API_KEY"
    elif parts.scheme not in {"http", "https"} or not name:
        scheme = shown(parts.scheme) if "@" not in parts.path else "no known scheme"
        yield f"--index-host has the scheme {scheme} and no usable host: give https://HOST"
    elif not _HOST.fullmatch(name):
        yield "--index-host names no usable host: give it like my-index-abc123.svc.pinecone.io"
    if parts.query:
        yield "--index-host has a query (what follows '?'): give host and path alone"
    if parts.fragment:
        yield "--index-host has a fragment (what follows '#'): give host and path alone"
    if parts.path.rstrip("/").endswith(_PATHS):
        yield "--index-host ends in the path of a request: give what comes before it"
    elif re.search(r"[\s\\]|%(?![0-9A-Fa-f]{2})", parts.path):
        yield "--index-host has a path with a space, a backslash or a '%' that escapes nothing: write it as a URL"


def _access_faults(address: IndexAddress, *, allow_http: bool) -> list[str]:
    parts = urlsplit(address.url)
    if is_loopback(parts.hostname or ""):
        return []
    faults = []
    if not address.api_key:
        faults.append(
            f"no API key for {parts.hostname}: set PINECONE_API_KEY, or PINECONE_API_KEY_FILE to a file that holds it"
        )
    if parts.scheme == "http" and not allow_http:
        faults.append(
            f"--index-host {address.url} would send the key and the data unencrypted: use https://, or --allow-http"
        )
    try:
        address.proxy()
    except UsageError as error:
        faults.append(str(error))
    return faults
