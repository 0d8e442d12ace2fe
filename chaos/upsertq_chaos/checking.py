"""Owns the verdict: judges what was put, applied, booked and buried against the promises. Pure; it gathers nothing."""

from bisect import insort
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from upsertq.contract.books import Books
from upsertq_chaos.cast import is_poison
from upsertq_chaos.settled import Settled

EXAMPLES = 3
MOST_STEPS = 100


@dataclass(frozen=True, slots=True)
class Step:
    """A step back: version `old` of an id was applied at `at`, version `new` first at `new_at` (seconds since 1970).

    `settled` is the newest applied version that certainly was settled by then, None if there was none.
    """

    id: str
    old: int
    new: int
    at: float
    new_at: float
    settled: int | None


@dataclass(slots=True)
class Put:
    """What producers noted: the newest version tried and confirmed of every id, and how many records there were.

    A version is tried before it is put, and confirmed once the flush after it returned: of (producer, version) at
    `confirmed_at`, in seconds since 1970.
    """

    tried: dict[str, int] = field(default_factory=dict)
    confirmed: dict[str, int] = field(default_factory=dict)
    confirmed_at: dict[tuple[int, int], float] = field(default_factory=dict)
    records_tried: int = 0
    records_confirmed: int = 0

    def note_tried(self, ids: Iterable[str], version: int) -> None:
        """Take note of a batch that is about to be put."""
        for name in ids:
            self.tried[name] = max(version, self.tried.get(name, -1))
            self.records_tried += 1

    def note_confirmed(self, ids: Iterable[str], version: int) -> None:
        """Take note of a batch that a flush confirmed."""
        for name in ids:
            self.confirmed[name] = max(version, self.confirmed.get(name, -1))
            self.records_confirmed += 1


