"""Owns the machine that drives the scripts: producers, two workers and an operator at random, against a plain model."""

from __future__ import annotations

import itertools
import random
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from transitions_checks import books_balance, each_record_is_once, marks_are_of_letters, the_shard_is_held_as_told
from transitions_choices import (
    LIMIT,
    LIMITS,
    NAMESPACES,
    RUNS,
    SCOPES,
    SELECTION,
    SHARDS,
    few,
    luck,
    many,
    mostly,
    namespaces,
    rarely,
    several,
    shards,
    takes,
    three,
    two,
)
from transitions_model import Shard, State, order_of
from transitions_people import WORLD, Drainer, Loader
from transitions_raw import entry_at, read_raw
from upsertq.admin.audit import audit
from upsertq.contract import pauses, queue
from upsertq.contract.dead_letter import is_superseded, mark_field
from upsertq.contract.errors import QueueFull, ServerUnavailable
from upsertq.contract.keys import QueueKeys
from upsertq.contract.server import Server
from upsertq.dead import moves as dead_moves
from upsertq.dead.choice import Selector
from upsertq.dead.finding import make_plan
from upsertq.dead.moves import Tally
from worker_scripts import LIFE_MS

if TYPE_CHECKING:
    from conftest import Backend
    from transitions_model import Version
    from transitions_raw import LossyServer, RawShard
    from upsertq.contract.pauses import Paused
    from upsertq.contract.protocol import Patience
    from upsertq.dead.finding import Plan
    from worker_scripts import Settling

AUDIT_EVERY: Final = 4
"""Steps: an audit takes as long as all the other checks of a step together."""

numbers = itertools.count()


@dataclass
class Site:
    """A server for one test: one way to it loses answers, the other does not."""

    backend: Backend
    server: LossyServer

    @property
    def sure(self) -> Server:
        """The way that loses nothing."""
        return Server(self.backend.sync)


def patience() -> Patience:
    """Patience enough for an answer that is lost."""
    return WORLD.patience(5)


