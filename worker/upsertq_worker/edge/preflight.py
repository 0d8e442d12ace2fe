"""Owns the one question asked of the index before a worker starts: is it there, does it let us in, does it fit?"""

from typing import Final, Protocol

import orjson

from upsertq.contract.errors import WorldError
from upsertq.contract.queue import QueueShape
from upsertq_worker.delivery.outcome import (
    Accepted,
    Busy,
    LaneRefused,
    RecordRefused,
    ShortAck,
    TooLarge,
    describe,
    judge,
)
from upsertq_worker.delivery.response import Answer, Sent, TransportFailure
from upsertq_worker.delivery.sender import Refused
from upsertq_worker.events import Event, Events


class StatsSeam(Protocol):
    """What the question needs of an index."""

    async def stats(self) -> Answer | TransportFailure:
        """Ask for the index's statistics."""


_NOTHING: Final = Sent((), "")
_NO_STATISTICS: Final = frozenset({403, 404, 405, 501})
"""What a gateway, or a server with a part of this interface, says to a path that it does not have."""


async def check(index: StatsSeam, url: str, shape: QueueShape, now: float, events: Events) -> None:
    """Raise where draining cannot work: no index answers, it refuses us, or its dimension is not the queue's.

    Trouble that may pass (a rate, a server's error) is no reason not to start, nor are statistics that are not offered:
    these are told of.

    Raises:
        WorldError: nothing answers at `url`.
        Refused: something does, and refuses.
    """
    reply = await index.stats()
    if isinstance(reply, TransportFailure):
        raise WorldError(f"cannot reach the index at {url}: {reply.message}; check {reply.check}")
    found = _document(reply)
    if found is not None:
        _check_dimension(found.get("dimension"), url, shape)
        return
    outcome = judge(reply, _NOTHING, now)
    if reply.status in _NO_STATISTICS:
        events.tell(Event.NO_STATISTICS, index=url, why=describe(outcome))
        return
    match outcome:
        case LaneRefused():
            raise Refused(f"the index at {url}: {describe(outcome)}")
        case Accepted() | ShortAck():
            raise Refused(f"what answers at {url} is not an index: check --index-host")
        case Busy() | RecordRefused() | TooLarge():
            return


def _document(reply: Answer) -> dict[str, object] | None:
    """The statistics, `None` when the answer is none: they always name the namespaces or the count."""
    if reply.status != 200:  # noqa: PLR2004 - the one status of an answer
        return None
    try:
        document = orjson.loads(reply.body)
    except ValueError:
        # a real answer may be longer than what is read of a body
        return {} if reply.truncated and reply.body.lstrip().startswith(b"{") else None
    known = {"dimension", "namespaces", "totalVectorCount", "indexFullness", "vectorType", "metric"}
    return document if isinstance(document, dict) and (not document or known & set(document)) else None


def _check_dimension(dimension: object, url: str, shape: QueueShape) -> None:
    if isinstance(dimension, int) and dimension > 0 and shape.dimension not in {None, dimension}:
        raise Refused(
            f"the index at {url} has {dimension} dimensions, but queue '{shape.name}' holds records of "
            f"{shape.dimension}: check --queue and --index-host",
        )