@dataclass(slots=True)
class Applied:
    """The index's journal, folded entry by entry: the last and the newest version of every id, and every step back.

    A step back is an older version applied after a newer one. Delivery is at least once, so one may happen after a
    crash while the newer version is unsettled; one over a version that certainly was settled is in `over_settled`.
    `longest` is in seconds; `steps` holds the first of them.

    An id in `replayed` is not judged so: of its versions a newer one may be settled as dead though the index had
    applied it, and then an older one that is replayed is right to follow.
    """

    settled: Settled = field(default_factory=Settled)
    replayed: AbstractSet[str] = frozenset()
    last: dict[str, int] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    writes: int = 0
    repeats: int = 0
    steps_back: int = 0
    longest: float = 0.0
    steps: list[Step] = field(default_factory=list)
    over_settled: list[Step] = field(default_factory=list)
    steps_of_replayed: int = 0
    _newest_at: dict[str, float] = field(default_factory=dict)
    _several: dict[str, list[int]] = field(default_factory=dict)
    """Of an id with several versions those that were applied, in ascending order, from the newest settled one on."""

    def note(self, name: str, version: int, at: float) -> None:
        """Take note of the next entry: `at` is in seconds, in the order of the journal."""
        newest = self.newest.get(name, -1)
        self.writes += 1
        self.repeats += version == newest
        self.last[name] = version
        if 0 <= newest != version:
            settled = self._settled(name, version, newest, at)
            if version < newest:
                self._step_back(Step(name, version, newest, at, self._newest_at[name], settled))
        if version > newest:
            self.newest[name] = version
            self._newest_at[name] = at

    @property
    def steps_of_unsettled(self) -> int:
        """Steps back over versions of which none is known to have been settled."""
        return self.steps_back - len(self.over_settled) - self.steps_of_replayed

    def _settled(self, name: str, version: int, newest: int, at: float) -> int | None:
        """The newest version applied before this one that was settled; what is older is forgotten from then on."""
        applied = self._several.setdefault(name, [newest])
        settled = self.settled.newest(name, applied, at)
        if version not in applied:
            insort(applied, version)
        if settled is not None:
            del applied[: applied.index(settled)]
        return settled

    def _step_back(self, step: Step) -> None:
        self.steps_back += 1
        self.longest = max(self.longest, step.at - step.new_at)
        if len(self.steps) < MOST_STEPS:
            self.steps.append(step)
        if step.id in self.replayed:
            self.steps_of_replayed += 1
        elif step.settled is not None and step.old < step.settled:
            self.over_settled.append(step)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the verdict rests on.

    Attributes:
        put: what the producers noted.
        applied: what the index's journal tells.
        books: the books of the queue, after all was drained.
        audit: what `upsertq audit` found wrong; empty when the books balance.
        dead: id to reason of every dead letter that is left.
        dead_letters: how many of them there are.
        overlaps: ids that two requests carried at once.
        unlike: ids that the index answers otherwise than its journal says.
        mishaps: processes that ended by themselves, and what did not come to its end.
    """

    put: Put
    applied: Applied
    books: Books
    audit: tuple[str, ...] = ()
    dead: Mapping[str, str] = field(default_factory=dict)
    dead_letters: int = 0
    overlaps: int = 0
    unlike: tuple[str, ...] = ()
    mishaps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Violation:
    """One promise that was broken: how often, and examples."""

    what: str
    count: int
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = f" ({', '.join(self.examples)}{', …' if self.count > len(self.examples) else ''})"
        return f"{self.what}: {self.count:,}{shown if self.examples else ''}"


def judge(evidence: Evidence) -> list[Violation]:
    """Every promise that the evidence shows broken; an empty list is a good verdict."""
    found = [*_of_records(evidence), *_of_books(evidence)]
    revived = [f"{step.id}: {step.old} over {step.settled}" for step in evidence.applied.over_settled]
    found += [
        _broken("an older version was applied over a settled one", revived),
        _broken("the index answers otherwise than its journal", evidence.unlike),
        _broken("went wrong", evidence.mishaps),
        Violation("an id was carried by two requests at once", evidence.overlaps),
    ]
    return [violation for violation in found if violation.count]


def _of_records(evidence: Evidence) -> list[Violation]:
    put, last, newest = evidence.put, evidence.applied.last, evidence.applied.newest
    lost, stale, invented = [], [], []
    for name, version in put.confirmed.items():
        if name in evidence.dead:
            continue
        if name not in last:
            lost.append(f"{name}: {version}")
        elif last[name] < version:
            stale.append(f"{name}: {last[name]} and not {version}")
    for name, version in last.items():
        if version < newest[name] and version >= put.confirmed.get(name, -1):
            stale.append(f"{name}: {version} over {newest[name]}")
        if newest[name] > put.tried.get(name, -1):
            invented.append(f"{name}: {newest[name]}")
    dead = [f"{name}: {reason}" for name, reason in evidence.dead.items() if not is_poison(name)]
    return [
        _broken("lost: confirmed, and not in the index", lost),
        _broken("stale: the index holds an older version", stale),
        _broken("in the index, and never put", invented),
        _broken("dead, and nothing was wrong with it", dead),
    ]


def _of_books(evidence: Evidence) -> list[Violation]:
    books, put = evidence.books, evidence.put
    few, many = put.records_confirmed - books.enqueued, books.enqueued - put.records_tried
    return [
        Violation("the books drift by records", abs(books.drift)),
        Violation("still pending in the books", abs(books.pending)),
        Violation("confirmed, and not in the books as enqueued", max(0, few)),
        Violation("doubled: enqueued and never put", max(0, many)),
        Violation("acknowledged, and never applied", max(0, books.acked - evidence.applied.writes)),
        Violation("dead letters that the books do not count alike", abs(books.dead - evidence.dead_letters)),
        _broken("upsertq audit", evidence.audit),
    ]


def _broken(what: str, cases: list[str] | tuple[str, ...]) -> Violation:
    return Violation(what, len(cases), tuple(cases[:EXAMPLES]))
