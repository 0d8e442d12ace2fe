"""Owns what only a terminal can show: a picture that is redrawn, and a progress bar. Nothing else here names rich.

Text is drawn as it stands: `printable` and without markup, for it may be a tenant's. rich alone writes what moves the
cursor, so it is given the streams below the guarded ones; what else is written while it draws goes through both.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from upsertq.cli.plain import guarded_streams
from upsertq.contract.printable import printable, printable_lines

_Words = partial(TextColumn, markup=False)


@contextmanager
def redrawn() -> Iterator[Callable[[str], None]]:
    """Yield what replaces the picture on stdout by a new text; the last one stays when the block ends."""
    console = Console(file=sys.__stdout__, highlight=False)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live, guarded_streams():

        def draw(picture: str) -> None:
            live.update(Text(printable_lines(picture), no_wrap=True, overflow="ellipsis"), refresh=True)

        yield draw


@contextmanager
def _progress(*columns: ProgressColumn) -> Iterator[Progress]:
    console = Console(file=sys.__stderr__, stderr=True)
    with Progress(*columns, console=console, transient=True) as progress, guarded_streams():
        yield progress


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what sets the bar on stderr to `done` of `total` records; the bar goes away when the block ends."""
    columns = (_Words("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with _progress(*columns) as progress:
        task = progress.add_task(printable(what), total=None)

        def set_to(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield set_to


@contextmanager
def rate_line(what: str, unit: str = "records") -> Iterator[Callable[[int, str], None]]:
    """Yield what shows on stderr how many `unit` are done, how fast, and a remark; the line goes away at the end."""
    columns = (
        SpinnerColumn(),
        _Words("{task.description}"),
        _Words("{task.completed:,.0f} " + unit),
        _Words("{task.fields[rate]}"),
        _Words("{task.fields[remark]}"),
        TimeElapsedColumn(),
    )
    with _progress(*columns) as progress:
        task = progress.add_task(printable(what), total=None, rate="", remark="")

        def show(done: int, remark: str) -> None:
            speed = progress.tasks[task].speed
            rate = f"{speed:,.0f} a second" if speed else ""
            progress.update(task, completed=done, rate=rate, remark=printable(remark))

        yield show


@contextmanager
def load_bar() -> Iterator[Callable[[str, int, int | None, str], None]]:
    """Yield what shows on stderr `done` of `total` of what is loaded (`None`: not known), and a remark."""
    columns = (
        _Words("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        _Words("{task.fields[remark]}"),
        TimeElapsedColumn(),
    )
    with _progress(*columns) as progress:
        task = progress.add_task("", total=None, remark="")

        def show(what: str, done: int, total: int | None, remark: str) -> None:
            progress.update(task, description=printable(what), completed=done, total=total, remark=printable(remark))

        yield show
