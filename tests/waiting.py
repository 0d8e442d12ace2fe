"""Waiting for a condition with a deadline: the only place in the tests that may sleep, and never for long."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, Final, TypeVar, overload

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
INTERVAL: Final = 0.005
LONGEST: Final = 0.025
SHARE: Final = 0.025
"""Of what a wait has taken so far: so many seconds pass until the next look, since a look takes its time too."""


def wait_until(predicate: Callable[[], T], timeout: float, what: str) -> T:
    """Poll `predicate` until it is true and return its value; fail the test, naming `what`, after `timeout` seconds."""
    began = time.monotonic()
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= began + timeout:
            pytest.fail(f"waited {timeout:g} s in vain until {what}; last value: {value!r}")
        time.sleep(_pause(began))


@overload
async def wait_until_async(predicate: Callable[[], Awaitable[T]], timeout: float, what: str) -> T: ...  # noqa: ASYNC109
@overload
async def wait_until_async(predicate: Callable[[], T], timeout: float, what: str) -> T: ...  # noqa: ASYNC109
async def wait_until_async(
    predicate: Callable[[], T] | Callable[[], Awaitable[T]],
    timeout: float,  # noqa: ASYNC109 - unlike asyncio.timeout it names what it waited for
    what: str,
) -> T:
    """Do as `wait_until` without blocking the event loop; `predicate` may be a coroutine function."""
    began = time.monotonic()
    while True:
        outcome = predicate()
        value = await outcome if inspect.isawaitable(outcome) else outcome
        if value:
            return value
        if time.monotonic() >= began + timeout:
            pytest.fail(f"waited {timeout:g} s in vain until {what}; last value: {value!r}")
        await asyncio.sleep(_pause(began))


def _pause(began: float) -> float:
    return min(LONGEST, max(INTERVAL, SHARE * (time.monotonic() - began)))
