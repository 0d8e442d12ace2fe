"""Owns the planted bugs: each breaks one rule of the worker or of a script, to prove that the checker would see it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from model_queue import ModelQueue
from planted_deaths import PLANTED_DEATHS
from planted_reading import PLANTED_READING
from queue_link import QueueLink
from upsertq.errors import ServerUnavailable
from upsertq_worker import sender
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.delivery.outcome import Accepted, ShortAck, judge
from upsertq_worker.queue.lease import Leases
from upsertq_worker.queue.reader import Reader
from upsertq_worker.delivery.sender import Sender
from upsertq_worker.queue.settler import Settler
from upsertq_worker.ordering.model import Fate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from upsertq_worker.delivery.batcher import Batch
    from upsertq_worker.context import Desk
    from upsertq_worker.delivery.outcome import Outcome
    from upsertq_worker.queue.protocols import Delivery
    from upsertq_worker.ordering.model import Chain, Settlement, Version


def acknowledged_before_sent() -> AbstractContextManager[Any]:
    """Records count as acknowledged when they leave, whatever the answer."""

    async def carry(self: Sender, batch: Batch) -> None:
        body = batch.body()
        for version in batch.live:
            self._desk.hold.finish(version, Fate.ACKED, self._desk.clock())
        self._desk.settleable.set()
        await self._index.upsert(body)

    return patch.object(Sender, "_carry", carry)


def no_hold_on_retry() -> AbstractContextManager[Any]:
    """While a batch waits for its retry, newer versions of its ids are sent."""
    again = Sender._retry

    def forgetful(self: Sender, batch: Batch, *rest: Any) -> None:
        again(self, batch, *rest)
        for version in batch.live:
            version.chain.flying = None
            self._desk.hold.lines.offer(version.chain, self._desk.clock())

    return patch.object(Sender, "_retry", forgetful)


def no_quarantine() -> AbstractContextManager[Any]:
    """A lost answer counts as a refusal."""
    return patch.object(Hold, "lost", lambda *_: None)


def no_quarantine_of_what_was_pending() -> AbstractContextManager[Any]:
    """What an earlier holder left pending counts as never sent."""
    admit = Hold.admit

    def trusting(self: Hold, *entry: Any, recovered: bool = False, **rest: Any) -> Any:
        return admit(self, *entry, **rest)

    return patch.object(Hold, "admit", trusting)


def any_2xx_counts() -> AbstractContextManager[Any]:
    """A 2xx acknowledges everything that was sent, whatever it counts."""

    def believe(*asked: Any) -> Outcome:
        outcome = judge(*asked)
        return Accepted(None, None) if isinstance(outcome, ShortAck) else outcome

    return patch.object(sender, "judge", believe)


def settled_without_fencing() -> AbstractContextManager[Any]:
    """The settle script does not look at the lease."""
    return patch.object(ModelQueue, "owns", lambda *_: True)


def settled_as_often_as_told() -> AbstractContextManager[Any]:
    """The settle script does not look at what XACK really removed."""
    acknowledge = ModelQueue.acknowledge

    def careless(*settled: Any) -> bool:
        acknowledge(*settled)
        return True

    return patch.object(ModelQueue, "acknowledge", careless)


def settled_out_of_order() -> AbstractContextManager[Any]:
    """An entry is settled before older ones that share an id with it."""

    def link(self: Hold, chain: Chain, held: Any) -> None:
        chain.entries += 1
        chain.last = held

    return patch.object(Hold, "_link", link)


def settled_with_the_last_breath() -> AbstractContextManager[Any]:
    """Entries are settled although the lease may end before the quarantine of what was lost does."""
    settle = Settler.settle

    async def hasty(self: Settler) -> bool:
        with _patched(self, "_desk", _WithoutQuarantine(self._desk)):
            return await settle(self)

    return patch.object(Settler, "settle", hasty)


def settlements_not_repeated() -> AbstractContextManager[Any]:
    """A settlement without an answer counts as carried out."""
    settle = QueueLink.settle

    async def once(self: QueueLink, held: Mapping[int, int], settlements: Sequence[Settlement]) -> frozenset[int]:
        try:
            return await settle(self, held, settlements)
        except ServerUnavailable:
            return frozenset()

    return patch.object(QueueLink, "settle", once)


def sent_without_lease() -> AbstractContextManager[Any]:
    """A worker sends until it is told that its leases are over."""
    return patch.object(Leases, "safe", lambda self, _now: bool(self.epochs))


def requests_outlive_the_lease() -> AbstractContextManager[Any]:
    """Requests in flight are left alone when the leases are over."""
    return patch.object(Sender, "_give_up", lambda _self: None)


def lease_given_up_at_once() -> AbstractContextManager[Any]:
    """A worker that ends leaves no time for the answers that it lost."""
    release = QueueLink.release

    async def hurried(self: QueueLink, held: Mapping[int, int], keep: Mapping[int, float]) -> None:
        await release(self, held, {})

    return patch.object(QueueLink, "release", hurried)


def lost_shards_kept() -> AbstractContextManager[Any]:
    """What was read under a lost lease is still sent and settled."""
    return patch.object(Hold, "drop", lambda *_: None)


def skipped_entries_overtaken() -> AbstractContextManager[Any]:
    """New entries are taken although a read that nobody answers for took older ones."""

    async def blind(*_: Any) -> set[int]:
        return set()

    return patch.object(Reader, "_go_back_to_skipped", blind)


def pending_ignored() -> AbstractContextManager[Any]:
    """A new holder does not read what the old one left pending."""
    read = QueueLink.read

    async def only_new(self: QueueLink, cursors: Mapping[int, str], count: int, wait: float) -> list[Delivery]:
        return [one for one in await read(self, cursors, count, wait) if cursors[one.shard] == ">"]

    return patch.object(QueueLink, "read", only_new)


def older_versions_not_superseded() -> AbstractContextManager[Any]:
    """An older version is sent after a newer one was acknowledged."""

    def finish(self: Hold, version: Version, fate: Fate, now: float) -> None:
        if not version.held.dropped:
            version.chain.flying = None
            self._end(version, fate)
            self.lines.offer(version.chain, now)

    return patch.object(Hold, "finish", finish)


class _WithoutQuarantine:
    """A desk whose settings name no quarantine."""

    def __init__(self, desk: Desk) -> None:
        self.__dict__["desk"] = desk

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__dict__["desk"], name)
        return replace(found, quarantine=0.0) if name == "settings" else found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["desk"], name, value)


@contextmanager
def _patched(target: object, name: str, value: object) -> Iterator[None]:
    before = getattr(target, name)
    setattr(target, name, value)
    try:
        yield
    finally:
        setattr(target, name, before)


PLANTED: Final[dict[Callable[[], AbstractContextManager[Any]], str]] = {
    acknowledged_before_sent: "",
    no_hold_on_retry: "",
    no_quarantine: "",
    no_quarantine_of_what_was_pending: "starved",
    any_2xx_counts: "",
    settled_without_fencing: "pauses",
    settled_as_often_as_told: "",
    settled_out_of_order: "",
    settled_with_the_last_breath: "starved",
    settlements_not_repeated: "",
    sent_without_lease: "",
    requests_outlive_the_lease: "starved",
    lease_given_up_at_once: "stops",
    lost_shards_kept: "pauses",
    skipped_entries_overtaken: "late",
    pending_ignored: "",
    older_versions_not_superseded: "",
    **PLANTED_DEATHS,
    **PLANTED_READING,
}
"""Every planted bug, and the climate in which it shows soon (`""`: any)."""
