"""Owns the planted bugs around reading and suspects: what is read, and what is held against a record that may kill."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from model_queue import ModelQueue
from upsertq_worker.delivery.sender import Sender
from upsertq_worker.queue.cursors import Cursors
from upsertq_worker.queue.reader import Reader
from upsertq_worker.recovery import suspects
from upsertq_worker.recovery.careful import Careful
from upsertq_worker.recovery.missing import Missing
from upsertq_worker.recovery.suspects import Suspect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from model_queue import Place, Shard
    from upsertq_worker.delivery.batch import Batch
    from upsertq_worker.ordering.model import Settlement


def cursor_past_unsettled_entries() -> AbstractContextManager[Any]:
    """A new holder begins behind what stood in the streams."""
    follow = Cursors.follow

    def hasty(self: Cursors, shard: int, namespace: str, rung: tuple[int, int] = (0, 0)) -> bool:
        new = follow(self, shard, namespace, rung)
        if new:
            known = self.shards[shard]
            known.lanes[namespace].place = "{}-{}".format(*known.takeover.boundary)
        return new

    return patch.object(Cursors, "follow", hasty)


@contextmanager
def bell_not_heard() -> Iterator[None]:
    """A lane that gets a stream after the lanes were listed is never read; nor is it searched for in a standstill."""

    async def blind(_: Missing) -> None:
        return None

    with patch.object(Cursors, "hear", lambda *_: None), patch.object(Missing, "look", blind):
        yield


def emptied_streams_forgotten_for_good() -> AbstractContextManager[Any]:
    """A stream that was emptied is not read any more, though its lane may have got another one since."""

    def hasty(self: Reader, streams: Any) -> None:
        for shard, namespace in streams:
            if cursor := self.cursors.find(shard, namespace):
                cursor.gone = True

    return patch.object(Reader, "emptied", hasty)


def ids_that_follow_the_wall_clock() -> AbstractContextManager[Any]:
    """The enqueue script takes the time for the id, also when the clock went back."""

    def naive(self: ModelQueue, model: Shard) -> Place:
        milliseconds = self.milliseconds()
        return (milliseconds, model.clock[1] + 1 if model.clock[0] == milliseconds else 0)

    return patch.object(ModelQueue, "next_place", naive)


def stream_deleted_with_an_entry_in_it() -> AbstractContextManager[Any]:
    """The settle script deletes a stream in which one entry is left."""
    remove = ModelQueue.remove

    def hasty(self: ModelQueue, model: Shard, settlement: Settlement) -> bool:
        removed = remove(self, model, settlement)
        stream = model.streams.get(settlement.namespace, {})
        if removed and len(stream) == 1:
            stream.clear()
        return removed

    return patch.object(ModelQueue, "remove", hasty)


def suspects_never_alone() -> AbstractContextManager[Any]:
    """Nothing is ever held against a record: what kills is sent among others for ever."""
    return patch.object(suspects, "DEATHS", 1_000_000)


def given_up_with_its_entry() -> AbstractContextManager[Any]:
    """All records of an entry that was alone at a death are given up."""
    read = suspects.read

    def hasty(mark: str, *, died: bool) -> dict[Suspect, int]:
        blamed = read(mark, died=died)
        entries = [one.stream_id for one in blamed if one.row is None]
        return blamed | {Suspect(name, row): suspects.ALONE for name in entries for row in range(25)}

    return patch.object(suspects, "read", hasty)


def given_up_at_the_first_death_alone() -> AbstractContextManager[Any]:
    """One death is enough, whatever its cause."""
    return patch.object(suspects, "ALONE", 1)


def others_beside_suspects() -> AbstractContextManager[Any]:
    """Other records are sent while a suspect is marked as alone in flight."""

    def crowded(self: Sender, now: float) -> Batch | None:
        return self._suspects.take() or self.turns.next(now)

    return patch.object(Sender, "_with_care", crowded)


def given_up_records_sent() -> AbstractContextManager[Any]:
    """What is given up is forgotten until its entry is read again."""
    return patch.object(Careful, "admitted", lambda *_: None)


PLANTED_READING: Final[dict[Callable[[], AbstractContextManager[Any]], str]] = {
    cursor_past_unsettled_entries: "",
    bell_not_heard: "",
    emptied_streams_forgotten_for_good: "",
    ids_that_follow_the_wall_clock: "",
    stream_deleted_with_an_entry_in_it: "",
    suspects_never_alone: "deadly",
    given_up_with_its_entry: "kills",
    given_up_at_the_first_death_alone: "kills",
    others_beside_suspects: "deadly",
    given_up_records_sent: "deadly",
}
"""Each of them, and the climate in which it shows soon (`""`: any)."""
