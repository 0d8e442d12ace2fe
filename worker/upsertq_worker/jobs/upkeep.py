"""Owns the jobs that look after a queue: replaying its dead letters, and the audit. Both do what the commands do."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, Final

from upsertq.admin.audit import audit as recount
from upsertq.cli.dead_acts import Act, Canary, carry_out, planned
from upsertq.cli.dead_options import Selection
from upsertq.cli.exit_code import ExitCode
from upsertq.cli.reach import existing_queue
from upsertq.contract.dead_letter import Reason
from upsertq.contract.errors import UsageError
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Conversation, Patience
from upsertq.contract.queue import QueueShape
from upsertq.dead.finding import Pick
from upsertq.dead.moves import Tally
from upsertq.dead.moves import replay as replay_letters
from upsertq_worker.job_arguments import fitted, named
from upsertq_worker.jobs.job_context import this_job
from upsertq_worker.jobs.stopping import STOP

PATIENCE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class How:
    """How to replay: `first` letters before the others, `timeout` seconds for them; the letters, where they are named.

    As `upsertq dead replay` has it.
    """

    first: int | None = None
    timeout: float = 300.0
    dead_ids: tuple[str, ...] = ()


def replay(queue: str, selector: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """As `upsertq_worker.jobs.replay`."""
    context = this_job()
    chosen, how = fitted(Selection, selector), fitted(How, plan)
    unknown = set(chosen.reasons) - {reason.value for reason in Reason}
    if unknown:
        raise UsageError(f"there is no reason {', '.join(sorted(unknown))}: choose of {', '.join(Reason)}")
    if chosen.limit == 0:
        raise UsageError("limit is 0, at which nothing is chosen: give a number from 1 on")
    if how.dead_ids and not chosen.everything:
        raise UsageError("name dead letters or choose them, not both")

    def move(
        keys: QueueKeys,
        shape: QueueShape,
        picks: Sequence[Pick],
        tally: Tally,
        patience: Callable[[], Patience],
        watch: Callable[[Tally], None],
    ) -> Conversation[None]:
        def noted(now: Tally) -> None:
            watch(now)
            context.progress(now.done, gone=now.gone)

        return replay_letters(keys, shape, picks, tally, patience, noted)

    act = Act("replay", "replayed", move, as_json=True, dry_run=False, yes=True)
    canary = None if how.first is None else Canary(max(1, how.first), how.timeout)
    STOP.interrupt()  # at any instant each letter is in one place
    with existing_queue(context.url, named("queue", queue)) as reached, redirect_stdout(io.StringIO()) as printed:
        found = planned(reached, how.dead_ids, chosen)
        code = carry_out(act, reached, found, canary, everything=chosen.everything)
    return {**json.loads(printed.getvalue()), "exit_code": code}


def audit(queue: str) -> dict[str, Any]:
    """As `upsertq_worker.jobs.audit`."""
    context = this_job()
    STOP.interrupt()  # it only reads
    with existing_queue(context.url, named("queue", queue)) as reached:
        report = reached.server.hold(recount(reached.keys, reached.shape, reached.patience(PATIENCE_SECONDS)))
    context.progress(report.records)
    return {**report.as_dict(), "exit_code": ExitCode.DONE if report.ok else ExitCode.FAILED}
