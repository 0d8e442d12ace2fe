"""Owns what only a terminal can show: a picture that is redrawn, and a progress bar. Nothing else here names rich."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text


@contextmanager
def redrawn() -> Iterator[Callable[[str], None]]:
    """Yield what replaces the picture on stdout by a new text; the last one stays when the block ends."""
    with Live(console=Console(highlight=False), auto_refresh=False, vertical_overflow="crop") as live:

        def draw(picture: str) -> None:
            live.update(Text(picture, no_wrap=True, overflow="ellipsis"), refresh=True)

        yield draw


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what sets the bar on stderr to `done` of `total` records; the bar goes away when the block ends."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)

        def set_to(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield set_to


@contextmanager
def rate_line(what: str) -> Iterator[Callable[[int, str], None]]:
    """Yield what shows on stderr how many records are done, how fast, and a remark; the line goes away at the end."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.completed:,.0f} records"),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[remark]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None, rate="", remark="")

        def show(done: int, remark: str) -> None:
            speed = progress.tasks[task].speed
            rate = f"{speed:,.0f} a second" if speed else ""
            progress.update(task, completed=done, rate=rate, remark=remark)

        yield show


@contextmanager
def load_bar() -> Iterator[Callable[[str, int, int | None, str], None]]:
    """Yield what shows on stderr `done` of `total` of what is loaded (`None`: nobody knows), and a remark."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[remark]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None, remark="")

        def show(what: str, done: int, total: int | None, remark: str) -> None:
            progress.update(task, description=escape(what), completed=done, total=total, remark=escape(remark))

        yield show
