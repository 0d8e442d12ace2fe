"""Owns the question whether a replayed entry is still the newest of its record: nothing of it is sent before."""

from upsertq_worker.context import Context, Signals
from upsertq_worker.damage import Damage
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import Held
from upsertq_worker.queue.protocols import Queue


class Replays:
    """Replayed entries that were read, until the queue was asked about them.

    It is asked after they were taken in: a version that was acknowledged before is marked on the server, or still known
    to the hold.
    """

    def __init__(self, context: Context, signals: Signals, queue: Queue, hold: Hold, damage: Damage) -> None:
        self._context = context
        self._signals = signals
        self._queue = queue
        self._hold = hold
        self._damage = damage
        self._unchecked: list[Held] = []

    def add(self, held: Held) -> None:
        """Ask about this one, too."""
        self._unchecked.append(held)

    async def check(self) -> None:
        """Let them be sent, or end those of whose record a newer version was acknowledged.

        Raises:
            ServerUnavailable: the server is away.
            ShardsDamaged: a shard's marks cannot be read.
        """
        asked: list[Held] = []
        waiting: list[Held] = []
        for held in self._unchecked:
            if not held.dropped:
                (waiting if self._damage.waits(held.shard) else asked).append(held)
        if asked:
            stale = await self._queue.superseded([(held.shard, held.entry) for held in asked])
            now = self._context.clock()
            for held, superseded in zip(asked, stale, strict=True):
                self._hold.checked(held, now, superseded=superseded)
            self._signals.sendable.set()
            self._signals.settleable.set()
        self._unchecked = waiting
