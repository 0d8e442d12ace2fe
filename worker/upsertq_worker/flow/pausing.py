"""Owns the beginning and the end of pauses: here, as noted on the server, and as an operator sets them by hand."""

from dataclasses import dataclass, field
from typing import Final

from upsertq.contract.errors import ServerRefused, ServerUnavailable
from upsertq.contract.pauses import Paused, spoken
from upsertq_worker.context import Context, Signals
from upsertq_worker.events import Event
from upsertq_worker.flow.pauses import PauseNotes, Pauses

PAUSES: Final = "pauses"
"""The alarm of notes of pauses that cannot be read or written."""


@dataclass(eq=False)
class Pausing:
    """The pauses of one queue as this worker knows them, and what of them is still to be noted on the server."""

    _context: Context
    _signals: Signals
    _queue: PauseNotes
    pauses: Pauses
    _notes: dict[str, Paused | None] = field(init=False, default_factory=dict)

    def pause(self, scope: str, reason: str, message: str) -> None:
        """Pause a scope, say so once, and have it noted for `upsertq status`."""
        context = self._context
        if scope in self.pauses.paused:
            return  # what was in flight when it was paused says nothing about its next probe
        paused = Paused(reason, message, context.wall(), context.name)
        if self.pauses.pause(scope, paused, context.clock(), context.rng):
            context.events.tell(Event.PAUSED, lane=spoken(scope), scope=scope, reason=reason, message=message)
            self._note(scope, paused)

    def probe_refused(self, scope: str) -> None:
        """A probe of this scope was refused, or given up: another one goes out later."""
        paused = self.pauses.paused.get(scope)
        if paused is not None:
            self.pauses.pause(scope, paused, self._context.clock(), self._context.rng)

    def reason(self, scope: str) -> str | None:
        """Why the service paused this scope; `None` when it did not."""
        return self.pauses.reason(scope)

    def resume(self, scope: str) -> bool:
        """End a pause, and say so; returns whether there was one."""
        if not self.pauses.resume(scope):
            return False
        self._context.events.tell(Event.RESUMED, lane=spoken(scope), scope=scope)
        self._note(scope, None)
        return True

    async def follow(self) -> None:
        """Note the pauses that began or ended here, and follow what is paused and resumed by hand."""
        events, alarms, changes = self._context.events, self._signals.alarms, dict(self._notes)
        try:
            if changes:
                await self._queue.note(changes)
            noted = await self._queue.pauses()
        except (ServerUnavailable, ServerRefused) as error:
            if PAUSES not in alarms:
                events.tell(Event.NOT_SEEN, error=error, consequence="pauses by hand are not seen meanwhile")
            alarms[PAUSES] = str(error)
            return
        alarms.pop(PAUSES, None)
        self._notes = {
            scope: why for scope, why in self._notes.items() if scope not in changes or changes[scope] is not why
        }
        paused = {scope: why for scope, why in (noted | self._notes).items() if why is not None}
        begun, ended = self.pauses.adopt(paused, self._context.clock())
        for scope in sorted(begun):
            events.tell(Event.PAUSED_ELSEWHERE, lane=spoken(scope), scope=scope, message=noted[scope].message)
        for scope in sorted(ended):
            events.tell(Event.RESUMED_ELSEWHERE, lane=spoken(scope), scope=scope)
        if begun or ended:
            self._signals.sendable.set()
            self._signals.readable.set()

    def _note(self, scope: str, paused: Paused | None) -> None:
        self._notes[scope] = paused
        self._signals.noteworthy.set()
        self._signals.readable.set()
