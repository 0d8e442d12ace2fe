"""Owns the options that say what to load and how, for every command that loads, and makes the plan out of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from upsertq.cli.options import Number, allow_eviction, run, several
from upsertq.client.enqueue import Limits
from upsertq.client.files import plan_of
from upsertq.client.load import Plan
from upsertq.client.rejects import MAX_BYTES
from upsertq.contract.errors import UsageError
from upsertq.contract.keys import MAX_SHARDS
from upsertq.contract.queue import DEFAULT_SHARDS
from upsertq.sources import Columns, Format

F = TypeVar("F", bound=Callable[..., Any])

TIMEOUT = Plan().timeout

_options = several(
    click.argument("sources", nargs=-1, required=True, metavar="SOURCE..."),
    run,
    click.option(
        "--namespace", metavar="NAME", help="Namespace of every record (with --namespace-column: of those without one)."
    ),
    click.option("--id-column", metavar="NAME", help="Column of ids.  [default: id]"),
    click.option(
        "--values-column",
        "values_columns",
        multiple=True,
        metavar="NAME",
        help="Column of dense values. For one column per dimension repeat it, or give a pattern such as 'v*', in which "
        "* stands for the number that orders them.  [default: values]",
    ),
    click.option(
        "--metadata-columns",
        metavar="NAMES",
        help="Columns that become metadata, comma-separated; * is all the others; '' is none. A column of objects "
        "gives its fields.  [default: metadata]",
    ),
    click.option("--sparse-column", metavar="NAME", help="Column of sparse values.  [default: sparse_values]"),
    click.option("--namespace-column", metavar="NAME", help="Column of namespaces.  [default: namespace]"),
    click.option(
        "--namespace-from-folder",
        is_flag=True,
        help="The folder that a file lies in is the namespace of its records (folders named key=value aside).",
    ),
    click.option(
        "--delimiter",
        metavar="CHAR",
        help="What separates the cells of CSV: one character, or 'tab'.  [default: told by the header]",
    ),
    click.option("--ids", multiple=True, metavar="FILE", help="Ids of an NPY file (.npy, or text with one a line)."),
    click.option(
        "--format",
        "format_name",
        type=click.Choice([kind.value for kind in Format]),
        help="Format of the sources; overrides their file names.",
    ),
    click.option(
        "--rejects",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Write bad records to this file, as JSON lines with reasons, and go on; it is written anew.",
    ),
    click.option(
        "--max-rejects",
        type=click.IntRange(min=1),
        default=MAX_BYTES,
        show_default=True,
        metavar="N",
        help="Bytes that the file of --rejects may hold; with more the load stops (code 1).",
    ),
    click.option("--resume", is_flag=True, help="Go on with the interrupted load of the same files."),
    click.option(
        "--shards",
        type=click.Choice([1 << power for power in range(MAX_SHARDS.bit_length())]),
        default=None,
        metavar="N",
        help=f"Shards of a new queue, a power of two.  [default: {DEFAULT_SHARDS}]",
    ),
    click.option(
        "--max-pending-records",
        type=click.IntRange(min=0),
        default=0,
        metavar="N",
        help="Most records that may be pending in the queue; 0 is no limit.",
    ),
    click.option(
        "--max-pending-bytes",
        type=click.IntRange(min=0),
        default=Limits().bytes,
        show_default=True,
        metavar="N",
        help="Most bytes that may be pending in the queue; 0 is no limit.",
    ),
    click.option(
        "--max-dead",
        type=click.IntRange(min=1),
        metavar="N",
        help="Refuse to enqueue while the queue has N dead letters or more (code 1).  [default: no limit]",
    ),
    click.option(
        "--timeout",
        type=Number(min=0),
        default=TIMEOUT,
        show_default=True,
        metavar="S",
        help="Seconds to wait while the backlog is at its limit and nothing drains it, or the server is away.",
    ),
    allow_eviction,
)


@dataclass(frozen=True)
class LoadOptions:
    """The options as given."""

    sources: tuple[str, ...]
    run_name: str | None = None
    namespace: str | None = None
    id_column: str | None = None
    values_columns: tuple[str, ...] = ()
    metadata_columns: str | None = None
    sparse_column: str | None = None
    namespace_column: str | None = None
    namespace_from_folder: bool = False
    delimiter: str | None = None
    ids: tuple[str, ...] = ()
    format_name: str | None = None
    rejects: Path | None = None
    max_rejects: int = MAX_BYTES
    resume: bool = False
    shards: int | None = None
    max_pending_records: int = 0
    max_pending_bytes: int = Limits().bytes or 0
    max_dead: int | None = None
    timeout: float = TIMEOUT
    allow_eviction: bool = False

    def plan(self, queue: str) -> Plan:
        """The plan, once every source is found good.

        Raises:
            SourceError: a source is not.
            UsageError: the options contradict each other.
        """
        if self.namespace_from_folder and (self.namespace is not None or self.namespace_column is not None):
            raise UsageError("--namespace-from-folder stands for --namespace and --namespace-column; give one of them")
        how = Plan(
            queue=queue,
            run=self.run_name,
            rejects=self.rejects,
            max_rejects=self.max_rejects,
            resume=self.resume,
            shards=self.shards,
            limits=Limits(self.max_pending_records or None, self.max_pending_bytes or None),
            timeout=self.timeout,
            max_dead=self.max_dead,
            allow_eviction=self.allow_eviction,
        )
        return plan_of(
            how,
            self.sources,
            self._columns(),
            self.format_name,
            self.ids,
            self.delimiter,
            namespace_from_folder=self.namespace_from_folder,
        )

    def _columns(self) -> Columns:
        listed = self.metadata_columns
        return Columns(
            id=self.id_column,
            values=self.values_columns,
            sparse=self.sparse_column,
            metadata=None if listed is None else tuple(name.strip() for name in listed.split(",") if name.strip()),
            namespace_column=self.namespace_column,
            namespace=self.namespace,
        )


def load_options(function: F) -> F:
    """Give a command the options; it is called with them as `load_options: LoadOptions`."""

    @wraps(function)
    def wrapped(**given: Any) -> Any:
        own = {name: given.pop(name) for name in LoadOptions.__dataclass_fields__}
        return function(load_options=LoadOptions(**own), **given)

    return _options(wrapped)  # type: ignore[return-value]
