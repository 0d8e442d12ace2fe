"""Owns every event of a worker: its name, level and fields, and the sentence that the log has for it.

It decides nothing. Logs are written from here, tests wait for events instead of sleeping, and metrics may listen.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

log = logging.getLogger("upsertq.worker")

EVENT: Final = "upsertq_event"
FIELDS: Final = "upsertq_fields"
"""Under these names a log record carries the event's name and its fields, for a formatter that writes JSON."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of event: its level in the log, and its sentence with the names of its fields in braces."""

    level: int
    text: str


class Event(Enum):
    """Every event, in the order of a worker's life."""

    LISTENING = Kind(logging.INFO, "health and metrics are at {url}")
    STARTED = Kind(logging.INFO, "worker {worker} drains queue {queue} into {index}")
    QUEUE_NEW = Kind(logging.INFO, "queue {queue} is new: nothing was ever loaded into it")
    STANDING_BY = Kind(
        logging.INFO, "standing by: {workers} workers share {shards} shards, and none is left for this one"
    )
    SHARE = Kind(logging.INFO, "holds {held} of {shards} shards; workers: {workers}")
    SHARDS_HANDED_OVER = Kind(logging.DEBUG, "gave the leases of shards {shards} back to the pool")
    SHARDS_GAINED = Kind(logging.DEBUG, "took the leases of shards {shards}")
    LEASE_LOST = Kind(logging.WARNING, "shard {shard}: the lease was lost; it is read anew from its first entry")
    UNCLEAN_TAKEOVER = Kind(
        logging.INFO, "{shards} shards: the previous worker ended without releasing them ({deaths} in a row)"
    )
    CARE_BEGUN = Kind(
        logging.WARNING,
        "{shards} shards: {deaths} workers died in a row; resending what was in flight, one entry at a time",
    )
    SUSPECT_SENT = Kind(logging.DEBUG, "shard {shard}: sends {what} alone")
    CARE_OVER = Kind(logging.INFO, "what was in flight when workers died was sent: draining at full pace again")
    STREAM_HALTED = Kind(logging.ERROR, "shard {shard} stops reading {lane}: {error}")
    LANE_HALTED = Kind(logging.ERROR, "shard {shard} sends nothing more of {lane}: {error}")
    SHARD_DAMAGED = Kind(logging.ERROR, "shard {shard} cannot be drained: {error}")
    SHARD_MENDED = Kind(logging.INFO, "shard {shard} is mended")
    LANE_MENDED = Kind(logging.INFO, "shard {shard} goes on reading {lane}")
    LANES_FOUND = Kind(
        logging.WARNING,
        "shard {shard}: the server lost settlements, or a part of the list of lanes: {lanes} streams are read anew",
    )
    RECORDS_MISSING = Kind(logging.ERROR, "shard {shard}: {error}")
    RECORDS_FOUND = Kind(logging.INFO, "shard {shard}: what was missing is there again, or counted no more")
    QUEUE_LOST = Kind(logging.ERROR, "{error}; waiting until it is created anew")
    QUEUE_ANEW = Kind(logging.INFO, "queue {queue} was created anew: draining it")
    REQUEST_ENDED = Kind(logging.DEBUG, "a request with {bytes} bytes of body took {seconds:.3f} s")
    BATCH_SENT = Kind(logging.DEBUG, "sent {records} records of {lane}: {outcome}")
    BATCH_RETRIED = Kind(logging.DEBUG, "{records} records of {lane} are to be sent again: {cause}")
    SETTLED = Kind(logging.DEBUG, "settled {entries} entries")
    RETRYING = Kind(logging.WARNING, "{why}; retrying")
    ACCEPTS_AGAIN = Kind(logging.INFO, "the index accepts again after {seconds:.1f} s")
    DEAD = Kind(logging.WARNING, "gives up {id} of {lane}: {message}")
    PAUSED = Kind(logging.ERROR, "paused {lane}: {message}; the backlog waits, a probe goes out now and then")
    PAUSED_ELSEWHERE = Kind(logging.WARNING, "paused {lane}: {message}")
    RESUMED = Kind(logging.INFO, "resumed {lane}: a probe was accepted")
    RESUMED_ELSEWHERE = Kind(logging.INFO, "{lane} is not paused any more")
    KEY_RENEWED = Kind(logging.INFO, "the API key was read anew: it is another one")
    KEY_UNUSABLE = Kind(logging.ERROR, "{error}; the key as it was goes on being used")
    NO_STATISTICS = Kind(
        logging.WARNING,
        "the index at {index} gives no statistics ({why}): whether it is one, and fits, the first batch tells",
    )
    SERVER_AWAY = Kind(logging.WARNING, "{error}; trying again until it is back")
    SERVER_BACK = Kind(logging.INFO, "the queue's server is back after {seconds:.0f} s")
    NOT_SEEN = Kind(logging.WARNING, "{error}; {consequence}")
    STOPPING = Kind(logging.INFO, "stopping: {in_flight} requests in flight may finish; a second signal stops at once")
    WORKER_ENDED = Kind(
        logging.WARNING, "a worker process {how} after {lived:.0f} s; another one starts in {seconds:.1f} s"
    )
    PROCESSES_STOPPING = Kind(logging.INFO, "stopping {workers} worker processes; a second signal stops at once")
    COMMAND_GONE = Kind(logging.WARNING, "stopping: the command that started this worker is gone")


Listener: TypeAlias = Callable[[Event, Mapping[str, Any]], None]


class Events:
    """Tells events to the log, and to every listener."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every event from now on."""
        self._listeners.append(listener)

    def tell(self, event: Event, **fields: Any) -> None:
        """Something happened."""
        kind = event.value
        if log.isEnabledFor(kind.level):
            log.log(kind.level, kind.text.format(**fields), extra={EVENT: event.name.lower(), FIELDS: fields})
        for listener in self._listeners:
            listener(event, fields)
