"""Owns a wait: when a run or a queue is done, and what ends a wait before. Absence is never success.

Everything that talks to the server is a conversation; it decides from the books, the notes and the clocks it is given.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from upsertq.client.held import Standstill
from upsertq.client.stall import Stall, told
from upsertq.contract import books, queue, runs
from upsertq.contract.books import Books
from upsertq.contract.circumstances import Circumstances
from upsertq.contract.errors import NotFound, QueueLost, RunOpen, ServerUnavailable, WaitTimeout
from upsertq.contract.keys import QueueKeys, queue_option
from upsertq.contract.pauses import QUEUE, read_pauses
from upsertq.contract.protocol import Conversation, Patience, Pause
from upsertq.contract.queue import QueueShape
from upsertq.contract.runs import RunState

FIRST_POLL: Final = 0.05
MAX_POLL: Final = 1.0
PATIENCE_SECONDS: Final = 30.0
"""How long a wait bears with an absent server."""
OPEN_TIMEOUT: Final = 60.0
"""How long a wait bears with a run that is open, of which all is settled and to which nothing is added."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What is waited for, and for how long.

    Args:
        keys: the queue's.
        shape: what the queue was when the wait was asked for: another one by its name is none.
        run: the run; the whole queue where it is empty.
        timeout: seconds in all; `None` is no limit.
        pause_timeout: seconds to be stuck on a pause; `None` is no limit.
        open_timeout: seconds without an addition to an open run of which nothing is pending; `None` is no limit.
        enqueued: how many records there are at least, as far as is known: fewer are no success, but a loss.
    """

    keys: QueueKeys
    shape: QueueShape
    run: str = ""
    timeout: float | None = None
    pause_timeout: float | None = None
    open_timeout: float | None = OPEN_TIMEOUT
    enqueued: int = 0


def wait_until_settled(
    wait: Wait, world: Circumstances, watch: Callable[[Books], None] = lambda _: None
) -> Conversation[Books]:
    """Poll the books until nothing is pending, and the run is sealed, telling `watch`; returns them.

    Raises:
        NotFound: the queue does not know the run, or not any more.
        QueueLost: the server lost the queue, or a part of it.
        RunOpen: nothing is pending, but the run was not sealed, and nothing was added for `open_timeout` seconds.
        WaitTimeout: `timeout` seconds are over.
        LanePaused: the wait is stuck on a pause for `pause_timeout` seconds.
    """
    begun = world.clock()
    until = None if wait.timeout is None else begun + wait.timeout
    stall = None if wait.pause_timeout is None else Stall(wait.keys, wait.pause_timeout, world.wall())
    step, enqueued, added = FIRST_POLL, wait.enqueued, begun
    standstill = Standstill(wait.keys, wait.shape, begun)
    while True:
        left = PATIENCE_SECONDS if until is None else max(0.0, until - world.clock())
        patience = world.patience(min(left, PATIENCE_SECONDS))
        # before the books: what was sealed then is counted in them
        state = (yield from _find_run(wait, patience, known=step > FIRST_POLL)) if wait.run else None
        found = yield from _books(wait, patience)
        # after the books: what vanishes between the two is noticed
        yield from queue.check_present(wait.keys, wait.shape, wait.run, patience)
        if found.enqueued > enqueued:
            added = world.clock()
        enqueued = _expected(wait, state, found, enqueued)
        watch(found)
        yield from standstill.check(found, world.clock(), patience)
        if found.pending == 0:
            if state is None or state.is_sealed(found.enqueued):
                return found
            if wait.open_timeout is not None and world.clock() - added >= wait.open_timeout:
                raise _still_open(wait, found)
        elif stall is not None:
            what = _waited(wait, found)
            yield from stall.check(found, what, world.wall(), world.patience(PATIENCE_SECONDS))
        if until is not None and world.clock() >= until:
            why = yield from _why_pending(wait.keys, world.patience(0))
            if found.pending == 0:
                why = "the run is open: something may still be added to it"
            raise WaitTimeout(f"{_waited(wait, found)} after {wait.timeout:g} s: {why}")
        left = MAX_POLL if until is None else max(0.0, until - world.clock())
        yield Pause(min(step, left))
        step = min(step * 1.5, MAX_POLL)


def _find_run(wait: Wait, patience: Patience, *, known: bool) -> Conversation[RunState]:
    """What is noted of the run; where it was `known` a moment ago it cannot be absent."""
    try:
        return (yield from runs.find_run(wait.keys, wait.shape, wait.run, patience))
    except NotFound:
        if known:
            raise QueueLost(wait.keys.queue, f"the run '{wait.run}' is gone from the key '{wait.keys.runs}'") from None
        raise


def _books(wait: Wait, patience: Patience) -> Conversation[Books]:
    """The books; `QueueLost` where a shard settled more of the run than its books know to have been enqueued."""
    parts = yield from books.read_shards(wait.keys, wait.shape.shards, wait.run, patience, wait.shape.incarnation)
    gone = [wait.keys.shard(shard).run(wait.run) for shard, part in enumerate(parts) if wait.run and part.pending < 0]
    if gone:
        raise QueueLost(wait.keys.queue, f"books of run '{wait.run}' were lost: {', '.join(gone)}")
    return books.total(parts)


def _expected(wait: Wait, state: RunState | None, found: Books, enqueued: int) -> int:
    """How many records there are at least, from now on; `QueueLost` where there are fewer."""
    least = max(enqueued, 0 if state is None else state.records)
    if found.enqueued < least:
        what = f"run '{wait.run}'" if wait.run else f"queue '{wait.keys.queue}'"
        raise QueueLost(wait.keys.queue, f"{what} had {least:,} records and has {found.enqueued:,} now")
    return max(least, found.enqueued)


def _still_open(wait: Wait, found: Books) -> RunOpen:
    where = queue_option(wait.keys.queue)
    return RunOpen(
        f"run '{wait.run}' is not complete: its {found.enqueued:,} records are settled, but nothing was added for "
        f"{wait.open_timeout:g} s and it was not sealed, so its load ended early or stands still; go on with "
        f"`upsertq load SOURCE…{where} --run {wait.run} --resume`, or wait longer (--open-timeout)"
    )


def _waited(wait: Wait, found: Books) -> str:
    what = f"run '{wait.run}'" if wait.run else f"queue '{wait.keys.queue}'"
    return f"{found.pending:,} of {found.enqueued:,} records of {what} are pending"


def _why_pending(keys: QueueKeys, patience: Patience) -> Conversation[str]:
    """What keeps records pending: a pause of the queue; of namespaces it is not known whether they are theirs."""
    try:
        paused = yield from read_pauses(keys, patience)
    except ServerUnavailable:
        paused = {}
    if QUEUE in paused:
        return told(keys, QUEUE, paused[QUEUE])
    also = "".join(f"; {told(keys, *lane)}" for lane in islice(paused.items(), 1))
    return f"is a worker running? `upsertq status{queue_option(keys.queue)}` shows it{also}"
