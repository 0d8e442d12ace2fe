"""Owns the machine that drives the scripts: producers, two workers and an operator at random, against a plain model."""

from __future__ import annotations

import itertools
import random
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from transitions_checks import books_balance, each_record_is_once, marks_are_of_letters
from transitions_model import Shard, State, order_of
from transitions_people import WORLD, Drainer, Loader
from transitions_raw import entry_at, read_raw
from upsertq import dead_moves, pauses, queue
from upsertq.audit import audit
from upsertq.dead import make_plan
from upsertq.dead_choice import Selector
from upsertq.dead_moves import Tally
from upsertq.errors import QueueFull, ServerUnavailable
from upsertq.keys import QueueKeys
from upsertq.letter import Reason
from upsertq.pauses import Paused
from upsertq.queue import Limits, QueueShape
from upsertq.server import AsyncServer
from upsertq_worker.seams import NEW
from upsertq_worker.stream import RedisQueue

if TYPE_CHECKING:
    import asyncio

    from conftest import Backend
    from transitions_model import Version
    from transitions_raw import LossyServer, RawShard
    from upsertq.dead import Plan
    from upsertq.exchange import Patience
    from upsertq_worker.seams import Delivery
    from upsertq_worker.versions import Settlement

SHARDS: Final = 2
SHAPE: Final = QueueShape("", SHARDS, 1)
RUNS: Final = ("", "r1", "r2")
LIMITS: Final = (Limits(None, None), Limits(30, None), Limits(None, 1_000))
LEASE: Final = 600.0
ALL: Final = 1_000_000
SELECTORS: Final = (
    Selector(),
    Selector(),
    Selector(),
    Selector(runs=frozenset({"r1"})),
    Selector(reasons=frozenset({Reason.REFUSED, Reason.TOO_LARGE})),
    Selector(ids=frozenset("ab")),
    Selector(namespaces=frozenset({"n"})),
)
SELECTION: Final = st.sampled_from(SELECTORS)
LIMIT: Final = st.sampled_from([None, None, 1, 3])
SCOPES: Final = (pauses.QUEUE, pauses.scope_of(""), pauses.scope_of("n"))
numbers = itertools.count()

shards = st.integers(0, SHARDS - 1)
several = st.sampled_from([(0,), (1,), (0, 1), (0, 1)])
two, three = st.integers(0, 1), st.integers(0, 2)
namespaces = st.sampled_from(["", "", "n"])
luck = st.integers(0, 9_999)
rarely = st.sampled_from([False, False, False, True])
mostly = st.sampled_from([True, True, True, False])
few = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4)
many = st.lists(st.sampled_from("abcdefgh"), min_size=6, max_size=25)


