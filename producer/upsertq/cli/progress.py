"""Owns whether a command draws how far it is: on a terminal alone, for what draws is slow to import."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext


def progress_bar(what: str) -> AbstractContextManager[Callable[[int, int], None]]:
    """Yields what sets a bar to `done` of `total`."""
    if not sys.stderr.isatty():
        return nullcontext(lambda *_: None)
    from upsertq.cli import terminal  # noqa: PLC0415 - see above

    return terminal.progress_bar(what)


def rate_line(what: str, unit: str = "records") -> AbstractContextManager[Callable[[int, str], None]]:
    """Yields what shows how many `unit` are done, how fast, and a remark."""
    if not sys.stderr.isatty():
        return nullcontext(lambda *_: None)
    from upsertq.cli import terminal  # noqa: PLC0415 - see above

    return terminal.rate_line(what, unit)


def load_bar() -> AbstractContextManager[Callable[[str, int, int | None, str], None]]:
    """Yields what shows `done` of `total` of what is loaded (`None`: not known), and a remark."""
    if not sys.stderr.isatty():
        return nullcontext(lambda *_: None)
    from upsertq.cli import terminal  # noqa: PLC0415 - see above

    return terminal.load_bar()
