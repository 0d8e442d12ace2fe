"""Owns `upsertq.load`: files into the queue in one call; which sources a load has, and by what it is known again."""

import os
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from upsertq.client.enqueue import Limits
from upsertq.client.load import Loaded, Plan
from upsertq.client.load import load as load_plan
from upsertq.client.producer import DEFAULT_LIMITS, DEFAULT_TIMEOUT, DEFAULT_URL
from upsertq.client.rejects import MAX_BYTES
from upsertq.contract.connect import CredentialProvider
from upsertq.contract.errors import InvalidRecord, UsageError, shown
from upsertq.contract.record import make_record
from upsertq.contract.server import Server
from upsertq.sources import Columns, Format, fingerprint, id_files, is_stream, open_sources, places
from upsertq.sources.text import STDIN


def load(
    *sources: str | Path,
    queue: str = "default",
    url: str | Server = DEFAULT_URL,
    run: str | None = None,
    columns: Columns | None = None,
    namespace: str | None = None,
    format: str | None = None,  # noqa: A002 - the command's word
    ids: Sequence[str | Path] = (),
    delimiter: str | None = None,
    namespace_from_folder: bool = False,
    rejects: Path | str | None = None,
    max_rejects: int = MAX_BYTES,
    resume: bool = False,
    shards: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    max_dead: int | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    allow_eviction: bool = False,
    credential_provider: CredentialProvider | None = None,
) -> Loaded:
    """Enqueue the records of files, folders or patterns, as `upsertq load` does; returns what became of them.

    Every source is checked before the first record is enqueued. When it returns, all records survive this process, and
    the run is sealed, so that it can be waited for.

    Args:
        sources: JSONL, JSON, CSV, Parquet, Arrow, NPY, or folders of them; `-` is stdin.
        queue: the queue's name.
        url: the server, or a connection to one, which stays open.
        run: the run's name; a new one unless given.
        columns: which columns mean what, where they have other names than Pinecone's import layout.
        namespace: of every record, or of those that have none in `columns.namespace_column`.
        format: what the sources hold, whatever their names: one of `Format`.
        ids: files with the ids of NPY files.
        delimiter: what separates the cells of CSV; told by the header unless given.
        namespace_from_folder: the folder that a file lies in is the namespace of its records.
        rejects: a file that takes bad records; without one the first of them ends the load.
        max_rejects: bytes that it may hold at most.
        resume: go on with the interrupted load of the same files.
        shards: as of `Producer`, and so are all that follow.
        limits: the backlog that may build up.
        max_dead: dead letters in the queue at which nothing more is enqueued.
        timeout: seconds to wait for room or for an absent server.
        allow_eviction: load also into a server that evicts keys when its memory is full.
        credential_provider: gives user and password for each connection.

    Raises:
        SourceError: a source cannot be read; nothing was enqueued.
        UsageError: the arguments contradict each other; nothing was enqueued.
        LoadStopped: it began, and a bad record, a damaged source, a full queue or an absent server ended it.
        UpsertqError: it did not begin.
    """
    wanted = columns or Columns()
    if namespace is not None:
        wanted = replace(wanted, namespace=namespace)
    how = Plan(
        queue=queue,
        run=run,
        resume=resume,
        rejects=None if rejects is None else Path(rejects),
        max_rejects=max_rejects,
        shards=shards,
        limits=limits,
        timeout=timeout,
        max_dead=max_dead,
        allow_eviction=allow_eviction,
    )
    paths, id_paths = [str(source) for source in sources], [str(path) for path in ids]
    plan = plan_of(how, paths, wanted, format, id_paths, delimiter, namespace_from_folder=namespace_from_folder)
    if isinstance(url, Server):
        return load_plan(plan, url)
    with closing(Server.at(url, credential_provider=credential_provider)) as server:
        return load_plan(plan, server)


def plan_of(
    how: Plan,
    sources: Sequence[str],
    columns: Columns,
    format: str | None,  # noqa: A002 - as `load`
    ids: Sequence[str],
    delimiter: str | None,
    *,
    namespace_from_folder: bool,
) -> Plan:
    """The plan `how` with its sources, once every one is found good; arguments and errors as of `load`."""
    if not sources:
        raise UsageError("there is nothing to load: give a file, a folder, a pattern, or - for stdin")
    kind = _kind(format)
    found = places(sources, kind)
    paths = [place.path for place in found]
    streams = any(map(is_stream, paths))
    if how.resume and streams:
        raise UsageError("--resume cannot find its place in a stream: name a file, or leave --resume out")
    try:
        make_record("any", [1.0], namespace=columns.namespace or "")
    except InvalidRecord as error:
        raise UsageError(f"--namespace {error.reason}") from None
    separator = _delimiter(delimiter)
    opened = open_sources(
        found, columns, format=kind, ids=ids, delimiter=separator, namespace_from_folder=namespace_from_folder
    )
    read = [*paths, *id_files(paths, kind, ids)]
    _check_rejects(how.rejects, [*read, *(source.name for source in opened)])
    told = [format, *([f"delimiter={delimiter}"] if delimiter is not None else [])]
    told += [text for place in found for text in place.told(namespace_from_folder)]
    known_by = None if streams else fingerprint(read, how.queue, columns, told)
    return replace(how, sources=opened, fingerprint=known_by)


def _kind(name: str | None) -> Format | None:
    if not name:
        return None
    try:
        return Format(name)
    except ValueError:
        known = ", ".join(kind.value for kind in Format)
        raise UsageError(f"--format is {shown(name)}; give one of {known}") from None


def _delimiter(told: str | None) -> str | None:
    chosen = {"tab": "\t", "\\t": "\t"}.get(told.lower(), told) if told is not None else None
    if chosen is not None and (len(chosen) != 1 or not chosen.isascii() or chosen in '\r\n\0"'):
        raise UsageError(f"--delimiter is {shown(told)}; give one ASCII character, or 'tab'")
    return chosen


def _check_rejects(rejects: Path | None, inputs: Sequence[str]) -> None:
    """Raise `UsageError` where the file of rejects is an input, by whatever name, link or descriptor."""
    if rejects is None:
        return
    try:
        target = rejects.stat()
    except (OSError, ValueError):
        return  # what is not there is no input
    for path in inputs:
        with suppress(OSError, ValueError):
            found = os.fstat(0) if path == STDIN else os.stat(path)  # noqa: PTH116 - a name that pathlib may change
            if os.path.samestat(found, target):
                name = "stdin" if path == STDIN else shown(path, 200)
                raise UsageError(
                    f"--rejects {shown(str(rejects), 200)} is what is loaded ({name}): it would be overwritten; name "
                    "another file"
                )