@dataclass
class Site:
    """A server for one test, spoken to by blocking and by asyncio code."""

    backend: Backend
    server: LossyServer
    runner: asyncio.Runner
    async_server: AsyncServer = field(init=False)

    def __post_init__(self) -> None:
        self.async_server = AsyncServer(self.backend._make())


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
        self.model = [Shard() for _ in range(SHARDS)]
        self.loaders = [Loader(self.server, name, SHARDS, limits, f"{name}-{at}") for at, limits in enumerate(LIMITS)]
        shape = QueueShape(name, SHARDS, None)
        self.workers = [Drainer(RedisQueue(self.site.async_server, shape, who, LEASE)) for who in ("one", "two")]
        self.settled: dict[int, list[Settlement]] = {shard: [] for shard in range(SHARDS)}
        self.plans: list[Plan] = []
        self.paused: dict[str, Paused] = {}
        self.next_number = 1
        self.server.hold(queue.open_queue(self.keys, SHARDS, 1, patience()))

    def raw(self) -> list[RawShard]:
        """What the server holds."""
        return read_raw(self.site.backend.sync, self.keys, SHARDS, RUNS)

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
        worker = self.workers[who]
        wanted = {shard: worker.epochs.get(shard, 0) for shard in which}
        for grant in self.site.runner.run(worker.queue.lease(wanted, take=take)):
            expected = self.model[grant.shard].grant(worker.name, wanted[grant.shard], take=take)
            assert (grant.epoch, grant.holder) == expected
            worker.epochs[grant.shard] = grant.epoch

    @rule(shard=shards, who=two, how=st.sampled_from(["expires", "given up", "kept"]))
    def lose(self, shard: int, who: int, how: str) -> None:
        """A lease runs out, of which its holder does not know; or a worker gives it up, now or later."""
        if how == "expires":
            self._expire(shard)
        else:
            self._release(who, shard, LEASE if how == "kept" else 0.0)

    def _expire(self, shard: int) -> None:
        self.site.backend.sync.delete(self.keys.shard(shard).lease)
        self.model[shard].lease = None

    def _release(self, who: int, shard: int, keep: float) -> None:
        worker = self.workers[who]
        epoch = worker.epochs.pop(shard, 0)
        self.site.runner.run(worker.queue.release({shard: epoch}, {shard: keep}))
        if self.model[shard].lease == (worker.name, epoch) and not keep:
            self.model[shard].lease = None

    @rule(who=two, which=several, count=st.sampled_from([1, 3, ALL]), after=st.sampled_from([NEW, NEW, "", "0-0"]))
    def read(self, who: int, which: tuple[int, ...], count: int, after: str) -> None:
        """A worker reads entries of shards that it holds or believes to hold: new ones, or those not settled."""
        worker = self.workers[who]
        cursors, expected = {}, {}
        for shard in which:
            model = self.model[shard]
            if worker.epochs.get(shard):
                cursors[shard] = after or next((one for one in model.entries if one in model.taken), "0-0")
                new = after == NEW
                expected[shard] = model.read(count) if new else model.read_again(cursors[shard], count)
        if cursors:
            self._read(worker, cursors, count, expected)

    def _read(self, worker: Drainer, cursors: dict[int, str], count: int, expected: dict[int, list[str]]) -> None:
        found: list[Delivery] = self.site.runner.run(worker.queue.read(cursors, count, 0.001))
        told: dict[int, list[str]] = {shard: [] for shard in cursors}
        raw = self.raw()
        for one in found:
            told[one.shard].append(one.stream_id)
            assert one.fields == raw[one.shard].stream[one.stream_id]
            worker.hands[one.shard, one.stream_id] = entry_at(raw[one.shard], one.stream_id)
        assert told == expected

    @rule(who=two, which=several, chance=luck)
    def work(self, who: int, which: tuple[int, ...], chance: int) -> None:
        """A worker does its round: it takes what leases it can get, reads all that there is, and settles some of it."""
        self.lease(who, which, take=True)
        self.read(who, which, ALL, "0-0")
        self.read(who, which, ALL, NEW)
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
        epoch = worker.epochs.get(shard, 0) + shift
        chosen = worker.choose(shard, model, rng)
        settlements = [settlement for _, settlement in chosen]
        for one in self.settled[shard] if again else ():
            settlements.insert(rng.randint(0, len(settlements)), one)
        if not settlements:
            return
        foreign = self.site.runner.run(worker.queue.settle({shard: epoch}, settlements))
        fenced = model.lease != (worker.name, epoch)
        assert foreign == (frozenset({shard}) if fenced else frozenset())
        if fenced:
            return
        died = model.settle(outcome for outcome, _ in chosen)
        raw = self.raw()[shard]
        model.buried(died, [one for one in raw.dead if order_of(one) > model.last_dead])
        self.settled[shard] = [*self.settled[shard], *(settlement for _, settlement in chosen)][-5:]

    # the operator

    @rule(which=SELECTION, limit=LIMIT, act=st.sampled_from(["replay", "replay", "discard", "wait"]), loses=rarely)
    def plan(self, which: Selector, limit: int | None, act: str, loses: bool) -> None:  # noqa: FBT001
        """Letters are chosen, and replayed or discarded at once or later."""
        plan = self.server.hold(make_plan(self.keys, SHARDS, which, limit, patience))
        letters = {(pick.shard, pick.stream_id) for pick in plan.picks}
        chosen = {(one.shard, one.spot) for model in self.model for one in model.of(State.DEAD) if _takes(which, one)}
        assert letters <= chosen
        assert len(letters) == min(len(chosen), len(chosen) if limit is None else limit)
        assert plan.unreadable == 0
        self.plans = [*self.plans, plan][-3:]
        if act != "wait":
            self.move(-1, replays=act == "replay", loses=loses)

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
        self.server.hold(act(self.keys, plan.picks, tally, patience), sleep=lambda _: None)  # type: ignore[operator]
        self.server.lose = 0
        found = [self.model[pick.shard].letter(pick.stream_id) for pick in plan.picks]
        there = [pick for pick, version in zip(plan.picks, found, strict=True) if version is not None]
        if not loses:
            assert (sorted(tally.moved), tally.gone) == (sorted(there), len(plan.picks) - len(there))
        return [version for version in found if version is not None]

    @rule(scope=st.sampled_from(SCOPES), hand=st.booleans(), ends=st.booleans())
    def pause(self, scope: str, hand: bool, ends: bool) -> None:  # noqa: FBT001
        """A pause begins or ends, by hand or by a worker, who ends none by hand."""
        match hand, ends:
            case True, False:
                wanted = pauses.by_hand("enough", 1.0, "me")
                told = self.server.hold(pauses.set_pause(self.keys, scope, wanted, patience()))
                assert told == (self.paused.get(scope), wanted)
                self.paused[scope] = wanted
            case True, True:
                self.server.hold(pauses.clear_pause(self.keys, scope, patience()))
                self.paused.pop(scope, None)
            case _:
                noted = Paused("quota", "none left", 2.0, "one")
                self.site.runner.run(self.workers[0].queue.note({scope: None if ends else noted}))
                if scope not in self.paused and not ends:
                    self.paused[scope] = noted
                elif scope in self.paused and ends and not self.paused[scope].by_hand:
                    del self.paused[scope]

    # what must hold after every step

    @invariant()
    def the_server_holds_what_the_model_holds(self) -> None:
        """Books, entries, letters, marks, leases and pauses are as they ought to be, and the audit says so."""
        for number, (raw, model) in enumerate(zip(self.raw(), self.model, strict=True)):
            books_balance(raw, model)
            each_record_is_once(raw, model)
            marks_are_of_letters(raw, model)
            holder = "" if model.lease is None else f"{model.lease[1]}:{model.lease[0]}"
            assert raw.lease == holder, number
        self._replayed_ones_know_what_is_newer()
        assert self.server.hold(pauses.read_pauses(self.keys, patience())) == self.paused
        report = self.server.hold(audit(self.keys, QueueShape(self.keys.queue, SHARDS, 1), patience()))
        assert (report.drifts, report.inconclusive) == ((), ())

    def _replayed_ones_know_what_is_newer(self) -> None:
        replayed = [one for model in self.model for one in model.of(State.PENDING) if one.depth]
        if replayed:
            raw = self.raw()
            asked = [(one.shard, entry_at(raw[one.shard], one.spot)) for one in replayed]
            told = self.site.runner.run(self.workers[0].queue.superseded(asked))
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
        self.server.hold(queue.remove_queue(self.keys, patience()))


def _takes(which: Selector, version: Version) -> bool:
    return (
        (not which.runs or version.run in which.runs)
        and (not which.reasons or version.reason in which.reasons)
        and (not which.ids or version.key[1] in which.ids)
        and (not which.namespaces or version.key[0] in which.namespaces)
    )
