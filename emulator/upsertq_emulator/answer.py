"""The values a request turns into: an answer to write, or a refusal to raise.

Owns the shape of the service's error bodies; it must never decide which error applies.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from types import MappingProxyType
from typing import ParamSpec

from upsertq_emulator.json_text import write_json

_P = ParamSpec("_P")

# google.rpc.Code by HTTP status, the numbers that the service's error bodies carry
_RPC_CODES: Mapping[int, int] = MappingProxyType(
    {
        400: 3,
        401: 16,
        402: 9,
        403: 7,
        404: 5,
        405: 12,
        408: 4,
        409: 6,
        412: 9,
        413: 8,
        422: 3,
        429: 8,
        500: 13,
        501: 12,
        502: 14,
        503: 14,
        504: 4,
    }
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer: `status`, `body` as bytes, its `content_type`, further `headers`.

    `records` is the number of records that the index took because of the request.
    """

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    records: int = 0


class RefusedError(Exception):
    """The request is refused as a whole: HTTP `status`, rpc `code` and `message` say why."""

    def __init__(self, message: str, *, status: int = 400, code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code

    @property
    def answer(self) -> Answer:
        """The refusal as the service words it, an rpcStatus body."""
        return Answer(self.status, rpc_status(self.status, self.message, code=self.code))


def answering(method: Callable[_P, Answer]) -> Callable[_P, Answer]:
    """Turn a refusal that leaves `method` into its answer."""

    @wraps(method)
    def answered(*args: _P.args, **kwargs: _P.kwargs) -> Answer:
        try:
            return method(*args, **kwargs)
        except RefusedError as refusal:
            return refusal.answer

    return answered


def rpc_status(status: int, message: str, *, code: int | None = None) -> bytes:
    """The JSON body `{"code","message","details"}`; without `code` the usual one of the HTTP `status`."""
    number = _RPC_CODES.get(status, 2) if code is None else code
    return write_json({"code": number, "message": message, "details": []})
