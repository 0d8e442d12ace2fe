"""Owns which proxy stands before the index: what the environment names, checked before anything is sent.

It never shows a login, nor any of a value that it cannot read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from upsertq.contract.errors import UsageError

_DEFAULT_PORT: Final = 80
_HOST: Final = re.compile(r"[^\s\\%<>\"{}|^`@/?#]+")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy: `url` is scheme, host and port, `variable` is where it was named."""

    url: str
    variable: str
    user: str = field(repr=False, default="")
    password: str = field(repr=False, default="")

    @property
    def place(self) -> str:
        """Host and port."""
        return self.url.partition("://")[2]

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown of it, as it is and as it travels."""
        if not self.user and not self.password:
            return ()
        return tuple({self.user, self.password, f"{self.user}:{self.password}"} - {""})


def proxy_for(scheme: str, host: str, port: int | None, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy on the way to an index, `None` without one.

    The variable in lower case wins over the one in upper case, that of the scheme over ALL_PROXY, NO_PROXY over all.

    Raises:
        UsageError: it is of a kind that is not supported, or no address.
    """
    for name in (f"{scheme}_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            value = environment.get(variable, "").strip()
            if value:
                no_proxy = environment.get("no_proxy") or environment.get("NO_PROXY", "")
                return None if _is_exempt(host, port, no_proxy) else _proxy(variable, value)
    return None


def _proxy(variable: str, value: str) -> Proxy:
    text = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(text)
        port = parts.port or _DEFAULT_PORT
        host = parts.hostname or ""
    except ValueError:
        raise UsageError(f"{variable} is no address of a proxy: give it like http://HOST:PORT") from None
    if parts.scheme != "http":
        kind = "a SOCKS proxy" if parts.scheme.startswith("socks") else "a proxy that is not spoken to by http://"
        raise UsageError(
            f"{variable} names {kind}, which is not supported: give one like http://HOST:PORT, which carries https:// "
            "as well, or exempt the index with NO_PROXY"
        )
    if not _HOST.fullmatch(host):
        raise UsageError(f"{variable} names no host: give it like http://HOST:PORT")
    where = f"[{host}]" if ":" in host else host
    return Proxy(f"http://{where}:{port}", variable, unquote(parts.username or ""), unquote(parts.password or ""))


def _is_exempt(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether NO_PROXY names this host: by name, by a domain that it is in, with or without port, or all by `*`."""
    for item in no_proxy.lower().split(","):
        name = item.strip()
        if name == "*":
            return True
        domain = name.lstrip("*").lstrip(".")
        for known in (host.lower(), f"{host.lower()}:{port}"):
            if domain and (known == domain or known.endswith(f".{domain}")):
                return True
    return False
