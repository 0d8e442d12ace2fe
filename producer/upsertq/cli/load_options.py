"""Owns the options that say what to load and how, for every command that loads, and makes the plan out of them."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from upsertq.cli.options import allow_eviction, run
from upsertq.errors import InvalidRecord, UsageError, shown
from upsertq.load import Plan
from upsertq.queue import Limits
from upsertq.record import make_record
from upsertq.rejects import MAX_BYTES
from upsertq.sources import Columns, Format, Place, fingerprint, id_files, is_stream, open_sources, places
from upsertq.sources.text import STDIN

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
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
        help="What the sources hold, whatever their names.",
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
        "--shards", type=click.IntRange(1, 1024), metavar="N", help="Shards of a new queue.  [default: 8]", default=None
    ),
    click.option(
        "--max-pending-records", type=click.IntRange(min=0), default=0, metavar="N", help="Backlog limit; 0 is none."
    ),
    click.option(
        "--max-pending-bytes",
        type=click.IntRange(min=0),
        default=Limits().bytes,
        show_default=True,
        metavar="N",
        help="Backlog limit; 0 is none.",
    ),
    click.option(
        "--max-dead",
        type=click.IntRange(min=1),
        metavar="N",
        help="Refuse to enqueue while the queue has N dead letters or more (code 1).  [default: no limit]",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0),
        default=60.0,
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
    run_name: str | None
    namespace: str | None
    id_column: str | None
    values_columns: tuple[str, ...]
    metadata_columns: str | None
    sparse_column: str | None
    namespace_column: str | None
    namespace_from_folder: bool
    delimiter: str | None
    ids: tuple[str, ...]
    format_name: str | None
    rejects: Path | None
    max_rejects: int
    resume: bool
    shards: int | None
    max_pending_records: int
    max_pending_bytes: int
    max_dead: int | None
    timeout: float
    allow_eviction: bool

    def plan(self, queue: str) -> Plan:
        """The plan, once every source is found good.

        Raises:
            SourceError: a source is not.
            UsageError: the options contradict each other.
        """
        columns = self._columns()
        kind = Format(self.format_name) if self.format_name else None
        found = places(self.sources, kind)
        paths = [place.path for place in found]
        self._check(paths)
        opened = open_sources(
            found,
            columns,
            format=kind,
            ids=self.ids,
            delimiter=self._delimiter(),
            namespace_from_folder=self.namespace_from_folder,
        )
        self._check_rejects([*paths, *(source.name for source in opened), *id_files(paths, kind, self.ids)])
        return Plan(
            sources=opened,
            queue=queue,
            run=self.run_name,
            fingerprint=self._fingerprint(queue, columns, kind, found),
            resume=self.resume,
            rejects=self.rejects,
            max_rejects=self.max_rejects,
            shards=self.shards,
            limits=Limits(self.max_pending_records or None, self.max_pending_bytes or None),
            timeout=self.timeout,
            max_dead=self.max_dead,
            allow_eviction=self.allow_eviction,
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

    def _delimiter(self) -> str | None:
        told = self.delimiter
        chosen = {"tab": "\t", "\\t": "\t"}.get(told.lower(), told) if told is not None else None
        if chosen is not None and (len(chosen) != 1 or not chosen.isascii() or chosen in '\r\n\0"'):
            raise UsageError(f"--delimiter is {shown(told)}; give one ASCII character, or 'tab'")
        return chosen

    def _fingerprint(self, queue: str, columns: Columns, kind: Format | None, found: Sequence[Place]) -> str | None:
        paths = [place.path for place in found]
        if any(map(is_stream, paths)):
            return None
        beside = id_files(paths, kind, self.ids)
        told = [text for place in found for text in place.told(self.namespace_from_folder)]
        options = [f"delimiter={self.delimiter}"] if self.delimiter is not None else []
        return fingerprint([*paths, *beside], queue, columns, [self.format_name, *options, *told])

    def _check(self, paths: Sequence[str]) -> None:
        if self.namespace_from_folder and (self.namespace is not None or self.namespace_column is not None):
            raise UsageError("--namespace-from-folder stands for --namespace and --namespace-column; give one of them")
        if self.resume and any(map(is_stream, paths)):
            raise UsageError("--resume cannot find its place in a stream: name a file, or leave --resume out")
        try:
            make_record("any", [1.0], namespace=self.namespace or "")
        except InvalidRecord as error:
            raise UsageError(f"--namespace {error.reason}") from None

    def _check_rejects(self, inputs: Sequence[str]) -> None:
        """Raise `UsageError` where the file of rejects is an input, by whatever name, link or descriptor."""
        if self.rejects is None:
            return
        try:
            target = self.rejects.stat()
        except (OSError, ValueError):
            return  # what is not there is no input
        for path in inputs:
            with suppress(OSError, ValueError):
                found = os.fstat(0) if path == STDIN else os.stat(path)  # noqa: PTH116 - a name that pathlib may change
                if os.path.samestat(found, target):
                    name = "stdin" if path == STDIN else shown(path, 200)
                    raise UsageError(
                        f"--rejects {shown(str(self.rejects), 200)} is what is loaded ({name}): it would be "
                        "overwritten; name another file"
                    )


def load_options(function: F) -> F:
    """Give a command the options; it is called with them as `load_options: LoadOptions`."""

    @wraps(function)
    def wrapped(**given: Any) -> Any:
        own = {name: given.pop(name) for name in LoadOptions.__dataclass_fields__}
        return function(load_options=LoadOptions(**own), **given)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]
