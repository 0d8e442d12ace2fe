"""The demo shows the whole way on a server of its own or on one that is given, and leaves nothing there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from processes import call

if TYPE_CHECKING:
    from servers import RealServer


@pytest.mark.parametrize("given", [False, True])
def test_the_demo_lands_every_record_and_leaves_nothing(redis_server: RealServer, given: bool) -> None:  # noqa: FBT001
    """Exit code 0, each record is what was loaded last, and the queue is gone again."""
    shown = call("demo", "--records", "1000", url=redis_server.url if given else None).stdout
    assert "each one equal to its last version" in shown
    with redis_server.client() as client:
        assert client.keys("upsertq:*") == []
