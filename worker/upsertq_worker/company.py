"""Owns how what an earlier holder left is let go: in small company, marked, so that few are suspected of a death.

Entries that another worker read are barred when they are taken in. Here they are let go, a few at a time; which version
of a record is sent is not decided here.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from upsertq.pauses import QUEUE
from upsertq_worker.desk import Desk
from upsertq_worker.lines import sendable
from upsertq_worker.marks import Key, Marks
from upsertq_worker.suspicion import Mark, Stage, window
from upsertq_worker.versions import Held, Version


class Company:
    """What is in work of what an earlier holder left.

    Args:
        desk: the worker's state.
        marks: of its shards.
        is_stuck: whether nothing of a namespace passes.
    """

    def __init__(self, desk: Desk, marks: Marks, is_stuck: Callable[[str], bool]) -> None:
        self._desk = desk
        self._marks = marks
        self._is_stuck = is_stuck
        self._in_work: dict[Held, list[Version]] = {}
        self._cleared: set[Held] = set()
        """Those of them that killed nobody: they are not marked any more."""
        self._let_go = 0
        """Records let go since shards were gained."""

    def begin_anew(self) -> None:
        """A shard was gained: what its holder had in work is at the head of what it left."""
        self._let_go = 0

    async def let_go(self) -> None:
        """Let go as many as there is room for; where a namespace is stuck, one entry, to probe with."""
        lines = self._desk.hold.lines
        done = self._forget_done()
        chosen = self._choose()
        await self._marks.take_back([*done, *self._clear()])
        if not chosen:
            return
        self._cleared.difference_update(chosen)
        await self._marks.write(
            {(held.shard, held.stream_id): Mark(Stage.COMPANY, dead=self._marks.convicted(held)) for held in chosen}
        )
        now = self._desk.clock()
        for held in reversed(chosen):
            versions = lines.ready(held, now)
            for version in reversed(versions):
                lines.allow(version, now)
            self._let_go += len(versions)
            self._in_work[held] = [*self._in_work.get(held, ()), *versions]
            lines.unbar(held)
        self._desk.sendable.set()

    def _forget_done(self) -> list[Key]:
        """Forget those that are not in work any more; returns those that are not settled all the same."""
        done = []
        for held, versions in list(self._in_work.items()):
            left = self._in_work[held] = [one for one in versions if self._is_in_work(one)]
            if not left:
                del self._in_work[held]
                if self._desk.hold.find(held.shard, held.stream_id) is held:
                    done.append((held.shard, held.stream_id))
        return done

    def _clear(self) -> list[Key]:
        """Clear those of which all was sent and killed nobody; returns the ones that are news."""
        innocent = {held for held, versions in self._in_work.items() if all(one.resting for one in versions)}
        news = innocent - self._cleared
        self._cleared = (self._cleared & self._in_work.keys()) | news
        return [(held.shard, held.stream_id) for held in news]

    def _is_in_work(self, version: Version) -> bool:
        if not version.open:
            return False
        chain = version.chain
        if chain.flying is version or sendable(chain, self._desk.clock()) is version:
            return True
        self._desk.hold.lines.bar_again(version)  # a newer one came: this one may wait long, and nobody shall for it
        return False

    def _choose(self) -> list[Held]:
        """The entries to be let go next; of the namespaces who has the least in work comes first."""
        in_work: Counter[str] = Counter()
        for held, versions in self._in_work.items():
            # what was sent and killed nobody keeps no other waiting
            in_work[held.entry.namespace] += sum(not version.resting for version in versions)
        lines = {namespace: self._ready(namespace) for namespace in list(self._desk.hold.lines.barred)}
        stuck = {namespace for namespace in {*in_work, *lines} if self._is_stuck(namespace)}
        free = {namespace: line for namespace, line in lines.items() if namespace not in stuck}
        self._desk.batcher.hurried = frozenset(free) | (in_work.keys() - stuck)
        chosen = self._to_probe({name: line for name, line in lines.items() if name in stuck}, in_work)
        most = window(self._let_go)
        total = sum(records for namespace, records in in_work.items() if namespace not in stuck)
        # few at a time would make small batches; but who is slow must not keep everybody else waiting
        short = total > most // 2
        while free and total < (2 * most if short else most):
            namespace = min(free, key=in_work.__getitem__)
            if short and in_work[namespace]:
                break
            following = next(free[namespace], None)
            if following is None:
                del free[namespace]
                continue
            held, records = following
            chosen.append(held)
            in_work[namespace] += records
            total += records
        return chosen

    def _to_probe(self, stuck: Mapping[str, Iterator[tuple[Held, int]]], in_work: Counter[str]) -> list[Held]:
        """One entry of each stuck namespace that is probed and has none in work; of a paused queue, one."""
        lanes = self._desk.lanes
        probed = [name for name in stuck if lanes.probes(name)]
        if QUEUE in lanes.paused:
            firsts = (first[0] for name in probed if (first := next(stuck[name], None)))
            return [] if any(lanes.probes(name) for name in in_work) else list(islice(firsts, 1))
        return [first[0] for name in probed if not in_work[name] and (first := next(stuck[name], None))]

    def _ready(self, namespace: str) -> Iterator[tuple[Held, int]]:
        """The entries of a namespace that may be let go, with how many of their records."""
        lines, now = self._desk.hold.lines, self._desk.clock()
        for held in list(lines.barred[namespace]):
            if not self._marks.known(held.shard):
                continue
            if versions := lines.ready(held, now):
                yield held, len(versions)
            else:
                lines.unbar(held)
