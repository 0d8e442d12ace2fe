"""Owns how a task bears with the absence of the queue's server: told once, waited for with jitter, told to be over."""

from upsertq_worker.context import Context, Signals, signalled
from upsertq_worker.events import Event
from upsertq_worker.flow.backoff import Backoff

_BACKOFF = Backoff(0.1, 2.0)


class Absence:
    """The absence of the queue's server, as one task meets it; `what` is what the task wants."""

    def __init__(self, what: str, context: Context, signals: Signals) -> None:
        self._what = what
        self._context = context
        self._signals = signals
        self._delay: float | None = None

    def over(self) -> None:
        """The server answered."""
        if self._delay is None:
            return
        self._delay = None
        lasted = self._signals.away.ends(self._what, self._context.clock())
        if lasted is not None:
            self._context.events.tell(Event.SERVER_BACK, seconds=lasted)

    async def wait(self, error: Exception) -> None:
        """Let some time pass before the next attempt; ends early when the worker stops, or has done its last."""
        why = str(error).partition(": ")[2] or str(error)  # without what could not be done: that differs by task
        if self._signals.away.begins(self._what, why, self._context.clock()):
            self._context.events.tell(Event.SERVER_AWAY, error=error)
        self._delay = _BACKOFF.next(self._delay, self._context.rng)
        signals = self._signals
        await signalled(signals.done if signals.stopping.is_set() else signals.stopping, self._delay)
