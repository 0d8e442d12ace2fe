"""Every script runs behind the shim here: a key that is not among its KEYS fails the test, on every kind of server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import declared_keys
from upsertq import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from conftest import Backend
    from servers import RealServer


@pytest.fixture(autouse=True)
def declared_keys_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the shim before every script."""
    declared_keys.hold_all(monkeypatch)


@pytest.fixture
def server(backend: Backend) -> Server:
    """Provide the backend as the producer sees it."""
    return Server(backend.sync)


@pytest.fixture
def client(redis_server: RealServer) -> Iterator[redis.Redis]:
    """Provide one real server, for what is the same on all."""
    with redis_server.client() as client:
        yield client