class Transitions(RuleBasedStateMachine):
    """Producers, two workers and an operator at random, each step checked against the model."""

    site: ClassVar[Site]

    def __init__(self) -> None:
        super().__init__()
        name = f"q{next(numbers)}"
        self.keys = QueueKeys(name)
        self.server = self.site.server
        self.server.lose = 0
        self.shape = self.server.hold(queue.open_queue(self.keys, SHARDS, 1, patience()))
        self.model = [Shard() for _ in range(SHARDS)]
        self.loaders = [Loader(self.server, name, SHARDS, limits, f"{name}-{at}") for at, limits in enumerate(LIMITS)]
        self.workers = [Drainer(self.site.sure, self.keys, self.shape, who) for who in ("one", "two")]
        self.settled: dict[int, list[Settling]] = {shard: [] for shard in range(SHARDS)}
        self.plans: list[Plan] = []
        self.paused: dict[str, Paused] = {}
        self.next_number = 1
        self.looks = 0

    def raw(self) -> list[RawShard]:
        """What the server holds."""
        return read_raw(self.site.backend.sync, self.keys, SHARDS, RUNS, NAMESPACES)

    # producers

    @initialize(ids=many, who=two)
    def begin(self, ids: list[str], who: int) -> None:
        """Most of the time there is something to do and somebody who does it."""
        self.put(0, ids, "", "r1", flush=True)
        self.lease(who, (0, 1), take=True)

    @rule(who=three, ids=few | many, namespace=namespaces, run=st.sampled_from(RUNS), flush=mostly)
    def put(self, who: int, ids: list[str], namespace: str, run: str, flush: bool) -> None:  # noqa: FBT001
        """A producer takes records."""
        self.loaders[who].put(ids, namespace, run, self.next_number)
        self.next_number += len(ids)
        if flush:
            self._flush(who, loses=False)

    @rule(who=three, which=luck, run=st.sampled_from(RUNS))
    def put_newer(self, who: int, which: int, run: str) -> None:
        """A newer version comes of a record that is dead or replaying."""
        troubled = [one for model in self.model for one in model.versions if one.token]
        if troubled:
            namespace, record_id = troubled[which % len(troubled)].key
            self.put(who, [record_id], namespace, run, flush=True)

    @rule(who=three, loses=st.booleans(), back=st.sampled_from([None, None, 0, 1, 3]))
    def flush(self, who: int, loses: bool, back: int | None) -> None:  # noqa: FBT001
        """A producer enqueues what it took; the answer may be lost, and then it will be sent again.

        It may have died before: then another one goes on with its ledger, from before what is missing.
        """
        if back is not None:
            self.loaders[who].die(max(0, self.loaders[who].needed() - back))
        self._flush(who, loses=loses)

    def _flush(self, who: int, *, loses: bool) -> None:
        loader = self.loaders[who]
        self.server.lose = int(loses)
        error = loader.flush()
        self.server.lose = 0
        raw = self.raw()
        for number, model in enumerate(self.model):
            loader.enqueued(number, model, raw[number])
        if isinstance(error, QueueFull):
            assert loader.unfit(self.model, raw), "there is room"
        elif error is None:
            assert all(lane.done == len(lane.numbers) for lane in loader.lanes.values()), "records were left out"
        else:
            assert loses
            assert isinstance(error, ServerUnavailable)

    # workers

    @rule(who=two, which=several, take=mostly)
    def lease(self, who: int, which: tuple[int, ...], take: bool) -> None:  # noqa: FBT001
        """A worker prolongs and takes leases."""
        for shard in which:
            own = self.workers[who].shards[shard]
            expected = self.model[shard].grant(own.name, own.epoch, take=take)
            told = own.lease(take=take)
            assert [one.decode() if isinstance(one, bytes) else one for one in told] == expected

    @rule(shard=shards, who=two, how=st.sampled_from(["expires", "given up", "kept"]))
    def lose(self, shard: int, who: int, how: str) -> None:
        """A lease runs out, of which its holder does not know; or a worker gives it up, now or later."""
        if how == "expires":
            self._expire(shard)
        else:
            self._release(who, shard, keep=how == "kept")

    def _expire(self, shard: int) -> None:
        self.site.backend.sync.delete(self.keys.shard(shard).lease)
        self.model[shard].lease = None

    def _release(self, who: int, shard: int, *, keep: bool) -> None:
        own, model = self.workers[who].shards[shard], self.model[shard]
        ours = model.lease == (own.name, own.epoch)
        assert own.release(LIFE_MS if keep else 0) == int(ours)
        if ours:
            model.released = own.epoch
            model.lease = model.lease if keep else None
        if not keep:
            own.epoch = 0

    @rule(shard=shards, who=two, mark=st.sampled_from(["", "1-1 alone"]), deaths=st.sampled_from(["", 0, 2]))
    def mark(self, shard: int, who: int, mark: str, deaths: int | str) -> None:
        """A worker writes down what it sends alone, or that it made progress."""
        own, model = self.workers[who].shards[shard], self.model[shard]
        ours = model.lease == (own.name, own.epoch)
        assert own.note(mark, deaths) == int(ours)
        if ours:
            model.mark = mark
            model.deaths = model.deaths if deaths == "" else int(deaths)

    @rule(who=two, which=several)
    def read(self, who: int, which: tuple[int, ...]) -> None:
        """A worker reads all that there is in some shards, whether it holds them or not."""
        raw = self.raw()
        for shard in which:
            self.workers[who].read(shard, raw[shard])

    @rule(who=two, which=several, chance=luck)
    def work(self, who: int, which: tuple[int, ...], chance: int) -> None:
        """A worker does its round: it takes what leases it can get, reads all that there is, and settles some of it."""
        self.lease(who, which, take=True)
        self.read(who, which)
        for shard in which:
            self.settle(who, shard, chance, again=False, shift=0)

    @rule(who=two, which=several, chance=luck)
    def work_on(self, who: int, which: tuple[int, ...], chance: int) -> None:
        """It works twice as often as not."""
        self.work(who, which, chance)

    @rule(who=two, shard=shards, chance=luck, again=st.booleans(), shift=st.sampled_from([0, 0, 0, -1, 1]))
    def settle(self, who: int, shard: int, chance: int, again: bool, shift: int) -> None:  # noqa: FBT001
        """A worker settles entries that it read, and perhaps some that are settled, perhaps under a foreign epoch."""
        worker, model, rng = self.workers[who], self.model[shard], random.Random(chance)
        chosen = worker.choose(shard, model, rng)
        settlings = [settling for _, settling in chosen]
        for one in self.settled[shard] if again else ():
            settlings.insert(rng.randint(0, len(settlings)), one)
        if not settlings:
            return
        own = worker.shards[shard]
        own.epoch += shift
        fenced = model.lease != (own.name, own.epoch)
        reply = own.settle(settlings, now_ms=chance)
        own.epoch -= shift
        if fenced:
            assert reply[0] == 0
            return
        assert reply[:2] == [1, len({outcome.stream_id for outcome, _ in chosen})]
        died = model.settle(outcome for outcome, _ in chosen)
        raw = self.raw()[shard]
        model.buried(died, [one for one in raw.dead if order_of(one) > model.last_dead])
        assert order_of(reply[2].decode()) == model.last
        assert {space.decode() for space in reply[4:]} == {one.namespace for one in settlings} - model.lanes()
        self.settled[shard] = [*self.settled[shard], *settlings][-5:]

    # the world

    @rule(who=two, shard=shards, chance=luck, what=st.sampled_from(["time", "incarnation", "pending", "acked", "dead"]))
    def mishap(self, who: int, shard: int, chance: int, what: str) -> None:
        """The time goes back, a worker of a queue that is gone comes, or a counter is damaged for a moment."""
        if what == "time":
            self._time_goes_back(shard, chance)
        elif what == "incarnation":
            self._another_incarnation(who, shard, chance)
        else:
            self._damage(who, shard, chance, what)

    def _time_goes_back(self, shard: int, ahead: int) -> None:
        """The server's time falls behind the shard's clock."""
        now: Any = self.site.backend.sync.time()
        milliseconds = max(now[0] * 1_000 + ahead, self.model[shard].last[0])
        number = self.model[shard].last[1] if milliseconds == self.model[shard].last[0] else 0
        self.model[shard].last = (milliseconds, number, 0)
        self.site.backend.sync.hset(self.keys.shard(shard).books, "clock", f"{milliseconds}-{number}")

    def _another_incarnation(self, who: int, shard: int, chance: int) -> None:
        """A worker of a queue that is gone does nothing here."""
        own = self.workers[who].shards[shard]
        settlings = [one for _, one in self.workers[who].choose(shard, self.model[shard], random.Random(chance))]
        incarnation, own.incarnation = own.incarnation, "gone"
        replies = [own.lease(), own.note("x", 7), own.settle(settlings), own.release()]
        own.incarnation = incarnation
        assert replies == [[-1, incarnation.encode()]] * 4

    def _damage(self, who: int, shard: int, chance: int, name: str) -> None:
        """A counter that cannot be read stops what would change it, and nothing is half done."""
        own, books = self.workers[who].shards[shard], self.keys.shard(shard).books
        settlings = [one for _, one in self.workers[who].choose(shard, self.model[shard], random.Random(chance))]
        before: Any = self.site.backend.sync.hget(books, name)
        self.site.backend.sync.hset(books, name, "1e3")
        reply = own.settle(settlings) if settlings else None
        if before is None:
            self.site.backend.sync.hdel(books, name)
        else:
            self.site.backend.sync.hset(books, name, before)
        fenced = self.model[shard].lease != (own.name, own.epoch)
        assert reply is None or (reply[0] == 0 if fenced else "DAMAGED" in str(reply)), reply

    # the operator

    @rule(which=SELECTION, limit=LIMIT, act=st.sampled_from(["replay", "replay", "discard", "wait"]), loses=rarely)
    def plan(self, which: Selector, limit: int | None, act: str, loses: bool) -> None:  # noqa: FBT001
        """Letters are chosen, and replayed or discarded at once or later."""
        plan = self.server.hold(make_plan(self.keys, SHARDS, which, limit, patience))
        letters = {(pick.shard, pick.stream_id) for pick in plan.picks}
        chosen = {(one.shard, one.spot) for model in self.model for one in model.of(State.DEAD) if takes(which, one)}
        assert letters <= chosen
        assert len(letters) == min(len(chosen), len(chosen) if limit is None else limit)
        assert plan.unreadable == 0
        self.plans = [*self.plans, plan][-3:]
        if act != "wait":
            self.move(-1, replays=act == "replay", loses=loses)

    @rule(who=two, which=luck, chance=luck)
    def overtake(self, who: int, which: int, chance: int) -> None:
        """A newer version of a dead record comes, the record is replayed behind it, and some of that is settled."""
        self.put_newer(0, which, "")
        self.plan(Selector(), None, "replay", loses=False)
        self.work(who, (0, 1), chance)

    @precondition(lambda self: self.plans)
    @rule(which=three, replays=st.booleans(), loses=rarely)
    def move(self, which: int, replays: bool, loses: bool) -> None:  # noqa: FBT001
        """A plan, however old and perhaps carried out before, is replayed or discarded."""
        if replays:
            self._replay(which, loses=loses)
        else:
            self._discard(which, loses=loses)

    def _replay(self, which: int, *, loses: bool) -> None:
        moved = self._carry_out(dead_moves.replay, which, loses=loses)
        raw = self.raw()
        for number, model in enumerate(self.model):
            new = [one for one in raw[number].stream if order_of(one) > model.last]
            model.replayed([one for one in moved if one.shard == number], new)

    def _discard(self, which: int, *, loses: bool) -> None:
        for version in self._carry_out(dead_moves.discard, which, loses=loses):
            version.state, version.spot = State.DISCARDED, ""

    def _carry_out(self, act: object, which: int, *, loses: bool) -> list[Version]:
        """Do what the plan says; returns the versions that it must have moved, in order."""
        plan, tally = self.plans[which % len(self.plans)], Tally()
        self.server.lose = int(loses)
        self.server.hold(act(self.keys, self.shape, plan.picks, tally, patience), sleep=lambda _: None)  # type: ignore[operator]
        self.server.lose = 0
        found = [self.model[pick.shard].letter(pick.stream_id) for pick in plan.picks]
        there = [pick for pick, version in zip(plan.picks, found, strict=True) if version is not None]
        if not loses:
            assert (sorted(tally.moved), tally.gone) == (sorted(there), len(plan.picks) - len(there))
        return [version for version in found if version is not None]

    @rule(scope=st.sampled_from(SCOPES), ends=st.booleans())
    def pause(self, scope: str, ends: bool) -> None:  # noqa: FBT001
        """A pause begins or ends by hand."""
        if ends:
            self.server.hold(pauses.clear_pause(self.keys, scope, patience()))
            self.paused.pop(scope, None)
        else:
            wanted = pauses.by_hand("enough", 1.0, "me")
            told = self.server.hold(pauses.set_pause(self.keys, scope, wanted, patience()))
            assert told == (self.paused.get(scope), wanted)
            self.paused[scope] = wanted

    # what must hold after every step

    @invariant()
    def the_server_holds_what_the_model_holds(self) -> None:
        """Books, entries, letters, marks, leases and pauses are as they ought to be, and the audit says so."""
        for raw, model in zip(self.raw(), self.model, strict=True):
            books_balance(raw, model)
            each_record_is_once(raw, model)
            marks_are_of_letters(raw, model)
            the_shard_is_held_as_told(raw, model)
        self.looks += 1
        if self.looks % AUDIT_EVERY == 0:
            self._the_audit_agrees()
        self._replayed_ones_know_what_is_newer()
        assert self.server.hold(pauses.read_pauses(self.keys, patience())) == self.paused

    def _the_audit_agrees(self) -> None:
        """The audit counts what is there, and finds nothing wrong."""
        report = self.site.sure.hold(audit(self.keys, self.shape, patience()))
        assert (report.drifts, report.inconclusive) == ((), ())
        assert report.entries == sum(len(model.entries) for model in self.model)
        counted = [sum(1 for model in self.model for _ in model.of(state)) for state in (State.PENDING, State.DEAD)]
        assert [report.records, report.dead] == counted

    def _replayed_ones_know_what_is_newer(self) -> None:
        replayed = [one for model in self.model for one in model.of(State.PENDING) if one.depth]
        if replayed:
            raw = self.raw()
            asked = [(one.shard, entry_at(raw[one.shard], one.spot)) for one in replayed]
            told = [is_superseded(raw[s].marks.get(mark_field(e), "").encode(), e.seq) for s, e in asked]
            assert told == [self.model[one.shard].stale(one) for one in replayed]

    def teardown(self) -> None:
        """Whatever happened, a worker can drain the queue to its end; then nothing of the queue is left."""
        self.server.lose = 0
        if sys.exc_info()[0] is not None:
            return  # a failure on the way here is the one to show
        for shard in range(SHARDS):
            self._expire(shard)
        rounds = itertools.count()
        while any(model.entries for model in self.model):
            self.work(0, (0, 1), next(rounds))
        self.the_server_holds_what_the_model_holds()
        self._the_audit_agrees()
        self.server.hold(queue.remove_queue(self.keys, patience()))
