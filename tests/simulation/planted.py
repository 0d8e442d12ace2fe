"""Owns the planted bugs: each breaks one rule of the worker or of a script, to prove that the checker would see it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from model_queue import ModelQueue
from planted_deaths import PLANTED_DEATHS
from planted_pools import PLANTED_POOLS
from planted_reading import PLANTED_READING
from queue_link import QueueLink
from upsertq.contract.errors import ServerUnavailable
from upsertq_worker.delivery import sender
from upsertq_worker.delivery.apply import Applier
from upsertq_worker.delivery.outcome import Accepted, ShortAck, judge
from upsertq_worker.delivery.sender import Sender
from upsertq_worker.ordering import hold
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import Fate
from upsertq_worker.queue.lease import Leases
from upsertq_worker.queue.protocols import Settled
from upsertq_worker.queue.settler import Settler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from upsertq_worker.context import Context
    from upsertq_worker.delivery.batch import Batch
    from upsertq_worker.delivery.outcome import Outcome
    from upsertq_worker.flow.usage import Metered
    from upsertq_worker.ordering.model import Chain, Held, Version


def acknowledged_before_sent() -> AbstractContextManager[Any]:
    """Records count as acknowledged when they leave, whatever the answer."""

    async def carry(self: Sender, batch: Batch) -> None:
        body = batch.body()
        for item in batch.live:
            self._hold.acknowledge(item, self._context.clock())
        self._signals.settleable.set()
        await self._index.upsert(body)

    return patch.object(Sender, "_carry", carry)


def no_hold_on_retry() -> AbstractContextManager[Any]:
    """While a batch waits for its retry, newer versions of its ids are sent."""
    again = Applier._retry

    def forgetful(self: Applier, batch: Batch, *rest: Any, **how: Any) -> None:
        again(self, batch, *rest, **how)
        now = self._context.clock()
        for version in batch.versions(self._hold, now):
            if not version.held.dropped:
                version.chain.flying = None
                self._hold.ready.offer(version.chain, now)

    return patch.object(Applier, "_retry", forgetful)


def no_quarantine() -> AbstractContextManager[Any]:
    """A lost answer counts as a refusal."""
    return patch.object(Hold, "lost", lambda *_: None)


def no_quarantine_after_an_unclean_takeover() -> AbstractContextManager[Any]:
    """What stood in the streams when a worker died counts as never sent."""
    admit = Hold.admit

    def trusting(self: Hold, *entry: Any) -> Held:
        return admit(self, *entry[:4])

    return patch.object(Hold, "admit", trusting)


def any_2xx_counts() -> AbstractContextManager[Any]:
    """A 2xx acknowledges everything that was sent, whatever it counts."""

    def believe(*asked: Any) -> Outcome:
        outcome = judge(*asked)
        return Accepted(None) if isinstance(outcome, ShortAck) else outcome

    return patch.object(sender, "judge", believe)


def settled_without_fencing() -> AbstractContextManager[Any]:
    """The settle script does not look at the lease."""
    return patch.object(ModelQueue, "owns", lambda *_: True)


def settled_as_often_as_told() -> AbstractContextManager[Any]:
    """The settle script does not look at what XDEL really removed."""
    remove = ModelQueue.remove

    def careless(*settled: Any) -> bool:
        remove(*settled)
        return True

    return patch.object(ModelQueue, "remove", careless)


def settled_out_of_order() -> AbstractContextManager[Any]:
    """An entry is settled before older ones that share an id with it."""

    def link(chain: Chain, held: Any) -> None:
        chain.entries += 1
        chain.last = held

    return patch.object(hold, "link", link)


def settled_with_the_last_breath() -> AbstractContextManager[Any]:
    """Entries are settled although the lease may end before the quarantine of what was lost does."""
    settle = Settler.settle

    async def hasty(self: Settler) -> bool:
        with _patched(self, "_context", _without_quarantine(self._context)):
            return await settle(self)

    return patch.object(Settler, "settle", hasty)


def settlements_not_repeated() -> AbstractContextManager[Any]:
    """A settlement without an answer counts as carried out."""
    settle = QueueLink.settle

    async def once(self: QueueLink, held: Mapping[int, int], settlements: Sequence[Metered]) -> Settled:
        try:
            return await settle(self, held, settlements)
        except ServerUnavailable:
            return Settled()

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


def older_versions_not_superseded() -> AbstractContextManager[Any]:
    """An older version is sent after a newer one was acknowledged."""

    def finish(self: Hold, version: Version, fate: Fate, now: float, verdict: Any = None) -> None:
        if not version.held.dropped:
            version.chain.flying = None
            self._fates.end(version, fate, verdict)
            self.ready.offer(version.chain, now)

    return patch.object(Hold, "finish", finish)


def a_shared_id_is_missed() -> AbstractContextManager[Any]:
    """An entry stays whole although another one here shares an id with it."""

    def careless(self: Hold, held: Held, keys: dict[str, Any], _now: float, _until: float) -> None:
        keys.update(dict.fromkeys(held.entry.ids, held))
        self.ready.offer_entry(held)

    return patch.object(Hold, "_admit_apart", careless)


def taken_apart_in_flight_counts_as_waiting() -> AbstractContextManager[Any]:
    """An entry that is taken apart while it is in flight is sent once more."""
    take_apart = Hold.take_apart

    def forgetful(self: Hold, held: Held, now: float) -> list[Version]:
        if held.versions is None:
            held.in_flight = False
        return take_apart(self, held, now)

    return patch.object(Hold, "take_apart", forgetful)


def quarantine_forgotten_with_the_entry() -> AbstractContextManager[Any]:
    """Once an entry is settled nothing is remembered of requests with it that may still travel."""
    settled = Hold.settled

    def forgetful(self: Hold, settlements: Any, now: float) -> None:
        given_out = list(settlements)
        for one in given_out:
            one.held.lost_until = 0.0
            for version in one.held.versions or ():
                version.chain.quarantined_until = 0.0
        settled(self, given_out, now)

    return patch.object(Hold, "settled", forgetful)


def the_oldest_version_is_sent() -> AbstractContextManager[Any]:
    """Of several versions that wait the oldest goes, and the newer ones count as superseded by it."""
    finish = Hold.finish

    def upside_down(self: Hold, version: Version, fate: Fate, now: float, verdict: Any = None) -> None:
        finish(self, version, fate, now, verdict)
        if fate is Fate.ACKED:
            for other in list(version.chain.waiting):
                version.chain.waiting.remove(other)
                self._fates.end(other, Fate.SUPERSEDED)

    return patch.object(Hold, "finish", upside_down)


def _without_quarantine(context: Context) -> Context:
    return replace(context, settings=replace(context.settings, quarantine=0.0))


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
    no_quarantine_after_an_unclean_takeover: "starved",
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
    older_versions_not_superseded: "",
    a_shared_id_is_missed: "",
    taken_apart_in_flight_counts_as_waiting: "",
    quarantine_forgotten_with_the_entry: "",
    the_oldest_version_is_sent: "",
    **PLANTED_DEATHS,
    **PLANTED_POOLS,
    **PLANTED_READING,
}
"""Every planted bug, and the climate in which it shows soon (`""`: any)."""
