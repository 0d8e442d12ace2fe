"""Owns which column of a file means what: the caller's options, the defaults, and what a header makes of both."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice

from upsertq.contract.errors import SourceError, shown

REJECT = "_reject"
"""The field that a file of rejects adds to each record; reading ignores it."""
DEAD = "_dead"
"""The field that `upsertq dead export` adds to each record; reading ignores it."""
NOTES = (REJECT, DEAD)
EVERY = "*"
SPARSE_NAMES = ("sparse_values", "sparseValues")


@dataclass(frozen=True, slots=True)
class Columns:
    """What the caller says about the columns; `None` and empty leave it to the names of Pinecone's import layout.

    Attributes:
        id: the column of ids (`id`).
        values: the column of dense values (`values`); or several, one a dimension; or one pattern, in which `*` stands
            for a number, for the columns in the order of their numbers.
        sparse: the column of sparse values (`sparse_values` or `sparseValues`).
        metadata: the columns that become metadata; `("*",)` is all the others; `None` is the column `metadata`.
        namespace_column: the column of namespaces (`namespace`).
        namespace: the namespace of every record; with `namespace_column` only of those that have none there.
    """

    id: str | None = None
    values: tuple[str, ...] = ()
    sparse: str | None = None
    metadata: tuple[str, ...] | None = None
    namespace_column: str | None = None
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of one file by their meaning.

    `values` holds one name of a column of vectors, or where `spread` holds d names of columns of numbers. `namespace`
    is the column to read it from, `default_namespace` what holds where there is none.
    """

    id: str
    values: tuple[str, ...]
    spread: bool
    sparse: str | None
    metadata: tuple[str, ...]
    namespace: str | None
    default_namespace: str

    @property
    def needed(self) -> list[str]:
        """Every column to read, each once."""
        some = [self.id, *self.values, self.sparse, *self.metadata, self.namespace]
        return list(dict.fromkeys(name for name in some if name is not None))


def named(columns: Columns) -> list[tuple[str, str]]:
    """Each column that an option names, with that option; patterns are left out."""
    asked = [("--id-column", columns.id), ("--sparse-column", columns.sparse)]
    asked += [("--values-column", name) for name in columns.values if not is_pattern(name)]
    asked += [("--metadata-columns", name) for name in columns.metadata or () if name != EVERY]
    asked += [("--namespace-column", columns.namespace_column)]
    return [(option, name) for option, name in asked if name is not None]


def resolve(columns: Columns, names: Sequence[str], source: str) -> Layout:
    """The layout of a file with these columns; `SourceError` when it lacks what it needs, or has it twice."""
    layout = _layout(columns, dict.fromkeys(names), source)
    twice = {name for name, count in Counter(names).items() if count > 1}.intersection(layout.needed)
    if twice:
        raise SourceError(
            f"{source} names the column {shown(min(twice))} twice; each that is used needs a name of its own"
        )
    return layout


def _layout(columns: Columns, names: Collection[str], source: str) -> Layout:
    def wanted(name: str | None, option: str, defaults: Sequence[str]) -> str | None:
        if name is None:
            return next((default for default in defaults if default in names), None)
        if name not in names:
            raise SourceError(f"{source} has no column {shown(name)} for {option}; it has {listed(names)}")
        return name

    record_id = wanted(columns.id, "--id-column", ("id",))
    if record_id is None:
        raise SourceError(f"{source} has no column 'id'; name it with --id-column: it has {listed(names)}")
    values, spread = _values(columns.values, names, source)
    sparse = wanted(columns.sparse, "--sparse-column", SPARSE_NAMES)
    if not values and sparse is None:
        raise SourceError(f"{source} has no column 'values'; name it with --values-column: it has {listed(names)}")
    space = wanted(columns.namespace_column, "--namespace-column", ("namespace",) if columns.namespace is None else ())
    return Layout(
        id=record_id,
        values=values,
        spread=spread,
        sparse=sparse,
        metadata=_metadata(columns.metadata, names, {record_id, *values, sparse, space, *NOTES}, source),
        namespace=space,
        default_namespace=columns.namespace or "",
    )


def is_pattern(name: str) -> bool:
    """Whether a values column names many columns by their numbers."""
    return EVERY in name


def numbered(pattern: str, names: Collection[str]) -> list[str]:
    """The names that match `pattern` with a number in place of its `*`, in the order of the numbers."""
    before, _, after = pattern.partition(EVERY)
    shape = re.compile(f"{re.escape(before)}([0-9]{{1,9}}){re.escape(after)}")
    found = [(int(match[1]), name) for name in names if (match := shape.fullmatch(name))]
    return [name for _, name in sorted(found)]


def no_pattern(source: str, pattern: str, names: Collection[str]) -> SourceError:
    """The error that no column matches the pattern of values columns."""
    return SourceError(
        f"{source} has no column like {shown(pattern)}, where '*' stands for a number; it has {listed(names)}"
    )


def _values(asked: tuple[str, ...], names: Collection[str], source: str) -> tuple[tuple[str, ...], bool]:
    if not asked:
        return (("values",) if "values" in names else ()), False
    if len(asked) == 1 and is_pattern(asked[0]):
        found = numbered(asked[0], names)
        if not found:
            raise no_pattern(source, asked[0], names)
        return tuple(found), True
    for name in asked:
        if name not in names:
            raise SourceError(f"{source} has no column {shown(name)} for --values-column; it has {listed(names)}")
    return asked, len(asked) > 1


def _metadata(
    asked: tuple[str, ...] | None, names: Collection[str], taken: set[str | None], source: str
) -> tuple[str, ...]:
    if asked is None:
        return ("metadata",) if "metadata" in names and "metadata" not in taken else ()
    if asked == (EVERY,):
        # a column without a name is the index that pandas writes
        return tuple(name for name in names if name and name not in taken)
    for name in asked:
        if name not in names:
            raise SourceError(f"{source} has no column {shown(name)} for --metadata-columns; it has {listed(names)}")
    return asked


def listed(names: Collection[str], most: int = 12) -> str:
    """The names for a message, the first `most` of them."""
    some = ", ".join(shown(name, 40) for name in islice(names, most))
    return f"{some} and {len(names) - most} more" if len(names) > most else some or "no columns"
