"""Owns the job that loads files. It reads what the environment of the rq worker lets it read, and resumes itself."""

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from upsertq.cli.exit_code import ExitCode
from upsertq.cli.load import receipt_of
from upsertq.cli.load_options import LoadOptions
from upsertq.client.load import Interrupted, Loaded, Plan, Watch, load
from upsertq.client.loading import Loading
from upsertq.contract.errors import UsageError, shown
from upsertq.contract.server import Server
from upsertq.sources import Source, id_files, places
from upsertq.sources.kinds import Format
from upsertq_worker.job_arguments import fitted, named, texts
from upsertq_worker.jobs.job_context import JobContext, this_job
from upsertq_worker.jobs.stopping import STOP, Stopped

SOURCES: Final = "UPSERTQ_SOURCES_DIR"
"""Environment variable: the folder that jobs may load from; any that the worker can read where it is not set."""
REJECTS: Final = "UPSERTQ_REJECTS_DIR"
"""Environment variable: the folder that jobs may write rejects to; none where it is not set."""
SYSTEM: Final = {("/", "proc"), ("/", "sys"), ("/", "dev")}
"""Where the environment of a process can be read, or something without an end."""


def ingest(sources: object, queue: str, run: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """As `upsertq_worker.jobs.ingest`."""
    context = this_job()
    plan = _plan(texts("sources", sources), named("queue", queue), run, options)
    if "run" in context.notes:  # it began before, and went on until its process ended
        plan = replace(plan, run=named("run", context.notes["run"]), resume=True)
    with closing(Server.at(context.url)) as server:
        try:
            loaded = load(plan, server, _Watched(context))
        except Interrupted as interrupted:
            raise Stopped(str(interrupted)) from None
        context.progress(loaded.loaded, rejected=loaded.rejected, skipped=loaded.skipped)
        return _receipt(plan, server, loaded)


def _plan(sources: Sequence[str], queue: str, run: str | None, options: Mapping[str, Any]) -> Plan:
    chosen = fitted(LoadOptions, options, sources=sources, run_name=None if run is None else named("run", run))
    _check_paths("a source", [*sources, *chosen.ids], SOURCES)
    kind = next((one for one in Format if one.value == chosen.format_name), None)
    found = [place.path for place in places(sources, kind)]
    _check_files([*found, *id_files(found, kind, chosen.ids)])
    if chosen.rejects is not None:
        if not os.environ.get(REJECTS):
            raise UsageError(f"this rq worker writes no rejects: set {REJECTS} in its environment to a folder for them")
        _check_paths("the file of rejects", [str(chosen.rejects)], REJECTS)
    plan = chosen.plan(queue)
    if plan.fingerprint is None:
        raise UsageError("a job loads files alone: a stream could not be read a second time")
    return plan


def _check_paths(what: str, paths: Sequence[str], variable: str) -> None:
    """Raise `UsageError` for paths that are not absolute, or not in the folder that the variable names."""
    folder = os.environ.get(variable)
    for path in paths:
        if not Path(path).is_absolute():
            raise UsageError(f"{what} is {shown(path, 200)}: a job takes absolute paths of files alone")
        if folder and not Path(path).resolve().is_relative_to(Path(folder).resolve()):
            raise UsageError(f"{what} is {shown(path, 200)}: this rq worker keeps to {folder} ({variable})")


def _check_files(paths: Sequence[str]) -> None:
    """Raise `UsageError` for files that patterns, folders and links lead to, and for those that may hold secrets."""
    _check_paths("a source", paths, SOURCES)
    key = os.environ.get("PINECONE_API_KEY_FILE")
    for path in paths:
        if Path(path).resolve().parts[:2] in SYSTEM or (key and Path(path).resolve() == Path(key).resolve()):
            raise UsageError(f"a source is {shown(path, 200)}: what may hold secrets of this rq worker is not loaded")


def _receipt(plan: Plan, server: Server, loaded: Loaded) -> dict[str, Any]:
    """What `upsertq load --json` prints, and the exit code."""
    found = receipt_of(plan, server, loaded)
    own = {name: getattr(loaded, name) for name in ("run", "loaded", "rejected", "skipped")}
    code = ExitCode.REJECTED_OR_DEAD if loaded.rejected else ExitCode.DONE
    return {"queue": plan.queue, **own, "load_seconds": loaded.seconds, **found.books.as_dict(), "exit_code": code}


class _Watched(Watch):
    """Notes how far a load is, and ends it once the word to stop has come."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._asked = threading.Event()
        STOP.wake = self._asked.set
        self._check()

    def begins(self, run: str, *, resumed: bool) -> None:
        """Note the run before its first record is enqueued: by it a second attempt knows that this was the first."""
        self._context.keep(run=run, resumed=resumed, process=os.getpid())

    def reads(self, source: Source) -> None:
        """Note the source."""
        self._context.notes["source"] = source.name

    def advances(self, done: int, loading: Loading) -> None:
        """Note the records that are in the queue."""
        self._check()
        more = {"rejected": loading.rejected, "skipped": loading.skipped, "waits": ""}
        self._context.progress(loading.confirmed, done=done, **more)

    def waits(self, why: str) -> None:
        """Note why nothing moves."""
        self._check()
        self._context.note(waits=why)

    def sleep(self, seconds: float) -> None:
        """Sleep until the time is over or the word comes."""
        self._asked.wait(seconds)
        self._check()

    def _check(self) -> None:
        if STOP.asked is not None:
            raise Interrupted
