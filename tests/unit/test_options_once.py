"""No option of one value may be given twice, of whichever command: the first one would be dropped without a word."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest

from upsertq.cli.exit_code import ExitCode
from upsertq.cli.main import run_command_line, upsertq

if TYPE_CHECKING:
    from collections.abc import Iterator


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that call it."""
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


SINGLE = [
    (path, option)
    for path, command in commands(upsertq)
    for option in command.params
    if isinstance(option, click.Option) and not option.is_flag and not option.multiple and not option.count
]


def test_there_are_such_options() -> None:
    """The walk finds the commands of all packages, and those of groups."""
    paths = {path for path, _ in SINGLE}
    assert {("load",), ("work",), ("run",), ("emulate",), ("chaos",), ("dead", "replay"), ("status",)} <= paths
    assert len(SINGLE) > 100


@pytest.mark.parametrize(("path", "option"), SINGLE, ids=lambda part: " ".join(part) if isinstance(part, tuple) else "")
def test_twice_is_refused(path: tuple[str, ...], option: click.Option, capsys: pytest.CaptureFixture[str]) -> None:
    """The second one is refused by name, also where both are equal, and nothing is done."""
    name = max(option.opts, key=len)
    for words in ([name, "1", name, "2"], [f"{name}=1", f"{name}=1"]):
        assert run_command_line([*path, *words]) == ExitCode.USAGE
        told = capsys.readouterr().err
        assert (
            f"upsertq: {name} is given 2 times, and takes one value: give it once; see `upsertq {' '.join(path)}"
            in told
        )


def test_what_collects_may_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    """Options that collect, and those that only say yes, may stand there twice."""
    assert run_command_line(["dead", "list", "--run", "a", "--run", "b", "--json", "--json", "--help"]) == ExitCode.DONE
    assert capsys.readouterr().err == ""
