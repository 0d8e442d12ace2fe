"""Every error that upsertq raises on purpose; it must never carry a secret (URLs are shown without their password).

UpsertqError
├── UsageError                 the caller asked for something that cannot be
│   ├── InvalidRecord          a record breaks a rule of the contract: raised at `put`, nothing was enqueued
│   └── QueueMismatch          the queue on the server is not what was asked for, or not ours to read
└── WorldError                 the world does not cooperate; the same call may succeed later
    ├── QueueFull              the backlog is at its limit, or the server is out of memory
    ├── TooManyDead            the queue has as many dead letters as the producer allows
    ├── ServerUnavailable      the Redis or Valkey server cannot be reached, or stays away
    ├── ServerRefused          it answers, but refuses us: password, permission, wrong type of key
    │   └── QueueDamaged       a key of the queue holds what upsertq never wrote
    ├── QueueLost              the server lost the queue, or a part of it, with the records in it
    ├── ServerUnfit            what answers cannot keep a queue: it evicts keys, or is no Redis server
    ├── NotFound               there is no such queue, run or load on this server
    ├── SourceError            a file cannot be read, or is not what it seems
    ├── LoadStopped            a load ended early: at a bad record, a damaged file or an absent server
    ├── RunOpen                what is waited for is a run that was never completed
    ├── WaitTimeout            the time to wait is over and the work is not
    └── LanePaused             what is waited for is stuck on a pause, by the service or by hand
"""

from upsertq.contract.printable import printable


class UpsertqError(Exception):
    """The root: catching it catches everything that upsertq raises on purpose. Its text is one printable line."""

    def __str__(self) -> str:
        """The message, in which a file, a server or a service may have had its say."""
        return printable(super().__str__())


class UsageError(UpsertqError):
    """The caller's fault: the same call will fail again until it is changed."""


class InvalidRecord(UsageError):  # noqa: N818 - the field's word for it, as in `QueueFull`
    """A record breaks a rule of the contract.

    Attributes:
        id: the record's id as given (`None` when there is none).
        field: the field at fault: `id`, `namespace`, `values`, `sparse_values` or `metadata`.
        reason: what is wrong and what would be right.
        index: the record's position in the `put_many` call, from 0; `None` for `put`.
    """

    def __init__(self, id: object, field: str, reason: str, *, index: int | None = None) -> None:  # noqa: A002
        self.id = id
        self.field = field
        self.reason = reason
        self.index = index
        where = "" if index is None else f" (number {index} of this call, from 0)"
        super().__init__(f"record {shown(id)}{where}: {field}: {reason}")


class QueueMismatch(UsageError):  # noqa: N818
    """The queue on the server has another format, shard count or dimension than this program needs."""


class WorldError(UpsertqError):
    """Not the caller's fault: the same call may succeed later."""


class QueueFull(WorldError):  # noqa: N818 - the standard library's `queue.Full` set the word
    """The backlog is at its limit; the records named by the message are still with the caller."""


class TooManyDead(WorldError):  # noqa: N818
    """The queue has as many dead letters as this producer allows: what was not enqueued is still with the caller.

    It is raised at once, for waiting makes no dead letter go away.

    Attributes:
        queue: the queue's name.
        dead: its dead letters, in records.
        limit: the number at which enqueuing is refused.
    """

    def __init__(self, queue: str, dead: int, limit: int) -> None:
        self.queue = queue
        self.dead = dead
        self.limit = limit
        where = "" if queue == "default" else f" --queue {queue}"
        super().__init__(
            f"queue '{queue}' has {dead:,} dead letters and the limit is {limit:,}, so nothing more is enqueued: "
            f"see `upsertq dead list{where}`, then replay or discard them, or raise the limit"
        )


class ServerUnavailable(WorldError):  # noqa: N818
    """The server cannot be reached, is loading its data or went away, for longer than the timeout."""


class ServerRefused(WorldError):  # noqa: N818
    """The server answers and refuses: a wrong password, a missing permission, a key of a foreign type."""


class QueueLost(WorldError):  # noqa: N818
    """The server lost the queue, or a part of it: it was flushed, restarted without its data, or failed over to less.

    Waiting and repeating do not help: what was pending must be loaded again.

    Attributes:
        queue: the queue's name.
        what: what is missing.
        pending: confirmed records of the caller that were pending at most; `None` where it enqueued nothing.
    """

    def __init__(self, queue: str, what: str, pending: int | None = None) -> None:
        self.queue = queue
        self.what = what
        self.pending = pending
        lost = "" if pending is None else f"; of the records confirmed here at most {pending:,} were pending"
        super().__init__(f"the server lost queue '{queue}': {what}{lost}; load again what was not acknowledged")


class QueueReopened(QueueLost):
    """The queue is another one now by its shape, and nothing of it was lost: what opens it again goes on."""

    def __init__(self, queue: str, pending: int | None = None) -> None:
        super().__init__(queue, "it was resharded", pending)
        anew = "open it again, and put again what was not confirmed; nothing of it was lost"
        self.args = (f"queue '{queue}' was closed by `upsertq reshard`: {anew}",)


class QueueInUse(WorldError):  # noqa: N818
    """Something is pending, dead, leased or under way in a queue that is to be resharded or deleted: it stays."""


class QueueDamaged(ServerRefused):
    """A key of the queue holds what upsertq never wrote: nothing was done; the message names it, and the cure."""


class ServerUnfit(WorldError):  # noqa: N818
    """What answers cannot keep a queue: it evicts keys, is a Sentinel, or is no Redis or Valkey at all."""


class NotFound(WorldError):  # noqa: N818
    """There is no such queue, run or load on this server, or not any more."""


class SourceError(WorldError):
    """A file or stream to load cannot be read, is damaged, or does not hold what was asked for."""


class LoadStopped(WorldError):  # noqa: N818
    """A load ended before its end.

    Attributes:
        confirmed: records of this load that are in the queue, of this attempt and of those that it resumed.
    """

    def __init__(self, message: str, confirmed: int) -> None:
        self.confirmed = confirmed
        super().__init__(message)


class RunOpen(WorldError):  # noqa: N818
    """All of a run is settled, but it was not sealed, and nothing is added: its load ended early, or stands still."""


class WaitTimeout(WorldError):  # noqa: N818
    """The work did not end within the time that the caller wanted to wait."""


class LanePaused(WorldError):  # noqa: N818
    """What is waited for is stuck on a pause; it stays in the queue and goes on when the pause ends."""


def shown(value: object, limit: int = 80) -> str:
    """`value` as one short printable line for a message, cut at `limit` characters."""
    text = value if isinstance(value, str) else _repr(value)
    text = printable(text.encode("ascii", "backslashreplace").decode())
    quoted = f"'{text}'" if isinstance(value, str) else text
    return quoted if len(quoted) <= limit else f"{quoted[: limit - 1]}… ({len(text)} characters)"


def _repr(value: object) -> str:
    """The value's `repr`; what is nested too deeply, or too large a number, or faulty itself, has none."""
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a stranger's class may raise anything, and the message must come all the same
        return f"<{type(value).__name__} that cannot be shown>"
