"""Owns what is done after a judged answer: records finish, batches are retried or taken apart, lanes are paused.

What follows is decided in `upsertq_worker.consequence`; this module carries it out. It sends nothing.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from upsertq.letter import Reason, Verdict
from upsertq.pauses import QUEUE, Paused, scope_of, spoken
from upsertq_worker import consequence
from upsertq_worker.answer import Refusal
from upsertq_worker.batch import Batch, Convicted
from upsertq_worker.consequence import Facts, follow
from upsertq_worker.desk import Desk
from upsertq_worker.gates import BACKOFF, Gates
from upsertq_worker.isolate import Part, Search
from upsertq_worker.judge import Accepted, Busy, LaneRefused, Outcome, RecordRefused, ShortAck, TooLarge, describe
from upsertq_worker.landings import Landings, refused_since
from upsertq_worker.outage import Outage
from upsertq_worker.versions import Fate, Version

log = logging.getLogger("upsertq.worker")

SYSTEMIC: Final = "systemic"


class Aftermath:
    """Carries out what follows from answers.

    Args:
        desk: the worker's state.
        gates: the lanes' gates.
        send_again: takes a batch that is to be sent again, and the time when.
    """

    def __init__(self, desk: Desk, gates: Gates, send_again: Callable[[Batch, float], None]) -> None:
        self._desk = desk
        self._gates = gates
        self._send_again = send_again
        self._landed = 0
        self._landings = Landings()
        self._unread: Batch | None = None
        """What had the latest success, where that had no count that can be read."""
        self._barren: Counter[str] = Counter()
        """Records convicted in each namespace since one was accepted there."""

    def apply(self, batch: Batch, outcome: Outcome) -> None:
        """Carry out what follows from `outcome` for `batch`."""
        self._note_failure(batch, outcome)
        what = follow(outcome, self._facts(batch), self._desk.settings.max_attempts)
        if _concerns_lane(outcome):
            self._note_lane_refusal(batch)
        if isinstance(outcome, ShortAck):
            self._note_unread(batch.root, outcome)
        if batch.probe and not self._probe_passed(batch, what):
            return
        match what:
            case consequence.Land():
                self._land(batch, outcome)
            case consequence.Again(at_once=at_once):
                self._again(batch, outcome, at_once=at_once)
            case consequence.Split(parts=parts, searching=searching):
                self._split(batch, parts, outcome, searching=searching)
            case consequence.Convict(reason=reason):
                self._convict(batch, self._verdict(batch, reason, outcome), outcome)
            case consequence.Pause(scope=scope, reason=reason, refusal=refusal):
                where = QUEUE if scope == "queue" else scope_of(batch.namespace)
                self.give_back(batch)
                self.pause(where, reason, describe(LaneRefused(refusal, scope, reason)))

    def give_back(self, batch: Batch, *, last: bool = False) -> None:
        """Let a batch's records wait again, as if it had not been formed; it is out of its search."""
        now = self._desk.clock()
        for version in batch.live:
            version.resting = False
            self._desk.hold.put_back(version, now, last=last)
        self._leave_search(batch)

    def pause(self, scope: str, reason: str, message: str) -> None:
        """Pause a scope, say so once, and note it for `upsertq status`."""
        desk = self._desk
        if scope in desk.lanes.paused:
            return  # what was in flight when it was paused says nothing about its next probe
        paused = Paused(reason, message, desk.wall(), desk.name)
        if desk.lanes.pause(scope, paused, desk.clock(), desk.rng):
            log.error("paused %s: %s; the backlog waits, a probe goes out now and then", spoken(scope), message)
            desk.note(scope, paused)

    def resume(self, scope: str) -> None:
        """End a pause, and say so."""
        desk = self._desk
        if desk.lanes.resume(scope):
            log.info("resumed %s: a probe was accepted", spoken(scope))
            desk.note(scope, None)
            for namespace in [name for name in self._barren if scope in {QUEUE, scope_of(name)}]:
                del self._barren[namespace]

    def _probe_passed(self, batch: Batch, what: consequence.Consequence) -> bool:
        """End the pause that was probed, unless the answer shows that it goes on."""
        desk, scope = self._desk, batch.probe
        paused = desk.lanes.paused.get(scope)
        batch.probe = ""
        if paused is None or paused.by_hand:
            return True  # it ended meanwhile, or became one that ends by hand
        still = isinstance(what, consequence.Pause | consequence.Again)
        if still or (paused.reason == SYSTEMIC and not isinstance(what, consequence.Land)):
            # at the end of the line: the next probe tries another record
            self.give_back(batch, last=True)
            desk.lanes.pause(scope, paused, desk.clock(), desk.rng)
            return False
        self.resume(scope)
        return True

    def _land(self, batch: Batch, outcome: Outcome) -> None:
        desk = self._desk
        if isinstance(outcome, Accepted) and outcome.lsn is not None:
            desk.meter.landed(batch.versions, outcome.lsn)
        self._gates.succeeded(batch.namespace)
        self._landed += 1
        self._unread = None
        self._barren.pop(batch.namespace, None)
        desk.progress_at = now = desk.clock()
        self._landings.note(batch.namespace, batch.started, now)
        if desk.outage is not None:
            log.info("the index accepts again after %.1f s", now - desk.outage.since)
            desk.outage = None
        for version in batch.versions:
            desk.hold.finish(version, Fate.ACKED, now)
        self._leave_search(batch)

    def _again(self, batch: Batch, outcome: Outcome, *, at_once: bool) -> None:
        """Keep the batch, and with it the hold on its ids, for a retry."""
        desk = self._desk
        now = desk.clock()
        batch.short_acks += isinstance(outcome, ShortAck)
        if isinstance(outcome, Busy):
            self._gates.pushed_back(batch.namespace, outcome, batch.started, now, desk.rng)
            why = describe(outcome)
            if desk.outage is None:
                desk.outage = Outage(now, why)
                log.warning("%s; retrying", why)
            desk.outage.why = why
        if at_once:
            self._send_again(batch, now)
        else:
            batch.delay = BACKOFF.next(batch.delay, desk.rng)
            self._send_again(batch, now + batch.delay)

    def _split(self, batch: Batch, parts: Sequence[Part], outcome: Outcome, *, searching: bool) -> None:
        """Send a batch in parts; when searching, note that somebody in it is at fault."""
        search = batch.search
        if searching:
            search = search or Search(len(batch.versions), self._desk.settings.max_culprits)
            if self._refused(search, batch, outcome):
                return
        if search is not None:
            search.open += len(parts) - 1
        for part in parts:
            versions = [batch.versions[position] for position in part.positions]
            self._send_again(batch.part(versions, search), self._desk.clock())

    def _refused(self, search: Search[Convicted], batch: Batch, outcome: Outcome) -> bool:
        """Count a refusal in its search; returns whether too much is wrong: then the search is called off."""
        parent = batch.parent
        first = parent is not None and parent.search is search and not parent.narrowed
        if parent is not None:
            parent.narrowed = True
        batch.search = search
        search.refused(first_of_parent=first)
        if search.systemic:
            self._call_off(search, batch, outcome)
        return search.systemic

    def _call_off(self, search: Search[Convicted], batch: Batch, outcome: Outcome) -> None:
        now = self._desk.clock()
        self.give_back(batch)
        for convicted in search.convicted:
            self._desk.hold.put_back(convicted.version, now)
        search.convicted.clear()
        cause = f"more than {search.most} records of one batch of {search.size} are refused: {describe(outcome)}"
        self.pause(scope_of(batch.namespace), SYSTEMIC, cause)

    def _convict(self, batch: Batch, verdict: Verdict, outcome: Outcome) -> None:
        """Its one record is at fault; it is given up when the search around it is over."""
        search = batch.search
        if search is None:
            search = Search(1, self._desk.settings.max_culprits)
        if self._refused(search, batch, outcome):
            return
        if self._barren[batch.namespace] >= self._desk.settings.max_culprits:
            self.give_back(batch, last=True)
            cause = f"{self._barren[batch.namespace]} records in a row are refused: {describe(outcome)}"
            self.pause(scope_of(batch.namespace), SYSTEMIC, cause)
            return
        self._barren[batch.namespace] += 1
        search.convicted += [Convicted(version, verdict) for version in batch.live]
        self._leave_search(batch)

    def _leave_search(self, batch: Batch) -> None:
        search = batch.search
        if search is None:
            return
        batch.search = None
        search.open -= 1
        if search.over:
            now = self._desk.clock()
            for convicted in search.convicted:
                where = spoken(scope_of(convicted.version.namespace))
                log.warning("gives up %s of %s: %s", convicted.version.id, where, convicted.verdict.message)
                self._desk.hold.finish(convicted.version, Fate.DEAD, now, convicted.verdict)
            search.convicted.clear()

    def _note_failure(self, batch: Batch, outcome: Outcome) -> None:
        if isinstance(outcome, Busy):
            if outcome.answer_lost:  # whatever follows, a record that is given up included: it may still take effect
                now = self._desk.clock()
                for version in batch.live:
                    self._desk.hold.lost(version, now)
            # what fails while nothing succeeds says nothing about this batch
            batch.failures += self._landed > batch.landed_before
            batch.landed_before = self._landed
        if not isinstance(outcome, Accepted) and not batch.first_failed:
            batch.first_failed = self._desk.wall()

    def _note_lane_refusal(self, batch: Batch) -> None:
        batch.lane_refusals += 1
        now = self._desk.clock()
        for version in batch.live:
            if version.refused_at is None:
                version.refused_at = now

    def _note_unread(self, root: Batch, ack: ShortAck) -> None:
        if ack.reported is not None:
            self._unread = None
            return
        self._unread = root
        if root.unread_at is None:
            root.unread_at = self._landed

    def _facts(self, batch: Batch) -> Facts:
        root = batch.root
        since = refused_since(batch.versions)
        return Facts(
            dims=[version.held.entry.dim for version in batch.versions],
            sparse=[_has_sparse(version) for version in batch.versions],
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

    def _verdict(self, batch: Batch, reason: Reason, outcome: Outcome) -> Verdict:
        refusal = _refusal(outcome)
        return Verdict(
            reason=reason,
            status=refusal.status if refusal else 0,
            code=(refusal.code if refusal else "") or "",
            message=refusal.message if refusal else describe(outcome),
            details=refusal.details if refusal else "",
            request_id=(refusal.request_id if refusal else "") or "",
            path=" ".join(map(str, (*batch.path, 1))),
            attempts=batch.attempts,
            first_ms=int(batch.first_failed * 1000),
            last_ms=int(self._desk.wall() * 1000),
            worker=self._desk.name,
        )


def _concerns_lane(outcome: Outcome) -> bool:
    return isinstance(outcome, LaneRefused) or (isinstance(outcome, RecordRefused) and outcome.dimension is not None)


def _refusal(outcome: Outcome) -> Refusal | None:
    if isinstance(outcome, RecordRefused | TooLarge | LaneRefused):
        return outcome.refusal
    if isinstance(outcome, Busy) and isinstance(outcome.cause, Refusal):
        return outcome.cause
    if isinstance(outcome, ShortAck):
        return replace(outcome.refusal, message=describe(outcome))
    return None


def _has_sparse(version: Version) -> bool:
    return b'"sparseValues"' in version.body if version.held.entry.sparse else False
