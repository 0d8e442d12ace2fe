"""Owns `upsertq chaos`: one run from its options to its verdict; everything it starts ends with it."""

import json
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any, NoReturn

from upsertq.cli.exit_code import ExitCode
from upsertq.cli.reach import ANSWER_SECONDS, print_json
from upsertq.contract.circumstances import Circumstances
from upsertq.contract.errors import NotFound, UsageError
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Patience
from upsertq.contract.queue import find_queue, remove_queue
from upsertq.embedded.guardian import Home, is_held
from upsertq.embedded.private_dir import make_private
from upsertq_chaos.cast import DIMENSION, POISON_FAULT, Cast, Role, usual_faults
from upsertq_chaos.chaos_options import chaos_command, say
from upsertq_chaos.checking import MOST_STEPS, Evidence, Violation, judge
from upsertq_chaos.gathering import gather, reached, read_dead
from upsertq_chaos.running import Index, Stage, emulated
from upsertq_chaos.settled import Looks
from upsertq_chaos.watching import watched

SEEDS = 2**31
GONE_SECONDS = 20.0
REMOVE_SECONDS = 60.0
CHANCE = "short_ack"
"""The one reason for which bad luck alone can bury a record here: such letters are replayed, and must land."""


@chaos_command
def chaos(
    *,
    redis_url: str | None,
    as_json: bool,
    seed: int | None,
    faults: str | None,
    keep: Path | None,
    **given: Any,
) -> int:
    """Run producers and workers on an emulated index that fails in every way, and kill them again and again.

    Then the faults end, a last worker drains the queue, and the promises are checked against what the producers had
    confirmed and what the index applied: nothing lost, nothing stale, books that balance. Without a server of yours
    the embedded one is used, and killed too. Everything is removed at the end.

    Exit codes: 0 every promise was kept; 1 one was broken, or the run failed; 130 interrupted.
    """
    seed = secrets.randbelow(SEEDS) if seed is None else seed
    cast = Cast(**given, seed=seed, server=redis_url is None)
    tell: Callable[[str], None] = (lambda _: None) if as_json else (lambda text: say(text, err=True))
    kills = len(cast.kills())
    tell(f"seed {seed}: {cast.workers} workers, {cast.producers} producers, {cast.seconds:g} s, {kills} kills")
    with _ended_by_sigterm(), _directory(keep) as directory:
        figures, violations = _perform(cast, directory, redis_url, faults or usual_faults(cast), tell)
        document = {"ok": not violations, **figures, "violations": [str(one) for one in violations]}
        (directory / "verdict.json").write_text(json.dumps(document, indent=1))
    if as_json:
        print_json(document)
    else:
        _report(figures, violations)
    return ExitCode.FAILED if violations else ExitCode.DONE


def _perform(
    cast: Cast, directory: Path, redis_url: str | None, faults: str, tell: Callable[[str], None]
) -> tuple[dict[str, Any], list[Violation]]:
    name = f"chaos-{secrets.token_hex(4)}"
    with ExitStack() as stack:
        url = stack.enter_context(_server(redis_url, directory))
        _check_answers(url, name)
        index = stack.enter_context(emulated(directory, faults))
        stack.callback(_remove, url, name)
        stage = Stage(cast, directory, url, name, index.url)
        watch = stack.enter_context(watched(url, name))
        stack.callback(stage.close)
        begin = time.monotonic()
        with _shown(index, cast) as show:
            stage.play([*cast.kills(), *cast.moves()], show)
        tell("the faults end; the last worker drains the queue")
        stage.stop(Role.PRODUCER)
        stage.stop(Role.WORKER)
        index.set_faults(POISON_FAULT)
        calm = time.monotonic()
        stage.drain(cast.seconds + 120)
        replayed = _replay(stage, url, cast.seconds + 120)
        end = time.monotonic()
        stage.tally.mishaps += watch.mishaps()
        watch.end()
        tell("checking every id")
        counters = index.ask("/_emulator/counters")
        evidence = gather(stage, index, url, watch.looks, set(replayed))
        figures = _figures(cast, stage, evidence, counters, end - begin)
        figures |= {"replayed": len(replayed), "drain_seconds": round(end - calm, 1)}
        return figures | _watched(watch.looks), judge(evidence)


def _replay(stage: Stage, url: str, timeout: float) -> list[str]:
    """Replay the records that bad luck alone had buried; returns the id of each."""
    with reached(url) as server:
        buried = [name for name, reason in read_dead(server, stage.queue) if reason == CHANCE]
    if buried:
        code, _ = stage.call("dead", "replay", "--reason", CHANCE, "--yes")
        if code:
            stage.tally.mishaps.append(f"upsertq dead replay ended with code {code}")
        stage.drain(timeout)
    return buried


def _watched(looks: Looks) -> dict[str, Any]:
    """How closely the streams were watched, in seconds: a step back so soon after settling may pass for unsettled."""
    gaps = looks.gaps() or [0.0]
    return {"looks": len(looks), "look_gap_median": round(median(gaps), 2), "look_gap": round(max(gaps), 2)}


