"""Owns what a server's URL may say: its forms, what of it may be shown, and what is added to it. It never connects."""

from dataclasses import dataclass, field
from typing import Final, Self, TypeAlias
from urllib.parse import quote, unquote, urlencode, urlsplit, urlunsplit

from upsertq.contract.errors import UsageError

Node: TypeAlias = tuple[str, int]
"""Host and port."""
MALFORMED: Final = "(malformed)"
PLAIN: Final = ("redis", "rediss", "unix")
SENTINEL: Final = ("redis+sentinel", "rediss+sentinel")
FORMS: Final = "redis://HOST:PORT/0, rediss://…, unix:///PATH or redis+sentinel://HOST:PORT,HOST:PORT/NAME"
_SENTINEL_PORT: Final = 26379
_TLS: Final = ("rediss", "rediss+sentinel")


@dataclass(frozen=True, slots=True)
class Address:
    """A server's URL, read.

    Attributes:
        url: as redis-py takes it; where Sentinels are asked for the server, its login, database and options.
        shown: fit for a message.
        sentinels: the Sentinels to ask, if any.
        service: the name by which they know the server.
    """

    url: str = field(repr=False)
    shown: str
    sentinels: tuple[Node, ...] = ()
    service: str = ""

    @classmethod
    def of(cls, url: str) -> Self:
        """Read `url`; `UsageError` where it is of no known form."""
        shown = shown_url(url)
        scheme = shown.split(":")[0]
        if scheme in PLAIN:
            return cls(url, shown)
        if scheme not in SENTINEL:
            raise UsageError(f"'{shown}' is no Redis URL: use {FORMS}")
        parts = urlsplit(url)
        service, _, database = unquote(parts.path).strip("/").partition("/")
        login = parts.netloc.rpartition("@")[0]
        sentinels = tuple(_node(one) for one in parts.netloc.rpartition("@")[2].split(","))
        if not service or not all(host for host, _ in sentinels) or not (database or "0").isdigit():
            raise UsageError(f"'{shown}' names no service of a Sentinel: use redis+sentinel://HOST:PORT,HOST:PORT/NAME")
        of_server = (scheme.partition("+")[0], f"{login}@sentinel" if login else "sentinel", f"/{database or 0}")
        return cls(urlunsplit((*of_server, parts.query, "")), shown, sentinels, service)


def shown_url(url: str) -> str:
    """The URL without user name, password and query, fit for a message."""
    try:
        parts = urlsplit(url)
        hosts = parts.netloc.rpartition("@")[2].split(",")
        where = ",".join(_shown_node(host) for host in hosts) if parts.netloc else ""
    except ValueError:
        return MALFORMED
    # without `//`, or with a slash in the password, a part of the login is taken for the path
    if "@" in parts.path or not url.lower().startswith(f"{parts.scheme}://"):
        return MALFORMED
    return f"{parts.scheme}://{where}{parts.path}"


def completed(url: str, username: str, password: str, files: dict[str, str]) -> str:
    """The URL with a login, where it has none, and files for TLS by redis-py's names of them.

    Raises:
        UsageError: there are files for TLS, and the URL is not one of TLS.
    """
    parts = urlsplit(url)
    if files and parts.scheme not in _TLS:
        raise UsageError(f"'{shown_url(url)}' is no URL of TLS, and there is a file for it: use rediss://")
    if not (files or username or password) or shown_url(url) == MALFORMED:
        return url
    netloc = parts.netloc
    if (username or password) and "@" not in netloc:
        netloc = f"{quote(username, safe='')}:{quote(password, safe='')}@{netloc}"
    query = "&".join(part for part in (parts.query, urlencode(files)) if part)
    # not by `urlunsplit`: it forgets the slashes of unix:///
    return f"{parts.scheme}://{netloc}{parts.path}{'?' * bool(query)}{query}"


def _node(text: str) -> Node:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or _SENTINEL_PORT


def _shown_node(text: str) -> str:
    parts = urlsplit(f"//{text}")
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.hostname or ''}{port}"
