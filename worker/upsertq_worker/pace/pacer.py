"""Owns the asking for slots: one call at a time, for all lanes that want some; none while no lane has a pace."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from upsertq.contract.errors import ServerRefused, ServerUnavailable
from upsertq_worker.context import Context, Signals, signalled
from upsertq_worker.events import Event
from upsertq_worker.pace.lane import Ask, SharedPace
from upsertq_worker.pace.slots import Slots

AGAIN: Final = 1.0
"""Seconds after a call that failed until the server is asked again."""


@dataclass(eq=False)
class Pacer:
    """Asks for what `slots` want, and lets a worker go on alone while the server does not answer."""

    _context: Context
    _signals: Signals
    _queue: SharedPace
    _workers: Callable[[], int]
    """How many live workers there are, this one included."""
    _alone_until: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.slots = Slots(self._signals.unpaced.set)

    async def run(self) -> None:
        """Ask until the worker stops."""
        signals, clock = self._signals, self._context.clock
        while not signals.stopping.is_set():
            signals.unpaced.clear()
            while asks := self.slots.asks(clock()):
                if clock() < self._alone_until or not await self._asked(asks):
                    self.slots.alone(asks, clock(), self._workers())
                signals.sendable.set()
            await signalled(signals.unpaced, None)

    async def _asked(self, asks: Sequence[Ask]) -> bool:
        try:
            self.slots.given(asks, await self._queue.pace(asks), self._context.clock())
        except (ServerUnavailable, ServerRefused) as error:
            if not self._alone_until:
                consequence = "this worker goes on at its share of the last pace"
                self._context.events.tell(Event.NOT_SEEN, error=error, consequence=consequence)
            self._alone_until = self._context.clock() + AGAIN
            return False
        self._alone_until = 0.0
        return True