def _figures(cast: Cast, stage: Stage, evidence: Evidence, counters: dict[str, Any], took: float) -> dict[str, Any]:
    put, applied = evidence.put, evidence.applied
    return {
        "seed": cast.seed,
        "seconds": round(took, 1),
        "dimension": DIMENSION,
        "put": put.records_tried,
        "confirmed": put.records_confirmed,
        "ids": len(put.confirmed),
        "planned": cast.records + cast.hot,
        "applied": applied.writes,
        "applied_again": applied.repeats,
        "steps_back": applied.steps_back,
        "steps_back_of_unsettled": applied.steps_of_unsettled,
        "steps_back_of_replayed": applied.steps_of_replayed,
        "longest_step_back": round(applied.longest, 2),
        "steps": [stage.shown(step) for step in applied.steps],
        "steps_over_settled": [stage.shown(step) for step in applied.over_settled[:MOST_STEPS]],
        "requests": counters["upserts"],
        "too_many_requests": counters["outcomes"].get("429", 0),
        "outcomes": counters["outcomes"],
        "overlaps": evidence.overlaps,
        "kills": {str(role): count for role, count in stage.tally.kills.items()},
        "frozen": stage.tally.frozen,
        "left": stage.tally.left,
        "server_restarts": stage.tally.restarts,
        "books": evidence.books.as_dict(),
        "records_per_second": round(evidence.books.settled / took),
    }


def _report(figures: dict[str, Any], violations: list[Violation]) -> None:
    kills, books = figures["kills"], figures["books"]
    ids = f"{figures['ids']:,} ids ({figures['planned']:,} planned, and poison)"
    say(f"records   {figures['put']:,} put, {figures['confirmed']:,} confirmed, of {ids}")
    say(f"books     {', '.join(f'{books[name]:,} {name}' for name in list(books)[:6])}")
    say(f"index     {figures['applied']:,} writes, {figures['applied_again']:,} of them of a version it had")
    back, longest = figures["steps_back"], figures["longest_step_back"]
    unsettled = figures["steps_back_of_unsettled"]
    say(f"          {back:,} steps back to an older version, {unsettled:,} of them over none known to be settled;")
    say(f"          at most {longest} s after the newer")
    gap, most = figures["look_gap_median"], figures["look_gap"]
    say(f"watch     {figures['looks']:,} looks at streams; of a shard every {gap} s in the median, {most} s at most")
    say(f"requests  {figures['requests']:,}: {', '.join(f'{n:,} {what}' for what, n in figures['outcomes'].items())}")
    say(f"kills     {', '.join(f'{count} of a {role}' for role, count in kills.items())}")
    say(f"          {figures['frozen']} workers frozen for a while, {figures['left']} told to leave and replaced later")
    if not sum(kills.values()):
        say("          nothing was killed, which proves little: give it more --seconds")
    say(f"          the server came back {figures['server_restarts']} times")
    say(f"replayed  {figures['replayed']} records that bad luck had buried")
    took, calm = figures["seconds"], figures["drain_seconds"]
    say(f"rate      {figures['records_per_second']:,} records a second for {took:,} s, {calm} of them without faults")
    for violation in violations:
        say(f"broken: {violation}")
    say(
        f"FAILED (seed {figures['seed']}): {len(violations)} promises broken"
        if violations
        else f"ok (seed {figures['seed']}): nothing lost, nothing stale, the books balance"
    )


@contextmanager
def _server(redis_url: str | None, directory: Path) -> Iterator[str]:
    """The server given, else one of our own that keeps every write, and is gone when the block ends."""
    if redis_url:
        yield redis_url
        return
    from upsertq.embedded.sharing import embedded_server  # noqa: PLC0415 - only where there is no server

    state = directory / "state"
    with embedded_server(state, appendfsync="always") as url:
        yield url
    deadline = time.monotonic() + GONE_SECONDS
    while is_held(Home(state / "redis").lock("guardian")) and time.monotonic() < deadline:
        time.sleep(0.05)


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="upsertq-chaos-", ignore_cleanup_errors=True) as directory:
            yield Path(directory)
        return
    try:
        make_private(keep.absolute())
        used = any(keep.iterdir())
    except OSError as error:
        raise UsageError(f"--keep {keep} cannot be used: {error.strerror or error}; name a new directory") from None
    if used:
        raise UsageError(f"--keep {keep} is not empty: name a new directory")
    yield keep


@contextmanager
def _shown(index: Index, cast: Cast) -> Iterator[Callable[[float], None]]:
    """What shows the progress on a terminal, twice a second; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from upsertq.cli.terminal import rate_line  # noqa: PLC0415 - slow to import, and of no use in a pipe

    with rate_line("chaos") as line:
        last = [0.0]

        def show(passed: float) -> None:
            if passed - last[0] > 0.5:  # noqa: PLR2004 - seconds
                last[0] = passed
                line(index.ask("/_emulator/counters")["records"], f"{max(0, cast.seconds - passed):.0f} s to go")

        yield show


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does, so that nothing that it started is left."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_answers(url: str, name: str) -> None:
    """Raise `ServerUnavailable` before anything is started on a server that is not there."""
    with reached(url) as server, suppress(NotFound):
        server.hold(find_queue(QueueKeys(name), _patience(ANSWER_SECONDS)))


def _remove(url: str, name: str) -> None:
    with reached(url) as server:
        server.hold(remove_queue(QueueKeys(name), _patience(REMOVE_SECONDS)))


def _patience(seconds: float) -> Patience:
    return Circumstances(time.monotonic, time.time).patience(seconds)
