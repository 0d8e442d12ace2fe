"""Owns how what an earlier holder left is let go: in small company, marked, so that few are suspected of a death.

Entries that another worker read are barred when they are taken in. Here they are let go, a few at a time; which version
of a record is sent is not decided here.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from upsertq_worker.desk import Desk
from upsertq_worker.marks import Key, Marks
from upsertq_worker.suspicion import Mark, Stage, window
from upsertq_worker.versions import Held

if TYPE_CHECKING:
    from upsertq_worker.versions import Version


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
        self._let_go = 0
        """Records let go since shards were gained."""

    @property
    def is_there(self) -> bool:
        """Whether there is anybody."""
        return bool(self._in_work or self._desk.hold.lines.barred)

    def begin_anew(self) -> None:
        """A shard was gained: what its holder had in work is at the head of what it left."""
        self._let_go = 0

    async def let_go(self) -> None:
        """Let go as many as there is room for; where a namespace is stuck, one entry, to probe with."""
        hold = self._desk.hold
        done = self._forget_done()
        chosen = self._choose()
        await self._marks.take_back(done)
        if not chosen:
            return
        await self._marks.write({(held.shard, held.stream_id): Mark(Stage.COMPANY) for held in chosen})
        now = self._desk.clock()
        for held in chosen:
            versions = hold.lines.ready(held, now)
            for version in versions:
                hold.lines.allow(version, now)
            self._let_go += len(versions)
            self._in_work[held] = [*self._in_work.get(held, ()), *versions]
            hold.lines.unbar(held)
        self._desk.sendable.set()

    def _forget_done(self) -> list[Key]:
        """Forget those that are not in work any more; returns those that are not settled all the same."""
        left = {held: [one for one in versions if one.open] for held, versions in self._in_work.items()}
        self._in_work = {held: versions for held, versions in left.items() if versions}
        find = self._desk.hold.find
        keys = [(held.shard, held.stream_id) for held in left.keys() - self._in_work.keys()]
        return [key for key in keys if find(*key) is not None]

    def _choose(self) -> list[Held]:
        """The entries to be let go next; of the namespaces who has the least in work comes first."""
        in_work: Counter[str] = Counter()
        for held, versions in self._in_work.items():
            in_work[held.entry.namespace] += len(versions)
        stuck = {namespace for namespace in {*in_work, *self._desk.hold.lines.barred} if self._is_stuck(namespace)}
        lines = {namespace: self._ready(namespace) for namespace in list(self._desk.hold.lines.barred)}
        to_probe = [lines.pop(name) for name in list(lines) if name in stuck and not in_work[name]]
        chosen = [first[0] for line in to_probe if (first := next(line, None))]
        lines = {namespace: line for namespace, line in lines.items() if namespace not in stuck}
        most = window(self._let_go)
        room = most - sum(records for namespace, records in in_work.items() if namespace not in stuck)
        if room < most // 2:
            return chosen  # few at a time would make small batches
        while lines and room > 0:
            namespace = min(lines, key=in_work.__getitem__)
            following = next(lines[namespace], None)
            if following is None:
                del lines[namespace]
                continue
            held, records = following
            chosen.append(held)
            in_work[namespace] += records
            room -= records
        return chosen

    def _ready(self, namespace: str) -> Iterator[tuple[Held, int]]:
        """The entries of a namespace that may be let go, with how many of their records."""
        hold, now = self._desk.hold, self._desk.clock()
        for held in list(hold.lines.barred[namespace]):
            if versions := hold.lines.ready(held, now):
                yield held, len(versions)
            else:
                hold.lines.unbar(held)
