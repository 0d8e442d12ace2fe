"""Owns what is done after a judged answer: records finish, batches are retried or taken apart, lanes are paused.

What follows is decided in `upsertq_worker.delivery.policy`; this module carries it out. It sends nothing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from upsertq.contract.dead_letter import Reason
from upsertq.contract.pauses import QUEUE, scope_of, spoken
from upsertq_worker.context import Context
from upsertq_worker.delivery import policy
from upsertq_worker.delivery.batch import Batch, Culprit
from upsertq_worker.delivery.bisect import Part, Search
from upsertq_worker.delivery.outcome import Accepted, Busy, LaneRefused, Outcome, ShortAck, concerns_lane, describe
from upsertq_worker.delivery.policy import Facts, follow
from upsertq_worker.events import Event
from upsertq_worker.flow.landings import Landings
from upsertq_worker.flow.limiter import BACKOFF, Limiter
from upsertq_worker.flow.outage import SHORTEST, OutageWatch
from upsertq_worker.flow.pausing import Pausing
from upsertq_worker.flow.usage import Meter
from upsertq_worker.ordering.hold import Hold
from upsertq_worker.ordering.model import Fate

SYSTEMIC: Final = "systemic"


@dataclass(eq=False)
class Applier:
    """Carries out what follows from answers."""

    _context: Context
    _hold: Hold
    _limiter: Limiter
    _pauses: Pausing
    _outage: OutageWatch
    _meter: Meter
    _send_again: Callable[[Batch, float], None]
    """Takes a batch that is to be sent again, and the time when."""
    _landed: int = field(init=False, default=0)
    """Batches that landed."""
    _landings: Landings = field(init=False, default_factory=Landings)
    _unread: Batch | None = field(init=False, default=None)
    """What had the latest success, where that had no count that can be read."""
    _barren: Counter[str] = field(init=False, default_factory=Counter)
    """Records given up in each namespace since one was accepted there."""

    def __post_init__(self) -> None:
        self.landed_at = self._context.clock()
        """When a batch landed last."""

    def apply(self, batch: Batch, outcome: Outcome) -> None:
        """Carry out what follows from `outcome` for `batch`."""
        self._context.events.tell(Event.BATCH_SENT, **_told(batch), outcome=policy.counted_as(outcome))
        if isinstance(outcome, Accepted) and not batch.probe:
            self._acknowledge(batch, outcome)
            return
        self._note_failure(batch, outcome)
        what = follow(outcome, self._facts(batch), self._context.settings.max_attempts)
        if concerns_lane(outcome):
            batch.refused_with_lane(self._context.clock())
        if isinstance(outcome, ShortAck):
            self._note_unread(batch.root, outcome)
        if batch.probe and not self._probe_passed(batch, what):
            return
        match what:
            case policy.Acknowledge():
                self._acknowledge(batch, outcome)
            case policy.Retry(at_once=at_once):
                self._retry(batch, outcome, at_once=at_once)
            case policy.Split(parts=parts, searching=searching):
                self._split(batch, parts, outcome, searching=searching)
            case policy.GiveUp(reason=reason):
                self._give_up(batch, reason, outcome)
            case policy.Pause(scope=scope, reason=reason, refusal=refusal):
                where = QUEUE if scope == "queue" else scope_of(batch.namespace)
                self.give_back(batch)
                self._pauses.pause(where, reason, describe(LaneRefused(refusal, scope, reason)))

    def give_back(self, batch: Batch, *, last: bool = False) -> None:
        """Let a batch's records wait again, as if it had not been formed; it is out of its search."""
        now = self._context.clock()
        for item in batch.live:
            self._hold.put_back(item, now, last=last)
        self._leave_search(batch)

    def _probe_passed(self, batch: Batch, what: policy.Consequence) -> bool:
        """End the pause that was probed, unless the answer shows that it goes on."""
        scope, batch.probe = batch.probe, ""
        reason = self._pauses.reason(scope)
        if reason is None:
            return True  # it ended meanwhile, or became one that ends by hand
        still = isinstance(what, policy.Pause | policy.Retry)
        if still or (reason == SYSTEMIC and not isinstance(what, policy.Acknowledge)):
            # at the end of the line: the next probe tries another record
            self.give_back(batch, last=True)
            self._pauses.probe_refused(scope)
            return False
        if self._pauses.resume(scope):
            for namespace in [name for name in self._barren if scope in {QUEUE, scope_of(name)}]:
                del self._barren[namespace]
        return True

    def _acknowledge(self, batch: Batch, outcome: Outcome) -> None:
        if isinstance(outcome, Accepted) and outcome.lsn is not None:
            self._meter.landed(batch.items, outcome.lsn)
        self._limiter.succeeded(batch.namespace, batch.size)
        self._landed += 1
        self._unread = None
        self._barren.pop(batch.namespace, None)
        self.landed_at = now = self._context.clock()
        self._landings.note(batch.namespace, batch.started, now)
        lasted = self._outage.over(now)
        if lasted is not None:
            self._context.events.tell(Event.ACCEPTS_AGAIN, seconds=lasted)
        for item in batch.items:
            self._hold.acknowledge(item, now)
        self._leave_search(batch)

    def _retry(self, batch: Batch, outcome: Outcome, *, at_once: bool) -> None:
        """Keep the batch, and with it the hold on its ids, for a retry."""
        context, now = self._context, self._context.clock()
        context.events.tell(Event.BATCH_RETRIED, **_told(batch), cause=policy.counted_as(outcome))
        batch.short_acks += isinstance(outcome, ShortAck)
        if isinstance(outcome, Busy):
            why, few = describe(outcome), False
            if outcome.rate:
                told = outcome.limit or 0.0, outcome.limit_unit or "", outcome.retry_after or 0.0
                self._limiter.slots.throttled(batch.namespace, batch.version, now, batch.size, *told)
                few = now < self.landed_at + SHORTEST  # as they come while a limit is looked for
                at_once, batch.delay = batch.delay is None, batch.delay or 0.0
            else:
                self._limiter.pushed_back(batch.namespace, batch.started, now, context.rng, outcome.retry_after)
            if not few and self._outage.failed(now, why):
                context.events.tell(Event.RETRYING, why=why)
        if at_once:
            self._send_again(batch, now)
        else:
            batch.delay = BACKOFF.next(batch.delay, context.rng)
            self._send_again(batch, now + batch.delay)

    def _split(self, batch: Batch, parts: Sequence[Part], outcome: Outcome, *, searching: bool) -> None:
        """Send a batch in parts; when searching, note that something in it is at fault."""
        now = self._context.clock()
        versions = batch.versions(self._hold, now)
        search = batch.search
        if searching:
            search = search or Search(len(versions), self._context.settings.max_culprits)
            if self._refused(search, batch, outcome, len(parts)):
                return
        if search is not None:
            search.open += len(parts) - 1
        for part in parts:
            self._send_again(batch.part([versions[position] for position in part], search), now)

    def _refused(self, search: Search[Culprit], batch: Batch, outcome: Outcome, parts: int = 0) -> bool:
        """Count a refusal in its search; returns whether too much is wrong: then the search is called off."""
        parent = batch.parent
        first = parent is not None and parent.search is search and not parent.narrowed
        if parent is not None:
            parent.narrowed = True
        batch.search = search
        search.refused(parts, first_of_parent=first)
        if search.systemic:
            self.give_back(batch)
            for culprit in search.found:
                self._hold.put_back(culprit.version, self._context.clock())
            search.found.clear()
            self._pauses.pause(scope_of(batch.namespace), SYSTEMIC, f"{search.why}: {describe(outcome)}")
        return search.systemic

    def _give_up(self, batch: Batch, reason: Reason, outcome: Outcome) -> None:
        """Its one record is at fault; it is given up when the search around it is over."""
        most = self._context.settings.max_culprits
        search = batch.search if batch.search is not None else Search(1, most)
        if self._refused(search, batch, outcome):
            return
        if self._barren[batch.namespace] >= most:
            self.give_back(batch, last=True)
            cause = f"{self._barren[batch.namespace]} records in a row are refused: {describe(outcome)}"
            self._pauses.pause(scope_of(batch.namespace), SYSTEMIC, cause)
            return
        self._barren[batch.namespace] += 1
        live = [one for one in batch.versions(self._hold, self._context.clock()) if not one.held.dropped]
        verdict = replace(
            policy.verdict(reason, outcome, batch.path),
            attempts=batch.attempts,
            first_ms=int(batch.first_failed * 1000),
            last_ms=int(self._context.wall() * 1000),
            worker=self._context.name,
        )
        search.found += [Culprit(version, verdict) for version in live]
        self._leave_search(batch)

    def _leave_search(self, batch: Batch) -> None:
        search = batch.search
        if search is None:
            return
        batch.search = None
        search.open -= 1
        if search.over:
            now = self._context.clock()
            for culprit in search.found:
                version, why = culprit.version, culprit.verdict
                where = spoken(scope_of(version.namespace))
                self._context.events.tell(Event.DEAD, id=version.id, lane=where, reason=why.reason, message=why.message)
                self._hold.finish(version, Fate.DEAD, now, why)
            search.found.clear()

    def _note_failure(self, batch: Batch, outcome: Outcome) -> None:
        if isinstance(outcome, Busy):
            if outcome.answer_lost:  # whatever follows, a record that is given up included: it may still take effect
                now = self._context.clock()
                for item in batch.live:
                    self._hold.lost(item, now)
            # what fails while nothing succeeds says nothing about this batch
            batch.failures += self._landed > batch.landed_before
            batch.landed_before = self._landed
        if not isinstance(outcome, Accepted) and not batch.first_failed:
            batch.first_failed = self._context.wall()

    def _note_unread(self, root: Batch, ack: ShortAck) -> None:
        if ack.reported is not None:
            self._unread = None
            return
        self._unread = root
        if root.unread_at is None:
            root.unread_at = self._landed

    def _facts(self, batch: Batch) -> Facts:
        root = batch.root
        records, since = batch.records, batch.refused_since
        return Facts(
            dims=[entry.dim for entry, _ in records],
            sparse=policy.sparse_rows(records),
            short_acks=batch.short_acks,
            failures=batch.failures,
            unreadable=self._unread not in {None, root},
            unread=root.unread_at == self._landed,
            part=root is not batch,
            searching=batch.search is not None,
            lane_refusals=batch.lane_refusals,
            refused=since is not None,
            lane_lands=self._landings.in_lane(batch.namespace, since),
            others_land=self._landings.anywhere(since),
            landed_meanwhile=self._landings.at >= batch.started,
        )


def _told(batch: Batch) -> dict[str, Any]:
    """What events say of a batch."""
    return {"records": batch.count, "lane": spoken(scope_of(batch.namespace)), "namespace": batch.namespace}
