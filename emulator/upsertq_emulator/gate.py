"""Judges by its head alone whether a request is let in; the body is not read before. No sockets.

A page in a browser on this machine must not reach an emulator here, neither by a name that leads here since a moment
ago (DNS rebinding), nor by what browsers send to other sites without asking them first.
"""

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol

from upsertq_emulator import texts
from upsertq_emulator.answer import Answer, RefusedError
from upsertq_emulator.routes import is_loopback

LARGEST_BODY: Final = 64 * 1024 * 1024
_AUTHORITY: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+))(?::[0-9]{1,5})?")
_UNASKED: Final = frozenset({"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"})
"""Types of bodies that a page may post to any site without that site's consent (CORS-safelisted), or none."""
_OWN_SITE: Final = frozenset({"same-origin", "none"})


class Headers(Protocol):
    """A request's headers, of which one name may occur several times, in any case."""

    def get(self, name: str, default: str, /) -> str:
        """The first value of `name`, or `default`."""

    def getall(self, name: str, default: Sequence[str], /) -> Sequence[str]:
        """All values of `name`, or `default`."""


@dataclass(frozen=True, slots=True)
class Gate:
    """`local`: it listens on loopback, where no key protects it; `key`: what the header `Api-Key` must be, if any."""

    local: bool
    key: bytes | None

    def refusal(self, method: str, headers: Headers, *, has_body: bool, length: int | None) -> Answer | None:
        """Why the request is not let in, or `None`; `length` is what it says of its body's size in bytes."""
        try:
            self._check_caller(headers)
            refused = self._check_key(headers)
            if refused is None and has_body:
                _check_body(method, headers, length)
        except RefusedError as refusal:
            return refusal.answer
        return refused

    def _check_caller(self, headers: Headers) -> None:
        hosts = headers.getall("Host", ())
        found = _AUTHORITY.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None:
            raise RefusedError("The header Host must name this emulator once")
        if self.local and not is_loopback(name := (found[1] or found[2]).lower()):
            raise RefusedError(
                f"Host {name} is not this machine: use localhost or 127.0.0.1; to serve other machines listen on "
                "another address with --host and --require-api-key",
                status=HTTPStatus.FORBIDDEN,
            )
        origins = headers.getall("Origin", ())
        foreign = [origin for origin in origins if origin.partition("://")[2] != hosts[0]]
        if foreign or headers.get("Sec-Fetch-Site", "none") not in _OWN_SITE:
            raise RefusedError("Requests from web pages are refused", status=HTTPStatus.FORBIDDEN)

    def _check_key(self, headers: Headers) -> Answer | None:
        if self.key is None:
            return None
        given = headers.getall("Api-Key", ())
        if not given:
            return Answer(401, texts.UNAUTHORIZED)
        if not hmac.compare_digest(given[0].encode(errors="surrogateescape"), self.key):
            return Answer(401, texts.INVALID_KEY, "text/plain")
        return None


def _check_body(method: str, headers: Headers, length: int | None) -> None:
    if length is not None and length > LARGEST_BODY:
        raise RefusedError(texts.REQUEST_SIZE.format(size=length, limit=LARGEST_BODY), status=413)
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    # a browser asks before it sends any other method
    if method == "POST" and kind in _UNASKED:
        shown = f"Content-Type {kind}" if kind else "A body without Content-Type"
        raise RefusedError(f"{shown} is refused: use application/json", status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
