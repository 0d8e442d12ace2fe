"""Fixtures of the commands' stories."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from servers import RealServer


@pytest.fixture
def client(redis_server: RealServer) -> Iterator[redis.Redis]:
    """Provide a raw client of the server."""
    with redis_server.client() as client:
        yield client
