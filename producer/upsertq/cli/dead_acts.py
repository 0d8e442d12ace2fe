"""Owns how `upsertq dead replay` and `discard` go: preview, ask, try a few first, go on, and say what became of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import click

from upsertq.cli.asking import check_terminal
from upsertq.cli.dead_options import Selection
from upsertq.cli.dead_shown import counted
from upsertq.cli.exit_code import ExitCode
from upsertq.cli.progress import progress_bar
from upsertq.cli.reach import Reached, print_json
from upsertq.contract.errors import UpsertqError
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Conversation, Patience
from upsertq.contract.queue import QueueShape
from upsertq.dead.finding import Count, Pick, Plan, find_picks, make_plan
from upsertq.dead.moves import Tally, wait_until_replayed

PATIENCE_SECONDS: Final = 30.0


Move: TypeAlias = Callable[
    [QueueKeys, QueueShape, Sequence[Pick], Tally, Callable[[], Patience], Callable[[Tally], None]], Conversation[None]
]
"""`dead_moves.replay` or `discard`."""


@dataclass(frozen=True, slots=True)
class Act:
    """What to do with a plan: `verb` names it for people, `done` is the name of its count in the result."""

    verb: str
    done: str
    move: Move
    as_json: bool
    dry_run: bool
    yes: bool

    def check_terminal(self) -> None:
        """Raise click's usage error where there is no terminal to ask at."""
        otherwise = f"give --yes to {self.verb} without asking, or --dry-run to count"
        check_terminal(asks=not (self.yes or self.dry_run), otherwise=otherwise)


@dataclass(frozen=True, slots=True)
class Canary:
    """Replay `first` letters before the others, and wait for them for `timeout` seconds at most."""

    first: int
    timeout: float


@dataclass(slots=True)
class _Outcome:
    """The result so far; of the canary: how many died again, and how many of these for the same reason."""

    tally: Tally
    again: int = 0
    same: int = 0
    waited: bool = False


def check_runs(queue: Reached, chosen: Selection) -> None:
    """Raise `NotFound` for a run that the queue does not know."""
    for run in chosen.runs:
        queue.check_run(run)


def planned(queue: Reached, dead_ids: Sequence[str], chosen: Selection) -> Plan:
    """The letters named, or else those chosen; raises `NotFound` for a run that the queue does not know."""
    keys, shards = queue.keys, queue.shape.shards
    if dead_ids:
        return queue.server.hold(find_picks(keys, shards, dead_ids, queue.patience(PATIENCE_SECONDS)))
    check_runs(queue, chosen)
    wanted = make_plan(keys, shards, chosen.selector, chosen.limit, lambda: queue.patience(PATIENCE_SECONDS))
    return queue.server.hold(wanted)


def carry_out(act: Act, queue: Reached, plan: Plan, canary: Canary | None, *, everything: bool) -> int:
    """Preview, ask, do and report; `everything` says that nothing narrowed the choice. Returns the exit code."""
    outcome = _Outcome(Tally())
    if act.dry_run or not plan.picks:
        return foretell(act, queue, plan.count)
    if not act.yes and not _agreed(act, queue, plan, everything=everything):
        click.echo(f"nothing was {act.done}", err=True)
        return ExitCode.FAILED
    try:
        go_on = canary is None or _try_first(act, queue, plan, canary, outcome)
        if go_on:
            _move(act, queue, plan.picks[outcome.tally.done :], outcome.tally)
    except (UpsertqError, KeyboardInterrupt):
        _report(act, queue, plan.count, outcome)
        raise
    _report(act, queue, plan.count, outcome)
    return ExitCode.DONE if go_on else ExitCode.REJECTED_OR_DEAD


def foretell(act: Act, queue: Reached, would: Count) -> int:
    """Report what would be done, or that there is nothing to do. Returns the exit code."""
    _report(act, queue, would, _Outcome(Tally()))
    return ExitCode.DONE


def _agreed(act: Act, queue: Reached, plan: Plan, *, everything: bool) -> bool:
    which = "ALL " if everything else ""
    many = len(plan.picks)
    letters = f"{which}{many:,} dead letter{'s' if many != 1 else ''} of queue '{queue.keys.queue}'"
    for_good = " for good" if act.verb == "discard" else ""
    return click.confirm(f"{act.verb} {letters} ({counted(plan.count.by_reason)}){for_good}?", err=True)


def _try_first(act: Act, queue: Reached, plan: Plan, canary: Canary, outcome: _Outcome) -> bool:
    """Replay the first few and wait for them; whether to go on with the others."""
    tally = outcome.tally
    while len(tally.moved) < canary.first and tally.done < len(plan.picks):
        # a letter that is gone meanwhile tries nothing: the next one does
        _move(act, queue, plan.picks[tally.done : tally.done + canary.first - len(tally.moved)], tally)
    replayed = tuple(tally.moved)
    many = len(replayed)
    with progress_bar(f"the first {many:,} settle") as set_to:
        waiting = wait_until_replayed(
            queue.keys, replayed, canary.timeout, queue.world, lambda done: set_to(done, many)
        )
        died = queue.server.hold(waiting)
    outcome.waited = True
    outcome.again = len(died)
    outcome.same = sum(pick.reason is reason for pick, reason in died)
    return outcome.same == 0


def _move(act: Act, queue: Reached, picks: Sequence[Pick], tally: Tally) -> None:
    before = tally.done
    with progress_bar(act.verb) as set_to:
        queue.server.hold(
            act.move(
                queue.keys,
                queue.shape,
                picks,
                tally,
                lambda: queue.patience(PATIENCE_SECONDS),
                lambda now: set_to(now.done - before, len(picks)),
            )
        )


def _report(act: Act, queue: Reached, count: Count, outcome: _Outcome) -> None:
    if act.as_json:
        print_json(_document(act, queue, count, outcome))
    else:
        click.echo(_line(act, queue, count, outcome))


def _document(act: Act, queue: Reached, count: Count, outcome: _Outcome) -> dict[str, Any]:
    document: dict[str, Any] = {
        "queue": queue.keys.queue,
        "selected": count.total,
        act.done: len(outcome.tally.moved),
        "gone": outcome.tally.gone,
        "left": count.total - outcome.tally.done,
        "by_reason": count.by_reason,
    }
    if outcome.tally.damaged:
        document["damaged"] = outcome.tally.damaged
    if act.dry_run:
        document["dry_run"] = True
    if outcome.waited:
        document["first"] = {"died_again": outcome.again, "same_reason": outcome.same}
    return document


def _line(act: Act, queue: Reached, count: Count, outcome: _Outcome) -> str:
    """The result as one line."""
    total = count.total
    letters = f"{total:,} dead letter{'s' if total != 1 else ''}"
    if not total:
        return f"no dead letter of queue '{queue.keys.queue}' is chosen: nothing was {act.done}"
    by_reason = f"({counted(count.by_reason)})"
    if act.dry_run:
        return f"would {act.verb} {letters} of queue '{queue.keys.queue}' {by_reason}; nothing was changed"
    tally, left = outcome.tally, total - outcome.tally.done
    parts = [f"{act.done} {len(tally.moved):,} of {letters} of queue '{queue.keys.queue}' {by_reason}"]
    if tally.gone:
        parts.append(f"{tally.gone:,} were gone: superseded, discarded or replayed meanwhile")
    if tally.damaged:
        parts.append(f"{tally.damaged:,} are damaged and stay: no worker could read them")
    if outcome.again:
        parts.append(f"{outcome.again:,} of the first died again, {outcome.same:,} for the same reason")
    if left:
        parts.append(f"{left:,} were left as they are")
    return "; ".join(parts)
