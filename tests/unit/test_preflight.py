"""What an index says when it is asked for statistics: what has none may still take records."""

from __future__ import annotations

import pytest

from upsertq.contract.errors import WorldError
from upsertq.contract.queue import QueueShape
from upsertq_worker.delivery.response import Answer, TransportFailure, TransportKind
from upsertq_worker.delivery.sender import Refused
from upsertq_worker.edge.preflight import check
from upsertq_worker.events import Events

URL = "https://gw.example/pinecone/idx"


class Stats:
    """An index that answers so."""

    def __init__(self, reply: Answer | TransportFailure) -> None:
        self.reply = reply

    async def stats(self) -> Answer | TransportFailure:
        """As `StatsSeam.stats`."""
        return self.reply


async def checked(reply: Answer | TransportFailure) -> None:
    """Check it."""
    await check(Stats(reply), URL, QueueShape("q", 8, 4, "i"), 0.0, Events())


@pytest.mark.parametrize("status", [403, 404, 405, 501])
async def test_a_host_without_statistics_is_warned_of(status: int, caplog: pytest.LogCaptureFixture) -> None:
    """Once, with its address; the first batch tells."""
    await checked(Answer(status, {}, b"no such thing"))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert URL in record.getMessage()
    assert str(status) in record.getMessage()


@pytest.mark.parametrize("status", [401, 402, 302, 410])
async def test_a_host_that_refuses_is_refused(status: int) -> None:
    """A key or a redirect is as wrong for records."""
    with pytest.raises(Refused):
        await checked(Answer(status, {}, b""))


async def test_what_cannot_be_reached_says_what_to_check() -> None:
    """The option, or the variable that names a proxy."""
    with pytest.raises(WorldError, match="check --index-host"):
        await checked(TransportFailure(TransportKind.CONNECT, "refused"))
    with pytest.raises(WorldError, match="check HTTPS_PROXY"):
        await checked(TransportFailure(TransportKind.CONNECT, "refused", "HTTPS_PROXY"))
