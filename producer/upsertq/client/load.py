"""Owns a load from its beginning to its end: finds what it resumes, reads the sources, and says how to go on after it.

What is done with each record is decided in `upsertq.client.loading`.
"""

import random
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from upsertq.client import resume
from upsertq.client.enqueue import Limits
from upsertq.client.loading import BadRecord, Loading
from upsertq.client.producer_core import Intake
from upsertq.client.rejects import MAX_BYTES, Rejects
from upsertq.client.resume import NOTHING, Attempt
from upsertq.contract import fitness
from upsertq.contract.circumstances import Circumstances
from upsertq.contract.errors import LoadStopped, SourceError, UpsertqError, UsageError
from upsertq.contract.keys import QueueKeys, checked_name
from upsertq.contract.printable import printable
from upsertq.contract.protocol import Conversation, Patience, Pause
from upsertq.contract.queue import QueueShape, open_queue
from upsertq.contract.server import Server
from upsertq.sources import Chunk, Source

T = TypeVar("T")
FIRST_CONTACT: Final = 10.0
"""Seconds that a load waits before it begins for a server that does not answer, so that a wrong address shows soon."""
_DEFAULT_LIMITS: Final = Limits()


class Interrupted(Exception):  # noqa: N818 - a signal, not a failure
    """Raised by a `Watch` to end a load in good order."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to load and how.

    Attributes:
        sources: what `open_sources` found good.
        queue: the queue's name.
        run: the run's name; a new one unless given, that of the interrupted load where one is resumed.
        fingerprint: by which the load is known again; `None` where it cannot be resumed.
        resume: go on with the interrupted load of the same fingerprint.
        rejects: where bad records go; `None` stops at the first.
        max_rejects: bytes that the file of rejects may hold.
        shards: what the queue must have; `None` for whatever it has.
        limits: the backlog to stay under.
        max_dead: dead letters in the queue at which the load is refused; `None` for no limit.
        timeout: seconds to wait for room or for an absent server.
        allow_eviction: load also into a server that evicts keys when its memory is full.
    """

    sources: Sequence[Source] = ()
    queue: str = "default"
    run: str | None = None
    fingerprint: str | None = None
    resume: bool = False
    rejects: Path | None = None
    max_rejects: int = MAX_BYTES
    shards: int | None = None
    limits: Limits = _DEFAULT_LIMITS
    timeout: float = 60.0
    max_dead: int | None = None
    allow_eviction: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of a load: records enqueued now, set aside, and found enqueued before.

    `shape` is the queue into which it went, `resumed` says that it went on with an earlier one, `finished` that nothing
    of that was left to do.
    """

    shape: QueueShape
    run: str
    loaded: int
    rejected: int
    skipped: int
    seconds: float
    resumed: bool = False
    finished: bool = False


class Watch:
    """What watches a load: override what is of interest. Any method may raise `Interrupted` to end it."""

    def begins(self, run: str, *, resumed: bool) -> None:
        """The load begins, as this run."""

    def reads(self, source: Source) -> None:
        """A source is begun."""

    def advances(self, done: int, loading: Loading) -> None:
        """`done` of the source, in its measure, is read and taken."""

    def reading(self) -> AbstractContextManager[None]:
        """Wrap each reading of a source, which may block; here `Interrupted` may be raised at any time."""
        return nullcontext()

    def waits(self, why: str) -> None:
        """The load pauses."""

    def sleep(self, seconds: float) -> None:
        """Let the time of a pause pass."""
        time.sleep(seconds)


class _Session:
    """One load on one server: holds its conversations before the eyes of its watch."""

    def __init__(self, plan: Plan, server: Server, watch: Watch, world: Circumstances) -> None:
        self.plan = plan
        self.watch = watch
        self.world = world
        self._server = server

    def hold(self, conversation: Conversation[T]) -> T:
        """Hold it; when a wait is interrupted it is closed, so that its counts are right."""
        watched = _watched(conversation, self.watch)
        try:
            return self._server.hold(watched, sleep=self.watch.sleep)
        finally:
            watched.close()

    def load(self) -> Loaded:
        path, most = self.plan.rejects, self.plan.max_rejects
        with nullcontext() if path is None else Rejects(path, most) as rejects:
            return self._load(rejects)

    def _load(self, rejects: Rejects | None) -> Loaded:
        plan, world = self.plan, self.world
        begun = world.clock()
        keys = QueueKeys(checked_name("queue", plan.queue))
        opening, allowed = f"open the queue '{plan.queue}'", plan.allow_eviction
        self.hold(fitness.check(self._patience(FIRST_CONTACT), opening, allow_eviction=allowed))
        shape = self.hold(open_queue(keys, plan.shards, world.now_ms(), self._patience(FIRST_CONTACT)))
        attempt, resumed = self.hold(_begin(keys, plan, world))
        self.watch.begins(attempt.run, resumed=resumed)
        if attempt.done:
            return Loaded(shape, attempt.run, 0, 0, 0, world.clock() - begun, resumed=True, finished=True)
        read = resume.read_ledger(keys, shape.shards, attempt.token, self._patience())
        ledger = self.hold(read) if resumed else NOTHING
        intake = self._intake(attempt)
        loading = Loading(intake, attempt.run, ledger=ledger, rejects=rejects)
        self._load_all(loading, attempt)
        self.hold(intake.begin(attempt.run))  # a run without a record is there all the same
        self.hold(intake.seal(attempt.run))
        if plan.fingerprint is not None:
            self.hold(resume.remember(keys, plan.fingerprint, replace(attempt, done=True), self._patience()))
        seconds = world.clock() - begun
        counts = loading.confirmed, loading.rejected, loading.skipped
        return Loaded(shape, attempt.run, *counts, seconds, resumed=resumed)

    def _load_all(self, loading: Loading, attempt: Attempt) -> None:
        try:
            for source in self.plan.sources:
                self.watch.reads(source)
                for chunk in self._chunks(source):
                    self.hold(loading.take(source, chunk))
                    self.watch.advances(chunk.done, loading)
            self.hold(loading.finish())
            loading.keep_rejects()
        except Interrupted:
            self._rescue(loading)
            what = f"interrupted{_stopped(loading)}"
            raise Interrupted(_how_to_go_on(what, loading, attempt, self.plan)) from None
        except UpsertqError as error:
            if isinstance(error, SourceError) and not isinstance(error, BadRecord):
                self._rescue(loading)
            what = f"{str(error).rstrip('.')}{_stopped(loading)}"
            message = _how_to_go_on(what, loading, attempt, self.plan, bad=isinstance(error, BadRecord))
            raise LoadStopped(message, loading.skipped + loading.confirmed) from error

    def _chunks(self, source: Source) -> Iterator[Chunk]:
        chunks = source.chunks()
        while True:
            with self.watch.reading():
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    def _rescue(self, loading: Loading) -> None:
        """Enqueue what is taken, if the server lets us; it is loaded again by the next attempt otherwise."""
        try:
            self.hold(loading.finish())
        except (UpsertqError, Interrupted):
            return

    def _intake(self, attempt: Attempt) -> Intake:
        return Intake(
            self.plan.queue,
            shards=self.plan.shards,
            limits=self.plan.limits,
            timeout=self.plan.timeout,
            world=self.world,
            token=attempt.token,
            ledger_ms=resume.LEDGER_MS,
            max_dead=self.plan.max_dead,
            allow_eviction=self.plan.allow_eviction,
        )

    def _patience(self, silent: float = float("inf")) -> Patience:
        return self.world.patience(self.plan.timeout, silent=silent)


def load(plan: Plan, server: Server, watch: Watch | None = None) -> Loaded:
    """Load the plan's sources.

    Raises:
        LoadStopped: it began, and a bad record, a damaged source, a full queue, too many dead letters or an absent
            server ended it; the message says how to go on.
        Interrupted: the watch ended it; the message says how to go on.
        UpsertqError: it did not begin, and nothing was enqueued.
    """
    return _Session(plan, server, watch or Watch(), Circumstances(time.monotonic, time.time)).load()


def new_run(now: float, rng: random.Random) -> str:
    """A name for a run that has none: when it began (UTC, from `now` in seconds), and four digits against chance."""
    return f"load-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{rng.randrange(2**16):04x}"


def _begin(keys: QueueKeys, plan: Plan, world: Circumstances) -> Conversation[tuple[Attempt, bool]]:
    """The attempt to make, noted on the server, and whether it resumes an earlier one."""
    now = world.now_ms()
    earlier = None
    if plan.resume:
        if plan.fingerprint is None:
            raise UsageError("--resume cannot find its place in a stream; load a file, or leave --resume out")
        earlier = yield from resume.find_attempt(keys, plan.fingerprint, world.patience(plan.timeout))
    if earlier is not None and plan.run not in {None, earlier.run}:
        raise UsageError(f"--resume goes on as run '{earlier.run}': leave --run out, or load again without --resume")
    if earlier is not None and earlier.done:
        return earlier, True
    resumed = earlier is not None and not earlier.expired(now)
    if earlier is not None and resumed:
        attempt = replace(earlier, since=now)
    else:
        run = plan.run or (earlier.run if earlier else new_run(world.wall(), world.rng))
        attempt = Attempt(uuid.uuid4().hex, run, now, tuple(printable(source.name) for source in plan.sources))
    if plan.fingerprint is not None:
        yield from resume.remember(keys, plan.fingerprint, attempt, world.patience(plan.timeout))
    return attempt, resumed


def _watched(conversation: Conversation[T], watch: Watch) -> Conversation[T]:
    """The same conversation, of which the watch hears the pauses."""
    try:
        effect = next(conversation)
        while True:
            if isinstance(effect, Pause):
                watch.waits(effect.why)
            effect = conversation.send((yield effect))
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        conversation.close()


def _stopped(loading: Loading) -> str:
    """Keep the rejects of a load that ends early; what hinders that, as the end of a sentence."""
    try:
        loading.stop_rejects()
    except SourceError as error:
        return f"; {error}"
    return ""


def _how_to_go_on(what: str, loading: Loading, attempt: Attempt, plan: Plan, *, bad: bool = False) -> str:
    count = loading.skipped + loading.confirmed
    here = f"{count:,} records are in the queue as run '{attempt.run}'" if count else "nothing was enqueued"
    if plan.fingerprint is None:
        cure = "a stream cannot be resumed: load it again" + (", with --rejects FILE to set bad records aside" * bad)
    elif bad:
        cure = "add --resume --rejects FILE to go on without bad records, or correct the file and load it again"
    else:
        cure = "repeat the command with --resume to go on"
    return f"{what.rstrip('.')}; {here}: {cure}"
