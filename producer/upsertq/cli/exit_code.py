"""Owns the exit codes of the command line: a contract that scripts depend on."""

from enum import IntEnum

from upsertq.contract.errors import InvalidRecord, LanePaused, QueueMismatch, UpsertqError, UsageError, WaitTimeout


class ExitCode(IntEnum):
    """What a script may rely on."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REJECTED_OR_DEAD = 3
    TIMED_OUT = 4
    PAUSED = 5
    INTERRUPTED = 130


def code_of(error: UpsertqError) -> ExitCode:
    """The exit code of a command that ends with this error."""
    match error:
        case WaitTimeout():
            return ExitCode.TIMED_OUT
        case LanePaused():
            return ExitCode.PAUSED
        case InvalidRecord() | QueueMismatch():
            return ExitCode.FAILED
        case UsageError():
            return ExitCode.USAGE
        case _:
            return ExitCode.FAILED
