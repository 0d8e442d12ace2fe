"""Owns what a load does with each chunk: validate, set rejects aside, pass over what was loaded before, enqueue.

It decides in conversations with the server; it opens no file and no connection.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile

from upsertq.client.producer_core import Intake
from upsertq.client.rejects import Rejects
from upsertq.client.resume import NOTHING, Ledger
from upsertq.contract.errors import InvalidRecord, SourceError, shown
from upsertq.contract.protocol import Conversation
from upsertq.contract.record import make_records
from upsertq.contract.wire import Record
from upsertq.sources import Chunk, Fault, Source


class BadRecord(SourceError):  # noqa: N818 - as InvalidRecord
    """A record breaks a rule or cannot be read, and such records are not to be set aside."""


class Loading:
    """The state of one load: the ordinal of its next record and what became of those before.

    Attributes:
        rejected: records set aside.
        skipped: records that were enqueued before.
    """

    def __init__(self, intake: Intake, run: str, *, ledger: Ledger = NOTHING, rejects: Rejects | None = None) -> None:
        self.rejected = self.skipped = 0
        self._intake = intake
        self._run = run
        self._ledger = ledger
        self._rejects = rejects
        self._ordinal = 0
        self._flushed = 0

    @property
    def confirmed(self) -> int:
        """Records of this attempt that are in the queue."""
        return self._flushed + self._intake.confirmed

    def take(self, source: Source, chunk: Chunk) -> Conversation[None]:
        """Take the good records of the next chunk.

        Raises:
            BadRecord: one is bad and there is no file of rejects; the good ones before it are enqueued.
            QueueFull: no room within the timeout.
            ServerUnavailable: the server stayed away.
        """
        first, self._ordinal = self._ordinal, self._ordinal + len(chunk)
        before = self._ledger.holds(chunk.ids, chunk.namespaces, first) if self._ledger else [False] * len(chunk)
        if self._rejects is None and all(before):
            self.skipped += len(chunk)
            return
        good: list[Record] = []
        ordinals: list[int] = []
        bad: tuple[int, Fault] | None = None
        outcomes = yield from self._outcomes(chunk)
        for row, outcome in enumerate(outcomes):
            if before[row] and (self._rejects is None or not isinstance(outcome, Fault)):
                self.skipped += 1
            elif not isinstance(outcome, Fault):
                good.append(outcome)
                ordinals.append(first + row)
            elif self._rejects is not None:
                self._rejects.add(source, chunk, row, outcome)
                self.rejected += 1
            else:
                bad = (row, outcome)
                break
        yield from self._enqueue(good, ordinals)
        if bad is not None:
            yield from self.finish()
            raise _bad_record(source, chunk, *bad)

    def finish(self) -> Conversation[None]:
        """Enqueue everything taken; afterwards all of it survives this process."""
        self._flushed += yield from self._intake.flush()

    def keep_rejects(self) -> None:
        """Put the file of rejects in its place; afterwards nothing more is taken. `SourceError` where that fails."""
        if self._rejects is not None:
            self._rejects.keep()

    def stop_rejects(self) -> None:
        """The same of a load that ended early: a file of none takes no place."""
        if self._rejects is not None:
            self._rejects.stop()

    def _enqueue(self, good: Sequence[Record], ordinals: Sequence[int]) -> Conversation[None]:
        # rejects are on their way to the disk before any later record is confirmed
        if self._rejects is not None:
            self._rejects.flush()
        yield from self._intake.take(good, self._run, ordinals)

    def _outcomes(self, chunk: Chunk) -> Conversation[Iterator[Record | Fault]]:
        """What each row is, held to the queue's dimension, which the first record of all that will be taken fixes."""
        if self._intake.dimension is None:
            seen = outcomes(chunk, None)
            if self._rejects is None:
                seen = iter(takewhile(lambda outcome: isinstance(outcome, Record), seen))
            dense = (outcome.dim for outcome in seen if isinstance(outcome, Record) and outcome.values)
            dimension = next(dense, None)
            if dimension is not None:
                yield from self._intake.fix_dimension(dimension)
        return outcomes(chunk, self._intake.dimension)


def outcomes(chunk: Chunk, dimension: int | None) -> Iterator[Record | Fault]:
    """For each row its valid record, or what is wrong with it; `dimension` is the queue's once known."""
    made = make_records(
        chunk.ids,
        chunk.values,
        sparse_values=chunk.sparse,
        metadata=chunk.metadata,
        namespaces=chunk.namespaces,
        dimension=dimension,
    )
    for row, record in enumerate(made):
        if row in chunk.faults:
            yield chunk.faults[row]
        elif isinstance(record, InvalidRecord):
            yield Fault(record.field, record.reason)
        else:
            yield record


def _bad_record(source: Source, chunk: Chunk, row: int, fault: Fault) -> BadRecord:
    record_id = chunk.ids[row]
    which = "" if record_id is None else f"record {shown(record_id)}: "
    return BadRecord(f"{source.name} {source.unit} {chunk.positions[row]}: {which}{fault.field}: {fault.reason}")
