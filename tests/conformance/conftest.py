"""Every script runs behind the shim here: a key that is not among its KEYS fails the test, on every kind of server."""

from __future__ import annotations

import pytest

import declared_keys


@pytest.fixture(autouse=True)
def declared_keys_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the shim before every script."""
    declared_keys.hold_all(monkeypatch)
