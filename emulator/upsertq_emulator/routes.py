"""Which operation a method and path name, and how the query reaches the plane; no sockets."""

from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from ipaddress import ip_address
from math import ceil
from typing import Literal, Protocol

from upsertq_emulator.answer import Answer, RefusedError, answering
from upsertq_emulator.plane import Plane

Operation = Literal["upsert", "stats", "fetch", "list", "delete", "unknown"]

_OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/vectors/upsert"): "upsert",
    ("POST", "/describe_index_stats"): "stats",
    ("GET", "/describe_index_stats"): "stats",
    ("GET", "/vectors/fetch"): "fetch",
    ("GET", "/vectors/list"): "list",
    ("POST", "/vectors/delete"): "delete",
}
_PATHS = frozenset(path for _, path in _OPERATIONS)


class Query(Protocol):
    """A request's query parameters, of which one name may occur several times."""

    def get(self, name: str, default: str, /) -> str:
        """The first value of `name`, or `default`."""

    def getall(self, name: str, default: Sequence[str], /) -> Sequence[str]:
        """All values of `name`, or `default`."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the data plane, read whole: its `body` is decoded from any transfer or content coding."""

    method: str
    path: str
    query: Query
    body: bytes

    @property
    def operation(self) -> Operation:
        """What the request asks for."""
        return _OPERATIONS.get((self.method, self.path), "unknown")


def is_loopback(host: str) -> bool:
    """Whether `host` is an address or name of this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def retry_after(seconds: float, form: str, now: float) -> str:
    """The value of a `Retry-After` header: whole seconds rounded up, or the HTTP date after `now`."""
    if form == "date":
        return formatdate(ceil(now + seconds), usegmt=True)
    return str(ceil(seconds))


@answering
def answer_to(plane: Plane, call: Call, now: float) -> Answer:
    """Let the plane answer one request; an unknown path gets a 404, a wrong method a 405."""
    match call.operation:
        case "upsert":
            answer = plane.upsert(call.body, now)
        case "stats":
            answer = plane.stats(call.body)
        case "fetch":
            answer = plane.fetch(call.query.getall("ids", ()), call.query.get("namespace", ""))
        case "list":
            answer = _list(plane, call.query)
        case "delete":
            answer = plane.delete(call.body, now)
        case "unknown":
            if call.path in _PATHS:
                raise RefusedError(f"Method {call.method} is not allowed for {call.path}", status=405)
            raise RefusedError(f"Path not found: {call.path}", status=404)
    return answer


def _list(plane: Plane, query: Query) -> Answer:
    limit, token = query.get("limit", ""), query.get("paginationToken", "")
    try:
        size = int(limit) if limit else None
    except ValueError:
        raise RefusedError(f"Invalid limit '{limit}': expected a whole number") from None
    try:
        after = bytes.fromhex(token).decode() if token else None
    except ValueError:
        raise RefusedError("Invalid pagination token") from None
    namespace, prefix = query.get("namespace", ""), query.get("prefix", "")
    return plane.list_ids(namespace, prefix=prefix, limit=size, after=after)
