"""Owns the exit codes of the command line: a contract that scripts depend on."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a script may rely on."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REJECTED_OR_DEAD = 3
    TIMED_OUT = 4
    PAUSED = 5
    INTERRUPTED = 130
