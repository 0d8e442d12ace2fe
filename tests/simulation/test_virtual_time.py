"""Virtual time passes at once and in order, and a simulated process can be stopped, continued and lost."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from virtual_time import Process, TimeStandsStill, VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    """Provide a loop in virtual time."""
    loop = VirtualLoop()
    yield loop
    loop.end_all([])
    loop.close()


def test_waiting_takes_no_time(loop: VirtualLoop) -> None:
    """An hour passes at once, and the clock says that it did."""
    started = time.monotonic()
    loop.run_until_complete(asyncio.sleep(3600))
    assert loop.time() == pytest.approx(3600)
    assert time.monotonic() - started < 60


def test_timers_fire_in_their_order(loop: VirtualLoop) -> None:
    """What is due first happens first, at its time."""
    happened: list[tuple[str, float]] = []
    for delay, name in ((3.0, "c"), (1.0, "a"), (2.0, "b")):
        loop.later(delay, lambda name=name: happened.append((name, loop.time())))
    loop.run_until_complete(asyncio.sleep(5))
    assert happened == [("a", 1.0), ("b", 2.0), ("c", 3.0)]


def test_a_deadlock_is_named(loop: VirtualLoop) -> None:
    """When nothing can ever happen any more the loop says so instead of waiting for ever."""
    with pytest.raises(TimeStandsStill, match="a deadlock"):
        loop.run_until_complete(asyncio.Event().wait())


def test_a_busy_loop_is_named(loop: VirtualLoop) -> None:
    """A task that goes on without letting time pass is found out."""

    async def spin() -> None:
        while True:  # noqa: ASYNC110 - that is the point
            await asyncio.sleep(0)

    with pytest.raises(TimeStandsStill, match="a busy loop"):
        loop.run_until_complete(spin())


async def _tick(loop: VirtualLoop, ticks: list[float]) -> None:
    while True:
        await asyncio.sleep(1)
        ticks.append(loop.time())


def test_a_stopped_process_stands_still_and_goes_on(loop: VirtualLoop) -> None:
    """Its timers that fall due meanwhile fire when it continues; the world around it goes on."""
    ticks: list[float] = []
    process = Process(loop, "p")
    process.start(_tick(loop, ticks))
    loop.later(2.5, process.pause)
    loop.later(7.25, process.resume)
    loop.run_until_complete(asyncio.sleep(9))
    assert ticks == [1.0, 2.0, 7.25, 8.25]


def test_a_timeout_that_was_called_off_during_a_stop_stays_so(loop: VirtualLoop) -> None:
    """A callback that was due during the stop, and was cancelled by an earlier one after it, does not run."""
    outcome: list[str] = []

    async def wait(event: asyncio.Event) -> None:
        async with asyncio.timeout(3):
            await event.wait()
        outcome.append("in time")

    event = asyncio.Event()
    process = Process(loop, "p")
    process.start(wait(event))
    loop.later(1, process.pause)
    loop.later(2, event.set)
    loop.later(5, process.resume)
    loop.run_until_complete(asyncio.sleep(9))
    assert outcome == ["in time"]


def test_a_killed_process_does_nothing_any_more(loop: VirtualLoop) -> None:
    """Not even its `finally`, and resuming does not bring it back."""
    ticks: list[float] = []
    process = Process(loop, "p")

    async def work() -> None:
        try:
            await _tick(loop, ticks)
        finally:
            ticks.append(-1.0)

    process.start(work())
    loop.later(1.5, process.kill)
    loop.later(2.5, process.resume)
    loop.run_until_complete(asyncio.sleep(9))
    assert ticks == [1.0]
    loop.end_all([process])


def test_a_fuse_strikes_between_two_lines(loop: VirtualLoop) -> None:
    """Something befalls a process after so many of its callbacks, before the next one runs."""
    ticks: list[float] = []
    process = Process(loop, "p")
    process.start(_tick(loop, ticks))
    process.fuse = 5, process.kill
    loop.run_until_complete(asyncio.sleep(60))
    assert 0 < len(ticks) < 5
    loop.end_all([process])


async def _tick_and_tidy_up(loop: VirtualLoop) -> None:
    try:
        await _tick(loop, [])
    finally:
        await asyncio.sleep(0)


def _busy(loop: VirtualLoop) -> tuple[Process, list[asyncio.Task[None]]]:
    """Start a process of some tasks, each of which takes more than one step for its end."""
    process = Process(loop, "p")
    tasks = [process.start(_tick_and_tidy_up(loop)) for _ in range(5)]
    loop.run_until_complete(asyncio.sleep(1.5))
    return process, tasks


@pytest.mark.parametrize("befalls", ["kill", "pause"])
@pytest.mark.parametrize("dead", [True, False])
def test_a_fuse_goes_out_with_the_burial(loop: VirtualLoop, befalls: str, *, dead: bool) -> None:
    """One that still burns, as the worker died of something else first, does not keep its tasks from their end."""
    process, tasks = _busy(loop)
    process.fuse = 1, getattr(process, befalls)
    if dead:
        process.kill()
    loop.end_all([process])
    assert all(task.cancelled() for task in tasks)


@pytest.mark.parametrize("befalls", ["kill", "pause"])
def test_a_burial_is_not_held_up_by_the_world(loop: VirtualLoop, befalls: str) -> None:
    """What the world was about to do to a process at that very moment does not stop it again."""
    process, tasks = _busy(loop)
    loop.later(0, getattr(process, befalls))
    loop.end_all([process])
    assert all(task.cancelled() for task in tasks)


def test_a_burial_without_end_is_named(loop: VirtualLoop) -> None:
    """A task that never takes its cancellation is told of, rather than waited for."""
    enough = False

    async def cling() -> None:
        while not enough:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    task = loop.create_task(cling(), name="cling")
    loop.run_until_complete(asyncio.sleep(1))
    with pytest.raises(TimeStandsStill, match=r"no end: .*cling"):
        loop.end_all([])
    enough = True
    loop.end_all([])
    assert task.done()
